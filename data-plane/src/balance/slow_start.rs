//! Slow start: a new endpoint's share grows to its full size, so that caches fill and code is compiled before it gets as
//! much as the others.
//!
//! The policy underneath chooses, and a new endpoint that was chosen takes the request with a chance that grows linearly
//! with how long it has taken traffic, from a tenth to one; else the policy is asked again. So its share is that of a weight
//! which grows, whatever the policy. Where nearly all are new nothing is gained by asking again, and after a few times
//! whoever was chosen takes the request.
//!
//! Deliberately absent: when an endpoint is new, which the table's compiler knows.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;

use super::{Balancer, Candidates};
use crate::table::EndpointState;

/// The least share of its weight that a new endpoint gets: Envoy's default, too.
pub(super) const FLOOR: f64 = 0.1;
/// How often the policy is asked at most.
const MOST: usize = 16;

/// Passes most requests by endpoints that are new.
#[derive(Debug)]
pub struct SlowStart {
    inner: Box<dyn Balancer>,
    window: Duration,
}

impl SlowStart {
    /// The same policy, with endpoints that take `window` to get their full share.
    pub fn new(inner: Box<dyn Balancer>, window: Duration) -> Self {
        Self { inner, window }
    }

    /// The share of its weight that an endpoint gets.
    fn share(&self, endpoint: &EndpointState, now: impl FnOnce() -> u64) -> f64 {
        let Some(since) = endpoint.new_since() else { return 1.0 };
        let age = now().saturating_sub(since) as f64;
        let window = self.window.as_millis() as f64;
        if age >= window { 1.0 } else { (age / window).max(FLOOR) }
    }
}

impl Balancer for SlowStart {
    fn prepare(&mut self, members: &[Arc<EndpointState>]) {
        self.inner.prepare(members);
    }

    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        for _ in 1..MOST {
            let at = self.inner.choose(among, seed);
            let share = self.share(among.member(at), || among.now());
            if share >= 1.0 || seed.f64() < share {
                return at;
            }
        }
        self.inner.choose(among, seed)
    }

    fn renewed(&self) -> Box<dyn Balancer> {
        Box::new(Self { inner: self.inner.renewed(), window: self.window })
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn needs_latency(&self) -> bool {
        self.inner.needs_latency()
    }
}
