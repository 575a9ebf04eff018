//! One header, as what it means.

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method,
    uri::{Authority, PathAndQuery},
};

/// A field, or a part of a request's control data (RFC 9113, section 8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Method(Method),
    Scheme(Bytes),
    Authority(Authority),
    /// An authority of no characters, which is one, but not to the type.
    NoAuthority,
    Path(PathAndQuery),
    Protocol(Bytes),
    /// Control data of an answer, which is not read here.
    Status,
    Field(HeaderName, HeaderValue),
    /// What may be in no request.
    Malformed(Name),
}

/// The name of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    Field(HeaderName),
    /// What can be none, and how long it is.
    Malformed(usize),
}

impl Name {
    /// Reads a name.
    pub(super) fn new(text: &[u8]) -> Self {
        if text.first() == Some(&b':') {
            return match &text[1..] {
                b"method" => Self::Method,
                b"scheme" => Self::Scheme,
                b"authority" => Self::Authority,
                b"path" => Self::Path,
                b"protocol" => Self::Protocol,
                b"status" => Self::Status,
                _ => Self::Malformed(text.len()),
            };
        }
        // Upper case is refused here (RFC 9113, section 8.2.1).
        HeaderName::from_lowercase(text).map_or(Self::Malformed(text.len()), Self::Field)
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Method | Self::Scheme | Self::Status => 7,
            Self::Authority => 10,
            Self::Path => 5,
            Self::Protocol => 9,
            Self::Field(name) => name.as_str().len(),
            Self::Malformed(length) => *length,
        }
    }
}

impl Header {
    /// Reads a header's value.
    pub(super) fn new(name: Name, value: &[u8]) -> Self {
        let read = match &name {
            Name::Method => Method::from_bytes(value).ok().map(Self::Method),
            Name::Scheme => is_scheme(value).then(|| Self::Scheme(Bytes::copy_from_slice(value))),
            Name::Authority if value.is_empty() => Some(Self::NoAuthority),
            Name::Authority => Authority::try_from(value).ok().map(Self::Authority),
            Name::Path => path(value).map(Self::Path),
            Name::Protocol => (!value.is_empty()).then(|| Self::Protocol(Bytes::copy_from_slice(value))),
            Name::Status => Some(Self::Status),
            Name::Field(field) => field_value(value).map(|value| Self::Field(field.clone(), value)),
            Name::Malformed(_) => None,
        };
        read.unwrap_or(Self::Malformed(name))
    }

    /// Its name.
    pub(super) fn name(&self) -> Name {
        match self {
            Self::Method(_) => Name::Method,
            Self::Scheme(_) => Name::Scheme,
            Self::Authority(_) | Self::NoAuthority => Name::Authority,
            Self::Path(_) => Name::Path,
            Self::Protocol(_) => Name::Protocol,
            Self::Status => Name::Status,
            Self::Field(name, _) => Name::Field(name.clone()),
            Self::Malformed(name) => name.clone(),
        }
    }
}

fn is_scheme(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}

/// A path begins with a slash, unless it is the one that stands for all of a server (RFC 9113, section 8.3.1).
fn path(value: &[u8]) -> Option<PathAndQuery> {
    let may_be = value.first() == Some(&b'/') || value == b"*";
    may_be.then(|| PathAndQuery::try_from(value).ok())?
}

/// No value begins or ends with a blank (RFC 9113, section 8.2.1).
fn field_value(value: &[u8]) -> Option<HeaderValue> {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if is_blank(value.first()) || is_blank(value.last()) {
        return None;
    }
    HeaderValue::from_bytes(value).ok()
}
