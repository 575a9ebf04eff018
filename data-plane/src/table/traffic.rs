//! How a service is treated, compiled from its entry: what is the same for all of its sets of endpoints.
//!
//! An entry's id names its service (`traffic/<namespace>/<service>`), so that one look finds it, and one that leaves is
//! known for what it was. What is absent in it, or not known to this version, is as it would be without a policy.
//!
//! Deliberately absent: state. What changes with every request belongs to endpoints, balancers or whoever counts.

use std::{sync::Arc, time::Duration};

use waypost_proto::{
    name::ServiceKey,
    time::duration,
    v1::{CircuitBreaker, DeclaredEntry, TrafficEntry, declared_entry::Kind},
};

use super::{breaker::Trip, budget::RetryAllowance, concurrency::Bounds};
use crate::{
    balance::{KeySource, Own, Policy, key_source},
    health::{DEFAULT_PANIC_PERCENT, HealthRules, Heed},
    overload::Priority,
    rule::{Limits, Retry, Waits},
};

/// What entries of this kind begin with.
const PREFIX: &str = "traffic/";

/// How a service is treated. Values are replaced, never changed.
pub struct Traffic {
    /// What was declared.
    pub entry: TrafficEntry,
    /// Makes the balancers of the service's sets.
    pub(super) policy: Policy,
    /// What requests' keys are made of.
    pub(crate) key: KeySource,
    /// How many of its requests may be sent again.
    pub(super) retry_allowance: RetryAllowance,
    /// When they are, where a route does not say.
    pub(crate) retry: Option<Retry>,
    /// How long they may take, where a route does not say.
    pub(crate) limits: Limits,
    /// How long their parts may take, whatever a route says.
    pub(crate) waits: Waits,
    /// After so long without an answer's head a second request goes out; none: never.
    pub(crate) hedge_after: Option<Duration>,
    /// When its breaker opens; none: never.
    pub(super) trip: Option<Trip>,
    /// How many may be under way at once; none: any number.
    pub(super) most_requests: Option<u64>,
    /// How many connections there may be; none: any number.
    pub(crate) most_connections: Option<u64>,
    /// How many requests may wait for one; none: any number.
    pub(crate) most_pending: Option<u64>,
    /// How many retries; none: any number that the budget lets through.
    pub(super) most_retries: Option<u64>,
    /// How many to one instance; none: any number.
    pub(super) most_per_instance: Option<u64>,
    /// What the limit that follows latency is kept between; none: there is no such limit.
    pub(super) concurrency: Option<Bounds>,
    /// Whose requests are refused first where the proxy has too much to do.
    pub(crate) priority: Priority,
    /// Who of its endpoints is passed over.
    pub(crate) health: HealthRules,
}

impl Traffic {
    /// Compiles an entry.
    pub fn compile(entry: &TrafficEntry, own: &Own) -> Self {
        let breaker = entry.circuit_breaker.as_ref();
        let most =
            |limit: fn(&CircuitBreaker) -> u32| breaker.map(limit).filter(|most| *most > 0).map(u64::from);
        let policy = own.policy_of(entry.load_balancer.as_ref());
        Self {
            entry: entry.clone(),
            policy,
            key: key_source(entry.load_balancer.as_ref()),
            retry_allowance: entry.retry.as_ref().map(RetryAllowance::of).unwrap_or_default(),
            retry: entry.retry.as_ref().and_then(Retry::of_service),
            limits: entry.timeouts.as_ref().map(Limits::of_service).unwrap_or_default(),
            waits: entry.timeouts.as_ref().map(Waits::of_service).unwrap_or_default(),
            hedge_after: entry.hedging.as_ref().and_then(|hedging| duration(hedging.delay.as_ref()?)),
            trip: breaker.and_then(Trip::of),
            priority: Priority::of(entry.priority()),
            concurrency: entry.adaptive_concurrency.as_ref().map(Bounds::of),
            health: HealthRules::of(entry),
            most_requests: most(|breaker| breaker.max_requests),
            most_connections: most(|breaker| breaker.max_connections),
            most_pending: most(|breaker| breaker.max_pending_requests),
            most_retries: most(|breaker| breaker.max_retries),
            most_per_instance: most(|breaker| breaker.max_requests_per_instance),
        }
    }

    /// Whether balancers made for one are good for the other.
    pub(super) fn balances_alike(one: Option<&Self>, other: Option<&Self>) -> bool {
        let declared =
            |traffic: Option<&Self>| traffic.and_then(|traffic| traffic.entry.load_balancer.clone());
        declared(one) == declared(other)
    }

    /// What endpoints are passed over for, the share of 100 that must be well for it, and how many requests one of them
    /// may have under way.
    pub(super) fn heeded(traffic: Option<&Self>) -> (Heed, u32, Option<u64>) {
        traffic.map_or((Heed::default(), DEFAULT_PANIC_PERCENT, None), |traffic| {
            let health = &traffic.health;
            (health.heed(), health.panic_below_percent, traffic.most_per_instance)
        })
    }
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Traffic").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// The id of a service's entry.
pub(super) fn id_of(service: &ServiceKey) -> String {
    format!("{PREFIX}{}/{}", service.namespace(), service.name())
}

/// The service that an entry of this kind is for, by its id; `None` where it is of another kind.
pub(super) fn service_of(id: &str) -> Option<ServiceKey> {
    let (namespace, name) = id.strip_prefix(PREFIX)?.split_once('/')?;
    ServiceKey::new(namespace, name).ok()
}

/// What an entry says, if it is of this kind.
pub(super) fn entry_of(entry: &DeclaredEntry) -> Option<&TrafficEntry> {
    match &entry.kind {
        Some(Kind::Traffic(traffic)) => Some(traffic),
        _ => None,
    }
}

/// A service's settings by its entry, where there is one.
pub(super) fn compiled(entry: Option<&Arc<DeclaredEntry>>, own: &Own) -> Option<Arc<Traffic>> {
    let entry = entry_of(entry?)?;
    Some(Arc::new(Traffic::compile(entry, own)))
}

#[cfg(test)]
mod tests;
