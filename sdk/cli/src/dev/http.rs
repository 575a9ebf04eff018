//! A plain HTTP/1.1 client: one connection, kept alive, one request at a time.
//!
//! Deliberately absent: pools and retries. What the tour counts as failed must be what a client would see.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{
    HeaderMap, Request, StatusCode,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The connection could not be made.
    #[error("{address} cannot be connected to")]
    Connect { address: SocketAddr, source: io::Error },
    /// The connection broke, or carried something that is not HTTP.
    #[error("the connection to {address} failed")]
    Exchange { address: SocketAddr, source: hyper::Error },
    /// The request cannot be written.
    #[error("{path} is not a path")]
    Path { path: String, source: http::Error },
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody accepts the connection.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Error> {
        let stream =
            TcpStream::connect(address).await.map_err(|source| Error::Connect { address, source })?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|source| Error::Exchange { address, source })?;
        tokio::spawn(async move {
            // How it ends is told to whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(Self { address, sender })
    }

    /// Whether another request can be sent on it; the other side may have closed it in between.
    pub(crate) async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a GET and reads the whole answer.
    ///
    /// # Errors
    /// The connection broke before the answer was complete.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, Error> {
        self.send(path, Request::get(path).body(Full::default())).await
    }

    async fn send(
        &mut self,
        path: &str,
        request: http::Result<Request<Full<Bytes>>>,
    ) -> Result<Answer, Error> {
        let with_host = request.and_then(|mut request| {
            request.headers_mut().insert(HOST, self.address.to_string().try_into()?);
            Ok(request)
        });
        let request = with_host.map_err(|source| Error::Path { path: path.to_owned(), source })?;
        let failed = |source| Error::Exchange { address: self.address, source };
        let (parts, body) = self.sender.send_request(request).await.map_err(failed)?.into_parts();
        let body = body.collect().await.map_err(failed)?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}

/// One GET on a connection of its own.
///
/// # Errors
/// Nobody answers.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<Answer, Error> {
    Connection::open(address).await?.get(path).await
}

/// One POST of JSON on a connection of its own.
///
/// # Errors
/// Nobody answers.
pub(crate) async fn post(address: SocketAddr, path: &str, json: Bytes) -> Result<Answer, Error> {
    let request = Request::post(path).header(CONTENT_TYPE, "application/json").body(Full::new(json));
    Connection::open(address).await?.send(path, request).await
}
