//! A client's socket as hyper reads and writes it.
//!
//! It gives back the bytes that were read to find out which protocol the client speaks, and notes when bytes
//! move, for the timeouts.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use crate::{
    serve::{ClientConnection, Worker},
    socket::ClientSocket,
};
use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;

/// A client's socket.
pub(crate) struct ClientStream {
    socket: TokioIo<ClientSocket>,
    /// Read already, and not yet given to hyper.
    prefix: Bytes,
    client: Rc<ClientConnection>,
    worker: Rc<Worker>,
}

impl ClientStream {
    /// A socket of which `prefix` was read already.
    pub(crate) fn new(
        socket: ClientSocket,
        prefix: Bytes,
        client: Rc<ClientConnection>,
        worker: Rc<Worker>,
    ) -> Self {
        Self { socket: TokioIo::new(socket), prefix, client, worker }
    }

    /// The socket, once hyper is done with it.
    pub(crate) fn into_socket(self) -> ClientSocket {
        self.socket.into_inner()
    }

    fn note_sent(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.client.sent(self.worker.now());
        }
    }
}

impl Read for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let count = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix.split_to(count));
            self.client.received(self.worker.now());
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if read.is_ready() {
            self.client.received(self.worker.now());
        }
        read
    }
}

impl Write for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.note_sent(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.note_sent(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
