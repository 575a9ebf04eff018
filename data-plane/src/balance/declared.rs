//! From what is declared for a service to what makes its balancers.

use std::{sync::Arc, time::Duration};

use waypost_proto::{
    time,
    v1::{BalancerKind, LoadBalancer},
};

use super::{
    KeySource, LeastRequest, LoadBound, Maglev, PeakEwma, Policy, Prequal, Random, RingHash, RoundRobin,
    SlowStart, ZoneAware,
};

/// What a proxy does by itself, and where it is.
#[derive(Clone)]
pub struct Own {
    /// The policy of services that have none declared.
    pub policy: Policy,
    /// The proxy's zone; empty is none.
    pub zone: Arc<str>,
}

impl Own {
    /// What makes balancers as was declared. What is absent, or not known to this version, is the proxy's own.
    pub fn policy_of(&self, declared: Option<&LoadBalancer>) -> Policy {
        let Some(declared) = declared else { return Arc::clone(&self.policy) };
        let kind = self.policy_of_kind(declared);
        let policy = match &declared.slow_start {
            Some(window) if !is_keyed(declared.kind()) => {
                slowly(kind, time::duration(window).unwrap_or_default())
            }
            _ => kind,
        };
        match &declared.zone_aware {
            Some(aware) if !self.zone.is_empty() => {
                let (zone, minimum) = (Arc::clone(&self.zone), aware.minimum_instances);
                Arc::new(move || Box::new(ZoneAware::new(Arc::clone(&zone), minimum, || policy())))
            }
            _ => policy,
        }
    }

    fn policy_of_kind(&self, declared: &LoadBalancer) -> Policy {
        let bound = LoadBound::percent(declared.bounded_load_percent);
        match declared.kind() {
            BalancerKind::Unspecified => Arc::clone(&self.policy),
            BalancerKind::RoundRobin => Arc::new(|| Box::new(RoundRobin::default())),
            BalancerKind::Random => Arc::new(|| Box::new(Random)),
            BalancerKind::LeastRequest => Arc::new(|| Box::new(LeastRequest)),
            BalancerKind::PeakEwma => Arc::new(|| Box::new(PeakEwma)),
            BalancerKind::RingHash => Arc::new(move || Box::new(RingHash::bounded(bound))),
            BalancerKind::Maglev => Arc::new(move || Box::new(Maglev::bounded(bound))),
            BalancerKind::Prequal => Arc::new(|| Box::new(Prequal::default())),
        }
    }
}

/// What keys of requests are made of, as was declared: nothing, where the policy has no use for keys.
pub(crate) fn key_source(declared: Option<&LoadBalancer>) -> KeySource {
    let hashes = declared.filter(|declared| is_keyed(declared.kind()));
    hashes.map(|declared| KeySource::of(&declared.hash)).unwrap_or_default()
}

/// Whether requests go by their keys. Slow start is not for these: it would send keys back and forth.
fn is_keyed(kind: BalancerKind) -> bool {
    matches!(kind, BalancerKind::RingHash | BalancerKind::Maglev)
}

fn slowly(policy: Policy, window: Duration) -> Policy {
    if window.is_zero() {
        return policy;
    }
    Arc::new(move || Box::new(SlowStart::new(policy(), window)))
}
