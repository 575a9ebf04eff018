//! A request on its way to an instance: its head, and its body as it comes from the client.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, Method};
use hyper::body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::{
    halves::Writer,
    request::{self, Head, Length},
};
use crate::forward::{BodyFailure, RequestBody};

/// What is still to be sent of a request.
pub(crate) struct Upload<B = RequestBody> {
    pub(super) method: Method,
    /// The head, or what frames a chunk, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// A part of the body, and what follows it.
    data: Bytes,
    tail: &'static [u8],
    body: B,
    length: Length,
    announced: Vec<HeaderName>,
    /// Whether all of the body is in here or was sent.
    complete: bool,
    /// Whether anything was sent, or taken from the client.
    begun: bool,
    /// Since when the instance takes nothing though there is something, if so.
    blocked: Option<Instant>,
}

/// Why a request cannot be sent.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The connection failed before anything was sent.
    Unsent,
    /// The connection failed.
    Closed,
    /// The client's body ended early, or not where it said.
    Body(BodyFailure),
}

impl<B: Body<Data = Bytes, Error = BodyFailure> + Unpin> Upload<B> {
    /// `out` is an empty buffer with room.
    pub(super) fn new(head: &Head<'_>, body: B, mut out: Vec<u8>) -> Self {
        head.write(&mut out);
        let announced = if head.length == Length::Chunked { head.announced() } else { Vec::new() };
        Self {
            method: head.method.clone(),
            out,
            sent: 0,
            data: Bytes::new(),
            tail: b"",
            body,
            length: head.length,
            announced,
            complete: matches!(head.length, Length::None | Length::Exact(0)),
            begun: false,
            blocked: None,
        }
    }

    /// Since when the instance takes nothing, if it does not.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.blocked
    }

    /// The buffer, for the next request.
    pub(super) fn into_room(self) -> Vec<u8> {
        let mut room = self.out;
        room.clear();
        room
    }

    /// Sends what can be sent; ready when all was.
    pub(super) fn poll(
        &mut self,
        socket: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            let mut waiting = false;
            if !self.complete && self.data.is_empty() && self.tail.is_empty() {
                match Pin::new(&mut self.body).poll_frame(context) {
                    Poll::Ready(frame) => self.take(frame.transpose().map_err(UploadError::Body)?)?,
                    Poll::Pending => waiting = true,
                }
            }
            let Poll::Ready(written) = self.poll_write(socket, context) else {
                self.blocked.get_or_insert_with(Instant::now);
                return Poll::Pending;
            };
            match written {
                Ok(()) if self.complete => return Poll::Ready(Ok(())),
                Ok(()) if waiting => return Poll::Pending,
                Ok(()) => {}
                Err(_) if self.begun => return Poll::Ready(Err(UploadError::Closed)),
                Err(_) => return Poll::Ready(Err(UploadError::Unsent)),
            }
        }
    }

    /// Goes on in a task of its own, and gives the socket back when all was sent.
    pub(super) async fn run(mut self, mut socket: Writer, back: Rc<RefCell<Option<Writer>>>) {
        if poll_fn(|context| self.poll(&mut socket, context)).await.is_ok() {
            *back.borrow_mut() = Some(socket);
        }
    }

    /// Takes the next frame of the body.
    fn take(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), UploadError> {
        self.begun = true;
        let Some(frame) = frame else { return self.end(None) };
        match frame.into_data() {
            Ok(data) => self.take_data(data),
            Err(frame) => self.end(frame.into_trailers().ok().as_ref()),
        }
    }

    fn take_data(&mut self, data: Bytes) -> Result<(), UploadError> {
        match &mut self.length {
            Length::None => return Err(UploadError::Body(BodyFailure::Broken)),
            Length::Exact(left) => {
                // The client's framing has been checked; this keeps a slip there from being smuggled on.
                *left = left.checked_sub(data.len() as u64).ok_or(UploadError::Body(BodyFailure::Broken))?;
                self.complete = *left == 0;
            }
            Length::Chunked if data.is_empty() => {}
            Length::Chunked => {
                request::chunk_size(&mut self.out, data.len());
                self.tail = b"\r\n";
            }
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), UploadError> {
        match self.length {
            Length::Exact(1..) => return Err(UploadError::Body(BodyFailure::Broken)),
            Length::Chunked => request::last_chunk(&mut self.out, trailers, &self.announced),
            Length::None | Length::Exact(0) => {}
        }
        self.complete = true;
        Ok(())
    }

    fn poll_write(
        &mut self,
        socket: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() || !self.data.is_empty() || !self.tail.is_empty() {
            let socket = Pin::new(&mut *socket);
            let out = &self.out[self.sent..];
            let written = if self.data.is_empty() && self.tail.is_empty() {
                ready!(socket.poll_write(context, out))?
            } else {
                let slices = [IoSlice::new(out), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                ready!(socket.poll_write_vectored(context, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun = true;
            self.blocked = None;
            self.wrote(written);
        }
        self.out.clear();
        self.sent = 0;
        // TLS keeps what the socket has no room for.
        ready!(Pin::new(socket).poll_flush(context))?;
        self.blocked = None;
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, count: usize) {
        let of_out = count.min(self.out.len() - self.sent);
        self.sent += of_out;
        let of_data = (count - of_out).min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[count - of_out - of_data..];
    }
}

#[cfg(test)]
mod tests;
