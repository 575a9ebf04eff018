//! A client's request, made ready to be sent to any instance, as often as that is safe.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::HOST,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Body;
use waypost_proto::reason::Reason;

use super::{
    client_body::ClientBody,
    grpc_web::GrpcWeb,
    request_body::{BodyFailure, BodySource, ContinueGate, RequestBody},
    retry::{Failure, Replay},
    websocket,
};
use crate::{
    answer::Answer,
    headers::{self, HopOptions, Sender},
    http1::{Connection, Head, Length, Room, Upload},
    serve::RequestScope,
    table::{declared::RequestView, path},
};

/// The methods that a reverse proxy passes on, as far as they are registered.
const METHODS: [&str; 8] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// A request that has been checked, with its fields as they go to an instance.
pub(super) struct Draft {
    pub(super) method: Method,
    target: PathAndQuery,
    host: HeaderValue,
    headers: HeaderMap,
    options: HopOptions,
    body: Option<Rc<BodySource>>,
    /// The client's stream, where it becomes a WebSocket.
    stream: Option<Box<websocket::Stream>>,
    /// How it is gRPC-Web, once it was to be made into gRPC.
    web: Option<Box<GrpcWeb>>,
    /// Whether the fields were given away, so that it cannot be sent again.
    given: bool,
    keeps: Keeps,
    /// An answer's fields, where the request's own are kept; otherwise they take the place of those.
    answer: HeaderMap,
}

/// After which answers the request's fields are needed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeps {
    None,
    /// Those whose head came alone.
    Bare,
    All,
}

impl Draft {
    /// Checks a request and takes it apart.
    pub(super) fn of(request: Request<ClientBody>, scope: &RequestScope) -> Result<Self, Answer> {
        let (mut parts, mut incoming) = request.into_parts();
        let stream = if parts.method == Method::CONNECT {
            let rng = &mut scope.worker.rng.borrow_mut();
            let stream = websocket::Stream::of(&mut parts, &mut incoming, rng);
            Some(stream.ok_or_else(|| {
                let detail = "CONNECT asks for a forward proxy, and this is a reverse proxy; ask for a path instead, or \
                              for the protocol websocket";
                Answer::method_not_allowed(detail, &METHODS)
            })?)
        } else {
            None
        };
        let host = host_of(&parts.uri, &parts.headers, parts.version)?;
        let sender = Sender {
            address: &scope.client.forwarded_for,
            trusted: scope.client.trusted,
            tls: scope.client.tls().is_some(),
            version: parts.version,
        };
        let mut options = headers::request(&mut parts.headers, &sender, &host)
            .map_err(|unknown| Answer::new(Reason::BadRequest, unknown.to_string()))?;
        if stream.is_some() {
            options.upgrade = Some(websocket::Stream::protocol());
        }
        let gate = options.expects_continue.then(|| Arc::new(ContinueGate::default()));
        let body = (!incoming.is_end_stream()).then(|| BodySource::new(incoming, gate, scope));
        let target = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let target = normalised(target)?;
        let (method, headers) = (parts.method, parts.headers);
        let (web, given, keeps, answer) = (None, false, Keeps::None, HeaderMap::new());
        Ok(Self { method, target, host, headers, options, body, stream, web, given, keeps, answer })
    }

    /// A copy for somebody else, whose body is a copy, too. `None` where that cannot be: some of the body is gone, or the
    /// client asks to switch protocols, which takes two who talk.
    pub(super) fn copied(&self) -> Option<Self> {
        if self.wants_upgrade() {
            return None;
        }
        let body = match &self.body {
            None => None,
            Some(body) => Some(body.copied()?),
        };
        let (method, target, host) = (self.method.clone(), self.target.clone(), self.host.clone());
        // The client waits for one instance's word only.
        let options = HopOptions { expects_continue: false, ..self.options.clone() };
        Some(Self {
            method,
            target,
            host,
            headers: self.headers.clone(),
            options,
            body,
            stream: None,
            web: None,
            given: false,
            keeps: Keeps::None,
            answer: HeaderMap::new(),
        })
    }

    /// The path and the query.
    pub(super) fn target(&self) -> &PathAndQuery {
        &self.target
    }

    /// The fields, without what concerns one hop.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Has it ask for something else.
    pub(super) fn set_target(&mut self, target: PathAndQuery) {
        self.target = target;
    }

    /// Has it ask another host.
    pub(super) fn set_host(&mut self, host: HeaderValue) {
        self.host = host;
    }

    /// The host that it is for, with its port where one was given.
    pub(super) fn host(&self) -> &str {
        self.host.to_str().unwrap_or_default()
    }

    /// The path, normalised.
    pub(super) fn path(&self) -> &str {
        self.target.path()
    }

    /// What decides where it goes. `port` is that of the listener that it came in by, 0 for the proxy's own.
    pub(super) fn view(&self, port: u16) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            host: self.host.to_str().unwrap_or_default(),
            path: self.target.path(),
            query: self.target.query(),
            headers: &self.headers,
            port,
        }
    }

    /// The body, if there is one.
    pub(super) fn body(&self) -> Option<&Rc<BodySource>> {
        self.body.as_ref()
    }

    /// Why the body ended early, if it did.
    pub(super) fn body_failure(&self) -> Option<BodyFailure> {
        self.body.as_ref()?.failure()
    }

    /// Whether the client asks to switch protocols.
    pub(super) fn wants_upgrade(&self) -> bool {
        self.options.upgrade.is_some()
    }

    /// The client's stream, where it becomes a WebSocket.
    pub(super) fn stream(&mut self) -> &mut Option<Box<websocket::Stream>> {
        &mut self.stream
    }

    /// Whether it may be sent again after a failure.
    pub(super) fn may_send_again(&self, failure: &Failure) -> bool {
        !self.given && failure.may_retry(self.replay())
    }

    /// Whether two instances may be asked at once: it may be done twice, and has no body, which can be read once only.
    pub(super) fn may_be_sent_twice_at_once(&self) -> bool {
        !self.given && self.method.is_idempotent() && self.body.is_none()
    }

    fn replay(&self) -> Replay {
        Replay {
            idempotent: self.method.is_idempotent(),
            // What has failed is gone as well: it would end now, as if it were whole.
            body_begun: self.body.as_ref().is_some_and(|body| body.has_begun() || body.failure().is_some()),
        }
    }

    /// The request as an instance that speaks HTTP/1.1 gets it, to be sent over a connection. `strip` bytes are
    /// cut from the path.
    pub(super) fn upload(&mut self, connection: &mut Connection, strip: usize) -> Upload {
        let body = RequestBody::new(self.body.clone());
        let length = match (&self.body, body.size_hint().exact()) {
            (None, _) => Length::None,
            (Some(_), Some(length)) => Length::Exact(length),
            (Some(_), None) => Length::Chunked,
        };
        if let Some(gate) = self.gate() {
            gate.reset();
        }
        let head = Head {
            method: &self.method,
            target: self.target.as_str().get(strip..).unwrap_or_default(),
            host: &self.host,
            headers: &self.headers,
            options: &self.options,
            length,
        };
        connection.upload(&head, body)
    }

    /// How it is gRPC-Web, if it is: it will be sent as gRPC.
    pub(super) fn make_grpc(&mut self) -> Option<GrpcWeb> {
        if self.web.is_none() {
            self.web = GrpcWeb::of(&self.headers).map(Box::new);
        }
        self.web.as_deref().cloned()
    }

    /// The request as an instance that speaks HTTP/2 gets it, in the clear or over TLS. `strip` bytes are cut from the
    /// path. `web` is what [`Self::make_grpc`] has said, where the instance speaks gRPC.
    pub(super) fn request(&mut self, strip: usize, tls: bool, web: Option<&GrpcWeb>) -> Request<RequestBody> {
        let body = RequestBody::new(self.body.clone());
        let is_text = web.is_some_and(|web| web.is_text);
        let mut request = Request::new(if is_text { body.decoded() } else { body });
        *request.method_mut() = self.method.clone();
        // A copy is kept where it may be of use. A request that was never sent comes back in any case, and one that the
        // instance refuses has had its body read, if it has one.
        let is_final = !self.method.is_idempotent() && self.body.is_some();
        self.given = is_final || self.replay().body_begun;
        *request.headers_mut() =
            if self.given { std::mem::take(&mut self.headers) } else { self.headers.clone() };
        *request.uri_mut() = absolute(tls, cut(&self.target, strip), &self.host);
        // h2 sends no request of this version without an authority, and one of another version as well.
        let has_host = request.uri().authority().is_some();
        *request.version_mut() = if has_host { Version::HTTP_2 } else { Version::HTTP_11 };
        headers::for_http2(request.headers_mut(), &self.options);
        if let Some(web) = web {
            web.request(request.headers_mut());
        }
        if let Some(gate) = self.gate() {
            gate.reset();
        }
        request
    }

    /// Notes that an answer has begun. A body that still waits to be asked for is not wanted where it is a refusal; an
    /// instance that has said yes without saying 100 may read it yet (RFC 9110, section 10.1.1).
    pub(super) fn answer_began(&self, status: http::StatusCode) {
        match self.gate() {
            Some(gate) if status.is_success() => gate.open(),
            Some(gate) => gate.shut(),
            None => {}
        }
    }

    /// What holds the body back until the instance asks for it.
    pub(super) fn gate(&self) -> Option<Arc<ContinueGate>> {
        self.body.as_ref().and_then(|body| body.gate())
    }

    /// The fields, to be changed.
    pub(super) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    /// Says after which answers there may be another attempt.
    pub(super) fn keep(&mut self, after: Keeps) {
        let Replay { idempotent, body_begun } = self.replay();
        self.keeps = if idempotent && !body_begun { after } else { Keeps::None };
    }

    /// Where an answer's fields go.
    pub(super) fn room(&mut self) -> Room<'_> {
        match self.keeps {
            Keeps::None => Room { fields: &mut self.headers, bare: None },
            Keeps::Bare => Room { fields: &mut self.headers, bare: Some(&mut self.answer) },
            Keeps::All => Room { fields: &mut self.answer, bare: None },
        }
    }

    /// Takes back the fields of a request that was not sent.
    pub(super) fn recover(&mut self, request: Request<RequestBody>) {
        self.headers = request.into_parts().0.headers;
        if let Some(web) = &self.web {
            web.restore(&mut self.headers);
        }
        self.given = false;
    }
}

/// The target with its path as it is matched and forwarded.
fn normalised(target: PathAndQuery) -> Result<PathAndQuery, Answer> {
    let refuse = |error: &dyn std::fmt::Display| {
        Answer::new(Reason::BadRequest, format!("the path {} has {error}", target.path()))
    };
    let path = match path::normalised(target.path()).map_err(|error| refuse(&error))? {
        Cow::Borrowed(_) => return Ok(target),
        Cow::Owned(path) => path,
    };
    let text = target.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    PathAndQuery::try_from(text).map_err(|error| refuse(&error))
}

/// The host that the request is for: the target's where it has one (RFC 9112, section 3.2.2; RFC 9113, section
/// 8.3.1), else the one `Host` field. HTTP/1.0 may do without.
pub(crate) fn host_of(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<HeaderValue, Answer> {
    let refuse = |detail: &str| Err(Answer::new(Reason::BadRequest, detail));
    let mut fields = headers.get_all(HOST).iter();
    let (field, more) = (fields.next(), fields.next());
    if more.is_some() {
        return refuse("the request has more than one host field; send one");
    }
    let named = uri.authority().map(Authority::as_str);
    if let Some(named) = named {
        let differs = field.is_some_and(|field| !field.as_bytes().eq_ignore_ascii_case(named.as_bytes()));
        if version == Version::HTTP_2 && differs {
            return refuse("the host field differs from :authority; send the same, or only :authority");
        }
        return match HeaderValue::try_from(named) {
            Ok(host) if is_host(host.as_bytes()) => Ok(host),
            _ => {
                refuse("the host in the request's target is not a host name or address with an optional port")
            }
        };
    }
    match field {
        Some(field) if is_host(field.as_bytes()) => Ok(field.clone()),
        Some(_) => refuse("the host field is not a host name or address with an optional port"),
        None if version == Version::HTTP_10 => Ok(HeaderValue::from_static("")),
        None => refuse("the request has no host field, which HTTP/1.1 asks for"),
    }
}

/// Whether a text can be a host with an optional port (RFC 3986, section 3.2), without user information. It may be
/// empty (RFC 9112, section 3.2).
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
}

/// The target without the first `strip` bytes of its path, and with a slash in front.
fn cut(target: &PathAndQuery, strip: usize) -> PathAndQuery {
    if strip == 0 {
        return target.clone();
    }
    let rest = target.as_str().get(strip..).unwrap_or_default();
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    // What is left of a target that was read is one itself.
    PathAndQuery::try_from(rest).unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

fn absolute(tls: bool, target: PathAndQuery, host: &HeaderValue) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.authority = Authority::try_from(host.as_bytes()).ok();
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.path_and_query = Some(target.clone());
    // A host that an authority cannot hold (an empty one) is left out.
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_cut_and_the_query_stays() {
        for (target, strip, rest) in [
            ("/users/7?x=1", 6, "/7?x=1"),
            ("/users?x=1", 6, "/?x=1"),
            ("/users", 6, "/"),
            ("/users/", 6, "/"),
            ("/users//a", 6, "//a"),
            ("/users/7", 0, "/users/7"),
        ] {
            assert_eq!(cut(&PathAndQuery::from_static(target), strip).as_str(), rest, "{target}");
        }
    }

    #[test]
    fn the_host_comes_from_the_target_or_the_one_field() {
        let ask = |uri: &'static str, hosts: &[&'static str], version| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, HeaderValue::from_static(host));
            }
            host_of(&Uri::from_static(uri), &headers, version).ok()
        };
        let host = |text| Some(HeaderValue::from_static(text));
        assert_eq!(ask("/", &["a"], Version::HTTP_11), host("a"));
        assert_eq!(ask("/", &["[::1]:80"], Version::HTTP_11), host("[::1]:80"));
        assert_eq!(ask("http://b/", &["a"], Version::HTTP_11), host("b"), "absolute form wins");
        assert_eq!(ask("/", &[], Version::HTTP_10), host(""));
        assert_eq!(ask("http://a/", &["A"], Version::HTTP_2), host("a"));
        for (uri, hosts, version) in [
            ("/", &[][..], Version::HTTP_11),
            ("/", &["a", "a"], Version::HTTP_11),
            ("/", &["a/b"], Version::HTTP_11),
            ("/", &["user@a"], Version::HTTP_11),
            ("/", &["a b"], Version::HTTP_11),
            ("http://u@a/", &[], Version::HTTP_11),
            ("http://a/", &["b"], Version::HTTP_2),
        ] {
            assert_eq!(ask(uri, hosts, version), None, "{uri} {hosts:?} {version:?}");
        }
    }

    #[test]
    fn a_target_for_http2_names_the_host() {
        let uri = absolute(false, PathAndQuery::from_static("/a?b"), &HeaderValue::from_static("shop:80"));
        assert_eq!(uri, "http://shop:80/a?b");
        assert_eq!(absolute(false, PathAndQuery::from_static("/a"), &HeaderValue::from_static("")), "/a");
    }
}
