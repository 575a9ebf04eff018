//! `grpc.health.v1.Health/Check` over a connection that is there.

use http::{Request, Uri};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::driven;
use crate::socket::ServerSocket;

/// Asks about a service; empty is the server.
///
/// # Errors
/// Why it is not well, in words.
pub(super) async fn check(socket: ServerSocket, origin: Uri, service: &str) -> Result<(), String> {
    let begun = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (sender, connection) = begun.map_err(|error| format!("no HTTP/2 there: {error}"))?;
    let channel = tower::service_fn(move |request: Request<Body>| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let mut client = HealthClient::with_origin(channel, origin);
    let request = HealthCheckRequest { service: service.to_owned() };
    let answered = driven(connection, client.check(request)).await;
    let answer = answered.map_err(|status| {
        format!("grpc.health.v1 answered {:?} {}", status.code(), status.message()).trim_end().to_owned()
    })?;
    match answer.get_ref().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("grpc.health.v1 says {}", other.as_str_name())),
    }
}
