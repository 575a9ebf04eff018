//! Matches that no request can fit, since proxies refuse such requests or take away what is asked for before they look
//! at rules (`data-plane/src/headers.rs`, `data-plane/src/table/path.rs`).
//!
//! They are refused here, and not where a resource is read by itself: what was stored before this was known is read
//! all the same, and its other rules stay in force.
//!
//! Deliberately absent: whether there is a text at all that a regular expression fits.

use super::{
    problem::Problem,
    route::{Route, Rules, field},
};
use crate::resource::{
    FieldPath, Finding,
    route::{Method, PathMatch, PathMatchType, ValueMatch},
};

/// Why something fits no request, and what would.
type Objection = (String, &'static str);

/// Fields that concern one hop (RFC 9110, section 7.6.1), which end at the proxy.
const OF_ONE_HOP: [&str; 6] =
    ["connection", "http2-settings", "keep-alive", "te", "transfer-encoding", "upgrade"];

/// What fits no request, or not all that it seems to.
pub(super) fn matches<'a>(route: &Route<'a>, found: &mut Vec<Problem<'a>>) {
    let mut tell = |finding: Finding| found.push(Problem::own(route.key(), finding));
    match route.rules {
        Rules::Http(rules) => {
            for (index, rule) in rules.iter().enumerate() {
                for (place, wanted) in rule.matches.iter().enumerate() {
                    let at = field(index).item("matches", place);
                    if let Some((reason, how)) = path(&wanted.path) {
                        let finding = Finding::error(at.keys("path.value"), reason);
                        tell(finding.value(&wanted.path.value).suggest(how));
                    }
                    if wanted.method == Some(Method::Connect) {
                        tell(connect(at.key("method")));
                    }
                    headers(&at, &wanted.headers, &mut tell);
                }
            }
        }
        Rules::Grpc(rules) => {
            for (index, rule) in rules.iter().enumerate() {
                for (place, wanted) in rule.matches.iter().enumerate() {
                    headers(&field(index).item("matches", place), &wanted.headers, &mut tell);
                }
            }
        }
    }
}

/// RFC 9110, section 9.3.6, and RFC 8441, section 4.
fn connect(at: FieldPath) -> Finding {
    let reason = "is never matched: proxies are reverse proxies, which answer CONNECT with 405, and match a \
                  WebSocket's over HTTP/2 as GET";
    Finding::error(at, reason).value(Method::Connect.name()).suggest("for WebSockets write GET")
}

fn headers(at: &FieldPath, wanted: &[ValueMatch], tell: &mut dyn FnMut(Finding)) {
    for (index, header) in wanted.iter().enumerate() {
        let name = header.name.to_ascii_lowercase();
        let at = at.item("headers", index).key("name");
        if name == "host" {
            let reason = "takes no request: the host is no field to match (HTTP/2 has none)";
            tell(Finding::warning(at, reason).value(&header.name).suggest("use hostnames"));
        } else if let Some((reason, how)) = removed(&name) {
            tell(Finding::error(at, reason).value(&header.name).suggest(how));
        }
    }
}

/// Why a field is not there any more when rules are looked at.
fn removed(name: &str) -> Option<Objection> {
    let (which, how) = if OF_ONE_HOP.contains(&name) || name.starts_with("proxy-") {
        let how = match name {
            "upgrade" | "connection" => "for WebSockets match sec-websocket-version, which is \"13\"",
            _ => "match a field that is for the instance",
        };
        ("a field that concerns one hop", how)
    } else if name.starts_with("x-waypost-") {
        ("what clients say in Waypost's own fields", "choose a name without \"x-waypost-\"")
    } else {
        return None;
    };
    Some((format!("is never matched: proxies take away {which} before they look at rules"), how))
}

/// Why a path is one that proxies refuse. It keeps the rules of `validate::text::path`.
fn path(wanted: &PathMatch) -> Option<Objection> {
    if wanted.r#type == PathMatchType::RegularExpression {
        return None;
    }
    let bytes = wanted.value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let escaped = (*byte == b'%').then(|| Some(digit(at + 1)? * 16 + digit(at + 2)?)).flatten();
        let value = escaped.and_then(|value| u8::try_from(value).ok());
        if value.is_some_and(|value| value.is_ascii_control()) {
            let escape = &wanted.value[at..at + 3];
            let reason =
                format!("is never matched: proxies refuse paths with a control character, here \"{escape}\"");
            return Some((reason, "leave the character out"));
        }
        decoded.push(value.unwrap_or(*byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    // Some servers take a backslash for a slash, and what follows a `;` for no part of the segment.
    let mut segments = decoded.split(|byte| matches!(byte, b'/' | b'\\'));
    let is_dots = |segment: &[u8]| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        matches!(name, b"." | b"..")
    };
    segments.any(is_dots).then(|| {
        let reason =
            "is never matched: proxies refuse paths with a segment that servers take for \".\" or \"..\"";
        (reason.to_owned(), "write the path resolved")
    })
}
