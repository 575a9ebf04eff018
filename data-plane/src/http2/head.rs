//! Requests as HTTP/2 writes them (RFC 9113, sections 8.1 to 8.3 and 8.5; RFC 8441): what their headers have to be.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::hpack::Header;

/// The protocol that an extended `CONNECT` asks for (RFC 8441), as an extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Protocol(pub(crate) Bytes);

/// A head that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// How many fields most requests have at most.
const FIELDS: usize = 12;

/// A head that is being read.
pub(super) struct Draft {
    method: Option<Method>,
    scheme: Option<Bytes>,
    /// The outer one is whether it was sent.
    authority: Option<Option<Authority>>,
    path: Option<PathAndQuery>,
    protocol: Option<Bytes>,
    fields: Fields,
}

/// Fields that are being read.
pub(super) struct Fields {
    map: HeaderMap,
    /// How long the body is said to be.
    length: Option<u64>,
    is_malformed: bool,
}

impl Fields {
    pub(super) fn new() -> Self {
        Self { map: HeaderMap::new(), length: None, is_malformed: false }
    }

    fn push(&mut self, name: HeaderName, value: HeaderValue) {
        if name == CONTENT_LENGTH {
            let length = digits(value.as_bytes());
            let is_clear = length.is_some() && self.length.is_none_or(|known| Some(known) == length);
            self.is_malformed |= !is_clear;
            if self.length.is_some() {
                return;
            }
            self.length = length;
        } else {
            self.is_malformed |= concerns_a_hop(&name, &value);
        }
        self.is_malformed |= self.map.try_append(name, value).is_err();
    }

    /// Takes a header of trailers.
    pub(super) fn take(&mut self, header: Header) {
        match header {
            Header::Field(name, value) => self.push(name, value),
            _ => self.is_malformed = true,
        }
    }

    pub(super) fn finish(self) -> Result<HeaderMap, Malformed> {
        if self.is_malformed { Err(Malformed) } else { Ok(self.map) }
    }
}

impl Draft {
    pub(super) fn new() -> Self {
        let map = HeaderMap::with_capacity(FIELDS);
        let fields = Fields { map, length: None, is_malformed: false };
        Self { method: None, scheme: None, authority: None, path: None, protocol: None, fields }
    }

    /// Takes a header. Control data comes first, and each part of it once.
    pub(super) fn take(&mut self, header: Header) {
        if let Header::Field(name, value) = header {
            return self.fields.push(name, value);
        }
        let is_first = self.fields.map.is_empty()
            && match header {
                Header::Method(method) => self.method.replace(method).is_none(),
                Header::Scheme(scheme) => self.scheme.replace(scheme).is_none(),
                Header::Authority(authority) => self.authority.replace(Some(authority)).is_none(),
                Header::NoAuthority => self.authority.replace(None).is_none(),
                Header::Path(path) => self.path.replace(path).is_none(),
                Header::Protocol(protocol) => self.protocol.replace(protocol).is_none(),
                Header::Status | Header::Malformed(_) | Header::Field(..) => false,
            };
        self.fields.is_malformed |= !is_first;
    }

    /// The request, and how long its body is said to be. What a client asks for in fewer headers than there are
    /// (`is_whole`) is not looked at.
    pub(super) fn finish(self, is_whole: bool) -> Result<(Parts, Option<u64>), Malformed> {
        let Self { method, scheme, authority, path, protocol, fields } = self;
        let mut parts = Request::new(()).into_parts().0;
        parts.version = Version::HTTP_2;
        if !is_whole {
            parts.method = method.unwrap_or(Method::GET);
            return Ok((parts, None));
        }
        let method = method.ok_or(Malformed)?;
        let is_plain_connect = method == Method::CONNECT && protocol.is_none();
        let is_target_whole = if is_plain_connect {
            scheme.is_none() && path.is_none() && matches!(authority, Some(Some(_)))
        } else {
            scheme.is_some() && path.is_some() && (protocol.is_none() || method == Method::CONNECT)
        };
        let is_asterisk = path.as_ref().is_some_and(|path| path.as_str() == "*");
        if !is_target_whole || fields.is_malformed || (is_asterisk && method != Method::OPTIONS) {
            return Err(Malformed);
        }
        parts.uri = uri(scheme.as_deref(), authority.flatten(), path)?;
        if let Some(protocol) = protocol {
            parts.extensions.insert(Protocol(protocol));
        }
        parts.method = method;
        parts.headers = fields.map;
        Ok((parts, fields.length))
    }
}

fn uri(
    scheme: Option<&[u8]>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
) -> Result<Uri, Malformed> {
    let mut parts = http::uri::Parts::default();
    if authority.is_some() {
        parts.scheme = match scheme {
            Some(b"http") => Some(Scheme::HTTP),
            Some(b"https") => Some(Scheme::HTTPS),
            Some(other) => Some(Scheme::try_from(other).map_err(|_| Malformed)?),
            None => None,
        };
    }
    (parts.authority, parts.path_and_query) = (authority, path);
    Uri::from_parts(parts).map_err(|_| Malformed)
}

/// Whether a field is one of those that HTTP/2 has no use for (RFC 9113, section 8.2.2).
fn concerns_a_hop(name: &HeaderName, value: &HeaderValue) -> bool {
    match *name {
        CONNECTION | TRANSFER_ENCODING | UPGRADE => true,
        TE => !value.as_bytes().eq_ignore_ascii_case(b"trailers"),
        _ => is_obsolete(name),
    }
}

/// Whether a field is one of those that were never registered.
pub(super) fn is_obsolete(name: &HeaderName) -> bool {
    matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
