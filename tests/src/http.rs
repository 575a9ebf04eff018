//! One request on one connection, for what is not load.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header, response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// An answer, its body read to the end.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What came behind the body.
    pub trailers: HeaderMap,
}

impl Answer {
    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {}", self.status, self.text()))
    }
}

/// Sends a request over a connection of its own.
///
/// # Errors
/// What went wrong, in words.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer, String> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("handshake: {error}"))?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| format!("answer: {error}"))?;
        let (head, body) = answer.into_parts();
        read(head, body).await
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}

/// Reads an answer to its end.
///
/// # Errors
/// It does not end as it should, in words.
pub async fn read(head: response::Parts, body: Incoming) -> Result<Answer, String> {
    let body = body.collect().await.map_err(|error| format!("body: {error}"))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
}

/// A GET request.
///
/// # Panics
/// The path is none.
pub fn get_request(address: SocketAddr, path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header(header::HOST, address.to_string());
    request.body(Full::default()).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// GETs a path.
///
/// # Errors
/// What went wrong, in words.
pub async fn try_get(address: SocketAddr, path: &str) -> Result<Answer, String> {
    send(address, get_request(address, path)).await
}

/// GETs a path.
///
/// # Panics
/// There is no answer.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    try_get(address, path).await.unwrap_or_else(|error| panic!("GET http://{address}{path}: {error}"))
}

/// Sends bytes as they are and gives what comes back until the peer closes or says no more for half a second.
///
/// # Errors
/// The peer does not take connections.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // A peer may close while it is still being written to: that is an answer too.
    let _ = stream.write_all(bytes).await;
    let mut got = Vec::new();
    let mut part = [0; 4096];
    while let Ok(Ok(read)) = timeout(Duration::from_millis(500), stream.read(&mut part)).await {
        if read == 0 {
            break;
        }
        got.extend_from_slice(&part[..read]);
    }
    Ok(got)
}
