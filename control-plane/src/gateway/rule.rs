//! Rules: which requests, what is done with them, and who answers; of an `HTTPRoute` and of a `GRPCRoute`.
//!
//! A gRPC call is a request for `/<service>/<method>`, so a method match becomes a path match: exact where both are
//! named, a prefix where only the service is, and where only the method is a kind of its own, which goes after those that
//! name a service; a regular expression where that is asked for.
//!
//! Deliberately absent: how matches are compared and ranked (the data plane does both).

use waypost_proto::{
    resource::{
        backend::BackendRef,
        duration::GatewayDuration,
        route::{
            GrpcMatch, GrpcMethodMatch, GrpcRule, HttpMatch, HttpRule, Method, PathMatchType,
            SessionPersistence as Session, SessionType, ValueMatch, ValueMatchType,
        },
    },
    time::wire_duration,
    v1::{RouteBackend, RouteRetry, RouteRule, RuleMatch, RulePath, RuleValue, SessionPersistence},
};

use super::{backend::References, filter};

/// How often a rule that wants retries tries again, where it does not say.
const RETRIES: u32 = 1;

/// A rule of an `HTTPRoute`; `route` names it for people.
pub(super) fn http(
    references: &mut References<'_, '_>,
    route: &str,
    at: usize,
    rule: &HttpRule,
) -> RouteRule {
    let field = format!("spec.rules[{at}]");
    let timeouts = rule.timeouts.as_ref();
    let mut matches: Vec<RuleMatch> = rule.matches.iter().map(http_match).collect();
    if matches.is_empty() {
        matches.push(http_match(&HttpMatch::default()));
    }
    RouteRule {
        name: rule.name.clone().unwrap_or_default(),
        matches,
        filters: filter::all(references, &rule.filters, &format!("{field}.filters")),
        backends: backends(references, &rule.backend_refs, &field),
        request_timeout: wire(timeouts.and_then(|timeouts| timeouts.request.as_ref())),
        backend_request_timeout: wire(timeouts.and_then(|timeouts| timeouts.backend_request.as_ref())),
        retry: rule.retry.as_ref().map(|retry| RouteRetry {
            attempts: retry.attempts.unwrap_or(RETRIES),
            codes: retry.codes.iter().copied().map(u32::from).collect(),
            backoff: wire(retry.backoff.as_ref()),
        }),
        session_persistence: rule.session_persistence.as_ref().map(|session| persistence(session, route, at)),
    }
}

/// A rule of a `GRPCRoute`.
pub(super) fn grpc(
    references: &mut References<'_, '_>,
    route: &str,
    at: usize,
    rule: &GrpcRule,
) -> RouteRule {
    let field = format!("spec.rules[{at}]");
    let mut matches: Vec<RuleMatch> = rule.matches.iter().map(grpc_match).collect();
    if matches.is_empty() {
        matches.push(grpc_match(&GrpcMatch::default()));
    }
    RouteRule {
        name: rule.name.clone().unwrap_or_default(),
        matches,
        filters: filter::all(references, &rule.filters, &format!("{field}.filters")),
        backends: backends(references, &rule.backend_refs, &field),
        session_persistence: rule.session_persistence.as_ref().map(|session| persistence(session, route, at)),
        ..RouteRule::default()
    }
}

fn backends(references: &mut References<'_, '_>, refs: &[BackendRef], field: &str) -> Vec<RouteBackend> {
    let one = |(at, backend): (usize, &BackendRef)| {
        let field = format!("{field}.backendRefs[{at}]");
        let mut made = references.backend(backend, &field);
        made.filters = filter::all(references, &backend.filters, &format!("{field}.filters"));
        made
    };
    refs.iter().enumerate().map(one).collect()
}

fn http_match(spec: &HttpMatch) -> RuleMatch {
    let (path_kind, path) = match spec.path.r#type {
        PathMatchType::Exact => (RulePath::Exact, spec.path.value.clone()),
        PathMatchType::PathPrefix => (RulePath::Prefix, prefix(&spec.path.value)),
        PathMatchType::RegularExpression => (RulePath::Regex, spec.path.value.clone()),
    };
    RuleMatch {
        path_kind: path_kind.into(),
        path,
        method: spec.method.map_or("", Method::name).to_owned(),
        headers: spec.headers.iter().map(header).collect(),
        query: spec.query_params.iter().map(|value| value_of(value, value.name.clone())).collect(),
    }
}

/// A prefix ends at a segment, with or without a slash at its end.
fn prefix(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}

fn grpc_match(spec: &GrpcMatch) -> RuleMatch {
    let (path_kind, path) = spec.method.as_ref().map_or((RulePath::Prefix, "/".to_owned()), grpc_path);
    RuleMatch {
        path_kind: path_kind.into(),
        path,
        method: String::new(),
        headers: spec.headers.iter().map(header).collect(),
        query: Vec::new(),
    }
}

fn grpc_path(spec: &GrpcMethodMatch) -> (RulePath, String) {
    let any = || "[^/]+".to_owned();
    match (spec.r#type, &spec.service, &spec.method) {
        (_, None, None) => (RulePath::Prefix, "/".to_owned()),
        (ValueMatchType::Exact, Some(service), Some(method)) => {
            (RulePath::Exact, format!("/{service}/{method}"))
        }
        (ValueMatchType::Exact, Some(service), None) => (RulePath::Prefix, format!("/{service}")),
        (ValueMatchType::Exact, None, Some(method)) => (RulePath::GrpcMethod, method.clone()),
        (ValueMatchType::RegularExpression, service, method) => {
            let part = |part: &Option<String>| part.as_ref().map_or_else(any, |part| format!("(?:{part})"));
            (RulePath::Regex, format!("/{}/{}", part(service), part(method)))
        }
    }
}

fn header(spec: &ValueMatch) -> RuleValue {
    value_of(spec, spec.name.to_ascii_lowercase())
}

fn value_of(spec: &ValueMatch, name: String) -> RuleValue {
    RuleValue { name, value: spec.value.clone(), regex: spec.r#type == ValueMatchType::RegularExpression }
}

pub(super) fn wire(duration: Option<&GatewayDuration>) -> Option<pbjson_types::Duration> {
    duration.map(|duration| wire_duration(duration.get()))
}

/// A session without a name gets one of its own, so that rules on one host do not take each other's.
fn persistence(spec: &Session, route: &str, at: usize) -> SessionPersistence {
    SessionPersistence {
        name: spec
            .session_name
            .clone()
            .unwrap_or_else(|| format!("waypost-{}-{at}", route.replace('/', "-"))),
        header: spec.r#type == SessionType::Header,
        absolute_timeout: wire(spec.absolute_timeout.as_ref()),
        idle_timeout: wire(spec.idle_timeout.as_ref()),
        permanent: spec.is_permanent(),
    }
}
