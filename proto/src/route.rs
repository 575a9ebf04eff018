//! What a route matches: a path prefix, or a template of path segments with a method.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    error::Violation,
    name::ServiceKey,
    v1::{self, PathMatch},
};

const MAX_PATH: usize = 1024;
const MAX_SEGMENTS: usize = 64;
const PREFIX_RULE: &str = "must be a path of at most 1024 visible ASCII characters that begins with '/' and has no \
                           empty, '.' or '..' segment, '?', '#', '%', '{', '}' or '*', for example \"/users\"";
const TEMPLATE_RULE: &str = "must be METHOD /path, where METHOD is an HTTP method or '*', and a segment is a literal, \
                             {name} for one segment, or {name:path} at the end for all that follow, for example \
                             \"GET /users/{id}\"";

/// A path prefix: `/`, or segments without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix(Arc<str>);

impl PathPrefix {
    /// The prefix; only the root ends with a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments; the root has none.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|segment| !segment.is_empty())
    }
}

impl FromStr for PathPrefix {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let refuse = || Violation::new("prefix", text, PREFIX_RULE);
        let inner = text.strip_prefix('/').filter(|_| text.len() <= MAX_PATH).ok_or_else(refuse)?;
        if inner.is_empty() {
            return Ok(Self(Arc::from("/")));
        }
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if inner.split('/').count() > MAX_SEGMENTS || !inner.split('/').all(is_literal) {
            return Err(refuse());
        }
        Ok(Self(Arc::from(format!("/{inner}"))))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One segment of a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// Exactly this text.
    Literal(Arc<str>),
    /// Any one segment that is not empty.
    Parameter,
    /// All that follows, which may be nothing; always last.
    Rest,
}

/// A method and path segments, for example `GET /users/{id}`.
///
/// The names of parameters do not matter: two templates that differ in them only are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointTemplate {
    method: Option<Arc<str>>,
    segments: Vec<Segment>,
    trailing_slash: bool,
}

impl EndpointTemplate {
    /// The method; `None` means any.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// The segments; the root has none.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the path ends with a slash, which a request must match (the root aside).
    pub fn trailing_slash(&self) -> bool {
        self.trailing_slash
    }

    /// The path with the names of parameters left out, for example `/users/{}`.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for segment in &self.segments {
            path.push('/');
            path.push_str(match segment {
                Segment::Literal(text) => text,
                Segment::Parameter => "{}",
                Segment::Rest => "{:path}",
            });
        }
        if self.trailing_slash || path.is_empty() {
            path.push('/');
        }
        path
    }

    fn parse_segment(text: &str, last: bool) -> Option<Segment> {
        let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
            return is_literal(text).then(|| Segment::Literal(Arc::from(text)));
        };
        let (name, convertor) = inner.split_once(':').unwrap_or((inner, ""));
        let plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        match convertor {
            _ if !plain(name) || !plain(convertor) => None,
            "path" => last.then_some(Segment::Rest),
            _ => Some(Segment::Parameter),
        }
    }
}

/// Reads `METHOD /path`; a path alone means any method.
impl FromStr for EndpointTemplate {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let refuse = || Violation::new("endpoints", text, TEMPLATE_RULE);
        let (method, path) = text.split_once(' ').unwrap_or(("*", text));
        let inner = path.strip_prefix('/').filter(|_| path.len() <= MAX_PATH).ok_or_else(refuse)?;
        let method = match method {
            "*" => None,
            _ if (1..=32).contains(&method.len())
                && method.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-') =>
            {
                Some(Arc::from(method.to_ascii_uppercase()))
            }
            _ => return Err(refuse()),
        };
        if inner.is_empty() {
            return Ok(Self { method, segments: Vec::new(), trailing_slash: false });
        }
        let stripped = inner.strip_suffix('/');
        let parts: Vec<&str> = stripped.unwrap_or(inner).split('/').collect();
        let parsed =
            parts.iter().enumerate().map(|(at, part)| Self::parse_segment(part, at + 1 == parts.len()));
        let segments: Vec<Segment> = parsed.collect::<Option<_>>().ok_or_else(refuse)?;
        let trailing_slash = stripped.is_some() && segments.last() != Some(&Segment::Rest);
        if segments.len() > MAX_SEGMENTS {
            return Err(refuse());
        }
        Ok(Self { method, segments, trailing_slash })
    }
}

impl fmt::Display for EndpointTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.method().unwrap_or("*"), self.path())
    }
}

fn is_literal(segment: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/?#%{}*\\\"<>".contains(&byte);
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(allowed)
}

/// What a route matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RouteMatch {
    /// The path or any path below it.
    Prefix {
        /// The prefix.
        path: PathPrefix,
        /// Whether it is removed before the request is forwarded.
        strip: bool,
    },
    /// A template, forwarded with the path unchanged.
    Template(EndpointTemplate),
}

/// A route: what matches goes to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Unique in a snapshot; follows from `matches`.
    pub id: Arc<str>,
    /// Who answers.
    pub service: ServiceKey,
    /// What matches.
    pub matches: RouteMatch,
    /// The versions of the service that answer; empty means any. Sorted.
    pub versions: Vec<Arc<str>>,
}

impl Route {
    /// A route; its id follows from what it matches.
    pub fn new(service: ServiceKey, matches: RouteMatch, versions: Vec<Arc<str>>) -> Self {
        let id = match &matches {
            RouteMatch::Prefix { path, .. } => {
                Arc::from(format!("* {}/**", path.as_str().trim_end_matches('/')))
            }
            RouteMatch::Template(template) => Arc::from(template.to_string()),
        };
        Self { id, service, matches, versions }
    }

    /// The wire form.
    pub fn to_wire(&self) -> v1::RouteEntry {
        let (kind, path, method, strip_prefix) = match &self.matches {
            RouteMatch::Prefix { path, strip } => (PathMatch::Prefix, path.to_string(), "", *strip),
            RouteMatch::Template(template) => {
                (PathMatch::Template, template.path(), template.method().unwrap_or_default(), false)
            }
        };
        v1::RouteEntry {
            id: self.id.to_string(),
            service: Some(self.service.to_wire()),
            r#match: kind.into(),
            path,
            method: method.to_owned(),
            strip_prefix,
            versions: self.versions.iter().map(ToString::to_string).collect(),
        }
    }

    /// Checks the wire form.
    ///
    /// # Errors
    /// Names the field that breaks its rule.
    pub fn from_wire(wire: &v1::RouteEntry) -> Result<Self, Violation> {
        let matches = match wire.r#match() {
            PathMatch::Prefix => RouteMatch::Prefix { path: wire.path.parse()?, strip: wire.strip_prefix },
            PathMatch::Template => {
                let method = if wire.method.is_empty() { "*" } else { &wire.method };
                RouteMatch::Template(format!("{method} {}", wire.path).parse()?)
            }
            PathMatch::Unspecified => {
                return Err(Violation::new(
                    "match",
                    wire.r#match,
                    "must be a way to compare paths that is known here",
                ));
            }
        };
        let versions = wire.versions.iter().map(|version| Arc::from(version.as_str())).collect();
        let route = Self::new(ServiceKey::from_wire(wire.service.as_ref())?, matches, versions);
        if *route.id == *wire.id {
            Ok(route)
        } else {
            Err(Violation::new("id", &wire.id, format!("must be {:?}, as what it matches says", route.id)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_normalised() {
        for (text, normal) in [("/", "/"), ("/users", "/users"), ("/users/", "/users"), ("/a/b/", "/a/b")] {
            assert_eq!(text.parse::<PathPrefix>().expect(text).as_str(), normal);
        }
        for text in [
            "", "users", "//", "/a//b", "/a/../b", "/.", "/a?b", "/a#b", "/a%2fb", "/a b", "/{a}", "/a/*",
            "/ä",
        ] {
            assert!(text.parse::<PathPrefix>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_template_keeps_its_shape_and_forgets_its_names() {
        for (text, normal) in [
            ("GET /users/{id}", "GET /users/{}"),
            ("get /users/{id:int}/", "GET /users/{}/"),
            ("/files/{name:path}", "* /files/{:path}"),
            ("* /", "* /"),
        ] {
            let template: EndpointTemplate = text.parse().expect(text);
            assert_eq!(template.to_string(), normal);
            assert_eq!(normal.parse::<EndpointTemplate>(), Ok(template), "what is printed reads back");
        }
        for text in [
            "GET",
            "GET users",
            "G=T /a",
            " /a",
            "GET //a",
            "GET /{a",
            "GET /{a:path}/b",
            "GET /a{b}",
            "GET /../a",
        ] {
            assert!(text.parse::<EndpointTemplate>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_route_survives_the_way_over_the_wire() {
        let service: ServiceKey = "users".parse().expect("a key");
        let prefix = RouteMatch::Prefix { path: "/users".parse().expect("a prefix"), strip: true };
        let template = RouteMatch::Template("GET /users/{id}".parse().expect("a template"));
        for matches in [prefix, template] {
            let route = Route::new(service.clone(), matches, vec!["1".into()]);
            assert_eq!(Route::from_wire(&route.to_wire()), Ok(route));
        }
    }
}
