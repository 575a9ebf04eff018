//! Rules for texts in manifests: hostnames, paths, header fields, regular expressions.

use http::HeaderValue;
use regex::{Regex, RegexBuilder};

use crate::resource::key::is_subdomain;

/// The bytes that a path may have.
const MAX_PATH: usize = 1024;
/// The bytes that a header field's name may have.
const MAX_HEADER_NAME: usize = 256;
/// The bytes that a header field's value may have.
const MAX_HEADER_VALUE: usize = 4096;
/// What a compiled regular expression may take: it is in the memory of every proxy.
const MAX_REGEX: usize = 1 << 20;
/// How deep groups of a regular expression may lie in each other.
const MAX_REGEX_NESTING: u32 = 32;

/// Why a text is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::resource) struct Refusal {
    pub(in crate::resource) reason: String,
    pub(in crate::resource) suggestion: String,
}

fn refuse(reason: impl Into<String>) -> Result<(), Refusal> {
    Err(Refusal { reason: reason.into(), suggestion: String::new() })
}

fn refuse_with(reason: impl Into<String>, suggestion: impl Into<String>) -> Result<(), Refusal> {
    Err(Refusal { reason: reason.into(), suggestion: suggestion.into() })
}

/// A hostname without a wildcard.
pub(in crate::resource) fn precise_hostname(text: &str) -> Result<(), Refusal> {
    if text.parse::<std::net::IpAddr>().is_ok() || text.starts_with('[') {
        return refuse("must be a DNS name, not an address");
    }
    if is_subdomain(text) {
        return Ok(());
    }
    let reason = "must be a DNS name in lower case";
    let lower = text.to_ascii_lowercase();
    let without_scheme = lower.split_once("://").map_or(lower.as_str(), |(_, rest)| rest);
    let host = without_scheme.split(['/', ':']).next().unwrap_or_default();
    let host = host.strip_suffix('.').unwrap_or(host);
    if host != text && is_subdomain(host) {
        return refuse_with(reason, format!("for example \"{host}\""));
    }
    refuse(reason)
}

/// A hostname, or `*.` and the domain that it must be below.
pub(in crate::resource) fn hostname(text: &str) -> Result<(), Refusal> {
    match text.strip_prefix("*.") {
        Some(domain) => precise_hostname(domain),
        None if text.contains('*') => {
            refuse("may have '*' only as its whole first part, for example \"*.example.com\"")
        }
        None => precise_hostname(text),
    }
}

/// A header field's name (RFC 9110, section 5.1).
pub(in crate::resource) fn header_name(text: &str) -> Result<(), Refusal> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if (1..=MAX_HEADER_NAME).contains(&text.len()) && text.bytes().all(token) {
        return Ok(());
    }
    let reason = "must be 1 to 256 letters, digits or '-' (RFC 9110, section 5.1)";
    if text == ":authority" {
        return refuse_with(reason, "use hostnames");
    }
    refuse(reason)
}

/// A header field's value (RFC 9110, section 5.5).
pub(in crate::resource) fn header_value(text: &str) -> Result<(), Refusal> {
    let visible = HeaderValue::from_str(text).is_ok_and(|value| value.to_str().is_ok());
    if visible && (1..=MAX_HEADER_VALUE).contains(&text.len()) && text.trim_matches([' ', '\t']) == text {
        return Ok(());
    }
    refuse("must be 1 to 4096 visible ASCII characters without blanks around them (RFC 9110, section 5.5)")
}

/// A path for comparing: it must be one that a request can have.
pub(in crate::resource) fn path(text: &str) -> Result<(), Refusal> {
    if text.len() > MAX_PATH {
        return refuse("must be at most 1024 bytes");
    }
    if !text.starts_with('/') {
        return refuse_with("must begin with '/'", format!("for example \"/{text}\""));
    }
    if let Some(bad) = ["//", "/./", "/../"].into_iter().find(|bad| text.contains(bad)) {
        return refuse(format!("must not contain \"{bad}\""));
    }
    if text.ends_with("/.") || text.ends_with("/..") {
        return refuse("must not end with '.' or '..' as its last segment");
    }
    if let Some((at, _)) = text.match_indices('%').find(|(at, _)| !is_escape(&text[*at..])) {
        let reason = "has a '%' that is not followed by two hexadecimal digits";
        return refuse_with(reason, format!("write \"%25\" for '%' (character {})", at + 1));
    }
    if text.to_ascii_lowercase().contains("%2f") {
        return refuse("must not contain \"%2F\"; an encoded slash is no separator");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte);
    match text.chars().find(|letter| !u8::try_from(*letter).is_ok_and(allowed)) {
        Some('?') => refuse_with("must not contain '?'", "match a query with queryParams"),
        Some('#') => refuse("must not contain '#'; fragments are not sent to servers"),
        Some('*') | None => Ok(()),
        Some(letter) => {
            let mut buffer = [0; 4];
            let bytes = letter.encode_utf8(&mut buffer).bytes();
            let escaped: String = bytes.map(|byte| format!("%{byte:02X}")).collect();
            refuse_with(
                format!("must not contain {letter:?}"),
                format!("write \"{escaped}\" (RFC 3986, section 2.1)"),
            )
        }
    }
}

/// A path with its query, as a request line has it (RFC 9112, section 3.2.1).
pub(in crate::resource) fn request_target(text: &str) -> Result<(), Refusal> {
    if !text.starts_with('/') {
        return refuse_with("must begin with '/'", format!("for example \"/{text}\""));
    }
    let fits = text.len() <= MAX_PATH && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if fits && text.parse::<http::uri::PathAndQuery>().is_ok() {
        return Ok(());
    }
    refuse("must be a path with or without a query, at most 1024 visible ASCII characters, and no '#'")
}

fn is_escape(text: &str) -> bool {
    let mut digits = text.bytes().skip(1);
    let mut digit = || digits.next().is_some_and(|byte| byte.is_ascii_hexdigit());
    digit() && digit()
}

/// A path that takes another one's place; it may be empty, where the prefix's place is to be.
pub(in crate::resource) fn replacement_path(text: &str) -> Result<(), Refusal> {
    if text.len() > MAX_PATH {
        return refuse("must be at most 1024 bytes");
    }
    if !text.is_empty() && !text.starts_with('/') {
        return refuse_with("must begin with '/'", format!("for example \"/{text}\""));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte);
    if let Some(letter) = text.chars().find(|letter| !u8::try_from(*letter).is_ok_and(allowed)) {
        return refuse(format!("must not contain {letter:?}"));
    }
    if text.match_indices('%').any(|(at, _)| !is_escape(&text[at..])) {
        return refuse("has a '%' that is not followed by two hexadecimal digits");
    }
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return refuse("must not have '.' or '..' as a segment");
    }
    Ok(())
}

/// A regular expression for the whole of a text, in the syntax of Rust's `regex`, as proxies compile it.
///
/// # Errors
/// Says what is wrong with it, or that it takes too much memory.
pub fn whole(pattern: &str) -> Result<Regex, String> {
    let compile = |text: &str| {
        let mut builder = RegexBuilder::new(text);
        builder.size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).nest_limit(MAX_REGEX_NESTING);
        builder.build().map_err(|error| {
            // What comes before the last line draws the pattern with a mark below.
            let text = error.to_string();
            text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })
    };
    // By itself first: `a)|(b` is not a regular expression, although it is one in a group.
    compile(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))
}

/// A regular expression of at most so many bytes.
pub(in crate::resource) fn regex(text: &str, most: usize) -> Result<(), Refusal> {
    if text.is_empty() || text.len() > most {
        return refuse(format!("must be 1 to {most} bytes"));
    }
    let Err(reason) = whole(text) else { return Ok(()) };
    let known = REGEX_HINTS.iter().find(|(part, _)| reason.contains(part));
    let hint = known
        .map_or("its syntax is that of Rust's regex; \"\\\" before a character means itself", |(_, hint)| {
            hint
        });
    refuse_with(format!("is not a regular expression: {reason}"), hint)
}

/// What would be right, by what the compiler says.
const REGEX_HINTS: [(&str, &str); 10] = [
    (
        "look-around",
        "there is none in the syntax of Rust's regex, which takes linear time; match what there must be",
    ),
    (
        "backreferences",
        "there are none in the syntax of Rust's regex, which takes linear time; write both out",
    ),
    ("unclosed group", "close it with \")\", or write \"\\(\" for the character"),
    ("unopened group", "write \"\\)\" for the character"),
    ("unclosed character class", "close it with \"]\", or write \"\\[\" for the character"),
    ("repetition operator missing", "write \".*\" for any text, or \"\\*\" for the character"),
    ("repetition quantifier", "write \"{2}\" or \"{2,4}\", or \"\\{\" for the character"),
    ("escape sequence", "write \"\\\\\" for a backslash"),
    ("size limit", "repeat less often: its compiled form lies in the memory of every proxy"),
    ("nest", "put fewer groups into each other"),
];

/// The value of a header field or query parameter to compare with.
pub(in crate::resource) fn query_value(text: &str) -> Result<(), Refusal> {
    if (1..=MAX_PATH).contains(&text.len()) && !text.contains(char::is_control) {
        return Ok(());
    }
    refuse("must be 1 to 1024 bytes without control characters")
}

/// A version or tag of instances.
pub(in crate::resource) fn label(text: &str) -> Result<(), Refusal> {
    if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    refuse("must be 1 to 128 visible ASCII characters without blanks")
}

/// An origin as the Fetch standard writes it, `*`, or one with a wildcard for the first parts of its host.
pub(in crate::resource) fn origin(text: &str) -> Result<(), Refusal> {
    if text == "*" {
        return Ok(());
    }
    let reason = "must be '*' or SCHEME://HOST[:PORT], for example \"https://*.example.com\"";
    let Some((scheme, rest)) = text.split_once("://") else { return refuse(reason) };
    let scheme_fits = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let port_fits = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    if scheme_fits && port_fits && text.len() <= 253 && (address || host == "*" || hostname(host).is_ok()) {
        return Ok(());
    }
    match text.strip_suffix('/') {
        Some(bare) if origin(bare).is_ok() => refuse_with(reason, format!("for example \"{bare}\"")),
        _ => refuse(reason),
    }
}
