//! Sockets with and without TLS, as one type on each side.
//!
//! They are enums and not trait objects, so that a connection in the clear costs a look at the kind and nothing more.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

/// A client's socket.
pub(crate) enum ClientSocket {
    /// In the clear.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<server::TlsStream<TcpStream>>),
}

/// An instance's socket.
pub(crate) enum ServerSocket {
    /// In the clear.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<client::TlsStream<TcpStream>>),
}

impl ClientSocket {
    /// The socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// The socket below, once all that was to be said over TLS was.
    pub(crate) fn into_tcp(self) -> TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.into_inner().0,
        }
    }
}

/// Passes reading and writing on to whichever socket it is.
macro_rules! pass_on {
    ($socket:ident) => {
        impl AsyncRead for $socket {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
                    Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
                }
            }
        }

        impl AsyncWrite for $socket {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
                    Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_write_vectored(context, slices),
                    Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    Self::Plain(socket) => socket.is_write_vectored(),
                    Self::Tls(stream) => stream.is_write_vectored(),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_flush(context),
                    Self::Tls(stream) => Pin::new(stream).poll_flush(context),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
                    Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
                }
            }
        }
    };
}

pass_on!(ClientSocket);
pass_on!(ServerSocket);
