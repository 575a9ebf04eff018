//! The body of a request over HTTP/2, between the connection that it comes by and whoever reads it.
//!
//! What was read may come anew: that is told to the connection with every piece. A body that nobody reads any more is
//! told, too, so that the client need not send the rest.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use crate::{
    http2::{Code, Connection, Key},
    serve::ClientConnection,
};

/// Pieces smaller than this are put together while they wait: each would take more room than it is worth.
const SMALL: usize = 1 << 10;

/// A connection, as those have it who are not its task.
pub(super) struct Shared {
    pub(super) connection: RefCell<Connection>,
    client: Rc<ClientConnection>,
    /// Whether the task is at work, and will write what there is.
    pub(super) is_working: Cell<bool>,
}

/// What has come of a body and was not read.
pub(super) struct Inbox {
    shared: Rc<Shared>,
    key: Key,
    pieces: RefCell<Pieces>,
    state: Cell<State>,
    /// How much is to be read, where that is known.
    left: Cell<Option<u64>>,
    /// Whether the client waits to be asked for it.
    is_expected: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Pieces {
    whole: VecDeque<Bytes>,
    /// What comes after them.
    small: BytesMut,
    trailers: Option<HeaderMap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Broken,
}

/// A body that did not come to its end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client has reset the stream, or has gone away")]
pub(crate) struct BrokenOff;

/// The body of a request over HTTP/2. `None`: there is none.
pub(crate) struct Http2Body(Option<Rc<Inbox>>);

impl Shared {
    pub(super) fn new(connection: Connection, client: Rc<ClientConnection>) -> Rc<Self> {
        Rc::new(Self { connection: RefCell::new(connection), client, is_working: Cell::new(false) })
    }

    /// Has the task write what there is.
    fn notify(&self) {
        if !self.is_working.get() {
            self.client.wake();
        }
    }
}

impl Inbox {
    pub(super) fn new(shared: &Rc<Shared>, key: Key, length: Option<u64>, is_expected: bool) -> Rc<Self> {
        Rc::new(Self {
            shared: Rc::clone(shared),
            key,
            pieces: RefCell::default(),
            state: Cell::new(State::Open),
            left: Cell::new(length),
            is_expected: Cell::new(is_expected),
            reader: RefCell::new(None),
        })
    }

    /// The body that is read from it.
    pub(super) fn body(self: &Rc<Self>) -> Http2Body {
        Http2Body(Some(Rc::clone(self)))
    }

    /// Whose it is.
    pub(super) fn key(&self) -> Key {
        self.key
    }

    /// Takes a piece.
    pub(super) fn push(&self, piece: Bytes, ends: bool) {
        self.is_expected.set(false);
        self.pieces.borrow_mut().push(piece);
        if ends {
            self.state.set(State::Ended);
        }
        self.wake();
    }

    /// Takes what ends it.
    pub(super) fn end(&self, trailers: HeaderMap) {
        self.pieces.borrow_mut().trailers = Some(trailers);
        self.state.set(State::Ended);
        self.wake();
    }

    /// Notes that there will be no more of it.
    pub(super) fn break_off(&self) {
        if self.state.get() == State::Open {
            self.state.set(State::Broken);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    fn is_read(&self) -> bool {
        let pieces = self.pieces.borrow();
        self.state.get() == State::Ended
            && pieces.whole.is_empty()
            && pieces.small.is_empty()
            && pieces.trailers.is_none()
    }

    fn poll_frame(&self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let mut pieces = self.pieces.borrow_mut();
        // What has come before a body broke off is of no use to anybody.
        if self.state.get() == State::Broken {
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        if let Some(piece) = pieces.pop() {
            self.left.set(self.left.get().map(|left| left.saturating_sub(piece.len() as u64)));
            self.shared.connection.borrow_mut().release(self.key, piece.len());
            self.shared.notify();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(trailers) = pieces.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if self.state.get() == State::Ended {
            return Poll::Ready(None);
        }
        if self.is_expected.take() {
            self.shared.connection.borrow_mut().send_continue(self.key);
            self.shared.notify();
        }
        let mut reader = self.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *reader = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        let is_first = self.whole.is_empty() && self.small.is_empty();
        if piece.is_empty() {
        } else if piece.len() < SMALL && !is_first {
            self.small.extend_from_slice(&piece);
        } else {
            if !self.small.is_empty() {
                self.whole.push_back(self.small.split().freeze());
            }
            self.whole.push_back(piece);
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let small = || (!self.small.is_empty()).then(|| self.small.split().freeze());
        self.whole.pop_front().or_else(small)
    }
}

impl Http2Body {
    /// None.
    pub(super) fn none() -> Self {
        Self(None)
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.0.as_ref().map_or(Poll::Ready(None), |inbox| inbox.poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|inbox| inbox.is_read())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(inbox) => inbox.left.get().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        let Some(inbox) = &self.0 else { return };
        let Pieces { whole, small, .. } = std::mem::take(&mut *inbox.pieces.borrow_mut());
        let unread = whole.iter().map(Bytes::len).sum::<usize>() + small.len();
        let mut connection = inbox.shared.connection.borrow_mut();
        connection.release(inbox.key, unread);
        connection.stop_reading(inbox.key);
        drop(connection);
        inbox.shared.notify();
    }
}

/// Why a stream is reset where an answer breaks off: as the instance has said, where it has said so over HTTP/2.
pub(super) fn code_of(error: &(dyn std::error::Error + 'static)) -> Code {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return Code(reason.into());
        }
        cause = error.source();
    }
    Code::INTERNAL_ERROR
}
