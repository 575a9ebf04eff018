//! One HTTP/1.1 connection to an instance, driven by the task of the request that uses it.
//!
//! ```text
//!            exchange                        body ended, nothing left over
//!  idle ──────────────────▶ answer's head ─────────────────────────────────▶ idle
//!    │ closed meanwhile         │ 101                │ anything else
//!    ▼                          ▼                    ▼
//!  Unsent                    tunnel                closed
//! ```

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::{io::AsyncReadExt, task::AbortHandle};

use super::{
    alarm::Alarm,
    body::{BodyError, Decoder, Framing, Step},
    halves::{self, Reader, Writer},
    request::Head,
    response::{self, Answer, Room},
    upload::{Upload, UploadError},
};
use crate::{
    forward::{BodyFailure, RequestBody},
    socket::ServerSocket,
};

/// What is read at once to begin with, and at most.
const FIRST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 64 * 1024;
/// Heads before that of the answer, beyond which an instance is taken to be out of its mind.
pub(crate) const MOST_INTERIM: u32 = 32;

/// A connection that carries at most one request at a time.
pub(crate) struct Connection {
    reader: Reader,
    /// Not there while an upload has it, and when that has failed.
    writer: Rc<RefCell<Option<Writer>>>,
    read: BytesMut,
    read_size: usize,
    /// How much of what was read is known to be no complete head.
    looked_at: usize,
    /// Empty; kept for its room.
    out: Vec<u8>,
    most_head: usize,
    alarm: Alarm,
    /// How the answer that comes over it is framed.
    framing: Framing,
}

/// How long to wait for an instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExchangeLimits {
    /// For the answer's head, from when all of the request was sent.
    pub(crate) answer: Duration,
    /// For it to take more of a request.
    pub(crate) upload: Duration,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// Nothing of it was sent.
    Unsent,
    /// The connection ended before there was an answer.
    Closed,
    /// What came is not an answer.
    Protocol(String),
    /// No answer came in time.
    Timeout,
    /// The client's own body ended early.
    Client(BodyFailure),
}

/// An upload that goes on while the answer comes. Ended when dropped.
pub(crate) struct UploadTask(AbortHandle);

/// How far a request was sent.
enum Sending {
    Under(Upload),
    Done,
    /// The instance has stopped to take it.
    Broken,
}

impl Connection {
    /// A connection over a socket, for answers with heads of at most `most_head` bytes.
    pub(crate) fn new(socket: ServerSocket, most_head: usize) -> Self {
        let (reader, writer) = halves::split(socket);
        Self {
            reader,
            writer: Rc::new(RefCell::new(Some(writer))),
            read: BytesMut::new(),
            read_size: FIRST_READ,
            looked_at: 0,
            out: Vec::new(),
            most_head,
            alarm: Alarm::default(),
            framing: Framing { decoder: Decoder::Length(0), persistent: true },
        }
    }

    /// A request to be sent over it.
    pub(crate) fn upload(&mut self, head: &Head<'_>, body: RequestBody) -> Upload {
        Upload::new(head, body, std::mem::take(&mut self.out))
    }

    /// Sends a request and waits for the head of the answer. What was not sent by then comes back with it. `on_continue`
    /// is told of a 100.
    ///
    /// # Errors
    /// There is no answer. The request's own fields are as they were, unless it is [`ExchangeError::Protocol`].
    pub(crate) async fn exchange(
        &mut self,
        upload: Upload,
        mut room: Room<'_>,
        limits: ExchangeLimits,
        on_continue: impl Fn(),
    ) -> Result<(Answer, Option<Upload>), ExchangeError> {
        if !self.is_quiet() {
            return Err(ExchangeError::Unsent);
        }
        // Until there is an answer with an end, nothing else can follow.
        self.framing = Framing { decoder: Decoder::UntilClose, persistent: false };
        let method = upload.method.clone();
        let (mut sending, mut deadline, mut interim) = (Sending::Under(upload), None, 0);
        let answered = poll_fn(|context| {
            loop {
                self.poll_sending(&mut sending, context)?;
                let Poll::Ready(answer) = self.poll_head(&mut room, context)? else { break };
                if !response::is_interim(answer.status) {
                    return Poll::Ready(Ok(answer));
                }
                if answer.status == StatusCode::CONTINUE {
                    on_continue();
                }
                interim += 1;
                if interim > MOST_INTERIM {
                    return Poll::Ready(Err(protocol("it goes on with interim answers")));
                }
            }
            let deadline = match &sending {
                Sending::Under(upload) => match upload.blocked_since() {
                    // Who reads the client's body sees that it pauses.
                    None => return Poll::Pending,
                    Some(since) => since + limits.upload,
                },
                Sending::Done | Sending::Broken => {
                    *deadline.get_or_insert_with(|| Instant::now() + limits.answer)
                }
            };
            self.alarm.poll(deadline, context).map(|()| Err(ExchangeError::Timeout))
        });
        let answer = answered.await?;
        self.framing = Framing::of(&answer, room.of(&answer), &method).map_err(protocol)?;
        match sending {
            Sending::Under(_) if answer.status == StatusCode::SWITCHING_PROTOCOLS => {
                Err(protocol("it switches protocols before it has the request"))
            }
            Sending::Under(rest) => Ok((answer, Some(rest))),
            Sending::Done => Ok((answer, None)),
            Sending::Broken => {
                self.framing.persistent = false;
                Ok((answer, None))
            }
        }
    }

    /// Sends what can be sent.
    fn poll_sending(
        &mut self,
        sending: &mut Sending,
        context: &mut Context<'_>,
    ) -> Result<(), ExchangeError> {
        let Sending::Under(upload) = sending else { return Ok(()) };
        let mut writer = self.writer.borrow_mut();
        let Some(socket) = writer.as_mut() else { return Err(ExchangeError::Unsent) };
        let Poll::Ready(sent) = upload.poll(socket, context) else { return Ok(()) };
        let now = if sent.is_ok() { Sending::Done } else { Sending::Broken };
        if let Sending::Under(upload) = std::mem::replace(sending, now) {
            self.out = upload.into_room();
        }
        match sent {
            // Where it is closed an answer may have come before, and says why.
            Ok(()) | Err(UploadError::Closed) => Ok(()),
            Err(UploadError::Unsent) => Err(ExchangeError::Unsent),
            Err(UploadError::Body(failure)) => Err(ExchangeError::Client(failure)),
        }
    }

    fn poll_head(
        &mut self,
        room: &mut Room<'_>,
        context: &mut Context<'_>,
    ) -> Result<Poll<Answer>, ExchangeError> {
        loop {
            let length = self.read.len();
            if length > 0 && (self.looked_at == 0 || response::may_be_complete(&self.read, self.looked_at)) {
                let answer = response::take_head(&mut self.read, room).map_err(protocol)?;
                if length - if answer.is_some() { self.read.len() } else { 0 } > self.most_head {
                    return Err(protocol(format!("its head has more than {} bytes", self.most_head)));
                }
                if let Some(answer) = answer {
                    self.looked_at = 0;
                    return Ok(Poll::Ready(answer));
                }
            }
            if length > self.most_head {
                return Err(protocol(format!("its head has more than {} bytes", self.most_head)));
            }
            self.looked_at = length;
            match self.poll_fill(context) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Err(ExchangeError::Closed),
            }
        }
    }

    /// Lets the rest of a request be sent by a task of its own, so that neither direction waits for the other.
    pub(crate) fn send_aside(&mut self, rest: Upload) -> Option<UploadTask> {
        let socket = self.writer.borrow_mut().take()?;
        let task = tokio::task::spawn_local(rest.run(socket, Rc::clone(&self.writer)));
        Some(UploadTask(task.abort_handle()))
    }

    /// Notes that the rest of a request will not be sent.
    pub(crate) fn leave_unsent(&mut self) {
        self.framing.persistent = false;
    }

    /// The next part of the answer's body.
    ///
    /// # Errors
    /// The body breaks off.
    pub(crate) fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<Step, BodyError>> {
        loop {
            if let Some(step) = self.framing.decoder.next(&mut self.read)? {
                return Poll::Ready(Ok(step));
            }
            if ready!(self.poll_fill(context))? == 0 {
                return Poll::Ready(self.framing.decoder.close());
            }
        }
    }

    /// Whether a body is to follow the head that came, and nothing of it is there yet.
    pub(crate) fn awaits_body(&self) -> bool {
        !self.is_body_over() && self.read.is_empty()
    }

    /// Ready when something of the body is there, or its end.
    ///
    /// # Errors
    /// The connection ended before.
    pub(crate) fn poll_begun(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.awaits_body() && ready!(self.poll_fill(context))? == 0 {
            self.framing.decoder.close()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the answer's body has ended.
    pub(crate) fn is_body_over(&self) -> bool {
        self.framing.decoder.is_done()
    }

    /// How many bytes of the answer's body are to come, where that is known.
    pub(crate) fn body_left(&self) -> Option<u64> {
        self.framing.decoder.exact()
    }

    /// Reads once. Reads grow while they fill the room that they get.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(self.read_size);
        let room = self.read.capacity() - self.read.len();
        let count = ready!(pin!(self.reader.read_buf(&mut self.read)).poll(context))?;
        if count == room {
            self.read_size = (self.read_size * 2).min(LARGEST_READ);
        }
        Poll::Ready(Ok(count))
    }

    /// Whether nothing came that nobody asked for, such as the end. Asks the kernel only if it has said so.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let is_quiet = self.reader.is_quiet();
        self.read.is_empty() && is_quiet
    }

    /// Whether the exchange is over, in both directions and without anything left over. Prepares for the next one.
    pub(crate) fn end_exchange(&mut self) -> bool {
        if self.read_size > FIRST_READ {
            // Idle connections do not hold what large bodies have needed.
            self.read_size = FIRST_READ;
            if self.read.is_empty() {
                self.read = BytesMut::new();
            }
        }
        self.framing.persistent
            && self.framing.decoder.is_done()
            && self.read.is_empty()
            && self.writer.borrow().is_some()
    }

    /// The socket and what was read from it, after the connection has switched protocols.
    pub(crate) fn into_socket(self) -> Option<(ServerSocket, Bytes)> {
        let writer = self.writer.borrow_mut().take()?;
        let socket = halves::join(self.reader, writer)?;
        Some((socket, self.read.freeze()))
    }
}

impl Drop for UploadTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn protocol(what: impl Into<String>) -> ExchangeError {
    ExchangeError::Protocol(what.into())
}

#[cfg(test)]
mod tests;
