//! One check of an endpoint, on a connection of its own: what is asked, and whether the answer is good.
//!
//! The connection is closed after the answer's head. It is over TLS where the service's instances are spoken to so, by
//! the same settings. HTTP is HTTP/2 where the instance is registered with HTTP/2 or gRPC.
//!
//! Deliberately absent: connections of requests. A check that goes over one that is there would not find out whether
//! there can be new ones, and would take places that requests need.

mod grpc;

use std::ops::RangeInclusive;

use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{CONNECTION, HOST, USER_AGENT},
};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::{Instant, timeout};
use waypost_proto::instance::Protocol;

use super::rules::{CheckKind, CheckRules};
use crate::{pool::connect, rule::TimeLimit, socket::ServerSocket, table::EndpointState};

/// How checks can be told from requests in an instance's log.
const AGENT: &str = concat!("waypost-proxy/", env!("CARGO_PKG_VERSION"), " (health check)");

/// Asks an endpoint.
///
/// # Errors
/// Why it is not well, in words.
pub(super) async fn check(endpoint: &EndpointState, rules: &CheckRules) -> Result<(), String> {
    let asked = timeout(rules.timeout, ask(endpoint, rules)).await;
    asked.unwrap_or_else(|_| Err(format!("no answer within {:?}", rules.timeout)))
}

async fn ask(endpoint: &EndpointState, rules: &CheckRules) -> Result<(), String> {
    let is_http2 = matches!(rules.kind, CheckKind::Grpc(_)) || endpoint.protocol() != Protocol::Http1;
    let tls = endpoint.tls().map(|tls| &**tls);
    let limit = TimeLimit::new(rules.timeout, "healthCheck.timeout of the service's policy");
    let connected = connect(endpoint.address(), tls, is_http2, limit, Instant::now() + rules.timeout).await;
    let socket = connected.map_err(|error| format!("not connected: {error}"))?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    match &rules.kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::Grpc(service) => {
            let origin = uri(scheme, &endpoint.address().to_string(), "/")?;
            grpc::check(socket, origin, service).await
        }
        CheckKind::Http { path, host, expected } => {
            let address = endpoint.address().to_string();
            let host = host.as_deref().unwrap_or(&address);
            let answered = if is_http2 {
                over_http2(socket, uri(scheme, host, path)?).await
            } else {
                over_http1(socket, host, path).await
            };
            judged(path, answered?, expected)
        }
    }
}

fn uri(scheme: &str, host: &str, path: &str) -> Result<Uri, String> {
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
    uri.map_err(|error| format!("the check of {path} cannot be asked: {error}"))
}

fn judged(path: &str, status: StatusCode, expected: &[RangeInclusive<u16>]) -> Result<(), String> {
    let is_good = expected.iter().any(|range| range.contains(&status.as_u16()));
    if is_good { Ok(()) } else { Err(format!("GET {path} answered {}", status.as_u16())) }
}

async fn over_http1(socket: ServerSocket, host: &str, path: &str) -> Result<StatusCode, String> {
    let failed = |error: &dyn std::error::Error| format!("GET {path} failed: {error}");
    let begun = http1::handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = begun.map_err(|error| failed(&error))?;
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let answered = driven(connection, sender.send_request(request)).await;
    answered.map(|answer| answer.status()).map_err(|error| failed(&error))
}

async fn over_http2(socket: ServerSocket, uri: Uri) -> Result<StatusCode, String> {
    let path = uri.path().to_owned();
    let failed = |error: &dyn std::error::Error| format!("GET {path} failed: {error}");
    let begun = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut sender, connection) = begun.map_err(|error| failed(&error))?;
    let request = Request::get(uri)
        .header(USER_AGENT, AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let answered = driven(connection, sender.send_request(request)).await;
    answered.map(|answer| answer.status()).map_err(|error| failed(&error))
}

/// What comes of a call over a connection that lives no longer than the call.
async fn driven<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    call: impl Future<Output = T>,
) -> T {
    tokio::pin!(connection, call);
    tokio::select! {
        biased;
        done = &mut call => done,
        // Whoever waits for the answer is told how it ended.
        _ = &mut connection => call.await,
    }
}
