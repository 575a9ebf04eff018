//! What of a request makes its key: requests with the same key go to the same endpoint.
//!
//! The key is XXH3 of the value, which is the same on all machines and in all versions, so that all proxies agree.
//! It is computed once for a request, and only where the service's policy hashes.
//!
//! Deliberately absent: more than one value. Of several header lines or cookies of one name the first counts.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, header::COOKIE};
use waypost_proto::v1::{HashKey, hash_key::Kind};
use xxhash_rust::xxh3::xxh3_64;

use crate::trusted::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What keys are made of: the first of these that a request has.
#[derive(Clone, Debug, Default)]
pub struct KeySource(Box<[Source]>);

#[derive(Clone, Debug)]
enum Source {
    Header(HeaderName),
    Cookie(Box<str>),
    Query(Box<str>),
    ClientAddress,
}

impl KeySource {
    /// Compiles what was declared. What can never be there is left out.
    pub fn of(declared: &[HashKey]) -> Self {
        let source = |key: &HashKey| match key.kind.as_ref()? {
            Kind::Header(name) => HeaderName::try_from(name).ok().map(Source::Header),
            Kind::Cookie(name) => Some(Source::Cookie(name.as_str().into())),
            Kind::Query(name) => Some(Source::Query(name.as_str().into())),
            Kind::ClientAddress(wanted) => wanted.then_some(Source::ClientAddress),
        };
        Self(declared.iter().filter_map(source).collect())
    }

    /// The key of a request by its fields, as they go to the instance, and its query; `None` where it has nothing that
    /// is asked for. `trusted` are the networks of proxies in front of this one.
    pub(crate) fn key(&self, headers: &HeaderMap, query: Option<&str>, trusted: &[Network]) -> Option<u64> {
        self.0.iter().find_map(|source| match source {
            Source::Header(name) => hash(headers.get(name)?.as_bytes()),
            Source::Cookie(name) => {
                headers.get_all(COOKIE).iter().find_map(|line| hash(cookie(line.as_bytes(), name)?))
            }
            Source::Query(name) => {
                let mut pairs = form_urlencoded::parse(query?.as_bytes());
                hash(pairs.find(|(has, _)| **has == **name)?.1.as_bytes())
            }
            Source::ClientAddress => hash(client(headers, trusted)?.as_bytes()),
        })
    }
}

/// The hash of a value; one that is empty is none.
fn hash(value: &[u8]) -> Option<u64> {
    (!value.is_empty()).then(|| xxh3_64(value))
}

/// The value of a cookie in a field's line (RFC 6265, section 4.2.1).
fn cookie<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    line.split(|byte| *byte == b';')
        .find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Who is behind the proxies that are trusted: of the addresses that the request came by, the last one that is none of
/// theirs. The proxy's own word on its client is the last of all; what a client that is not trusted said was dropped.
fn client<'a>(headers: &'a HeaderMap, trusted: &[Network]) -> Option<&'a str> {
    let lines = headers.get_all(FORWARDED_FOR).iter();
    let mut addresses =
        lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim);
    let mut client = None;
    for address in addresses.by_ref() {
        let is_proxy = address
            .parse::<IpAddr>()
            .is_ok_and(|address| trusted.iter().any(|network| network.contains(address)));
        if !is_proxy || client.is_none() {
            client = Some(address);
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn source(kinds: &[Kind]) -> KeySource {
        KeySource::of(&kinds.iter().cloned().map(|kind| HashKey { kind: Some(kind) }).collect::<Vec<_>>())
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn of(text: &str) -> Option<u64> {
        Some(xxh3_64(text.as_bytes()))
    }

    #[test]
    fn the_first_that_the_request_has_makes_the_key() {
        let all = source(&[
            Kind::Header("x-user".to_owned()),
            Kind::Cookie("sid".to_owned()),
            Kind::Query("user".to_owned()),
            Kind::ClientAddress(true),
        ]);
        let full = headers(&[("x-user", "ann"), ("cookie", "a=b; sid=7"), ("x-forwarded-for", "10.0.0.9")]);
        let without = |names: &[&str]| {
            let mut left = full.clone();
            names.iter().for_each(|name| drop(left.remove(*name)));
            left
        };
        assert_eq!(all.key(&full, Some("user=q"), &[]), of("ann"));
        assert_eq!(all.key(&without(&["x-user"]), Some("user=q"), &[]), of("7"));
        let bare = without(&["x-user", "cookie"]);
        assert_eq!(all.key(&bare, Some("x=1&user=a%20b"), &[]), of("a b"));
        assert_eq!(all.key(&bare, Some("x=1&user="), &[]), of("10.0.0.9"), "what is empty is not there");
        assert_eq!(all.key(&HeaderMap::new(), None, &[]), None);
        assert_eq!(source(&[]).key(&full, None, &[]), None);
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let sid = source(&[Kind::Cookie("sid".to_owned())]);
        for (line, value) in
            [("sid=1", Some("1")), ("xsid=1; sid=2;", Some("2")), ("sidx=1", None), ("sid", None)]
        {
            assert_eq!(sid.key(&headers(&[("cookie", line)]), None, &[]), value.and_then(of), "{line}");
        }
    }

    #[test]
    fn the_client_is_the_last_that_is_no_trusted_proxy() {
        let client = source(&[Kind::ClientAddress(true)]);
        let trusted = ["10.0.0.0/8".parse().expect("a network")];
        for (line, trusted, address) in [
            ("9.9.9.9", &[][..], "9.9.9.9"),
            ("1.1.1.1, 9.9.9.9, 10.0.0.1", &trusted, "9.9.9.9"),
            ("unknown, 10.0.0.1", &trusted, "unknown"),
            ("10.0.0.2, 10.0.0.1", &trusted, "10.0.0.2"),
        ] {
            let fields = headers(&[("x-forwarded-for", line)]);
            assert_eq!(client.key(&fields, None, trusted), of(address), "{line}");
        }
    }

    #[test]
    fn what_can_never_be_there_is_left_out() {
        let odd = source(&[Kind::Header("no name".to_owned()), Kind::ClientAddress(false)]);
        assert!(odd.0.is_empty());
    }
}
