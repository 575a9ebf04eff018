//! Where routes attach: whether their parents are there, let them in, and have a hostname in common with them.
//!
//! A route without `parentRefs` attaches to the Gateway that is always there, whose one listener is the proxy's own.

use super::{
    Resources,
    problem::{Cause, Problem},
    route::Route,
};
use crate::{
    name::DEFAULT_NAMESPACE,
    resource::{
        FieldPath, Finding, Kind,
        backend::ParentRef,
        gateway::{Gateway, IMPLICIT_GATEWAY, IMPLICIT_LISTENER, Listener},
        hostname,
        key::nearest,
    },
};

/// A listener that takes requests for a route.
pub(super) struct Spot<'a> {
    /// Namespace and name of the Gateway.
    pub(super) gateway: (&'a str, &'a str),
    pub(super) listener: &'a str,
    /// For which hosts; empty means any.
    pub(super) hostnames: Vec<String>,
}

/// A parent of a route, for what is said of it.
struct Parent<'a, 'p> {
    route: &'p Route<'a>,
    /// `None` where the route names none.
    reference: Option<(usize, &'a ParentRef)>,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Parent<'a, '_> {
    fn field(&self) -> FieldPath {
        self.reference.map_or(FieldPath::spec(), |(index, _)| FieldPath::spec().item("parentRefs", index))
    }

    fn cause(&self) -> Cause {
        Cause::resource(Kind::Gateway, self.namespace, self.name)
    }

    fn label(&self) -> String {
        format!("Gateway {}/{}", self.namespace, self.name)
    }

    /// A listener that is not there.
    fn absent(&self, finding: Finding, found: &mut Vec<Problem<'a>>) {
        found.push(Problem::with(self.route.key(), finding, self.cause()));
    }
}

/// The listeners that take requests for a route.
pub(super) fn attach<'a>(
    set: &Resources<'a>,
    route: &Route<'a>,
    found: &mut Vec<Problem<'a>>,
) -> Vec<Spot<'a>> {
    if route.parents.is_empty() {
        let (namespace, name) = (DEFAULT_NAMESPACE, IMPLICIT_GATEWAY);
        return to_parent(set, &Parent { route, reference: None, namespace, name }, found);
    }
    let mut spots = Vec::new();
    for (index, reference) in route.parents.iter().enumerate() {
        let namespace = reference.namespace.as_deref().unwrap_or(route.namespace());
        let parent = Parent { route, reference: Some((index, reference)), namespace, name: &reference.name };
        spots.extend(to_parent(set, &parent, found));
    }
    if !spots.is_empty() {
        unused_hostnames(set, route, &spots, found);
    }
    spots
}

fn to_parent<'a>(
    set: &Resources<'a>,
    parent: &Parent<'a, '_>,
    found: &mut Vec<Problem<'a>>,
) -> Vec<Spot<'a>> {
    let Some(gateway) = set.gateway(parent.namespace, parent.name) else {
        if (parent.namespace, parent.name) == (DEFAULT_NAMESPACE, IMPLICIT_GATEWAY) {
            return implicit(parent, found).into_iter().collect();
        }
        let reason = format!("is no Gateway of namespace {}", parent.namespace);
        let finding = Finding::error(parent.field().key("name"), reason)
            .value(parent.name)
            .suggest(set.meant(Kind::Gateway, parent.namespace, parent.name));
        found.push(Problem::absent(parent.route.key(), finding, parent.cause()));
        return Vec::new();
    };
    let chosen = chosen(parent, gateway, found);
    if chosen.is_empty() {
        return Vec::new();
    }
    let route = parent.route;
    let allowing: Vec<&'a Listener> = chosen
        .into_iter()
        .filter(|listener| {
            listener.allows_kind(route.kind())
                && listener.allows_namespace(parent.namespace, route.namespace())
        })
        .collect();
    if allowing.is_empty() {
        found.push(Problem::with(route.key(), not_allowed(parent), parent.cause()));
        return Vec::new();
    }
    let spots: Vec<Spot<'a>> = allowing
        .iter()
        .filter_map(|listener| {
            let hostname = listener.hostname.as_deref().unwrap_or_default();
            let hostnames = hostname::in_common(hostname, route.hostnames)?;
            Some(Spot { gateway: (parent.namespace, parent.name), listener: &listener.name, hostnames })
        })
        .collect();
    if spots.is_empty() {
        let reason = format!("have nothing in common with {} of {}", hosts(&allowing), parent.label());
        let known = allowing.iter().filter_map(|listener| listener.hostname.as_deref());
        let near = route.hostnames.iter().find_map(|name| nearest(name, known.clone()));
        let how = match near {
            Some(near) => match near.strip_prefix("*.") {
                Some(domain) => format!("did you mean a host below {domain:?}?"),
                None => format!("did you mean {near:?}?"),
            },
            None => "name hosts of these listeners, or none, which means all of theirs".to_owned(),
        };
        let finding = Finding::error(FieldPath::spec().key("hostnames"), reason).suggest(how);
        found.push(Problem::with(route.key(), finding, parent.cause()));
    }
    spots
}

/// The one listener of the Gateway that is always there.
fn implicit<'a>(parent: &Parent<'a, '_>, found: &mut Vec<Problem<'a>>) -> Option<Spot<'a>> {
    let reference = parent.reference.map(|(_, reference)| reference);
    let section = reference.and_then(|reference| reference.section_name.as_deref());
    if let Some(section) = section.filter(|section| *section != IMPLICIT_LISTENER) {
        let finding = Finding::error(parent.field().key("sectionName"), no_listener(parent));
        let finding = finding.value(section).suggest(format!("its listener is {IMPLICIT_LISTENER}"));
        parent.absent(finding, found);
        return None;
    }
    if let Some(port) = reference.and_then(|reference| reference.port) {
        let reason = format!("chooses no listener of {}, whose port is each proxy's own", parent.label());
        parent.absent(Finding::error(parent.field().key("port"), reason).value(port), found);
        return None;
    }
    let hostnames = hostname::in_common("", parent.route.hostnames)?;
    Some(Spot { gateway: (parent.namespace, parent.name), listener: IMPLICIT_LISTENER, hostnames })
}

fn no_listener(parent: &Parent<'_, '_>) -> String {
    format!("is no listener of {}", parent.label())
}

/// The listeners that a reference chooses by name and port.
fn chosen<'a>(
    parent: &Parent<'a, '_>,
    gateway: &'a Gateway,
    found: &mut Vec<Problem<'a>>,
) -> Vec<&'a Listener> {
    let all = || gateway.listeners.iter();
    let Some((_, reference)) = parent.reference else { return all().collect() };
    let named =
        |listener: &Listener| reference.section_name.as_ref().is_none_or(|name| *name == listener.name);
    let at_port = |listener: &Listener| reference.port.is_none_or(|port| port == listener.port);
    let chosen: Vec<&'a Listener> = all().filter(|listener| named(listener) && at_port(listener)).collect();
    if !chosen.is_empty() {
        return chosen;
    }
    let at = parent.field();
    let finding = match (&reference.section_name, reference.port) {
        (Some(name), _) if !all().any(named) => {
            let names: Vec<&str> = all().map(|listener| listener.name.as_str()).collect();
            let finding = Finding::error(at.key("sectionName"), no_listener(parent)).value(name);
            match nearest(name, names.iter().copied()) {
                Some(near) => finding.suggest(format!("did you mean {near:?}?")),
                None => finding.suggest(format!("its listeners are {}", names.join(", "))),
            }
        }
        (_, Some(port)) if !all().any(at_port) => {
            let ports: Vec<String> = all().map(|listener| listener.port.to_string()).collect();
            Finding::error(at.key("port"), format!("is the port of no listener of {}", parent.label()))
                .value(port)
                .suggest(format!("its listeners have {}", ports.join(", ")))
        }
        _ => Finding::error(at, format!("no listener of {} has this name and this port", parent.label()))
            .suggest("leave one of the two out"),
    };
    parent.absent(finding, found);
    Vec::new()
}

fn not_allowed(parent: &Parent<'_, '_>) -> Finding {
    let (kind, namespace) = (parent.route.kind(), parent.route.namespace());
    let reason = format!(
        "lets no {kind}s of namespace {namespace} attach (allowedRoutes): the route takes no requests there"
    );
    let finding = Finding::warning(parent.field(), reason).value(parent.label());
    if parent.namespace == namespace {
        finding.suggest("a listener without \"allowedRoutes.kinds\" lets both kinds attach")
    } else {
        finding.suggest("a listener with \"allowedRoutes: {namespaces: {from: All}}\" lets all attach")
    }
}

/// Hostnames of listeners, for people.
fn hosts(listeners: &[&Listener]) -> String {
    let one = |listener: &&Listener| {
        format!("listener {} ({})", listener.name, listener.hostname.as_deref().unwrap_or("any host"))
    };
    listeners.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Hostnames that no listener takes, where others are taken.
fn unused_hostnames<'a>(
    set: &Resources<'a>,
    route: &Route<'a>,
    spots: &[Spot<'a>],
    found: &mut Vec<Problem<'a>>,
) {
    if route.hostnames.len() < 2 {
        return;
    }
    let taken = |spot: &Spot<'a>, name: &String| {
        let listeners = set.gateway(spot.gateway.0, spot.gateway.1).map(|gateway| &gateway.listeners);
        let listener = listeners.and_then(|all| all.iter().find(|listener| listener.name == spot.listener));
        let hostname = listener.and_then(|listener| listener.hostname.as_deref()).unwrap_or_default();
        hostname::in_common(hostname, std::slice::from_ref(name)).is_some()
    };
    for (index, name) in route.hostnames.iter().enumerate() {
        if spots.iter().any(|spot| taken(spot, name)) {
            continue;
        }
        let at = FieldPath::spec().item("hostnames", index);
        let finding = Finding::warning(at, "is taken by none of the listeners").value(name);
        let finding = finding.suggest("leave it out, or have a listener with a hostname that takes it");
        let cause = spots
            .first()
            .map_or(Cause::Own, |spot| Cause::resource(Kind::Gateway, spot.gateway.0, spot.gateway.1));
        found.push(Problem::with(route.key(), finding, cause));
    }
}
