//! The task of a connection: reads, writes out what was gathered, and asks an instance that is silent whether it is there.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, Connection, SendRequest},
};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep, sleep};

use super::{Http2, exchange::takes_requests, streams::Load};
use crate::gather::Gather;

/// How often it is looked at whether an instance that has something to do was heard of.
pub(super) const TICK: Duration = Duration::from_secs(5);
/// After so many ticks without a byte from it an instance is asked (15 s).
const ASK_AFTER: u32 = 3;
/// After so many it is given up (25 s).
pub(super) const DEAD_AFTER: u32 = 5;

/// How many bytes of one answer an instance may send ahead of its reader.
const STREAM_WINDOW: u32 = 256 << 10;
/// How many bytes of all answers on a connection: enough for as many as there are places, so that readers who have
/// stopped do not stop the others.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// How many bytes short of 256 all frames that nobody has read yet may be, together, before h2 ends the connection. Events
/// of a few bytes each are nothing bad: a reader who has stopped leaves some thousands of them.
const SMALL_FRAMES: usize = 64 << 20;
/// How many streams that were reset are remembered, so that what is still on its way for them is no fault of the instance's.
const RESET_STREAMS: usize = 1024;
/// How many bytes of one request h2 takes ahead of the socket.
const SEND_BUFFER: usize = 1 << 20;
/// How many streams are begun before the instance has said how many it allows: what RFC 9113 asks it to allow at least.
const FIRST_STREAMS: usize = 100;

/// How the proxy speaks HTTP/2 to instances.
#[derive(Clone)]
pub(super) struct Dialect {
    builder: Builder,
}

/// A connection, to be polled until it ends.
pub(super) struct Driver<T> {
    connection: Connection<TokioIo<Gather<T>>, Bytes>,
    stream: Gather<T>,
    pulse: Option<Pulse>,
    load: Rc<Load>,
    /// Gone where nobody will send another request: the connection ends with its last stream then.
    sender: Weak<RefCell<SendRequest<Bytes>>>,
}

/// Whether an instance is there.
struct Pulse {
    ping_pong: PingPong,
    tick: Pin<Box<Sleep>>,
    /// Ticks since a byte came.
    silent: u32,
    /// Whether an answer to a ping is still to come.
    is_asked: bool,
}

impl Dialect {
    /// `header_bytes`: what an answer's head may have.
    pub(super) fn new(header_bytes: u32) -> Self {
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(FIRST_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(header_bytes)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(SMALL_FRAMES)
            .max_concurrent_reset_streams(RESET_STREAMS)
            // It would count, over the connection's whole life, what comes late for streams that were reset.
            .max_local_error_reset_streams(None);
        Self { builder }
    }

    /// Begins a connection over a stream.
    ///
    /// # Errors
    /// The stream's, while the preface is written.
    pub(super) async fn begin<T: Read + Write + Unpin>(
        &self,
        stream: T,
        load: Rc<Load>,
    ) -> Result<(Http2, Driver<T>), h2::Error> {
        let stream = Gather::new(stream);
        let (sender, mut connection) = self.builder.handshake(TokioIo::new(stream.clone())).await?;
        let pulse = connection.ping_pong().map(Pulse::new);
        let sender = Rc::new(RefCell::new(sender));
        let driver =
            Driver { connection, stream, pulse, load: Rc::clone(&load), sender: Rc::downgrade(&sender) };
        Ok((Http2::new(sender, load), driver))
    }
}

impl<T: Read + Write + Unpin> Driver<T> {
    /// Whether the instance takes no more requests, though it may yet answer some.
    fn is_refusing(&self) -> bool {
        self.sender.upgrade().is_some_and(|sender| !takes_requests(&sender))
    }
}

impl<T: Read + Write + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let driver = &mut *self;
        let has_ended = Pin::new(&mut driver.connection).poll(context).is_ready();
        let has_failed = matches!(driver.stream.poll_write_out(context), Poll::Ready(Err(_)));
        let was_heard = driver.stream.take_heard();
        let is_idle = driver.load.streams() == 0;
        let is_dead =
            driver.pulse.as_mut().is_some_and(|pulse| pulse.poll(context, was_heard, is_idle).is_ready());
        if driver.load.is_waited_for() && driver.is_refusing() {
            driver.load.wake_waiting();
        }
        if has_ended || has_failed || is_dead { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<T> Drop for Driver<T> {
    /// Who waits finds that it takes no more requests, once h2 has seen the end.
    fn drop(&mut self) {
        self.load.wake_waiting();
    }
}

impl Pulse {
    fn new(ping_pong: PingPong) -> Self {
        Self { ping_pong, tick: Box::pin(sleep(TICK)), silent: 0, is_asked: false }
    }

    /// Ready once an instance that has something to do is silent for too long.
    fn poll(&mut self, context: &mut Context<'_>, was_heard: bool, is_idle: bool) -> Poll<()> {
        if was_heard || is_idle {
            self.silent = 0;
        }
        if self.is_asked && self.ping_pong.poll_pong(context).is_ready() {
            self.is_asked = false;
        }
        while self.tick.as_mut().poll(context).is_ready() {
            self.tick.as_mut().reset(Instant::now() + TICK);
            self.silent += u32::from(!is_idle);
            if self.silent == ASK_AFTER && !self.is_asked {
                // A connection on which none can be sent is at its end.
                self.is_asked = self.ping_pong.send_ping(Ping::opaque()).is_ok();
            }
            if self.silent >= DEAD_AFTER {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
