//! Where a session's cookie is sent back to: the path of the match that took the request (GEP-1619, "Path").
//!
//! Cookies' paths are compared segment by segment, as prefixes of rules are (RFC 6265, section 5.1.4).

use waypost_proto::v1::{RuleMatch, RulePath};

/// What has a meaning of its own in a regular expression.
const SYNTAX: [char; 14] = ['\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$'];

/// The path of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CookiePath {
    text: Box<str>,
    /// Whether only this very path was matched.
    exact: bool,
}

impl CookiePath {
    /// The path of a match; of a regular expression what all that it matches begins with.
    pub(super) fn of(wire: &RuleMatch) -> Self {
        let (text, exact) = match wire.path_kind() {
            RulePath::Exact => (wire.path.as_str(), true),
            RulePath::Prefix => (wire.path.as_str(), false),
            RulePath::Regex => (literal(&wire.path), false),
            RulePath::GrpcMethod | RulePath::Unspecified => ("/", false),
        };
        // What cannot stand in a cookie's attribute (RFC 6265, section 4.1.1) gives way to all paths.
        let fits = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
        Self { text: if fits { text } else { "/" }.into(), exact: exact && fits }
    }

    /// As the attribute has it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn fits(&self, path: &str) -> bool {
        let rest = path.strip_prefix(self.text.trim_end_matches('/'));
        if self.exact {
            path == &*self.text
        } else {
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

/// The place of the longest that a path fits; `None` where none does.
pub(super) fn best(paths: &[CookiePath], path: &str) -> Option<usize> {
    let fitting = paths.iter().enumerate().filter(|(_, one)| one.fits(path));
    fitting.max_by_key(|(_, one)| one.text.len()).map(|(at, _)| at)
}

/// The whole segments that a regular expression begins with before it is one.
fn literal(pattern: &str) -> &str {
    if pattern.contains('|') {
        return "/";
    }
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let Some(end) = pattern.find(SYNTAX) else { return pattern };
    let plain = &pattern[..end];
    // What stands before a quantifier may not be there at all.
    let sure = if pattern[end..].starts_with(['?', '*', '{']) {
        plain.char_indices().next_back().map_or("", |(last, _)| &plain[..last])
    } else {
        plain
    };
    match sure.rfind('/') {
        None | Some(0) => "/",
        Some(slash) => &sure[..slash],
    }
}
