//! Declared routes for tests: services with instances, and routes of one rule at the proxy's own listener.

use std::net::SocketAddr;

use waypost_proto::{
    instance::{Endpoint, Protocol},
    load::Share,
    name::{InstanceKey, ServiceKey},
    snapshot::Change,
    v1::{
        Attachment, DeclaredEntry, InstanceState, RouteBackend, RouteFilter, RouteRule, RuleMatch, RulePath,
        RuleRoute, declared_entry, route_filter,
    },
};
use waypost_proxy::serve::ServeConfig;

use crate::support::Proxy;

/// The listener that is always there.
pub(crate) const LISTENER: &str = "listener/default/waypost/http";

/// An instance of a service, with a version and an address.
pub(crate) type Named<'a> = (&'a str, &'a str, SocketAddr);

/// A proxy with instances and one route of one rule.
pub(crate) fn proxy(instances: &[Named<'_>], rule: RouteRule) -> Proxy {
    proxy_with(
        ServeConfig::default(),
        instances,
        Protocol::Http1,
        RuleRoute { rules: vec![rule], ..RuleRoute::default() },
    )
}

/// The same with a route as it is given.
pub(crate) fn proxy_with(
    config: ServeConfig,
    instances: &[Named<'_>],
    protocol: Protocol,
    route: RuleRoute,
) -> Proxy {
    let mut proxy = Proxy::without_table(config);
    let mut services: Vec<ServiceKey> = instances.iter().map(|(name, ..)| service(name)).collect();
    services.dedup();
    proxy.change(Change {
        services,
        instances: instances.iter().map(|instance| endpoint(instance, protocol)).collect(),
        declared: vec![entry(route)],
        ..Change::default()
    });
    proxy
}

/// The entry of a route at the proxy's own listener.
pub(crate) fn entry(route: RuleRoute) -> DeclaredEntry {
    let attachments = vec![Attachment { listener: LISTENER.to_owned(), hostnames: Vec::new() }];
    let (namespace, name) = ("default".to_owned(), "r".to_owned());
    let route = RuleRoute { namespace, name, attachments, ..route };
    DeclaredEntry { id: "httproute/default/r".to_owned(), kind: Some(declared_entry::Kind::Route(route)) }
}

/// A rule for all paths below a prefix, with one backend.
pub(crate) fn rule(prefix: &str, backend: RouteBackend) -> RouteRule {
    RouteRule { matches: vec![below(prefix)], backends: vec![backend], ..RouteRule::default() }
}

/// All paths below a prefix.
pub(crate) fn below(prefix: &str) -> RuleMatch {
    RuleMatch { path_kind: RulePath::Prefix.into(), path: prefix.to_owned(), ..RuleMatch::default() }
}

/// A service as a backend.
pub(crate) fn to(name: &str, weight: u32) -> RouteBackend {
    RouteBackend { service: Some(service(name).to_wire()), weight, ..RouteBackend::default() }
}

/// A filter.
pub(crate) fn filter(kind: route_filter::Kind) -> RouteFilter {
    RouteFilter { kind: Some(kind) }
}

/// A service's name.
pub(crate) fn service(name: &str) -> ServiceKey {
    name.parse().expect("a service")
}

/// An instance that takes traffic.
pub(crate) fn endpoint((name, version, address): &Named<'_>, protocol: Protocol) -> Endpoint {
    Endpoint {
        share: Share::FULL,
        key: InstanceKey::new(service(name), &address.to_string()).expect("an id"),
        address: address.to_string().parse().expect("an address"),
        version: (*version).into(),
        zone: "".into(),
        weight: 1,
        protocol,
        state: InstanceState::Up,
        tags: Vec::new(),
        epoch: 1,
    }
}
