//! Rules of HTTPRoute and GRPCRoute.

use std::collections::BTreeMap;

use super::{
    Rules,
    filter::{self, Place},
    kind_of, text,
};
use crate::{
    name::ServiceKey,
    resource::{
        backend::{BackendKind, BackendRef, ParentRef},
        finding::FieldPath,
        key::{GATEWAY_GROUP, is_subdomain},
        route::{
            CookieLifetime, GrpcMethodMatch, GrpcRoute, GrpcRule, HttpMatch, HttpRoute, HttpRule,
            PathMatchType, Retry, SessionPersistence, SessionType, Timeouts, ValueMatch, ValueMatchType,
        },
    },
};

const MAX_PARENTS: usize = 32;
const MAX_HOSTNAMES: usize = 16;
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
/// Of all rules of a route together.
const MAX_ALL_MATCHES: usize = 128;
const MAX_VALUES: usize = 16;
const MAX_BACKENDS: usize = 16;
const MAX_WEIGHT: u32 = 1_000_000;
const MAX_SELECTED: usize = 16;
/// Our own bound: more tries than this would outlive every client.
pub(super) const MAX_ATTEMPTS: u32 = 100;

/// An HTTPRoute.
pub(super) fn http(rules: &mut Rules, path: &FieldPath, route: &HttpRoute) {
    ends(rules, path, &route.parent_refs, &route.hostnames);
    let list = path.key("rules");
    rules.count(&list, route.rules.len(), 1, MAX_RULES);
    let matches = route.rules.iter().map(|rule| rule.matches.len()).sum();
    all_matches(rules, &list, matches);
    names(rules, &list, route.rules.iter().map(|rule| rule.name.as_ref()));
    for (index, rule) in route.rules.iter().enumerate() {
        http_rule(rules, &list.index(index), rule);
    }
}

/// A GRPCRoute.
pub(super) fn grpc(rules: &mut Rules, path: &FieldPath, route: &GrpcRoute) {
    ends(rules, path, &route.parent_refs, &route.hostnames);
    let list = path.key("rules");
    rules.count(&list, route.rules.len(), 0, MAX_RULES);
    let matches = route.rules.iter().map(|rule| rule.matches.len()).sum();
    all_matches(rules, &list, matches);
    names(rules, &list, route.rules.iter().map(|rule| rule.name.as_ref()));
    for (index, rule) in route.rules.iter().enumerate() {
        grpc_rule(rules, &list.index(index), rule);
    }
}

/// Where a route's requests come in, and for which hosts.
fn ends(rules: &mut Rules, path: &FieldPath, parents: &[ParentRef], hostnames: &[String]) {
    let list = path.key("hostnames");
    rules.count(&list, hostnames.len(), 0, MAX_HOSTNAMES);
    for (index, hostname) in hostnames.iter().enumerate() {
        rules.text(&list.index(index), hostname, text::hostname);
    }
    let list = path.key("parentRefs");
    rules.count(&list, parents.len(), 0, MAX_PARENTS);
    // Two references to one parent must say how they differ.
    let mut by_parent: BTreeMap<(Option<&String>, &String), Vec<usize>> = BTreeMap::new();
    for (index, parent) in parents.iter().enumerate() {
        let at = list.index(index);
        if (parent.group.as_str(), parent.kind.as_str()) != (GATEWAY_GROUP, "Gateway") {
            let kind = kind_of(&parent.group, &parent.kind);
            rules.refuse_value(&at.key("kind"), kind, format!("must be {GATEWAY_GROUP}/Gateway"));
        }
        rules.resource_name(&at.key("name"), &parent.name);
        rules.namespace(&at.key("namespace"), parent.namespace.as_ref());
        if let Some(section) = &parent.section_name
            && !is_subdomain(section)
        {
            rules.refuse_value(&at.key("sectionName"), section, "must be a listener's name");
        }
        if let Some(port) = parent.port {
            rules.port(&at.key("port"), port);
        }
        by_parent.entry((parent.namespace.as_ref(), &parent.name)).or_default().push(index);
    }
    for same in by_parent.into_values().filter(|same| same.len() > 1) {
        for index in &same {
            let parent = &parents[*index];
            if parent.section_name.is_none() && parent.port.is_none() {
                let reason = "names a Gateway that is named twice: each needs a sectionName or a port";
                rules.refuse(&list.index(*index), reason);
            }
        }
        rules.unique(same.iter().map(|index| {
            (list.index(*index), (parents[*index].section_name.as_ref(), parents[*index].port))
        }));
    }
}

fn all_matches(rules: &mut Rules, list: &FieldPath, matches: usize) {
    if matches > MAX_ALL_MATCHES {
        rules.refuse(
            list,
            format!("have {matches} matches together, and at most {MAX_ALL_MATCHES} are allowed"),
        );
    }
}

fn names<'a>(rules: &mut Rules, list: &FieldPath, names: impl Iterator<Item = Option<&'a String>>) {
    let named: Vec<(FieldPath, &String)> = names
        .enumerate()
        .filter_map(|(index, name)| name.map(|name| (list.index(index).key("name"), name)))
        .collect();
    for (at, name) in &named {
        if !is_subdomain(name) {
            rules.refuse_value(at, name, "must be lower-case letters, digits, '-' and '.'");
        }
    }
    rules.unique(named);
}

fn http_rule(rules: &mut Rules, at: &FieldPath, rule: &HttpRule) {
    rules.count(&at.key("matches"), rule.matches.len(), 0, MAX_MATCHES);
    for (index, wanted) in rule.matches.iter().enumerate() {
        http_match(rules, &at.item("matches", index), wanted);
    }
    let one_prefix =
        matches!(rule.matches.as_slice(), [only] if only.path.r#type == PathMatchType::PathPrefix);
    filter::filters(rules, &at.key("filters"), &rule.filters, Place::HttpRule, one_prefix);
    backends(rules, &at.key("backendRefs"), &rule.backend_refs, Place::HttpBackend, one_prefix);
    let redirects = rule
        .filters
        .iter()
        .any(|filter| matches!(filter, crate::resource::filter::Filter::RequestRedirect(_)));
    if redirects && !rule.backend_refs.is_empty() {
        rules.refuse(&at.key("backendRefs"), "a rule that redirects has no backends");
    }
    if let Some(limits) = &rule.timeouts {
        timeouts(rules, &at.key("timeouts"), limits);
    }
    if let Some(again) = &rule.retry {
        retry(rules, &at.key("retry"), again);
    }
    if let Some(session) = &rule.session_persistence {
        session_persistence(rules, &at.key("sessionPersistence"), session);
    }
}

fn http_match(rules: &mut Rules, at: &FieldPath, wanted: &HttpMatch) {
    let value = at.keys("path.value");
    match wanted.path.r#type {
        PathMatchType::Exact | PathMatchType::PathPrefix => {
            rules.text(&value, &wanted.path.value, text::path);
        }
        PathMatchType::RegularExpression => {
            rules.text(&value, &wanted.path.value, |pattern| text::regex(pattern, 1024));
        }
    }
    headers(rules, &at.key("headers"), &wanted.headers);
    let list = at.key("queryParams");
    rules.count(&list, wanted.query_params.len(), 0, MAX_VALUES);
    for (index, parameter) in wanted.query_params.iter().enumerate() {
        let at = list.index(index);
        rules.text(&at.key("name"), &parameter.name, text::header_name);
        match parameter.r#type {
            ValueMatchType::Exact => rules.text(&at.key("value"), &parameter.value, text::query_value),
            ValueMatchType::RegularExpression => {
                rules.text(&at.key("value"), &parameter.value, |pattern| text::regex(pattern, 1024));
            }
        }
    }
    let parameters = wanted.query_params.iter().enumerate();
    rules.unique(parameters.map(|(index, parameter)| (list.index(index), &parameter.name)));
}

fn headers(rules: &mut Rules, list: &FieldPath, wanted: &[ValueMatch]) {
    rules.count(list, wanted.len(), 0, MAX_VALUES);
    for (index, header) in wanted.iter().enumerate() {
        let at = list.index(index);
        rules.text(&at.key("name"), &header.name, text::header_name);
        match header.r#type {
            ValueMatchType::Exact => rules.text(&at.key("value"), &header.value, text::header_value),
            ValueMatchType::RegularExpression => {
                rules.text(&at.key("value"), &header.value, |pattern| text::regex(pattern, 4096));
            }
        }
    }
    let fields = wanted.iter().enumerate();
    rules.unique(fields.map(|(index, header)| (list.index(index), header.name.to_ascii_lowercase())));
}

fn grpc_rule(rules: &mut Rules, at: &FieldPath, rule: &GrpcRule) {
    rules.count(&at.key("matches"), rule.matches.len(), 0, MAX_MATCHES);
    for (index, wanted) in rule.matches.iter().enumerate() {
        let at = at.item("matches", index);
        if let Some(method) = &wanted.method {
            grpc_method(rules, &at.key("method"), method);
        }
        headers(rules, &at.key("headers"), &wanted.headers);
    }
    filter::filters(rules, &at.key("filters"), &rule.filters, Place::GrpcRule, false);
    backends(rules, &at.key("backendRefs"), &rule.backend_refs, Place::GrpcBackend, false);
    if let Some(session) = &rule.session_persistence {
        session_persistence(rules, &at.key("sessionPersistence"), session);
    }
}

fn grpc_method(rules: &mut Rules, at: &FieldPath, wanted: &GrpcMethodMatch) {
    if wanted.service.is_none() && wanted.method.is_none() {
        rules.refuse(at, "needs a service, a method, or both");
    }
    let identifier = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    for (name, value) in [("service", &wanted.service), ("method", &wanted.method)] {
        let Some(value) = value else { continue };
        let at = at.key(name);
        let fits = match (wanted.r#type, name) {
            (ValueMatchType::RegularExpression, _) => {
                rules.text(&at, value, |pattern| text::regex(pattern, 1024));
                continue;
            }
            (ValueMatchType::Exact, "method") => identifier(value),
            (ValueMatchType::Exact, _) => value.strip_prefix('.').unwrap_or(value).split('.').all(identifier),
        };
        if !fits || value.len() > 1024 {
            rules.refuse_value(&at, value, format!("must be a {name}'s name as a .proto file has it"));
        }
    }
}

fn backends(rules: &mut Rules, list: &FieldPath, backends: &[BackendRef], place: Place, one_prefix: bool) {
    rules.count(list, backends.len(), 0, MAX_BACKENDS);
    for (index, to) in backends.iter().enumerate() {
        let at = list.index(index);
        let reference = Backend {
            group: &to.group,
            kind: &to.kind,
            name: &to.name,
            namespace: to.namespace.as_ref(),
            port: to.port,
            versions: &to.versions,
            tags: &to.tags,
        };
        backend(rules, &at, &reference);
        rules.range(&at.key("weight"), to.weight, 0, MAX_WEIGHT);
        filter::filters(rules, &at.key("filters"), &to.filters, place, one_prefix);
    }
}

/// What references to backends have in common.
pub(super) struct Backend<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a String>,
    pub(super) port: Option<u16>,
    pub(super) versions: &'a [String],
    pub(super) tags: &'a [String],
}

/// A reference to a backend.
pub(super) fn backend(rules: &mut Rules, at: &FieldPath, to: &Backend<'_>) {
    rules.namespace(&at.key("namespace"), to.namespace);
    if let Some(port) = to.port {
        rules.port(&at.key("port"), port);
    }
    match BackendKind::of(to.group, to.kind) {
        Some(BackendKind::Service) => {
            if let Err(violation) = ServiceKey::new("", to.name) {
                rules.refuse_value(&at.key("name"), to.name, violation.rule);
            }
        }
        Some(BackendKind::ExternalService) => rules.resource_name(&at.key("name"), to.name),
        None => {
            let found = kind_of(to.group, to.kind);
            let reason =
                "is no backend: the kinds are Service (with no group) and waypost.dev/ExternalService";
            rules.refuse_value(&at.key("kind"), found, reason);
        }
    }
    for (name, values) in [("versions", to.versions), ("tags", to.tags)] {
        let list = at.key(name);
        rules.count(&list, values.len(), 0, MAX_SELECTED);
        rules.unique(values.iter().enumerate().map(|(index, value)| (list.index(index), value)));
        for (index, value) in values.iter().enumerate() {
            rules.text(&list.index(index), value, text::label);
        }
        if !values.is_empty() && BackendKind::of(to.group, to.kind) == Some(BackendKind::ExternalService) {
            rules.refuse(&list, format!("an ExternalService has no {name}"));
        }
    }
}

fn timeouts(rules: &mut Rules, at: &FieldPath, limits: &Timeouts) {
    if let (Some(request), Some(backend)) = (&limits.request, &limits.backend_request)
        && !request.is_zero()
        && backend.get() > request.get()
    {
        let reason = format!("must not be longer than the request timeout, {request}");
        rules.refuse_value(&at.key("backendRequest"), backend, reason);
    }
}

fn retry(rules: &mut Rules, at: &FieldPath, again: &Retry) {
    let list = at.key("codes");
    rules.unique(again.codes.iter().enumerate().map(|(index, code)| (list.index(index), code)));
    for (index, code) in again.codes.iter().enumerate() {
        rules.range(&list.index(index), u32::from(*code), 400, 599);
    }
    if let Some(attempts) = again.attempts {
        rules.range(&at.key("attempts"), attempts, 0, MAX_ATTEMPTS);
    }
}

fn session_persistence(rules: &mut Rules, at: &FieldPath, session: &SessionPersistence) {
    if let Some(name) = &session.session_name {
        rules.text(&at.key("sessionName"), name, text::header_name);
        if name.len() > 128 {
            rules.refuse(&at.key("sessionName"), "must be at most 128 bytes");
        }
    }
    if let Some(config) = &session.cookie_config {
        if session.r#type == SessionType::Header {
            rules.refuse(&at.key("cookieConfig"), "is for sessions of type Cookie");
        }
        if config.lifetime_type == CookieLifetime::Permanent && session.absolute_timeout.is_none() {
            rules.refuse(&at.key("absoluteTimeout"), "is required for a cookie with lifetimeType Permanent");
        }
    }
}
