//! Statuses as the Gateway API has them, for those who ask.
//!
//! What the resources alone say was worked out when they were compiled. What changes without them is looked at here:
//! which services are there, how many routes a listener has, and how far the proxies are.
//!
//! `Programmed` holds once every live proxy serves by the revision that made it; routes and policies have it too, which
//! the specification allows. Kinds that have no status there have none here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use serde_json::{Value, json};
use waypost_proto::{
    name::ServiceKey,
    resource::{Kind, ResourceKey, key::GATEWAY_GROUP},
};

use super::{
    Shown,
    condition::{self, ACCEPTED, CONTROLLER, Condition, Observed, PROGRAMMED, RESOLVED_REFS},
    outcome::{Body, GatewayOutcome, ListenerOutcome, Outcome, ParentOutcome, PolicyOutcome, RouteOutcome},
};

/// How far the proxies are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// The lowest revision that all live proxies serve by.
    pub watermark: u64,
    /// How many are live.
    pub proxies: u32,
    /// Their addresses, without ports.
    pub addresses: BTreeSet<String>,
}

/// What statuses are read from.
pub struct Reader<'a> {
    shown: &'a Shown,
    fleet: Fleet,
    /// Whether a service is registered.
    is_registered: &'a dyn Fn(&ServiceKey) -> bool,
    /// How many routes each listener has, by Gateway and name.
    attached: BTreeMap<(&'a ResourceKey, &'a str), usize>,
}

impl<'a> Reader<'a> {
    /// A reader of all that is shown.
    pub fn new(shown: &'a Shown, fleet: Fleet, is_registered: &'a dyn Fn(&ServiceKey) -> bool) -> Self {
        let mut attached: BTreeMap<(&ResourceKey, &str), usize> = BTreeMap::new();
        for (_, route) in routes(shown) {
            // A route that names a listener twice is one route.
            let at = |parent: &'a ParentOutcome| {
                let gateway = parent.gateway.iter();
                gateway.flat_map(|gateway| parent.listeners.iter().map(move |name| (gateway, name.as_str())))
            };
            let listeners: BTreeSet<_> = route.parents.iter().flat_map(at).collect();
            for listener in listeners {
                *attached.entry(listener).or_default() += 1;
            }
        }
        Self { shown, fleet, is_registered, attached }
    }

    /// The status of a resource; `None` where its kind has none.
    pub fn status(&self, key: &ResourceKey) -> Option<Value> {
        let outcome = self.shown.outcomes.get(key)?;
        Some(match &outcome.body {
            Body::Gateway(gateway) => self.gateway(key, outcome, gateway),
            Body::Route(route) => self.route(outcome, route),
            Body::Policy(policy) => self.policy(outcome, policy),
            Body::External(accepted) => self.external(key, outcome, accepted),
        })
    }

    fn gateway(&self, key: &ResourceKey, outcome: &Outcome, gateway: &GatewayOutcome) -> Value {
        let observed = outcome.observed;
        let served = gateway.listeners.iter().any(|listener| listener.served);
        let programmed = self.programmed(outcome, served);
        let listener = |listener: &ListenerOutcome| {
            let programmed = self.programmed(outcome, listener.served);
            let kind = |kind: &Kind| json!({ "group": kind.group(), "kind": kind.name() });
            let kinds: Vec<Value> = listener.kinds.iter().map(kind).collect();
            let conditions = [&listener.accepted, &programmed, &listener.resolved, &listener.conflicted];
            json!({
                "name": listener.name,
                "supportedKinds": kinds,
                "attachedRoutes": self.attached.get(&(key, listener.name.as_str())).copied().unwrap_or(0),
                "conditions": condition::list(conditions, observed),
            })
        };
        let address = |address: &String| {
            let kind = if address.parse::<std::net::IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
            json!({ "type": kind, "value": address })
        };
        let conditions = [&gateway.accepted, &programmed].into_iter().chain(&gateway.insecure);
        json!({
            "addresses": self.fleet.addresses.iter().map(address).collect::<Vec<_>>(),
            "conditions": condition::list(conditions, observed),
            "listeners": gateway.listeners.iter().map(listener).collect::<Vec<_>>(),
        })
    }

    fn route(&self, outcome: &Outcome, route: &RouteOutcome) -> Value {
        let resolved = self.resolved(route);
        let parent = |parent: &ParentOutcome| {
            let programmed = self.programmed(outcome, parent.accepted.holds);
            let conditions = [&parent.accepted, &resolved, &programmed];
            json!({
                "parentRef": parent.reference,
                "controllerName": CONTROLLER,
                "conditions": condition::list(conditions, outcome.observed),
            })
        };
        json!({ "parents": route.parents.iter().map(parent).collect::<Vec<_>>() })
    }

    /// Whether all references of a route lead somewhere now.
    fn resolved(&self, route: &RouteOutcome) -> Condition {
        if let Some(broken) = &route.broken {
            return broken.clone();
        }
        let missing = route.backends.iter().find(|(service, _)| !self.is_there(service));
        match missing {
            None => Condition::holds(RESOLVED_REFS, RESOLVED_REFS),
            Some((service, field)) => {
                let message = format!("{field}: no service {service} is registered or declared");
                Condition::fails(RESOLVED_REFS, "BackendNotFound", message)
            }
        }
    }

    /// Whether the target of a policy is there now. The policy is in force all the same, from when it comes.
    fn found(&self, target: &ServiceKey) -> Condition {
        if self.is_there(target) {
            return Condition::holds(RESOLVED_REFS, RESOLVED_REFS);
        }
        let message = format!("targetRefs: no service {target} is registered or declared");
        Condition::fails(RESOLVED_REFS, "TargetNotFound", message)
    }

    fn is_there(&self, service: &ServiceKey) -> bool {
        (self.is_registered)(service) || self.shown.external(service).is_some()
    }

    fn policy(&self, outcome: &Outcome, policy: &PolicyOutcome) -> Value {
        let mut ancestors = Vec::new();
        for target in &policy.targets {
            let programmed = self.programmed(outcome, target.accepted.holds);
            let gateways = self.gateways_of(&target.service);
            let references: Vec<Value> = if gateways.is_empty() {
                vec![target.reference.clone()]
            } else {
                gateways.into_iter().map(gateway_reference).collect()
            };
            let resolved = policy.resolved.clone().unwrap_or_else(|| self.found(&target.service));
            let conditions = [&target.accepted, &resolved, &programmed];
            let ancestor = |reference| {
                json!({
                    "ancestorRef": reference,
                    "controllerName": CONTROLLER,
                    "conditions": condition::list(conditions, outcome.observed),
                })
            };
            for one in references.into_iter().map(ancestor) {
                if !ancestors.contains(&one) {
                    ancestors.push(one);
                }
            }
        }
        json!({ "ancestors": ancestors })
    }

    /// The Gateways whose routes lead to a service.
    fn gateways_of(&self, service: &ServiceKey) -> BTreeSet<&'a ResourceKey> {
        let leads = |route: &&RouteOutcome| route.backends.iter().any(|(backend, _)| backend == service);
        let parents =
            routes(self.shown).map(|(_, route)| route).filter(leads).flat_map(|route| &route.parents);
        parents.filter(|parent| parent.accepted.holds).filter_map(|parent| parent.gateway.as_ref()).collect()
    }

    fn external(&self, key: &ResourceKey, outcome: &Outcome, accepted: &Condition) -> Value {
        let registered =
            ServiceKey::new(key.namespace(), key.name()).is_ok_and(|key| (self.is_registered)(&key));
        let message = "a service of this name is registered, and is what proxies know";
        let conflicted = Condition::fails(ACCEPTED, "Conflicted", message);
        let accepted = if registered { &conflicted } else { accepted };
        let programmed = self.programmed(outcome, accepted.holds);
        json!({ "conditions": condition::list([accepted, &programmed], outcome.observed) })
    }

    /// Whether proxies have it.
    fn programmed(&self, outcome: &Outcome, valid: bool) -> Condition {
        let Fleet { watermark, proxies, .. } = self.fleet;
        if !valid {
            let message = "it is not accepted, or lacks what it refers to; the other conditions say why";
            return Condition::fails(PROGRAMMED, "Invalid", message);
        }
        if proxies == 0 {
            return Condition::fails(PROGRAMMED, "Pending", "no proxy is connected");
        }
        if watermark < outcome.revision {
            let message = format!("not all proxies serve by revision {} yet", outcome.revision);
            return Condition::fails(PROGRAMMED, "Pending", message);
        }
        Condition::holds(PROGRAMMED, PROGRAMMED)
    }
}

/// The status of a resource that this version does not understand.
pub fn not_understood(generation: u64, since: SystemTime, reason: &str) -> Value {
    let message = format!("this control plane does not understand it: {reason}");
    let accepted = Condition::fails(ACCEPTED, "Invalid", message);
    json!({ "conditions": condition::list([&accepted], Observed { generation, since }) })
}

fn routes(shown: &Shown) -> impl Iterator<Item = (&ResourceKey, &RouteOutcome)> {
    shown.outcomes.iter().filter_map(|(key, outcome)| match &outcome.body {
        Body::Route(route) => Some((key, route)),
        _ => None,
    })
}

fn gateway_reference(key: &ResourceKey) -> Value {
    json!({
        "group": GATEWAY_GROUP,
        "kind": Kind::Gateway.name(),
        "namespace": key.namespace(),
        "name": key.name(),
    })
}
