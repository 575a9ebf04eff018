//! One HTTP/1.1 connection to an instance, driven by whoever uses it.
//!
//! The usual way is a task for each connection, which passes requests and bodies through channels: each answer
//! then costs two more wake-ups and turns of the scheduler. Here the request's own task polls the connection,
//! and the connection wakes that task. hyper's channels are still between the two, but since both ends are
//! polled in turn by one task, neither end needs to wake it: the receiving ends are polled with a waker that
//! does nothing, and the connection's waker is a [`Relay`] that is mute meanwhile.
//!
//! Deliberately absent: pipelining, which no server is good at.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::coop,
    time::{Sleep, sleep_until},
};

use super::ConnectError;
use crate::{forward::RequestBody, serve::ServeConfig};

type Io = TokioIo<TcpStream>;

/// A connection that carries at most one request at a time.
pub(crate) struct Http1 {
    sender: SendRequest<RequestBody>,
    /// `None` once it has ended with requests that nobody will answer.
    connection: Option<Connection<Io, RequestBody>>,
    ended: bool,
    relay: Arc<Relay>,
    /// Wakes the relay.
    waker: Waker,
    alarm: Alarm,
    /// How long the instance says that it keeps the connection while idle.
    pub(crate) keep_alive: Option<Duration>,
}

/// Why a request has no answer.
pub(crate) enum SendError {
    /// Nothing of it was sent. The request comes back.
    Unsent(Box<Request<RequestBody>>),
    /// Something of it may have been sent.
    Failed(hyper::Error),
    /// No answer came in time.
    Timeout,
}

/// Begins HTTP/1.1 on sockets.
pub(super) struct Dialler {
    builder: Builder,
}

impl Dialler {
    pub(super) fn new(config: &ServeConfig) -> Self {
        let mut builder = Builder::new();
        builder.max_buf_size(config.limits.header_bytes.max(8192));
        Self { builder }
    }

    pub(super) async fn begin(&self, stream: TcpStream) -> Result<Box<Http1>, ConnectError> {
        let begun = self.builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = begun.map_err(ConnectError::Handshake)?;
        let relay = Arc::new(Relay::default());
        let waker = Waker::from(Arc::clone(&relay));
        let (ended, alarm, keep_alive) = (false, Alarm::default(), None);
        Ok(Box::new(Http1 { sender, connection: Some(connection), ended, relay, waker, alarm, keep_alive }))
    }
}

impl Http1 {
    /// Sends a request and waits for the answer's head. `limit` counts from when `is_sent` says so.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        limit: Duration,
        is_sent: impl Fn() -> bool,
    ) -> Result<Response<Incoming>, SendError> {
        let mut answer = pin!(self.relay.muted(|| self.sender.try_send_request(request)));
        let mut deadline = None;
        poll_fn(|context| {
            self.drive(context);
            let mut answered = self.poll_answer(answer.as_mut(), context);
            if answered.is_pending() && self.ended {
                // What the connection has not answered comes back when it is dropped.
                self.connection = None;
                answered = self.poll_answer(answer.as_mut(), context);
            }
            if let Poll::Ready(answered) = answered {
                return Poll::Ready(answered.map_err(SendError::from_hyper));
            }
            if deadline.is_none() && is_sent() {
                deadline = Some(Instant::now() + limit);
            }
            match deadline {
                Some(deadline) => self.alarm.poll(deadline, &self.waker).map(|()| Err(SendError::Timeout)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Moves bytes.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        self.relay.point_at(context.waker());
        if let Some(connection) = self.connection.as_mut().filter(|_| !self.ended) {
            // How it ended is told to the request or the body that it carries.
            let mut relayed = Context::from_waker(&self.waker);
            self.ended = connection.poll_without_shutdown(&mut relayed).is_ready();
        }
    }

    /// Polls what the connection fulfils, which was driven just before and will wake the task itself.
    fn poll_answer<F: Future>(&self, answer: Pin<&mut F>, context: &Context<'_>) -> Poll<F::Output> {
        let polled = self.relay.muted(|| answer.poll(&mut Context::from_waker(Waker::noop())));
        if polled.is_pending() && !coop::has_budget_remaining() {
            // It was not looked at, because this task is to let others run first.
            context.waker().wake_by_ref();
        }
        polled
    }

    /// The next frame of the answer's body, which this connection brings.
    pub(crate) fn poll_body(
        &mut self,
        body: &mut Incoming,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut silent = Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = self.relay.muted(|| Pin::new(&mut *body).poll_frame(&mut silent)) {
            return Poll::Ready(frame);
        }
        self.drive(context);
        if self.ended {
            self.connection = None;
        }
        self.relay.muted(|| Pin::new(body).poll_frame(&mut silent))
    }

    /// Whether the next request can go over it. Notices what the peer has done meanwhile.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.is_ready()
    }

    /// Whether the last request is over and left the connection open.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ended && self.sender.is_ready()
    }

    /// The socket and what was read from it, after the connection has switched protocols.
    pub(crate) fn into_socket(mut self, context: &mut Context<'_>) -> Option<(TcpStream, Bytes)> {
        self.drive(context);
        let parts = self.connection?.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }

    /// Moves bytes until the connection ends, for a task that does nothing else.
    pub(crate) async fn run(mut self: Box<Self>) {
        poll_fn(|context| {
            self.drive(context);
            if self.ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl SendError {
    pub(super) fn from_hyper(mut error: hyper::client::conn::TrySendError<Request<RequestBody>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(Box::new(request)),
            None => Self::Failed(error.into_error()),
        }
    }
}

/// The waker that a connection sees: it wakes the task that uses the connection at the time.
#[derive(Default)]
struct Relay {
    task: Mutex<Option<Waker>>,
    /// Set while the task itself moves what the connection waits for, and will look at it anyway.
    mute: AtomicBool,
}

impl Relay {
    fn point_at(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    fn muted<T>(&self, work: impl FnOnce() -> T) -> T {
        self.mute.store(true, Ordering::Relaxed);
        let done = work();
        self.mute.store(false, Ordering::Relaxed);
        done
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.mute.load(Ordering::Relaxed)
            && let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner)
        {
            task.wake_by_ref();
        }
    }
}

/// The deadlines of one request after the other. The timer is not set for each: one that is set for an earlier
/// request rings early, and is then set anew.
#[derive(Default)]
struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whether the timer knows whom to wake.
    set: bool,
}

impl Alarm {
    fn poll(&mut self, deadline: Instant, waker: &Waker) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline.into())));
        if self.set && !sleep.is_elapsed() && sleep.deadline().into_std() <= deadline {
            return Poll::Pending;
        }
        loop {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline.into());
            self.set = true;
            if sleep.as_mut().poll(&mut Context::from_waker(waker)).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// A connection that waits for its next request.
pub(super) struct IdleHttp1 {
    connection: Box<Http1>,
    until: Instant,
}

impl IdleHttp1 {
    /// A server that names its time is left one second before that, so as not to meet its closing.
    pub(super) fn new(connection: Box<Http1>, now: Instant, limit: Duration) -> Self {
        // Whose task it was has nothing to do with it any more.
        connection.relay.point_at(Waker::noop());
        let named = connection.keep_alive.map(|named| named.saturating_sub(Duration::from_secs(1)));
        let until = now + named.map_or(limit, |named| named.min(limit));
        Self { connection, until }
    }

    pub(super) fn into_connection(self) -> Box<Http1> {
        self.connection
    }

    pub(super) fn is_worth_keeping(&mut self, now: Instant) -> bool {
        now < self.until && self.connection.is_usable()
    }
}
