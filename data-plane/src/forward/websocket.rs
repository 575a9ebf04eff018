//! WebSocket over HTTP/2 (RFC 8441): a stream that the client opens by an extended `CONNECT` becomes an upgraded
//! HTTP/1.1 connection to the instance.
//!
//! ```text
//! CONNECT, :protocol=websocket ─▶ GET, upgrade: websocket, sec-websocket-key ─▶ instance
//! 200, then the stream         ◀─ 101, sec-websocket-accept                  ◀─
//! ```
//!
//! Routes see the GET, so that a route serves WebSocket whichever version a client speaks.
//!
//! Deliberately absent: extended `CONNECT` towards instances, and other protocols than WebSocket.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fastrand::Rng;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    request, response,
};
use sha1_smol::Sha1;

use super::{client_body::ClientBody, tunnel};
use crate::{
    http2::Protocol,
    upgrade::{self, Switched},
};

/// The one protocol, as `Upgrade` and `:protocol` name it.
const WEBSOCKET: &str = "websocket";
/// What is hashed together with the key (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A stream that becomes a WebSocket.
pub(super) struct Stream {
    /// What the client sends over it.
    received: ClientBody,
    /// What the instance must say to the key that it got.
    accept: String,
}

impl Stream {
    /// Makes an extended `CONNECT` for WebSocket into the request that opens one over HTTP/1.1. `None`: it is another
    /// kind of `CONNECT`.
    pub(super) fn of(parts: &mut request::Parts, body: &mut ClientBody, rng: &mut Rng) -> Option<Box<Self>> {
        let protocol = parts.extensions.get::<Protocol>()?;
        if !protocol.0.eq_ignore_ascii_case(WEBSOCKET.as_bytes()) {
            return None;
        }
        let received = std::mem::replace(body, ClientBody::Empty);
        // It is to differ from request to request, so that no cache answers; it keeps no secret.
        let key = STANDARD.encode(rng.u128(..).to_ne_bytes());
        let accept = accept_of(&key);
        parts.method = Method::GET;
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).ok()?);
        parts.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        Some(Box::new(Self { received, accept }))
    }

    /// The protocol that the instance is asked to switch to.
    pub(super) fn protocol() -> HeaderValue {
        HeaderValue::from_static(WEBSOCKET)
    }

    /// Whether an instance's answer is one to the client's stream: it has switched, or has declined.
    ///
    /// # Errors
    /// It is neither, and why.
    pub(super) fn check(&self, status: StatusCode, headers: &HeaderMap) -> Result<(), String> {
        if status.is_success() {
            return Err(format!("{status} is no answer to a request to switch to WebSocket"));
        }
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let is = |name: &HeaderName, fits: &dyn Fn(&[u8]) -> bool| {
            headers.get(name).is_some_and(|value| fits(value.as_bytes().trim_ascii()))
        };
        if !is(&UPGRADE, &|value| value.eq_ignore_ascii_case(WEBSOCKET.as_bytes())) {
            return Err("it has switched to something else than WebSocket".to_owned());
        }
        if !is(&SEC_WEBSOCKET_ACCEPT, &|value| value == self.accept.as_bytes()) {
            return Err("its sec-websocket-accept does not fit the key that it got".to_owned());
        }
        Ok(())
    }

    /// Makes a 101 into what opens the client's stream (RFC 8441, section 5).
    pub(super) fn open(parts: &mut response::Parts) {
        parts.status = StatusCode::OK;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH] {
            parts.headers.remove(name);
        }
    }

    /// Copies both ways, in a task of its own, to the end. What the client gets is the body of its answer.
    pub(super) fn run(self, switched: Switched) -> tunnel::Received {
        switched.scope.worker.metrics.upgraded();
        let (stream, received) = tunnel::open(self.received);
        tokio::task::spawn_local(upgrade::run(stream, Bytes::new(), switched));
        received
    }
}

fn accept_of(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID);
    STANDARD.encode(hash.digest().bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
