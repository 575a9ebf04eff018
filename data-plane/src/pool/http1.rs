//! One HTTP/1.1 connection to an instance, driven by whoever uses it.
//!
//! The usual way is a task for each connection, which passes requests and bodies through channels: each answer
//! then costs two more wake-ups and turns of the scheduler. Here the request's own task polls the connection,
//! and the connection wakes that task. hyper's channels are still between the two, but since both ends are
//! polled in turn by one task, the receiving ends never need to wake anybody: they are polled with a waker that
//! does nothing, right after the connection.
//!
//! Deliberately absent: pipelining, which no server is good at.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::coop, time::Sleep};

use super::ConnectError;
use crate::{forward::RequestBody, serve::ServeConfig};

type Io = TokioIo<TcpStream>;

/// A connection that carries at most one request at a time.
pub(crate) struct Http1 {
    sender: SendRequest<RequestBody>,
    /// `None` once it has ended with requests that nobody will answer.
    connection: Option<Connection<Io, RequestBody>>,
    ended: bool,
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
        Ok(Box::new(Http1 { sender, connection: Some(connection), ended: false, keep_alive: None }))
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
        let mut answer = pin!(self.sender.try_send_request(request));
        let mut deadline = pin!(None::<Sleep>);
        poll_fn(|context| {
            self.drive(context);
            let mut answered = poll_silently(answer.as_mut(), context);
            if answered.is_pending() && self.ended {
                // What the connection has not answered comes back when it is dropped.
                self.connection = None;
                answered = poll_silently(answer.as_mut(), context);
            }
            if let Poll::Ready(answered) = answered {
                return Poll::Ready(answered.map_err(SendError::from_hyper));
            }
            if deadline.is_none() && is_sent() {
                deadline.set(Some(tokio::time::sleep(limit)));
            }
            match deadline.as_mut().as_pin_mut() {
                Some(deadline) => deadline.poll(context).map(|()| Err(SendError::Timeout)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Moves bytes.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(connection) = self.connection.as_mut().filter(|_| !self.ended) {
            // How it ended is told to the request or the body that it carries.
            self.ended = connection.poll_without_shutdown(context).is_ready();
        }
    }

    /// The next frame of the answer's body, which this connection brings.
    pub(crate) fn poll_body(
        &mut self,
        body: &mut Incoming,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut silent = Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut silent) {
            return Poll::Ready(frame);
        }
        self.drive(context);
        if self.ended {
            self.connection = None;
        }
        Pin::new(body).poll_frame(&mut silent)
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

/// Polls what the connection fulfils, which was driven just before and will wake the task itself.
fn poll_silently<F: Future>(future: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
    let polled = future.poll(&mut Context::from_waker(Waker::noop()));
    if polled.is_pending() && !coop::has_budget_remaining() {
        // It was not looked at, because this task is to let others run first.
        context.waker().wake_by_ref();
    }
    polled
}

/// A connection that waits for its next request.
pub(super) struct IdleHttp1 {
    connection: Box<Http1>,
    until: Instant,
}

impl IdleHttp1 {
    /// A server that names its time is left one second before that, so as not to meet its closing.
    pub(super) fn new(connection: Box<Http1>, now: Instant, limit: Duration) -> Self {
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
