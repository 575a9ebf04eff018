//! Copies of a client's body, made while an instance takes it.
//!
//! ```text
//! client ─▶ BodySource ─▶ instance of the request
//!               └ each frame, shared ─▶ queue, bounded ─▶ CopiedBody ─▶ instance of a copy
//! ```
//!
//! The instance of the request sets the pace. Whoever takes a copy more slowly has what it has not taken yet held for
//! it, up to a bound; beyond that its copy breaks off, and so it does where the body itself does. A body is never held
//! back for a copy, and a copy that nobody reads any more costs nothing.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

/// How many bytes are held for one copy before it takes no further frame.
const MOST_HELD: usize = 64 * 1024;

/// The copies of a body that are being made.
#[derive(Default)]
pub(super) struct Copies(RefCell<Vec<Weak<Queue>>>);

/// A copy of a body.
pub(super) struct CopiedBody {
    queue: Rc<Queue>,
    /// What is known of the whole.
    hint: SizeHint,
}

/// What is known of the body that a copy is of.
pub(super) struct Original(Rc<Queue>);

/// A copy that broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BrokenOff;

/// What was copied and not taken yet.
struct Queue {
    items: RefCell<VecDeque<Item>>,
    bytes: Cell<usize>,
    state: Cell<State>,
    waker: Cell<Option<Waker>>,
    closed: Notify,
}

enum Item {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    BrokenOff,
}

impl Copies {
    /// Begins a copy of a body that nothing was read of yet.
    pub(super) fn begin(&self, hint: SizeHint) -> CopiedBody {
        let queue = Rc::new(Queue {
            items: RefCell::default(),
            bytes: Cell::new(0),
            state: Cell::new(State::Open),
            waker: Cell::new(None),
            closed: Notify::new(),
        });
        self.0.borrow_mut().push(Rc::downgrade(&queue));
        CopiedBody { queue, hint }
    }

    /// Copies a frame.
    pub(super) fn pass(&self, frame: &Frame<Bytes>) {
        self.each(|queue| {
            let item = match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => Item::Data(data.clone()),
                (None, Some(trailers)) => Item::Trailers(trailers.clone()),
                (None, None) => return,
            };
            queue.push(item);
        });
    }

    /// Notes that the body was whole.
    pub(super) fn end(&self) {
        self.each(|queue| queue.close(State::Ended));
    }

    /// Notes that there is no more of the body, though it was not whole.
    pub(super) fn break_off(&self) {
        self.each(|queue| queue.close(State::BrokenOff));
    }

    fn each(&self, what: impl Fn(&Queue)) {
        self.0.borrow().iter().filter_map(Weak::upgrade).for_each(|queue| what(&queue));
    }
}

/// A body that nobody reads on is no whole one.
impl Drop for Copies {
    fn drop(&mut self) {
        self.break_off();
    }
}

impl Queue {
    fn push(&self, item: Item) {
        if self.state.get() != State::Open {
            return;
        }
        // What is held is looked at before the frame is, so that a frame of any size can be copied.
        if self.bytes.get() >= MOST_HELD {
            self.items.borrow_mut().clear();
            return self.close(State::BrokenOff);
        }
        if let Item::Data(data) = &item {
            self.bytes.set(self.bytes.get() + data.len());
        }
        self.items.borrow_mut().push_back(item);
        self.wake();
    }

    fn close(&self, state: State) {
        if self.state.get() == State::Open {
            self.state.set(state);
            self.wake();
            self.closed.notify_one();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl CopiedBody {
    /// What is known of the body that it is of. For one who waits.
    pub(super) fn original(&self) -> Original {
        Original(Rc::clone(&self.queue))
    }
}

impl Original {
    /// Waits until nothing more is copied. Whether the copy has, or holds, all of it.
    pub(super) async fn is_whole(&self) -> bool {
        while self.0.state.get() == State::Open {
            self.0.closed.notified().await;
        }
        self.0.state.get() == State::Ended
    }
}

impl Body for CopiedBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let queue = &self.queue;
        let item = queue.items.borrow_mut().pop_front();
        match (item, queue.state.get()) {
            (Some(Item::Data(data)), _) => {
                queue.bytes.set(queue.bytes.get() - data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            (Some(Item::Trailers(trailers)), _) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            (None, State::Ended) => Poll::Ready(None),
            (None, State::BrokenOff) => Poll::Ready(Some(Err(BrokenOff))),
            (None, State::Open) => {
                queue.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.queue.state.get() == State::Ended && self.queue.items.borrow().is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

#[cfg(test)]
mod tests;
