//! Where a route attaches: its `parentRefs` against the listeners of the Gateways that they name.
//!
//! A reference chooses listeners by `sectionName` and `port`, all of them where it names neither. Of those, the ones
//! that allow the route's kind and namespace are left, and of those, the ones whose hostname has something in common
//! with the route's. The first of these steps that leaves nothing is the reason that the route is told.
//!
//! A route without `parentRefs` attaches to the Gateway that is always there (`default/waypost`, its listener `http` is
//! the proxy's own). It may be named as well; it allows routes of all namespaces.
//!
//! Deliberately absent: which of several listeners takes a request (the data plane chooses the most specific).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use waypost_proto::{
    resource::{Kind, ResourceKey, backend::ParentRef, gateway::IMPLICIT_LISTENER, hostname},
    v1::Attachment,
};

use super::{
    condition::{ACCEPTED, Condition},
    listener,
    needs::Looking,
    outcome::ParentOutcome,
};

/// What of a route decides where it attaches.
pub(super) struct Head<'a> {
    pub(super) kind: Kind,
    pub(super) namespace: &'a str,
    pub(super) hostnames: &'a [String],
    pub(super) parents: &'a [ParentRef],
}

/// A listener that a reference chooses, as far as attaching goes.
struct Candidate<'a> {
    name: &'a str,
    hostname: &'a str,
    /// Whether it allows the route.
    allows: bool,
    /// Whether there is nothing wrong with the listener itself.
    accepted: bool,
    /// Whether proxies serve it.
    served: bool,
}

/// What became of each parent, and the attachments, sorted by listener.
pub(super) fn attach(looking: &mut Looking<'_>, head: &Head<'_>) -> (Vec<ParentOutcome>, Vec<Attachment>) {
    let mut attachments: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let implicit = [listener::implicit()];
    let references = if head.parents.is_empty() { &implicit } else { head.parents };
    let parents =
        references.iter().map(|reference| parent(looking, head, reference, &mut attachments)).collect();
    let attachment = |(listener, hostnames): (String, BTreeSet<String>)| Attachment {
        listener,
        // A name beside "any" adds nothing.
        hostnames: if hostnames.contains("") { Vec::new() } else { hostnames.into_iter().collect() },
    };
    (parents, attachments.into_iter().map(attachment).collect())
}

fn parent(
    looking: &mut Looking<'_>,
    head: &Head<'_>,
    reference: &ParentRef,
    attachments: &mut BTreeMap<String, BTreeSet<String>>,
) -> ParentOutcome {
    let namespace = reference.namespace.as_deref().unwrap_or(head.namespace);
    let mut outcome = ParentOutcome {
        reference: written(reference, namespace),
        gateway: None,
        accepted: Condition::holds(ACCEPTED, ACCEPTED),
        listeners: Vec::new(),
    };
    let key = match ResourceKey::new(Kind::Gateway, namespace, &reference.name) {
        Ok(key) => key,
        // The documents' check leaves none of these.
        Err(violation) => {
            outcome.accepted = Condition::fails(ACCEPTED, "NoMatchingParent", violation.to_string());
            return outcome;
        }
    };
    let chosen = candidates(looking, head, reference, &key).and_then(|candidates| choose(head, candidates));
    outcome.gateway = Some(key);
    match chosen {
        Err(why) => outcome.accepted = why,
        Ok(chosen) => {
            for (candidate, hostnames) in chosen {
                outcome.listeners.push(candidate.name.to_owned());
                if candidate.served {
                    let id = listener::listener_id(namespace, &reference.name, candidate.name);
                    let held = attachments.entry(id).or_default();
                    // The empty name stands for any.
                    held.extend(if hostnames.is_empty() { vec![String::new()] } else { hostnames });
                }
            }
        }
    }
    outcome
}

/// The listeners that a reference chooses by `sectionName` and `port`.
fn candidates<'a>(
    looking: &mut Looking<'a>,
    head: &Head<'_>,
    reference: &ParentRef,
    key: &ResourceKey,
) -> Result<Vec<Candidate<'a>>, Condition> {
    let no_parent = |message: String| Condition::fails(ACCEPTED, "NoMatchingParent", message);
    let declared = looking.find(key.clone());
    let Some(spec) = declared.and_then(|declared| declared.gateway()) else {
        if listener::is_implicit(key) {
            return implicit_candidate(reference).ok_or_else(|| {
                no_parent(
                    "the Gateway that is always there has one listener, http, of no port of its own"
                        .to_owned(),
                )
            });
        }
        return Err(no_parent(format!("there is no Gateway {}/{}", key.namespace(), key.name())));
    };
    let outcome = looking.gateway(key);
    let status =
        |name: &str| outcome.and_then(|outcome| outcome.listeners.iter().find(|one| one.name == name));
    let chosen = spec.listeners.iter().filter(|listener| {
        reference.section_name.as_ref().is_none_or(|name| *name == listener.name)
            && reference.port.is_none_or(|port| port == listener.port)
    });
    let candidates: Vec<Candidate<'a>> = chosen
        .map(|listener| Candidate {
            name: &listener.name,
            hostname: listener.hostname.as_deref().unwrap_or_default(),
            allows: listener.allows_kind(head.kind)
                && listener.allows_namespace(key.namespace(), head.namespace),
            accepted: status(&listener.name).is_some_and(|status| status.accepted.holds),
            served: status(&listener.name).is_some_and(|status| status.served),
        })
        .collect();
    if candidates.is_empty() {
        let wanted = [
            reference.section_name.as_ref().map(|name| format!("the name {name:?}")),
            reference.port.map(|port| format!("the port {port}")),
        ];
        let wanted: Vec<String> = wanted.into_iter().flatten().collect();
        let message =
            format!("no listener of Gateway {}/{} has {}", key.namespace(), key.name(), wanted.join(" and "));
        return Err(no_parent(message));
    }
    Ok(candidates)
}

fn implicit_candidate(reference: &ParentRef) -> Option<Vec<Candidate<'static>>> {
    let named = reference.section_name.as_deref().is_none_or(|name| name == IMPLICIT_LISTENER);
    let candidate =
        Candidate { name: IMPLICIT_LISTENER, hostname: "", allows: true, accepted: true, served: true };
    (named && reference.port.is_none()).then(|| vec![candidate])
}

/// The candidates that take the route, with the hostnames in common.
fn choose<'a>(
    head: &Head<'_>,
    candidates: Vec<Candidate<'a>>,
) -> Result<Vec<(Candidate<'a>, Vec<String>)>, Condition> {
    let fails = |reason, message: &str| Err(Condition::fails(ACCEPTED, reason, message));
    let allowing: Vec<_> = candidates.into_iter().filter(|candidate| candidate.allows).collect();
    if allowing.is_empty() {
        let message =
            "none of these listeners allows routes of this kind from this namespace (allowedRoutes)";
        return fails("NotAllowedByListeners", message);
    }
    let common = |candidate: Candidate<'a>| {
        let hostnames = hostname::in_common(candidate.hostname, head.hostnames)?;
        Some((candidate, hostnames))
    };
    let fitting: Vec<_> = allowing.into_iter().filter_map(common).collect();
    if fitting.is_empty() {
        let message = "the hostnames have nothing in common with those of the listeners";
        return fails("NoMatchingListenerHostname", message);
    }
    if !fitting.iter().any(|(candidate, _)| candidate.accepted) {
        return fails("NoReadyListeners", "the listeners are not accepted; the Gateway's status says why");
    }
    // Those beside that are not accepted count the route all the same (Gateway API, `ListenerStatus.attachedRoutes`).
    Ok(fitting)
}

/// The reference as it is written, with its defaults.
fn written(reference: &ParentRef, namespace: &str) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("group", "gateway.networking.k8s.io".into());
    put("kind", "Gateway".into());
    put("namespace", namespace.into());
    put("name", reference.name.clone().into());
    if let Some(section) = &reference.section_name {
        put("sectionName", section.clone().into());
    }
    if let Some(port) = reference.port {
        put("port", port.into());
    }
    Value::Object(fields)
}
