//! Gateways: their listeners, what they need, and which routes they allow.
//!
//! All Gateways stand on the same proxies, so listeners of different Gateways share the ports. Of two that cannot share
//! one (HTTP beside HTTPS, or the same hostname twice), both are in conflict within one Gateway, as the specification
//! demands; between two Gateways the older one's stays.
//!
//! A listener that lacks what it needs to be safe (no good certificate, no good authority for clients) is not served.
//!
//! Deliberately absent: binding ports.

use waypost_proto::{
    name::DEFAULT_NAMESPACE,
    resource::{
        Kind, ResourceKey,
        backend::ParentRef,
        gateway::{Gateway, IMPLICIT_GATEWAY, Listener, ListenerProtocol as Spoken},
        key::GATEWAY_GROUP,
    },
    v1::{DeclaredEntry, ListenerEntry, ListenerProtocol, declared_entry},
};

use super::{
    Made,
    condition::{ACCEPTED, CONFLICTED, Condition, RESOLVED_REFS},
    needs::Looking,
    outcome::{Body, GatewayOutcome, ListenerOutcome},
    set::Declared,
    tls,
};

/// The kinds of routes that listeners can have.
const KINDS: [Kind; 2] = [Kind::HttpRoute, Kind::GrpcRoute];

/// Whether this names the Gateway that is always there.
pub(super) fn is_implicit(key: &ResourceKey) -> bool {
    key.name() == IMPLICIT_GATEWAY && key.namespace() == DEFAULT_NAMESPACE
}

/// The id of a listener's entry.
pub(super) fn listener_id(namespace: &str, gateway: &str, listener: &str) -> String {
    format!("listener/{namespace}/{gateway}/{listener}")
}

/// What a route without `parentRefs` means.
pub(super) fn implicit() -> ParentRef {
    ParentRef {
        group: GATEWAY_GROUP.to_owned(),
        kind: Kind::Gateway.name().to_owned(),
        namespace: Some(DEFAULT_NAMESPACE.to_owned()),
        name: IMPLICIT_GATEWAY.to_owned(),
        section_name: None,
        port: None,
    }
}

/// Compiles a Gateway.
pub(super) fn made(looking: &mut Looking<'_>, declared: &Declared, spec: &Gateway) -> Made {
    let mut entries = Vec::new();
    let mut listeners = Vec::new();
    for listener in &spec.listeners {
        let (outcome, mut made) = listen(looking, declared, spec, listener);
        listeners.push(outcome);
        entries.append(&mut made);
    }
    let bad: Vec<&str> =
        listeners.iter().filter(|one| !one.accepted.holds).map(|one| one.name.as_str()).collect();
    let message = format!("these listeners are not accepted: {}", bad.join(", "));
    let accepted = if bad.is_empty() {
        Condition::holds(ACCEPTED, ACCEPTED)
    } else if bad.len() < listeners.len() {
        Condition::holds(ACCEPTED, "ListenersNotValid").saying(message)
    } else {
        Condition::fails(ACCEPTED, "ListenersNotValid", message)
    };
    let insecure = tls::insecure(spec);
    let outcome = GatewayOutcome { accepted, insecure, listeners };
    Made { entries, external: None, body: Some(Body::Gateway(outcome)) }
}

fn listen(
    looking: &mut Looking<'_>,
    declared: &Declared,
    gateway: &Gateway,
    listener: &Listener,
) -> (ListenerOutcome, Vec<DeclaredEntry>) {
    let key = declared.key();
    let conflict = conflict(looking, declared, listener);
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|kind| listener.allows_kind(*kind)).collect();
    let named = &listener.allowed_routes.kinds;
    let known = named
        .iter()
        .all(|named| named.group == GATEWAY_GROUP && KINDS.iter().any(|kind| kind.name() == named.kind));
    let mut resolved = Condition::holds(RESOLVED_REFS, RESOLVED_REFS);
    if !known {
        let message = "allowedRoutes.kinds names kinds that this listener cannot have; it can have HTTPRoute and GRPCRoute";
        resolved = Condition::fails(RESOLVED_REFS, "InvalidRouteKinds", message);
    }
    let mut entry = ListenerEntry {
        namespace: key.namespace().to_owned(),
        gateway: key.name().to_owned(),
        name: listener.name.clone(),
        port: listener.port.into(),
        protocol: ListenerProtocol::Http.into(),
        hostname: listener.hostname.clone().unwrap_or_default(),
        ..ListenerEntry::default()
    };
    let mut entries = Vec::new();
    let (mut safe, mut authorized) = (true, true);
    if listener.protocol == Spoken::Https {
        entry.protocol = ListenerProtocol::Https.into();
        let found = tls::frontend(looking, key, gateway, listener);
        entry.certificates = found.certificates;
        entry.client_authorities = found.authorities;
        entry.client_may_be_anonymous = found.may_be_anonymous;
        entry.minimum_tls_version = found.minimum_version;
        entries = found.entries;
        safe = found.safe;
        authorized = found.authorized;
        resolved = found.problem.unwrap_or(resolved);
    }
    let served = conflict.is_none() && safe && !kinds.is_empty();
    if served {
        let id = listener_id(key.namespace(), key.name(), &listener.name);
        entries.push(DeclaredEntry { id, kind: Some(declared_entry::Kind::Listener(entry)) });
    } else {
        entries.clear();
    }
    let conflicted =
        Condition { kind: CONFLICTED, holds: false, reason: "NoConflicts", message: String::new() };
    let accepted = Condition::holds(ACCEPTED, ACCEPTED);
    let (accepted, conflicted) = match conflict {
        None if !authorized => {
            let message = "none of the authorities that clients' certificates are checked with can be used";
            (Condition::fails(ACCEPTED, "NoValidCACertificate", message), conflicted)
        }
        None => (accepted, conflicted),
        Some((reason, message)) => (
            Condition::fails(ACCEPTED, reason, message.clone()),
            Condition::holds(CONFLICTED, reason).saying(message),
        ),
    };
    let name = listener.name.clone();
    (ListenerOutcome { name, accepted, resolved, conflicted, kinds, served }, entries)
}

/// Why a listener cannot have its port beside others, if it cannot.
fn conflict(
    looking: &mut Looking<'_>,
    declared: &Declared,
    listener: &Listener,
) -> Option<(&'static str, String)> {
    let age = |declared: &Declared| (declared.created_at, declared.key().clone());
    for other in looking.at_port(listener.port) {
        let same_gateway = other.key() == declared.key();
        if !same_gateway && age(other) > age(declared) {
            continue;
        }
        let Some(spec) = other.gateway() else { continue };
        let rivals = spec
            .listeners
            .iter()
            .filter(|rival| rival.port == listener.port && !(same_gateway && rival.name == listener.name));
        for rival in rivals {
            let whose =
                format!("{} of Gateway {}/{}", rival.name, other.key().namespace(), other.key().name());
            if rival.protocol != listener.protocol {
                let message = format!("port {} has another protocol in listener {whose}", listener.port);
                return Some(("ProtocolConflict", message));
            }
            if rival.hostname == listener.hostname {
                let message =
                    format!("port {} and this hostname are those of listener {whose} too", listener.port);
                return Some(("HostnameConflict", message));
            }
        }
    }
    None
}
