//! A check by HTTP/1.1 on a connection of its own: 2xx and 3xx pass, and redirects are not followed.

use bytes::Bytes;
use http::{
    Request,
    header::{CONNECTION, HOST, USER_AGENT},
};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Sends `GET path` to `address` (`host:port`), as `user_agent`.
///
/// # Errors
/// Says why it does not pass, for example `GET /health answered 500`.
pub async fn check(address: &str, path: &str, user_agent: &str) -> Result<(), String> {
    let failed = |error: &dyn std::error::Error| format!("GET {path} failed: {error}");
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("{address} cannot be connected to: {error}"))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let request = Request::get(path)
        .header(HOST, address)
        .header(USER_AGENT, user_agent)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = async {
        tokio::pin!(connection);
        let response = sender.send_request(request);
        tokio::pin!(response);
        tokio::select! {
            response = &mut response => response,
            ended = &mut connection => match ended {
                Ok(()) => response.await,
                Err(error) => Err(error),
            },
        }
    };
    let status = response.await.map_err(|error| failed(&error))?.status();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("GET {path} answered {}", status.as_u16()))
    }
}
