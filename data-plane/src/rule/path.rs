//! Changes of a request's path (Gateway API, `HTTPPathModifier`). The query stays.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use waypost_proto::v1::{self, path_change::Kind};

use super::RuleError;
use crate::table::path::normalised;

/// A change of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathChange {
    /// Another path.
    Full(Box<str>),
    /// What takes the place of the prefix that was matched; without a slash at the end, so that the root is empty.
    Prefix(Box<str>),
}

impl PathChange {
    pub(super) fn compile(wire: &v1::PathChange) -> Result<Option<Self>, RuleError> {
        Ok(match &wire.kind {
            Some(Kind::Full(path)) => Some(Self::Full(checked("path.full", path)?)),
            Some(Kind::Prefix(path)) => {
                let path = checked("path.prefix", path)?;
                Some(Self::Prefix(path.strip_suffix('/').unwrap_or(&path).into()))
            }
            None => None,
        })
    }

    /// The target with another path. `matched` bytes of it were matched by the rule's prefix.
    pub(crate) fn apply(&self, target: &PathAndQuery, matched: usize) -> PathAndQuery {
        let path: Cow<'_, str> = match self {
            Self::Full(path) => Cow::Borrowed(path),
            Self::Prefix(prefix) => match (&**prefix, target.path().get(matched..).unwrap_or_default()) {
                ("", "") => Cow::Borrowed("/"),
                ("", rest) => Cow::Borrowed(rest),
                (prefix, "") => Cow::Borrowed(prefix),
                (prefix, rest) => Cow::Owned(format!("{prefix}{rest}")),
            },
        };
        let changed = match target.query() {
            Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
            None => PathAndQuery::try_from(&*path),
        };
        // Both parts were checked to be paths; the length alone could be too much.
        changed.unwrap_or_else(|_| target.clone())
    }
}

/// A path that takes another one's place, in the form that paths are forwarded in.
fn checked(field: &str, path: &str) -> Result<Box<str>, RuleError> {
    let is_path = path.is_empty() || path.starts_with('/');
    if !is_path || path.contains(['?', '#']) || (!path.is_empty() && PathAndQuery::try_from(path).is_err()) {
        return Err(RuleError::new(field, format!("is {path:?}, which is no path")));
    }
    // Whoever declares a route may send instances what clients may not.
    let path = normalised(path).unwrap_or(Cow::Borrowed(path));
    Ok(if path.is_empty() && field == "path.full" { "/".into() } else { path.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change(kind: Kind) -> PathChange {
        PathChange::compile(&v1::PathChange { kind: Some(kind) }).expect("sound").expect("a change")
    }

    /// What becomes of a path whose rule has a prefix, which the table of routes keeps without a slash at the end.
    fn replaced(path: &str, prefix: &str, replacement: &str) -> String {
        let matched = prefix.strip_suffix('/').unwrap_or(prefix).len();
        let target = PathAndQuery::try_from(path).expect("a path");
        change(Kind::Prefix(replacement.to_owned())).apply(&target, matched).to_string()
    }

    #[test]
    fn replace_prefix_match_is_as_in_the_specification_s_table() {
        for (path, prefix, replacement, modified) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            // Beyond the table.
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
        ] {
            assert_eq!(replaced(path, prefix, replacement), modified, "{path}, {prefix} by {replacement:?}");
        }
    }

    #[test]
    fn replace_full_path_replaces_all_of_it_and_the_query_stays() {
        let full = change(Kind::Full("/new/%7euser".to_owned()));
        assert_eq!(full.apply(&PathAndQuery::from_static("/a/b?x=1&y"), 2), "/new/~user?x=1&y");
        assert_eq!(full.apply(&PathAndQuery::from_static("/a"), 0), "/new/~user");
        assert_eq!(replaced("/foo?x=/foo", "/foo", "/xyz"), "/xyz?x=/foo");
        assert_eq!(replaced("/foo?x", "/foo", ""), "/?x");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in ["a", "/a?b", "/a#b", "/a b\u{7f}", "//\u{0}"] {
            let full = v1::PathChange { kind: Some(Kind::Full(path.to_owned())) };
            assert_eq!(
                PathChange::compile(&full).map_err(|error| error.field),
                Err("path.full".to_owned()),
                "{path}"
            );
        }
        assert_eq!(PathChange::compile(&v1::PathChange::default()), Ok(None));
    }

    proptest! {
        #[test]
        fn a_replaced_prefix_is_followed_by_the_same_segments(
            prefix in "(/[ab]){1,2}", replacement in "(/[xy]){0,2}/?", rest in "(/[ab]{0,2}){0,3}",
        ) {
            let modified = replaced(&format!("{prefix}{rest}"), &prefix, &replacement);
            let segments = |path: &str| path.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect::<Vec<_>>();
            prop_assert!(modified.starts_with('/'));
            prop_assert_eq!(segments(&modified), [segments(&replacement), segments(&rest)].concat());
            prop_assert_eq!(modified.ends_with('/'), rest.ends_with('/') || modified == "/");
        }
    }
}
