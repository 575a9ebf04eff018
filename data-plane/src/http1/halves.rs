//! The halves of an instance's socket: one is read by the request's task, the other may be written by another one.
//!
//! Halves of a socket in the clear are the system's. Over TLS both share one session, which belongs to this thread;
//! reading never writes there but for alerts, and writing never reads, so that neither takes the other's waker.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_rustls::client::TlsStream;

use crate::socket::ServerSocket;

type Shared = Rc<RefCell<Box<TlsStream<TcpStream>>>>;

/// The half that answers come from.
pub(super) enum Reader {
    Plain(OwnedReadHalf),
    Tls(Shared),
}

/// The half that requests go to.
pub(super) enum Writer {
    Plain(OwnedWriteHalf),
    Tls(Shared),
}

/// Takes a socket apart.
pub(super) fn split(socket: ServerSocket) -> (Reader, Writer) {
    match socket {
        ServerSocket::Plain(socket) => {
            let (reader, writer) = socket.into_split();
            (Reader::Plain(reader), Writer::Plain(writer))
        }
        ServerSocket::Tls(stream) => {
            let shared = Rc::new(RefCell::new(stream));
            (Reader::Tls(Rc::clone(&shared)), Writer::Tls(shared))
        }
    }
}

/// Puts the halves of one socket together again.
pub(super) fn join(reader: Reader, writer: Writer) -> Option<ServerSocket> {
    match (reader, writer) {
        (Reader::Plain(reader), Writer::Plain(writer)) => {
            reader.reunite(writer).ok().map(ServerSocket::Plain)
        }
        (Reader::Tls(shared), Writer::Tls(other)) => {
            drop(other);
            Some(ServerSocket::Tls(Rc::into_inner(shared)?.into_inner()))
        }
        _ => None,
    }
}

impl Reader {
    /// Whether nothing is there to be read, not even the end.
    pub(super) fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(reader) => {
                let read = reader.try_read(&mut [0]);
                read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(shared) => {
                // Session tickets and the like come while a connection is idle, and are no data.
                let mut byte = [0];
                let mut context = Context::from_waker(Waker::noop());
                let mut stream = shared.borrow_mut();
                Pin::new(&mut **stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        }
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(reader) => Pin::new(reader).poll_read(context, buffer),
            Self::Tls(shared) => Pin::new(&mut **shared.borrow_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(writer) => Pin::new(writer).poll_write(context, bytes),
            Self::Tls(shared) => Pin::new(&mut **shared.borrow_mut()).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(writer) => Pin::new(writer).poll_write_vectored(context, slices),
            Self::Tls(shared) => Pin::new(&mut **shared.borrow_mut()).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(writer) => Pin::new(writer).poll_flush(context),
            Self::Tls(shared) => Pin::new(&mut **shared.borrow_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(writer) => Pin::new(writer).poll_shutdown(context),
            Self::Tls(shared) => Pin::new(&mut **shared.borrow_mut()).poll_shutdown(context),
        }
    }
}
