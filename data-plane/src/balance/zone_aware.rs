//! Endpoints of the proxy's own zone, while enough of them can be used; else those of all zones.
//!
//! The policy underneath is there twice: once among the own zone's endpoints, once among all. "Enough" is a number of
//! endpoints, which people can reason about while they look at a list of them.
//!
//! Deliberately absent: shares of capacity, for which a proxy would have to know how much traffic the proxies of all
//! zones have.

use std::{fmt, sync::Arc};

use fastrand::Rng;

use super::{Balancer, Candidates, candidates::Weights};
use crate::table::EndpointState;

/// Prefers the own zone.
pub struct ZoneAware {
    zone: Arc<str>,
    minimum: usize,
    all: Box<dyn Balancer>,
    own: Box<dyn Balancer>,
    /// None where the zone has too few, or there is no other.
    local: Option<Local>,
}

/// The endpoints of the own zone.
#[derive(Debug)]
struct Local {
    members: Vec<Arc<EndpointState>>,
    weights: Weights,
    /// Where each is among all.
    places: Vec<usize>,
}

impl ZoneAware {
    /// Balancers of one policy, for all zones while fewer than `minimum` endpoints of `zone` can be used.
    pub fn new(zone: Arc<str>, minimum: u32, balancer: impl Fn() -> Box<dyn Balancer>) -> Self {
        let minimum = usize::try_from(minimum).unwrap_or(usize::MAX).max(1);
        Self { zone, minimum, all: balancer(), own: balancer(), local: None }
    }
}

impl fmt::Debug for ZoneAware {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { zone, minimum, all, .. } = self;
        formatter
            .debug_struct("ZoneAware")
            .field("zone", zone)
            .field("minimum", minimum)
            .field("all", all)
            .finish_non_exhaustive()
    }
}

impl Local {
    fn of(members: &[Arc<EndpointState>], zone: &str) -> Self {
        let places: Vec<usize> = (0..members.len()).filter(|at| members[*at].zone() == zone).collect();
        let local: Vec<_> = places.iter().map(|at| Arc::clone(&members[*at])).collect();
        let weights = Weights::of(local.iter().map(|member| member.weight()));
        Self { members: local, weights, places }
    }

    fn has_enough(&self, among: &Candidates<'_>, minimum: usize) -> bool {
        self.places.iter().filter(|at| among.is_usable(**at)).take(minimum).count() == minimum
    }
}

impl Balancer for ZoneAware {
    fn prepare(&mut self, members: &[Arc<EndpointState>]) {
        self.all.prepare(members);
        let local = Local::of(members, &self.zone);
        self.own.prepare(&local.members);
        let is_of_use = local.places.len() >= self.minimum && local.places.len() < members.len();
        self.local = is_of_use.then_some(local);
    }

    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        let enough = self.local.as_ref().filter(|local| local.has_enough(among, self.minimum));
        let Some(local) = enough else { return self.all.choose(among, seed) };
        let usable = |at: usize| among.is_usable(local.places[at]);
        let nearby =
            Candidates { members: &local.members, weights: &local.weights, usable: &usable, ..*among };
        let mut at = self.own.choose(&nearby, seed);
        if !usable(at) {
            // One is: the set would look among all zones.
            at = nearby.draw_usable(seed).unwrap_or(at);
        }
        local.places[at]
    }

    fn renewed(&self) -> Box<dyn Balancer> {
        let (all, own) = (self.all.renewed(), self.own.renewed());
        Box::new(Self { zone: Arc::clone(&self.zone), minimum: self.minimum, all, own, local: None })
    }

    fn name(&self) -> &'static str {
        self.all.name()
    }

    fn needs_latency(&self) -> bool {
        self.all.needs_latency()
    }
}
