//! The table that requests are routed by: an immutable value, swapped as a whole.
//!
//! A table is compiled from a snapshot. The next one shares all that did not change with the one before, so
//! that an update costs in proportion to the change; the services, endpoints and routes of one revision
//! appear at once. A request holds the table that it started with.
//!
//! Deliberately absent: where snapshots come from (see [`crate::subscription`]) and connections.

mod breaker;
mod budget;
mod concurrency;
mod cooldown;
pub mod declared;
mod edge;
mod endpoints;
mod failing;
mod latency;
mod past;
pub mod path;
mod preview;
mod routes;
mod services;
mod shared;
mod since;
mod standing;
mod text_map;
mod traffic;
mod update;
mod usage;

use std::sync::Arc;

use imbl::{HashMap, HashSet, Vector};
use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    route::Route,
    snapshot::Snapshot,
    v1::{DeclaredEntry, Position},
};

pub(crate) use self::{
    breaker::{Admission, Stance},
    concurrency::Turn,
    cooldown::{Backoff, Lengths},
    edge::TlsSite,
    endpoints::News,
    services::{NoRetry, Refusal},
    usage::{Place, Usage, Use},
};
pub use self::{
    budget::RetryAllowance,
    edge::{Edge, OWN_PORT, Port},
    endpoints::{EndpointId, EndpointSet, EndpointState, InFlight},
    latency::Outcome,
    preview::PreviewError,
    services::{Member, ServiceTable},
    shared::{NotKept, Served, SharedTable, TableReader},
    standing::{Concurrency, Limited, ServiceStanding},
    traffic::Traffic,
    update::{Compiler, Source},
};
use self::{
    declared::{Backend, BackendRef, Declared, Listener, RequestView},
    routes::{RouteTarget, Routes},
};
use crate::{balance::Policy, rule::Rule};

/// All that requests are routed by at one revision. A clone is cheap and shares everything.
#[derive(Clone, Debug)]
pub struct Table {
    position: Position,
    settled: bool,
    /// Instances that are kept until the control plane is settled.
    carried: HashSet<InstanceKey>,
    /// Services by the slot that routes refer to.
    slots: Vector<Option<Arc<ServiceTable>>>,
    slot_of: HashMap<ServiceKey, u32>,
    free: Vector<u32>,
    routes: Routes,
    declared: Declared,
    edge: Edge,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The service.
    pub service: &'a Arc<ServiceTable>,
    /// The route that matched.
    pub route_id: &'a Arc<str>,
    /// How many bytes of the path to cut from its front; 0 means none. What is left gets a `/` in front where
    /// it does not begin with one.
    pub strip: usize,
    /// The endpoints of the service, or of the versions that the route selects, that take traffic.
    pub endpoints: &'a Arc<EndpointSet>,
}

/// What is found for a request.
#[derive(Debug)]
pub enum Found<'a> {
    /// A rule of a declared route takes it.
    Rule {
        /// The rule.
        rule: &'a Arc<Rule>,
        /// How many bytes of the path the rule's prefix has taken; what is left is empty or begins with a slash.
        /// 0 where the rule has no prefix, or the root.
        matched_prefix_len: usize,
        /// Where it came in.
        listener: &'a Arc<Listener>,
    },
    /// An automatic route matches.
    Route(Target<'a>),
    /// Routes match the path, for these methods only; sorted, each once.
    MethodNotAllowed {
        /// The methods, for the `allow` header.
        allow: Vec<&'a str>,
    },
    /// Nothing matches.
    None,
}

impl Table {
    /// The rule of a declared route, or else the automatic route, for a request. The path must be
    /// [normalised](path::normalised).
    ///
    /// Of declared routes those with the most specific hostname, then path, method, header fields and query
    /// parameters go first (see `declared/MATCHING.md`).
    ///
    /// Automatic routes are there at the proxy's own listener alone. Segment by segment a literal beats a parameter,
    /// and a parameter beats what matches all that follows; so longer beats shorter. Where the best match does not
    /// continue, the next best is tried. A template for another method gives way to a less specific route. `HEAD` is
    /// answered by `GET` where it has no route of its own.
    pub fn find(&self, request: &RequestView<'_>) -> Found<'_> {
        if !self.declared.is_empty()
            && let Some((rule, matched_prefix_len, listener)) = self.declared.find(request)
        {
            return Found::Rule { rule, matched_prefix_len, listener };
        }
        self.automatic(request)
    }

    /// The automatic route for a request.
    fn automatic(&self, request: &RequestView<'_>) -> Found<'_> {
        if !self.declared.is_own(request.port) {
            return Found::None;
        }
        match self.routes.find(request.method.as_str(), request.path) {
            routes::Match::Route(route) => self.target(route).map_or(Found::None, Found::Route),
            routes::Match::OtherMethods => {
                Found::MethodNotAllowed { allow: self.routes.methods(request.path) }
            }
            routes::Match::Nothing => Found::None,
        }
    }

    /// What a rule's backend stands for; `None` where its service is not known.
    pub fn backend(&self, backend: &BackendRef) -> Option<Backend<'_>> {
        let service = self.service(&backend.service)?;
        Some(Backend { service, endpoints: service.endpoints_of(&backend.subset)? })
    }

    fn target<'a>(&'a self, route: &'a RouteTarget) -> Option<Target<'a>> {
        let service = self.slots.get(route.slot as usize)?.as_ref()?;
        let endpoints = service.endpoints_of(&route.subset)?;
        Some(Target { service, route_id: &route.id, strip: route.strip, endpoints })
    }

    /// The table of a snapshot, for embedders and tests that have no control plane.
    pub fn of(snapshot: &Snapshot, policy: &Policy) -> Arc<Self> {
        let shared = SharedTable::new();
        let source = Source { current: snapshot, carried: None };
        Compiler::new(shared.clone(), Arc::clone(policy), Arc::default())
            .serve(&source, &source.everything());
        shared.load().expect("a table was just stored")
    }

    /// Where connections come in.
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// What the table stands for, as the control plane names it.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Whether all that is missing is known to be gone (see `SnapshotChunk.settled`).
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// How many instances are kept only until the control plane is settled.
    pub fn carried_over(&self) -> usize {
        self.carried.len()
    }

    /// Whether an instance is one of those.
    pub fn is_carried_over(&self, key: &InstanceKey) -> bool {
        self.carried.contains(key)
    }

    /// A service.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<ServiceTable>> {
        self.slots.get(*self.slot_of.get(key)? as usize)?.as_ref()
    }

    /// The services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceTable>> {
        self.slots.iter().flatten()
    }

    /// How many places for services there are.
    pub(crate) fn service_places(&self) -> usize {
        self.slots.len()
    }

    /// The service in a place. It keeps its place while it is there.
    pub(crate) fn service_in(&self, place: usize) -> Option<&Arc<ServiceTable>> {
        self.slots.get(place)?.as_ref()
    }

    /// The listeners of declared routing, in no order; the proxy's own is among them.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.declared.listeners()
    }

    /// An entry of declared routing, by its id.
    pub fn declared_entry(&self, id: &str) -> Option<&Arc<DeclaredEntry>> {
        self.declared.entry(id)
    }

    /// The entries of declared routing, in no order.
    pub fn declared_entries(&self) -> impl Iterator<Item = &Arc<DeclaredEntry>> {
        self.declared.entries()
    }

    /// The automatic routes, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
}

#[cfg(test)]
pub(crate) use self::endpoints::tests::{in_zones, set_by as endpoints_of, set_of as endpoints_of_weights};

#[cfg(test)]
mod tests;
