//! What header fields and query parameters must be like.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};
use regex::bytes::Regex;
use waypost_proto::v1;

use super::DeclaredError;

/// A text, or a regular expression for the whole of it.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Exact(Box<[u8]>),
    Regex { text: Box<str>, regex: Regex },
}

impl Pattern {
    fn of(value: &v1::RuleValue) -> Result<Self, DeclaredError> {
        if value.regex {
            Ok(Self::Regex { text: value.value.as_str().into(), regex: whole(&value.value)? })
        } else {
            Ok(Self::Exact(value.value.as_bytes().into()))
        }
    }

    /// What is asked for, in words.
    pub(super) fn wanted(&self) -> String {
        self.to_string().trim_start_matches('=').to_owned()
    }

    fn fits(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Exact(text) => **text == *bytes,
            Self::Regex { regex, .. } => regex.is_match(bytes),
        }
    }
}

/// `="text"` or `~"expression"`.
impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(formatter, "={:?}", String::from_utf8_lossy(text)),
            Self::Regex { text, .. } => write!(formatter, "~{text:?}"),
        }
    }
}

/// A regular expression for the whole of a text, in the syntax of the `regex` crate.
///
/// # Errors
/// It is malformed or too large.
pub(super) fn whole(pattern: &str) -> Result<Regex, DeclaredError> {
    let refuse = |source| DeclaredError::Regex { pattern: pattern.to_owned(), source: Box::new(source) };
    // By itself first: `a)(b` would be sound in parentheses.
    Regex::new(pattern).map_err(refuse)?;
    Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(refuse)
}

/// What a header field must be like.
#[derive(Clone, Debug)]
pub(super) struct HeaderMatch {
    pub(super) name: HeaderName,
    pub(super) pattern: Pattern,
}

impl HeaderMatch {
    /// All of a match. Of several for one name the first counts (Gateway API, `HTTPHeaderMatch.name`).
    pub(super) fn all(values: &[v1::RuleValue]) -> Result<Box<[Self]>, DeclaredError> {
        let mut all: Vec<Self> = Vec::with_capacity(values.len());
        for value in values {
            let name = HeaderName::try_from(value.name.as_str())
                .map_err(|_| DeclaredError::HeaderName(value.name.clone()))?;
            if all.iter().all(|known| known.name != name) {
                all.push(Self { name, pattern: Pattern::of(value)? });
            }
        }
        Ok(all.into())
    }

    /// Whether a request's field fits. Fields of the same name are one, joined by commas (RFC 9110, section 5.3).
    pub(super) fn fits(&self, headers: &HeaderMap) -> bool {
        self.value(headers).is_some_and(|value| self.pattern.fits(&value))
    }

    /// Whether it is for the host, which is a part of the target over HTTP/2 and so is no field anywhere.
    pub(super) fn is_host(&self) -> bool {
        self.name == HOST
    }

    /// A request's field.
    pub(super) fn value<'a>(&self, headers: &'a HeaderMap) -> Option<Cow<'a, [u8]>> {
        if self.is_host() {
            return None;
        }
        let mut values = headers.get_all(&self.name).iter().map(HeaderValue::as_bytes);
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = first.to_vec();
        for value in [second].into_iter().chain(values) {
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        Some(Cow::Owned(joined))
    }
}

/// What a query parameter must be like.
#[derive(Clone, Debug)]
pub(super) struct QueryMatch {
    pub(super) name: Box<str>,
    pub(super) pattern: Pattern,
}

impl QueryMatch {
    /// All of a match. Of several for one name the first counts (Gateway API, `HTTPQueryParamMatch.name`).
    pub(super) fn all(values: &[v1::RuleValue]) -> Result<Box<[Self]>, DeclaredError> {
        let mut all: Vec<Self> = Vec::with_capacity(values.len());
        for value in values {
            if all.iter().all(|known| *known.name != value.name) {
                all.push(Self { name: value.name.as_str().into(), pattern: Pattern::of(value)? });
            }
        }
        Ok(all.into())
    }

    /// Whether a request's parameter fits: the first with this name, decoded as forms are (WHATWG URL standard,
    /// section 5.1: `+` is a space, escapes stand for bytes of UTF-8).
    pub(super) fn fits(&self, query: Option<&str>) -> bool {
        self.value(query).is_some_and(|value| self.pattern.fits(value.as_bytes()))
    }

    /// A request's parameter.
    pub(super) fn value<'a>(&self, query: Option<&'a str>) -> Option<Cow<'a, str>> {
        let mut pairs = form_urlencoded::parse(query?.as_bytes());
        pairs.find(|(name, _)| **name == *self.name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str, value: &str, regex: bool) -> v1::RuleValue {
        v1::RuleValue { name: name.to_owned(), value: value.to_owned(), regex }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn fields_of_one_name_are_compared_joined_and_the_first_match_of_a_name_counts() {
        let fits = |values: &[v1::RuleValue], fields: &[(&'static str, &'static str)]| {
            let matches = HeaderMatch::all(values).expect("sound");
            matches.iter().all(|header| header.fits(&headers(fields)))
        };
        assert!(fits(&[value("X-A", "1", false)], &[("x-a", "1")]), "names in any case");
        assert!(!fits(&[value("x-a", "v", false)], &[("x-a", "V")]), "values as they are");
        assert!(!fits(&[value("x-a", "1", false)], &[]));
        assert!(!fits(&[value("x-a", "1", false)], &[("x-a", "1"), ("x-a", "2")]));
        assert!(fits(&[value("x-a", "1,2", false)], &[("x-a", "1"), ("x-a", "2")]));
        assert!(fits(&[value("x-a", "1", false), value("X-a", "2", false)], &[("x-a", "1")]));
        assert!(fits(&[value("x-a", "1|12", true)], &[("x-a", "12")]));
        assert!(!fits(&[value("x-a", "1", true)], &[("x-a", "12")]), "the whole of it");
        assert!(!fits(&[value("Host", ".*", true)], &[("host", "a.example")]), "the host is no field");
    }

    #[test]
    fn a_parameter_is_the_first_of_its_name_decoded_as_forms_are() {
        let fits = |wanted: v1::RuleValue, query: Option<&str>| {
            QueryMatch::all(&[wanted]).expect("sound")[0].fits(query)
        };
        assert!(fits(value("a", "1", false), Some("b=2&a=1&a=3")));
        assert!(!fits(value("a", "3", false), Some("a=1&a=3")));
        assert!(fits(value("a b", "c&d e", false), Some("a+b=c%26d%20e")));
        assert!(fits(value("a", "", false), Some("a")));
        assert!(!fits(value("a", "", false), Some("")));
        assert!(!fits(value("a", "", false), None));
        assert!(!fits(value("a", "1", false), Some("A=1")), "names as they are");
        assert!(fits(value("a", "[0-9]+", true), Some("a=42")));
        assert!(!fits(value("a", "[0-9]+", true), Some("a=42x")));
    }

    #[test]
    fn an_expression_cannot_break_out_of_its_frame() {
        for pattern in ["a)|(b", "(", "(?x) a # b", r"\8"] {
            assert!(whole(pattern).is_err(), "{pattern}");
        }
        assert!(whole("a|b").is_ok_and(|regex| regex.is_match(b"b") && !regex.is_match(b"ab")));
        assert!(whole("a").is_ok_and(|regex| !regex.is_match(b"a\n")), "no line break is left over");
    }
}
