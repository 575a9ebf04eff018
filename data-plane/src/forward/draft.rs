//! A client's request, made ready to be sent to any instance, as often as that is safe.

use std::{rc::Rc, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::HOST,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::{Body, Incoming};
use waypost_proto::reason::Reason;

use super::{
    request_body::{BodySource, ContinueGate, RequestBody},
    retry::{Failure, Replay},
};
use crate::{
    answer::Answer,
    headers::{self, HopOptions, Sender},
    http1::{Connection, Head, Length, Upload},
    serve::RequestScope,
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
    /// Whether the fields were given away, so that it cannot be sent again.
    given: bool,
}

impl Draft {
    /// Checks a request and takes it apart.
    pub(super) fn of(request: Request<Incoming>, scope: &RequestScope) -> Result<Self, Answer> {
        let (mut parts, incoming) = request.into_parts();
        if parts.method == Method::CONNECT {
            let detail =
                "CONNECT asks for a forward proxy, and this is a reverse proxy; ask for a path instead";
            return Err(Answer::method_not_allowed(detail, &METHODS));
        }
        let host = host_of(&parts.uri, &parts.headers, parts.version)?;
        let sender = Sender {
            address: &scope.client.forwarded_for,
            trusted: scope.client.trusted,
            version: parts.version,
        };
        let options = headers::request(&mut parts.headers, &sender, &host).map_err(|_| {
            Answer::new(
                Reason::BadRequest,
                "the body has a transfer-encoding other than \"chunked\", which cannot be passed on; send it \
                 without, or as a content-encoding",
            )
        })?;
        let gate = options.expects_continue.then(|| Arc::new(ContinueGate::default()));
        let body = (!incoming.is_end_stream()).then(|| BodySource::new(incoming, gate, scope));
        let target = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { method: parts.method, target, host, headers: parts.headers, options, body, given: false })
    }

    /// The path as the client sent it.
    pub(super) fn path(&self) -> &str {
        self.target.path()
    }

    /// The body, if there is one.
    pub(super) fn body(&self) -> Option<&Rc<BodySource>> {
        self.body.as_ref()
    }

    /// Whether the client asks to switch protocols.
    pub(super) fn wants_upgrade(&self) -> bool {
        self.options.upgrade.is_some()
    }

    /// Whether it may be sent again after a failure.
    pub(super) fn may_send_again(&self, failure: &Failure) -> bool {
        !self.given && failure.may_retry(self.replay())
    }

    fn replay(&self) -> Replay {
        Replay {
            idempotent: self.method.is_idempotent(),
            body_begun: self.body.as_ref().is_some_and(|body| body.has_begun()),
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

    /// The request as an instance that speaks HTTP/2 gets it. `strip` bytes are cut from the path.
    pub(super) fn request(&mut self, strip: usize) -> Request<RequestBody> {
        let gate = self.gate();
        let mut request = Request::new(RequestBody::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        // A copy is kept where it may be of use. A request that was never sent comes back in any case.
        self.given = !self.method.is_idempotent() || self.replay().body_begun;
        *request.headers_mut() =
            if self.given { std::mem::take(&mut self.headers) } else { self.headers.clone() };
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = absolute(cut(&self.target, strip), &self.host);
        headers::for_http2(request.headers_mut(), &self.options);
        if let Some(gate) = gate {
            gate.reset();
            hyper::ext::on_informational(&mut request, move |answer| {
                if answer.status() == http::StatusCode::CONTINUE {
                    gate.open();
                }
            });
        }
        request
    }

    /// Notes that an answer has begun: a body that still waits to be asked for is not wanted.
    pub(super) fn answer_began(&self) {
        if let Some(gate) = self.gate() {
            gate.shut();
        }
    }

    /// What holds the body back until the instance asks for it.
    pub(super) fn gate(&self) -> Option<Arc<ContinueGate>> {
        self.body.as_ref().and_then(|body| body.gate())
    }

    /// The fields, where an answer's may take their place: the request will not be sent again then.
    pub(super) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    /// Takes back the fields of a request that was not sent.
    pub(super) fn recover(&mut self, request: Request<RequestBody>) {
        self.headers = request.into_parts().0.headers;
        self.given = false;
    }
}

/// The host that the request is for: the target's where it has one (RFC 9112, section 3.2.2; RFC 9113, section
/// 8.3.1), else the one `Host` field. HTTP/1.0 may do without.
fn host_of(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<HeaderValue, Answer> {
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

fn absolute(target: PathAndQuery, host: &HeaderValue) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.authority = Authority::try_from(host.as_bytes()).ok();
    parts.scheme = Some(Scheme::HTTP);
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
        let uri = absolute(PathAndQuery::from_static("/a?b"), &HeaderValue::from_static("shop:80"));
        assert_eq!(uri, "http://shop:80/a?b");
        assert_eq!(absolute(PathAndQuery::from_static("/a"), &HeaderValue::from_static("")), "/a");
    }
}
