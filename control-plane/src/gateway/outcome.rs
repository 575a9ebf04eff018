//! What became of each resource, as far as the resources alone say.
//!
//! Whether a service is registered and whether proxies have applied a revision changes all the time and compiles
//! nothing: it is looked at when somebody asks (see `status`).
//!
//! Deliberately absent: JSON.

use serde_json::Value;
use waypost_proto::{
    name::ServiceKey,
    resource::{Kind, ResourceKey},
};

use super::condition::{Condition, Observed};

/// What became of a resource.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Of which generation this speaks.
    pub(super) observed: Observed,
    /// The revision from which on proxies have what it comes to.
    pub(super) revision: u64,
    /// What became of it.
    pub(super) body: Body,
}

/// What became of a resource, by kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    Gateway(GatewayOutcome),
    Route(RouteOutcome),
    Policy(PolicyOutcome),
    External(Condition),
}

/// A Gateway.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GatewayOutcome {
    pub(super) accepted: Condition,
    /// Where clients without a good certificate are let in.
    pub(super) insecure: Option<Condition>,
    /// In their order in the Gateway.
    pub(super) listeners: Vec<ListenerOutcome>,
}

/// A listener of a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ListenerOutcome {
    pub(super) name: String,
    pub(super) accepted: Condition,
    pub(super) resolved: Condition,
    pub(super) conflicted: Condition,
    /// The kinds of routes that may attach.
    pub(super) kinds: Vec<Kind>,
    /// Whether proxies serve it.
    pub(super) served: bool,
}

/// An HTTPRoute or GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RouteOutcome {
    pub(super) parents: Vec<ParentOutcome>,
    /// Why a reference of it can never work, the first one.
    pub(super) broken: Option<Condition>,
    /// The services that it names, each once, with the first field that does.
    pub(super) backends: Vec<(ServiceKey, String)>,
}

/// A parent that a route names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ParentOutcome {
    /// As it is written, with its defaults filled in.
    pub(super) reference: Value,
    /// The Gateway.
    pub(super) gateway: Option<ResourceKey>,
    pub(super) accepted: Condition,
    /// The listeners that it attaches to, by name.
    pub(super) listeners: Vec<String>,
}

/// A policy that is attached to services.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PolicyOutcome {
    pub(super) targets: Vec<TargetOutcome>,
    /// Whether what it refers to works; `None` where it refers to nothing but its targets.
    pub(super) resolved: Option<Condition>,
}

/// A target of a policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TargetOutcome {
    pub(super) service: ServiceKey,
    pub(super) reference: Value,
    pub(super) accepted: Condition,
}
