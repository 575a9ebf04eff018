//! A match of a rule: what a request must be like, and which of those that fit goes first.

use std::{cmp::Reverse, fmt, sync::Arc};

use http::Method;
use waypost_proto::v1::{self, RulePath};

use super::{
    DeclaredError, Listener, RequestView,
    value::{HeaderMatch, QueryMatch, whole},
};
use crate::{
    rule::{Rule, cors},
    table::path,
};

/// How a rule's path is compared.
#[derive(Clone, Debug)]
pub(super) enum PathMatch {
    Exact(Arc<str>),
    /// Without a slash at the end; the root is empty.
    Prefix(Arc<str>),
    Regex(Arc<str>, regex::bytes::Regex),
    /// The second of two segments: a gRPC method of any service.
    GrpcMethod(Arc<str>),
}

impl PathMatch {
    fn of(wire: &v1::RuleMatch) -> Result<Self, DeclaredError> {
        // A path that no request can have matches nothing, and is no reason to refuse the others.
        let text = path::normalised(&wire.path).unwrap_or_else(|_| wire.path.as_str().into());
        match RulePath::try_from(wire.path_kind) {
            Ok(RulePath::Exact | RulePath::Prefix) if !text.starts_with('/') => {
                Err(DeclaredError::Path(wire.path.clone()))
            }
            Ok(RulePath::Exact) => Ok(Self::Exact(Arc::from(&*text))),
            Ok(RulePath::Prefix) => Ok(Self::Prefix(Arc::from(text.strip_suffix('/').unwrap_or(&text)))),
            Ok(RulePath::Regex) => Ok(Self::Regex(Arc::from(wire.path.as_str()), whole(&wire.path)?)),
            Ok(RulePath::GrpcMethod) if wire.path.is_empty() || wire.path.contains('/') => {
                Err(DeclaredError::GrpcMethod(wire.path.clone()))
            }
            Ok(RulePath::GrpcMethod) => Ok(Self::GrpcMethod(Arc::from(wire.path.as_str()))),
            Ok(RulePath::Unspecified) | Err(_) => Err(DeclaredError::PathKind(wire.path_kind)),
        }
    }

    /// Whether a path fits.
    pub(super) fn fits(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *path,
            Self::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(_, regex) => regex.is_match(path.as_bytes()),
            Self::GrpcMethod(method) => grpc_method(path) == Some(&**method),
        }
    }

    /// What is compared.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Regex(text, _) | Self::GrpcMethod(text) => text,
        }
    }
}

/// The method of a gRPC call's path, `/<service>/<method>`.
pub(super) fn grpc_method(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some(method)
}

/// As people write it: `/a`, `/a/*`, `~ /a.*` or `/*/Method`.
impl fmt::Display for PathMatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => formatter.write_str(text),
            Self::Prefix(text) => write!(formatter, "{text}/*"),
            Self::Regex(text, _) => write!(formatter, "~ {text}"),
            Self::GrpcMethod(text) => write!(formatter, "/*/{text}"),
        }
    }
}

/// A match of a rule.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) path: PathMatch,
    pub(super) method: Option<Method>,
    pub(super) headers: Box<[HeaderMatch]>,
    pub(super) query: Box<[QueryMatch]>,
    /// Seconds and nanoseconds of when its route was declared first.
    created_at: (i64, i32),
    /// The route's `namespace/name`.
    route: Arc<str>,
    /// The route's id.
    pub(super) route_id: Arc<str>,
    /// The rule's and the match's place in the route.
    pub(super) place: (usize, usize),
    pub(super) rule: Arc<Rule>,
}

/// What a request fails.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failed<'a> {
    Path,
    Method,
    Header(&'a HeaderMatch),
    Query(&'a QueryMatch),
}

impl Candidate {
    /// The matches of a route, in the order of its rules.
    ///
    /// # Errors
    /// One cannot be understood.
    pub(super) fn all(id: &Arc<str>, route: &v1::RuleRoute) -> Result<Vec<Arc<Self>>, DeclaredError> {
        let created_at = route.created_at.as_ref().map_or((0, 0), |stamp| (stamp.seconds, stamp.nanos));
        let name: Arc<str> = Arc::from(format!("{}/{}", route.namespace, route.name));
        let mut all = Vec::new();
        for (rule_place, wire) in route.rules.iter().enumerate() {
            let rule = Rule::compile(route, wire)
                .map_err(|source| DeclaredError::Rule { place: rule_place, source: Box::new(source) })?;
            let rule = Arc::new(rule);
            for (match_place, wire) in wire.matches.iter().enumerate() {
                all.push(Arc::new(Self {
                    path: PathMatch::of(wire)?,
                    method: method_of(&wire.method)?,
                    headers: HeaderMatch::all(&wire.headers)?,
                    query: QueryMatch::all(&wire.query)?,
                    created_at,
                    route: Arc::clone(&name),
                    route_id: Arc::clone(id),
                    place: (rule_place, match_place),
                    rule: Arc::clone(&rule),
                }));
            }
        }
        Ok(all)
    }

    /// What goes first of two whose paths are compared alike: the longer path, a method, more header fields, more
    /// query parameters, the older route, its name, its rules in order (Gateway API, `HTTPRouteRule.matches`).
    pub(super) fn precedence(&self) -> impl Ord + '_ {
        (
            Reverse(self.path.text().len()),
            self.method.is_none(),
            Reverse(self.headers.len()),
            Reverse(self.query.len()),
            self.created_at,
            &*self.route,
            &*self.route_id,
            self.place,
        )
    }

    /// All that a request fails beside the path.
    pub(super) fn failures<'a>(&'a self, request: &RequestView<'_>) -> impl Iterator<Item = Failed<'a>> {
        let method = self
            .method
            .as_ref()
            .filter(|method| **method != *request.method && !self.answers_preflight_for(method, request));
        let headers = self.headers.iter().filter(|header| !header.fits(request.headers));
        let query = self.query.iter().filter(|query| !query.fits(request.query));
        method
            .map(|_| Failed::Method)
            .into_iter()
            .chain(headers.map(Failed::Header))
            .chain(query.map(Failed::Query))
    }

    /// Whether a request is a preflight for this method that the rule answers itself. Without a CORS filter it would be
    /// forwarded, and the rule never said that it takes OPTIONS.
    fn answers_preflight_for(&self, method: &Method, request: &RequestView<'_>) -> bool {
        announces(request, method) && self.rule.filters.cors.is_some()
    }
}

/// Whether a request is a preflight for this method.
pub(super) fn announces(request: &RequestView<'_>, method: &Method) -> bool {
    let announced = cors::announced(request.method, request.headers);
    announced.is_some_and(|announced| announced.as_bytes() == method.as_str().as_bytes())
}

/// For example `GET /a/* header x-a="1" query p~"[0-9]+"`.
impl fmt::Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(formatter, "{method} ")?;
        }
        write!(formatter, "{}", self.path)?;
        for header in &self.headers {
            write!(formatter, " header {}{}", header.name, header.pattern)?;
        }
        for query in &self.query {
            write!(formatter, " query {}{}", query.name, query.pattern)?;
        }
        Ok(())
    }
}

fn method_of(text: &str) -> Result<Option<Method>, DeclaredError> {
    if text.is_empty() {
        return Ok(None);
    }
    Method::try_from(text).map(Some).map_err(|_| DeclaredError::Method(text.to_owned()))
}

/// A match of a rule, at a listener.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) candidate: Arc<Candidate>,
    pub(super) listener: Arc<Listener>,
    /// Whether the path alone decides; so most need not look at the candidate, which lies elsewhere in memory.
    by_path_alone: bool,
}

impl Placed {
    /// A match of a rule at a listener.
    pub(super) fn at(listener: &Arc<Listener>, candidate: &Arc<Candidate>) -> Self {
        let Candidate { method, headers, query, .. } = &**candidate;
        let by_path_alone = method.is_none() && headers.is_empty() && query.is_empty();
        Self { candidate: Arc::clone(candidate), listener: Arc::clone(listener), by_path_alone }
    }

    /// What a request whose path fits fails first.
    pub(super) fn failed_by(&self, request: &RequestView<'_>) -> Option<Failed<'_>> {
        if self.by_path_alone { None } else { self.candidate.failures(request).next() }
    }

    /// Whether it is the same route at the same listener.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.candidate.route_id == other.candidate.route_id && self.listener.id == other.listener.id
    }
}
