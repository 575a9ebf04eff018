//! A client's HTTP/2 connection: one task that reads, lets requests go on, and writes.
//!
//! ```text
//!            ┌──────────────────────────── a turn ────────────────────────────┐
//!  socket ─▶ read all there is ─▶ events ─▶ requests that have something to do ─▶ output ─▶ one write
//!                                   │              ▲ wakers (ready)         │
//!                                   └▶ bodies ─────┘                        └▶ the rest, in the next turn
//! ```
//!
//! Requests are no tasks of their own: their futures are in places of the connection, as many as there may be streams. A
//! request that the client takes back is dropped there and then, and with it all that it has under way.
//!
//! Answers take turns: each may write a little, and who is first is another one each time. What clients do not read is
//! bounded by the output, beyond which neither answers nor further requests are read.
//!
//! Deliberately absent: the protocol itself, which is [`crate::http2`]; timers: the worker's sweep looks at the clock.

mod answer;
mod body;
mod places;
mod ready;

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    ops::ControlFlow,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header::EXPECT, request::Parts};
use tokio::io::{AsyncReadExt, AsyncWrite};
use waypost_proto::reason::Reason;

pub(crate) use self::body::Http2Body;
use self::{
    body::{Inbox, Shared},
    places::{Places, Room},
};
use super::{ClientConnection, Worker};
use crate::{
    forward::{self, ClientBody},
    http2::{Connection, Event, Failed, Key, Limits},
    socket::ClientSocket,
};

/// What is read at once to begin with, and at most.
const FIRST_READ: usize = 8 << 10;
const LARGEST_READ: usize = 64 << 10;
/// How much is read in one turn, so that other connections have theirs.
const MOST_READ: usize = 256 << 10;
/// From how much on that the client has not read nothing is added.
const FULL: usize = 128 << 10;
/// How many slices are written at once.
const SLICES: usize = 32;
/// How many streams a connection may have, whatever is configured.
const MOST_STREAMS: u32 = 1 << 16;
/// How often a client that has requests under way is asked whether it is there, and how long it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client that was told that the connection ends has to say that it knows.
const GRACE: Duration = Duration::from_secs(2);

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All was said.
    Over,
    /// The client is gone.
    Gone,
}

/// Serves a connection to its end. Gives back its socket.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    client: &Rc<ClientConnection>,
    socket: ClientSocket,
    prefix: Bytes,
) -> (End, ClientSocket) {
    let mut driver = Driver::new(worker, client, socket, prefix);
    // Requests share this task, and would share what one task may do before it pauses: a turn has bounds of its own.
    let end = tokio::task::coop::unconstrained(poll_fn(|context| driver.poll(context))).await;
    driver.into_parts(end)
}

struct Driver {
    worker: Rc<Worker>,
    client: Rc<ClientConnection>,
    shared: Rc<Shared>,
    socket: Option<ClientSocket>,
    input: BytesMut,
    read_size: usize,
    places: Places,
    /// Whether the socket was written to since it was last flushed.
    is_unflushed: bool,
    /// Whether there may be something to read that was left, as there was too much to write.
    is_held_back: bool,
    has_failed: bool,
    /// When the client was last heard of.
    heard: Instant,
    is_asked: bool,
    /// When the client was told that the connection ends.
    told: Option<Instant>,
}

impl Driver {
    fn new(worker: &Rc<Worker>, client: &Rc<ClientConnection>, socket: ClientSocket, prefix: Bytes) -> Self {
        let limits = worker.config.limits;
        let streams = limits.http2_streams.clamp(1, MOST_STREAMS);
        let now = worker.now();
        let connection = Connection::new(Limits { streams, header_bytes: limits.header_bytes }, now);
        client.received(now);
        Self {
            worker: Rc::clone(worker),
            client: Rc::clone(client),
            shared: Shared::new(connection, Rc::clone(client)),
            socket: Some(socket),
            input: BytesMut::from(prefix),
            read_size: FIRST_READ,
            places: Places::new(streams as usize),
            is_unflushed: false,
            is_held_back: false,
            has_failed: false,
            heard: now,
            is_asked: false,
            told: None,
        }
    }

    fn into_parts(mut self, end: End) -> (End, ClientSocket) {
        let socket = self.socket.take().expect("it is taken once");
        (end, socket)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.client.register(context.waker());
        self.places.begin_turn(context.waker());
        self.shared.is_working.set(true);
        let ended = self.work(context);
        self.shared.is_working.set(false);
        if self.places.end_turn() && ended.is_pending() {
            context.waker().wake_by_ref();
        }
        ended
    }

    fn work(&mut self, context: &mut Context<'_>) -> Poll<End> {
        if !self.has_failed && self.read(context).is_break() {
            return Poll::Ready(End::Gone);
        }
        self.places.go_on(&self.shared, &self.worker);
        if self.look_at_the_clock().is_break() {
            return Poll::Ready(End::Gone);
        }
        if ready!(self.poll_write_out(context)).is_err() {
            return Poll::Ready(End::Gone);
        }
        self.places.unblock_all(Room::Output);
        if self.is_held_back {
            context.waker().wake_by_ref();
        }
        let mut connection = self.shared.connection.borrow_mut();
        if connection.is_over() {
            return Poll::Ready(End::Over);
        }
        if connection.open_streams() == 0 {
            // A connection that says nothing holds no memory for it.
            connection.output().shrink();
            if self.input.is_empty() {
                self.input = BytesMut::new();
                self.read_size = FIRST_READ;
            }
        }
        Poll::Pending
    }

    /// Reads all there is, within reason. Breaks where the client is gone.
    fn read(&mut self, context: &mut Context<'_>) -> ControlFlow<()> {
        let mut left = MOST_READ;
        loop {
            self.take_events();
            self.is_held_back = !self.has_failed && self.is_full();
            if self.has_failed || self.is_held_back {
                return ControlFlow::Continue(());
            }
            if left == 0 {
                context.waker().wake_by_ref();
                return ControlFlow::Continue(());
            }
            match self.poll_fill(context) {
                Poll::Pending => return ControlFlow::Continue(()),
                Poll::Ready(Ok(0) | Err(_)) => return ControlFlow::Break(()),
                Poll::Ready(Ok(count)) => {
                    left = left.saturating_sub(count);
                    let now = self.worker.now();
                    self.client.received(now);
                    (self.heard, self.is_asked) = (now, false);
                }
            }
        }
    }

    /// Whether the client has so much to read that nothing is added.
    fn is_full(&self) -> bool {
        self.shared.connection.borrow_mut().output().remaining() >= FULL
    }

    /// Reads once. Reads grow while they fill the room that they get.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(self.read_size);
        let Some(socket) = &mut self.socket else { return Poll::Ready(Ok(0)) };
        let most = self.input.capacity() - self.input.len();
        let count = ready!(pin!(socket.read_buf(&mut self.input)).poll(context))?;
        if count == most {
            self.read_size = (self.read_size * 2).min(LARGEST_READ);
        }
        Poll::Ready(Ok(count))
    }

    fn take_events(&mut self) {
        let shared = Rc::clone(&self.shared);
        let now = self.worker.now();
        loop {
            let event = shared.connection.borrow_mut().receive(&mut self.input, now);
            match event {
                Ok(Some(event)) => self.take(event),
                Ok(None) => return,
                Err(Failed) => {
                    self.has_failed = true;
                    self.places.give_up_all();
                    return;
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Request { key, is_too_large: true, .. } => self.refuse_head(key),
            Event::Request { key, head, length, ends, .. } => self.begin(key, *head, length, ends),
            Event::Data { key, data, ends } => {
                if let Some(inbox) = self.places.inbox(key, ends) {
                    inbox.push(data, ends);
                }
            }
            Event::Trailers { key, trailers } => {
                if let Some(inbox) = self.places.inbox(key, true) {
                    inbox.end(trailers);
                }
            }
            Event::Room(None) => self.places.unblock_all(Room::Window),
            Event::Room(Some(key)) => self.places.unblock(key),
            Event::Reset { key } => self.places.give_up(key),
        }
    }

    fn begin(&mut self, key: Key, head: Parts, length: Option<u64>, ends: bool) {
        let inbox = (!ends).then(|| {
            let is_expected = head.headers.contains_key(EXPECT);
            Inbox::new(&self.shared, key, length, is_expected)
        });
        let body = inbox.as_ref().map_or_else(Http2Body::none, Inbox::body);
        let request = Request::from_parts(head, ClientBody::Http2(body));
        let asking = forward::handle(Rc::clone(&self.worker), Rc::clone(&self.client), request);
        self.places.begin(key, Box::pin(asking), inbox);
    }

    /// Answers a request with more headers than there may be.
    fn refuse_head(&mut self, key: Key) {
        self.worker.metrics.answered(Reason::HeadersTooLarge);
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let mut connection = self.shared.connection.borrow_mut();
        connection.stop_reading(key);
        connection.send_head(key, status, &HeaderMap::new(), [answer::date(&self.worker)], true);
    }

    /// Ends the connection where that is due, and asks a silent client whether it is there. Breaks where it is not.
    fn look_at_the_clock(&mut self) -> ControlFlow<()> {
        let now = self.worker.now();
        let (worker, client) = (&self.worker, &self.client);
        let mut connection = self.shared.connection.borrow_mut();
        let is_due = client.expired().is_some()
            || ((worker.is_winding_down() || client.is_retiring()) && client.is_used());
        let mut alarm = None;
        if is_due || self.has_failed {
            let told = *self.told.get_or_insert(now);
            connection.leave();
            let waited = now.saturating_duration_since(told);
            if waited >= GRACE {
                connection.refuse();
            }
            if waited >= GRACE * 2 && (self.has_failed || connection.open_streams() == 0) {
                return ControlFlow::Break(());
            }
            alarm = Some(now + GRACE);
        }
        if connection.open_streams() > 0 {
            let silent = now.saturating_duration_since(self.heard);
            if silent >= PING_INTERVAL + PING_TIMEOUT {
                return ControlFlow::Break(());
            }
            if silent >= PING_INTERVAL && !std::mem::replace(&mut self.is_asked, true) {
                connection.ask();
            }
            let after = if self.is_asked { PING_INTERVAL + PING_TIMEOUT } else { PING_INTERVAL };
            let next = self.heard + after;
            alarm = Some(alarm.map_or(next, |alarm: Instant| alarm.min(next)));
        }
        client.set_alarm(alarm);
        ControlFlow::Continue(())
    }

    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Ok(())) };
        let mut connection = self.shared.connection.borrow_mut();
        let output = connection.output();
        while output.has_remaining() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = output.chunks_vectored(&mut slices);
            let count = ready!(Pin::new(&mut *socket).poll_write_vectored(context, &slices[..used]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            output.advance(count);
            self.is_unflushed = true;
            let now = self.worker.now();
            self.client.sent(now);
            if self.is_held_back {
                // Who reads is there, and cannot say so meanwhile.
                self.heard = now;
            }
        }
        if self.is_unflushed {
            ready!(Pin::new(socket).poll_flush(context))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.places.give_up_all();
    }
}
