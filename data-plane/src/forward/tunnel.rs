//! A stream of an HTTP/2 connection as a socket: what is read are the data of the request, and what is written become those
//! of the answer.
//!
//! ```text
//! request's body ─▶ Stream (AsyncRead)
//! answer's body  ◀─ Received ◀─ pipe ◀─ Stream (AsyncWrite)
//! ```

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{body::AnswerFailure, client_body::ClientBody};

/// How much is written ahead of the client.
const MOST: usize = 64 << 10;

/// One end of it, which reads and writes.
pub(super) struct Stream {
    body: ClientBody,
    /// What was taken of the body and not read.
    rest: Bytes,
    pipe: Rc<RefCell<Pipe>>,
}

/// The other end of what is written.
pub(crate) struct Received(Rc<RefCell<Pipe>>);

#[derive(Default)]
struct Pipe {
    bytes: BytesMut,
    /// Whether all was written.
    is_over: bool,
    /// Whether there is nobody at the other end.
    is_broken: bool,
    writer: Option<Waker>,
    reader: Option<Waker>,
}

/// Makes a stream of a body.
pub(super) fn open(body: ClientBody) -> (Stream, Received) {
    let pipe = Rc::default();
    (Stream { body, rest: Bytes::new(), pipe: Rc::clone(&pipe) }, Received(pipe))
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.pipe.borrow_mut();
        if pipe.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(MOST.saturating_sub(pipe.bytes.len()));
        if count == 0 && !bytes.is_empty() {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        pipe.bytes.extend_from_slice(&bytes[..count]);
        pipe.wake_reader();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.pipe.borrow_mut();
        pipe.is_over = true;
        pipe.wake_reader();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut pipe = self.pipe.borrow_mut();
        pipe.is_broken = true;
        pipe.wake_reader();
    }
}

impl Pipe {
    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Received {
    /// What was written next; an error where the tunnel was cut.
    pub(super) fn poll_data(&mut self, context: &Context<'_>) -> Poll<Option<Result<Bytes, AnswerFailure>>> {
        let mut pipe = self.0.borrow_mut();
        if pipe.bytes.has_remaining() {
            if let Some(writer) = pipe.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(pipe.bytes.split().freeze())));
        }
        if pipe.is_over {
            return Poll::Ready(None);
        }
        if pipe.is_broken {
            let cut = io::Error::from(io::ErrorKind::ConnectionReset);
            return Poll::Ready(Some(Err(AnswerFailure::Broken(cut.into()))));
        }
        pipe.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let mut pipe = self.0.borrow_mut();
        pipe.is_broken = true;
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
    }
}
