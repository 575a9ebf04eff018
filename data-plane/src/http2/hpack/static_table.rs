//! The table that every connection begins with (RFC 7541, appendix A).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header, uri::PathAndQuery};

use super::header::{Header, Name};

/// How many entries there are; they count from 1.
pub(super) const ENTRIES: usize = 61;
/// Where `:status` begins.
const STATUS: usize = 8;
/// The entries of answers, from there on.
const STATUSES: [StatusCode; 7] = [
    StatusCode::OK,
    StatusCode::NO_CONTENT,
    StatusCode::PARTIAL_CONTENT,
    StatusCode::NOT_MODIFIED,
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::INTERNAL_SERVER_ERROR,
];

/// Where the names of fields begin.
const FIELDS: usize = 15;
/// Their names, in order.
static NAMES: [HeaderName; 47] = [
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::ACCEPT_RANGES,
    header::ACCEPT,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::AGE,
    header::ALLOW,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::ETAG,
    header::EXPECT,
    header::EXPIRES,
    header::FROM,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::REFERER,
    header::REFRESH,
    header::RETRY_AFTER,
    header::SERVER,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::TRANSFER_ENCODING,
    header::USER_AGENT,
    header::VARY,
    header::VIA,
    header::WWW_AUTHENTICATE,
];

/// The entry at a place.
pub(super) fn header(index: usize) -> Option<Header> {
    Some(match index {
        1 => Header::NoAuthority,
        2 => Header::Method(Method::GET),
        3 => Header::Method(Method::POST),
        4 => Header::Path(PathAndQuery::from_static("/")),
        5 => Header::Path(PathAndQuery::from_static("/index.html")),
        6 => Header::Scheme(Bytes::from_static(b"http")),
        7 => Header::Scheme(Bytes::from_static(b"https")),
        STATUS..FIELDS => Header::Status,
        16 => Header::Field(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate")),
        FIELDS..=ENTRIES => Header::Field(NAMES[index - FIELDS].clone(), HeaderValue::from_static("")),
        _ => return None,
    })
}

/// The name of the entry at a place.
pub(super) fn name(index: usize) -> Option<Name> {
    Some(match index {
        1 => Name::Authority,
        2 | 3 => Name::Method,
        4 | 5 => Name::Path,
        6 | 7 => Name::Scheme,
        STATUS..FIELDS => Name::Status,
        FIELDS..=ENTRIES => Name::Field(NAMES[index - FIELDS].clone()),
        _ => return None,
    })
}

/// Where a status stands, or else where its name does.
pub(super) fn status(status: StatusCode) -> Result<usize, usize> {
    STATUSES.iter().position(|known| *known == status).map(|at| STATUS + at).ok_or(STATUS)
}

/// Where a field's name stands.
pub(super) fn index(name: &HeaderName) -> Option<usize> {
    NAMES.iter().position(|known| known == name).map(|at| FIELDS + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_stand_where_the_rfc_has_them() {
        for (at, text) in
            [(15, "accept-charset"), (28, "content-length"), (33, "date"), (61, "www-authenticate")]
        {
            let expected = HeaderName::from_static(text);
            assert_eq!(name(at), Some(Name::Field(expected.clone())));
            assert_eq!(index(&expected), Some(at));
        }
        assert_eq!((name(0), header(0), name(62), header(62)), (None, None, None, None));
        assert_eq!(status(StatusCode::OK), Ok(8));
        assert_eq!(status(StatusCode::INTERNAL_SERVER_ERROR), Ok(14));
        assert_eq!(status(StatusCode::CREATED), Err(8));
    }
}
