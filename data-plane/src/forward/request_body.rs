//! A client's body on its way to an instance.
//!
//! The body itself stays with the request ([`BodySource`]); what is given to a connection ([`RequestBody`]) only
//! reads from it. So a body that no byte was read of is still there for the next attempt.
//!
//! A client that expects a 100 (RFC 9110, section 10.1.1) is left waiting until the instance has said so, too: its
//! body is not touched before, and the connection says 100 to the client when it first is. An instance that says nothing
//! gets the body after a second, as clients themselves do.
//!
//! What is read of it may be copied for others on its way (see [`super::body_copy`]).

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::Notify,
    time::{Sleep, timeout},
};

use super::{
    body_copy::{CopiedBody, Copies, Original},
    client_body::ClientBody,
    grpc_web::{Decoder, NotBase64},
};
use crate::serve::{IdleTimer, RequestScope, Worker};

/// How long an instance may think about an expectation.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Why a client's body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFailure {
    /// The client went away, or what it sent is malformed.
    #[error("the client's body broke off")]
    Broken,
    /// The client paused for too long.
    #[error("the client's body stalled")]
    Stalled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Untouched,
    Begun,
    Complete,
}

/// Where a body comes from.
enum Origin {
    Client(ClientBody),
    /// What another request's instance takes.
    Copy(CopiedBody),
}

/// A client's body, or a copy of one.
pub(crate) struct BodySource {
    origin: RefCell<Origin>,
    copies: Copies,
    progress: Cell<Progress>,
    /// How many frames were read.
    frames: Cell<u64>,
    failure: Cell<Option<BodyFailure>>,
    completed: Notify,
    gate: Option<Arc<ContinueGate>>,
    idle: RefCell<IdleTimer>,
    worker: Rc<Worker>,
}

impl BodySource {
    pub(super) fn new(
        incoming: ClientBody,
        gate: Option<Arc<ContinueGate>>,
        scope: &RequestScope,
    ) -> Rc<Self> {
        Self::of(Origin::Client(incoming), gate, &scope.worker)
    }

    fn of(origin: Origin, gate: Option<Arc<ContinueGate>>, worker: &Rc<Worker>) -> Rc<Self> {
        Rc::new(Self {
            origin: RefCell::new(origin),
            copies: Copies::default(),
            progress: Cell::new(Progress::Untouched),
            frames: Cell::new(0),
            failure: Cell::new(None),
            completed: Notify::new(),
            gate,
            idle: RefCell::default(),
            worker: Rc::clone(worker),
        })
    }

    /// A copy, which gets what is read of this one from now on. `None` where some was read already.
    pub(super) fn copied(&self) -> Option<Rc<Self>> {
        let untouched = !self.has_begun() && self.failure().is_none();
        let hint = self.origin.borrow().size_hint();
        untouched.then(|| Self::of(Origin::Copy(self.copies.begin(hint)), None, &self.worker))
    }

    /// What it is a copy of, if it is one.
    pub(super) fn original(&self) -> Option<Original> {
        match &*self.origin.borrow() {
            Origin::Client(_) => None,
            Origin::Copy(copy) => Some(copy.original()),
        }
    }

    /// Whether some of it was read, so that it cannot be sent again.
    pub(super) fn has_begun(&self) -> bool {
        self.progress.get() != Progress::Untouched
    }

    /// Whether all of it was read.
    pub(super) fn is_complete(&self) -> bool {
        self.progress.get() == Progress::Complete
    }

    /// Whether it waits for the instance to ask for it.
    pub(super) fn is_held_back(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| !gate.is_open())
    }

    /// Waits until all of it was read, or until none of it was for as long as a body may pause: an instance that takes no
    /// more of it has what it wants, or hangs. A client that sends no more is seen by whoever reads.
    pub(super) async fn completed(&self) {
        let limit = self.worker.config.timeouts.stream_idle;
        while !self.is_complete() {
            let before = self.frames.get();
            let has_paused = timeout(limit, self.completed.notified()).await.is_err();
            if has_paused && self.frames.get() == before && !self.idle.borrow().is_waiting() {
                return;
            }
        }
    }

    /// Whether an instance would take more of it than the client has sent.
    pub(super) fn waits_for_client(&self) -> bool {
        !self.is_complete() && self.idle.borrow().is_waiting()
    }

    /// Why it ended early, if it did.
    pub(super) fn failure(&self) -> Option<BodyFailure> {
        self.failure.get()
    }

    /// What holds it back until the instance asks for it.
    pub(super) fn gate(&self) -> Option<Arc<ContinueGate>> {
        self.gate.clone()
    }

    fn poll_frame(&self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let mut origin = self.origin.borrow_mut();
        let mut idle = self.idle.borrow_mut();
        match origin.poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                idle.progress();
                self.progress.set(Progress::Begun);
                self.frames.set(self.frames.get() + 1);
                if let (Some(data), Origin::Client(_)) = (frame.data_ref(), &*origin) {
                    self.worker.metrics.received(data.len() as u64);
                }
                self.copies.pass(&frame);
                if frame.is_trailers() || origin.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(failure))) => Poll::Ready(Some(Err(self.fail(failure)))),
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Pending => idle
                .poll_expired(context, self.worker.config.timeouts.stream_idle)
                .map(|()| Some(Err(self.fail(BodyFailure::Stalled)))),
        }
    }

    fn poll_decoded(
        &self,
        decoder: &mut Decoder,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        loop {
            let decoded = match ready!(self.poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(text) => decoder.push(&text),
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Some(Err(failure)) => return Poll::Ready(Some(Err(failure))),
                None => match decoder.end() {
                    Ok(()) => return Poll::Ready(None),
                    Err(error) => Err(error),
                },
            };
            match decoded {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(NotBase64) => return Poll::Ready(Some(Err(self.fail(BodyFailure::Broken)))),
            }
        }
    }

    fn complete(&self) {
        self.progress.set(Progress::Complete);
        self.copies.end();
        self.completed.notify_waiters();
    }

    fn fail(&self, failure: BodyFailure) -> BodyFailure {
        self.failure.set(Some(failure));
        self.copies.break_off();
        failure
    }
}

impl Origin {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        Poll::Ready(match self {
            Self::Client(incoming) => {
                let frame = ready!(Pin::new(incoming).poll_frame(context));
                frame.map(|frame| frame.map_err(|_| BodyFailure::Broken))
            }
            Self::Copy(copy) => {
                let frame = ready!(Pin::new(copy).poll_frame(context));
                frame.map(|frame| frame.map_err(|_| BodyFailure::Broken))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(incoming) => incoming.is_end_stream(),
            Self::Copy(copy) => copy.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(incoming) => incoming.size_hint(),
            Self::Copy(copy) => copy.size_hint(),
        }
    }
}

/// What an attempt reads of a client's body.
pub(crate) struct RequestBody {
    source: Option<Rc<BodySource>>,
    /// Reads the text that it comes as.
    decoder: Option<Box<Decoder>>,
    /// Opens the gate of an instance that says nothing.
    patience: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// No body.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::new(None)
    }

    pub(super) fn new(source: Option<Rc<BodySource>>) -> Self {
        Self { source, decoder: None, patience: None }
    }

    /// Whether it waits for the instance to ask for it.
    pub(crate) fn is_held_back(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.is_held_back())
    }

    /// Notes that the instance has asked for it.
    pub(crate) fn let_pass(&self) {
        if let Some(gate) = self.source.as_ref().and_then(|source| source.gate.as_ref()) {
            gate.open();
        }
    }

    /// Whether the instance has answered without asking for it, so that it will never come.
    pub(crate) fn is_unwanted(&self) -> bool {
        let gate = self.source.as_ref().and_then(|source| source.gate.as_ref());
        gate.is_some_and(|gate| gate.is_shut() && !gate.is_open())
    }

    /// For how long it may pause.
    pub(crate) fn longest_pause(&self) -> Duration {
        self.source.as_ref().map_or(Duration::ZERO, |source| source.worker.config.timeouts.stream_idle)
    }

    /// The same body, which comes as base64.
    pub(super) fn decoded(self) -> Self {
        Self { decoder: Some(Box::default()), ..self }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let Self { source, decoder, patience } = &mut *self;
        let Some(source) = source else { return Poll::Ready(None) };
        if let Some(gate) = &source.gate
            && gate.poll_open(context).is_pending()
        {
            let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(CONTINUE_WAIT)));
            if gate.is_shut() || patience.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            gate.open();
        }
        match decoder {
            Some(decoder) => source.poll_decoded(decoder, context),
            None => source.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        // Whether text has come to a good end is known when its end was read.
        let is_over =
            |source: &Rc<BodySource>| self.decoder.is_none() && source.origin.borrow().is_end_stream();
        self.source.as_ref().is_none_or(is_over)
    }

    fn size_hint(&self) -> SizeHint {
        if self.decoder.is_some() {
            return SizeHint::default();
        }
        self.source.as_ref().map_or(SizeHint::with_exact(0), |source| source.origin.borrow().size_hint())
    }
}

/// Holds a body back until the instance has said 100.
#[derive(Debug, Default)]
pub(crate) struct ContinueGate {
    open: AtomicBool,
    /// Set when the final answer came first: the body is not wanted.
    shut: AtomicBool,
    waker: AtomicWaker,
}

impl ContinueGate {
    /// Lets the body pass.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Keeps the body back for good, unless it passes already.
    pub(super) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    /// As it was before an instance had said anything. An open gate stays open: the client was told to send.
    pub(super) fn reset(&self) {
        self.shut.store(false, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    fn poll_open(&self, context: &Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.is_open() { Poll::Ready(()) } else { Poll::Pending }
    }
}
