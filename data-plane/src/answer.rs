//! Answers of the proxy's own: problem details (RFC 9457) with the reason, what it concerns and a way out.
//!
//! gRPC clients get the same as a status in the headers, which is what their libraries can read.

use std::rc::Rc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version,
    header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use waypost_proto::{
    error::Problem,
    reason::{REASON_HEADER, Reason},
};

use crate::{forward::ResponseBody, serve::RequestScope};

/// Why a request is answered here, in words.
#[derive(Debug)]
pub(crate) struct Answer {
    reason: Reason,
    detail: String,
    allow: Option<String>,
    /// Whether it is given as a gRPC status, whatever the request looks like.
    for_grpc: bool,
    /// More fields.
    marks: Option<Box<HeaderMap>>,
    /// Says it instead of the detail.
    prepared: Option<Rc<Prepared>>,
}

/// What is written down before it is needed, so that it costs little to answer so.
#[derive(Debug)]
pub(crate) struct Prepared {
    reason: Reason,
    detail: String,
    body: Bytes,
}

impl Prepared {
    pub(crate) fn new(reason: Reason, detail: String) -> Self {
        let body = body(reason, &detail);
        Self { reason, detail, body }
    }
}

/// What of a request decides how it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    is_head: bool,
    is_grpc: bool,
    is_grpc_web: bool,
}

impl Manner {
    pub(crate) fn of<B>(request: &http::Request<B>) -> Self {
        let is_http2 = request.version() == Version::HTTP_2;
        let may_be = is_http2 || request.method() == Method::POST;
        let content = if may_be { request.headers().get(CONTENT_TYPE) } else { None };
        let is = |prefix: &[u8]| content.is_some_and(|value| value.as_bytes().starts_with(prefix));
        let (is_grpc, is_grpc_web) = (is_http2 && is(b"application/grpc"), is(b"application/grpc-web"));
        Self { is_head: request.method() == Method::HEAD, is_grpc, is_grpc_web }
    }
}

impl Answer {
    /// An answer. `detail` says what it concerns, why, and what can be done.
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), allow: None, for_grpc: false, marks: None, prepared: None }
    }

    /// An answer that is written down already.
    pub(crate) fn prepared(prepared: &Rc<Prepared>) -> Self {
        Self { prepared: Some(Rc::clone(prepared)), ..Self::new(prepared.reason, String::new()) }
    }

    /// 405, with the methods that there are.
    pub(crate) fn method_not_allowed(detail: impl Into<String>, allow: &[&str]) -> Self {
        Self { allow: Some(allow.join(", ")), ..Self::new(Reason::MethodNotAllowed, detail) }
    }

    /// The same as a gRPC status.
    pub(crate) fn for_grpc(self) -> Self {
        Self { for_grpc: true, ..self }
    }

    /// The same with more to say.
    pub(crate) fn explained(self, why: &str) -> Self {
        Self { detail: format!("{}; {why}", self.detail()), prepared: None, ..self }
    }

    /// The same with more fields.
    pub(crate) fn marked(self, marks: HeaderMap) -> Self {
        Self { marks: Some(Box::new(marks)), ..self }
    }

    /// The response, which counts as an answer with this reason.
    pub(crate) fn into_response(self, manner: Manner, scope: RequestScope) -> Response<ResponseBody> {
        scope.worker.metrics.answered(self.reason);
        let is_grpc = manner.is_grpc || self.for_grpc;
        let mut response = if is_grpc { self.grpc() } else { self.problem(manner.is_head) };
        let headers = response.headers_mut();
        if is_grpc && manner.is_grpc_web {
            // A status in the header fields means the same there.
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc-web+proto"));
        }
        headers.insert(REASON_HEADER, HeaderValue::from_static(self.reason.name()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.marks.map(|marks| *marks).into_iter().flatten());
        scope.set_status(response.status());
        response.map(|bytes| ResponseBody::own(bytes, scope))
    }

    fn problem(&self, is_head: bool) -> Response<Bytes> {
        let body = self.body();
        let length = body.len();
        let mut response = Response::new(if is_head { Bytes::new() } else { body });
        *response.status_mut() = self.reason.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        if self.reason.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(allow) = self.allow.as_deref().and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        response
    }

    pub(crate) fn detail(&self) -> &str {
        self.prepared.as_ref().map_or(&self.detail, |prepared| &prepared.detail)
    }

    /// The problem details.
    pub(crate) fn body(&self) -> Bytes {
        let prepared = self.prepared.as_ref().map(|prepared| prepared.body.clone());
        prepared.unwrap_or_else(|| body(self.reason, &self.detail))
    }

    /// A response of headers alone, which carry the status as the gRPC protocol asks for.
    fn grpc(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(grpc_status(self.reason)));
        let message = percent_encoded(self.detail());
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert("grpc-message", message);
        }
        response
    }
}

fn body(reason: Reason, detail: &str) -> Bytes {
    let code = reason.name();
    let problem = Problem {
        kind: format!("urn:waypost:error:{code}"),
        title: code.replace('_', " "),
        status: reason.status().as_u16(),
        detail: detail.to_owned(),
        code: code.to_owned(),
        violations: Vec::new(),
    };
    // Text and numbers can always be written as JSON.
    Bytes::from(serde_json::to_vec(&problem).unwrap_or_default())
}

/// The whole answer to a head that did not come in time, as bytes: hyper has no request to answer.
pub(crate) fn header_timeout(limit: std::time::Duration) -> Vec<u8> {
    let detail = format!("the request's head was not complete after {limit:?}; send it faster");
    whole(&Answer::new(Reason::ClientTimeout, detail))
}

/// The whole answer to plain HTTP at a port for TLS, as bytes: nothing reads requests there.
pub(crate) fn plain_on_tls() -> Vec<u8> {
    let detail = "this port speaks HTTPS, and what came is plain HTTP; ask again with https://";
    whole(&Answer::new(Reason::BadRequest, detail))
}

fn whole(answer: &Answer) -> Vec<u8> {
    let body = answer.body();
    let mut bytes = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         {REASON_HEADER}: {}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n",
        answer.reason.status(),
        body.len(),
        answer.reason.name(),
    )
    .into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// The status code that gRPC's mapping of HTTP statuses gives (grpc/doc/http-grpc-status-mapping.md), and
/// RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED and INTERNAL where the reason says more than the HTTP status.
fn grpc_status(reason: Reason) -> &'static str {
    match reason {
        Reason::NoRoute | Reason::MethodNotAllowed => "12",
        // Gateway API, `GRPCRouteRule.backendRefs`: UNAVAILABLE for a backend that is invalid.
        Reason::NoSuchBackend
        | Reason::NoHealthyInstance
        | Reason::UpstreamConnect
        | Reason::UpstreamClosed
        | Reason::UpstreamProtocol
        | Reason::UpstreamTls
        | Reason::NoTable
        | Reason::Overloaded
        | Reason::CircuitOpen => "14",
        Reason::UpstreamTimeout => "4",
        Reason::BadRequest | Reason::Misdirected | Reason::Internal => "13",
        Reason::ClientTimeout => "1",
        Reason::HeadersTooLarge | Reason::RateLimited => "8",
    }
}

/// gRPC's encoding of messages: printable ASCII as it is, all else and `%` as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_any_text_fits_into_a_header() {
        assert_eq!(percent_encoded("50% of \"ä\"\n"), "50%25 of \"%C3%A4\"%0A");
    }

    #[test]
    fn a_problem_names_its_reason_and_is_no_body_for_head() {
        let answer = Answer::method_not_allowed("no DELETE for /users", &["GET", "HEAD"]);
        let response = answer.problem(false);
        let body: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!(body["code"], "method_not_allowed");
        assert_eq!(body["status"], 405);
        assert_eq!(response.headers()[ALLOW], "GET, HEAD");
        assert_eq!(response.headers()[CONTENT_LENGTH], response.body().len().to_string());

        let head = answer.problem(true);
        assert!(head.body().is_empty());
        assert_eq!(head.headers()[CONTENT_LENGTH], response.headers()[CONTENT_LENGTH]);
    }

    #[test]
    fn the_answer_to_a_slow_head_is_a_complete_response() {
        let bytes = header_timeout(std::time::Duration::from_secs(15));
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert!(body.contains("15s"), "{body}");
    }
}
