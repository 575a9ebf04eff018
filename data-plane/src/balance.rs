//! Balancing: which endpoint of a set takes a request. One trait, one file for each policy.
//!
//! A policy proposes an endpoint; whether that may take the request (it was not tried, does not drain, does
//! not cool down) is the set's to check, which asks again or looks through all (see
//! [`EndpointSet::pick`](crate::table::EndpointSet::pick)). Every policy honours weights. None takes a lock
//! or allocates to choose.
//!
//! Deliberately absent: state of endpoints (it is theirs and survives a swap), zones.

mod least_request;
mod random;
mod round_robin;

use std::{fmt, str::FromStr, sync::Arc};

use fastrand::Rng;
use waypost_proto::v1::{BalancerKind, LoadBalancer};

pub use self::{least_request::LeastRequest, random::Random, round_robin::RoundRobin};
use crate::table::EndpointState;

/// A policy, with what it remembers about one set.
pub trait Balancer: fmt::Debug + Send + Sync {
    /// The index of the candidate to try next; `among` is never empty. It may be one that is not usable,
    /// which is then passed over.
    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize;

    /// The balancer for the set that takes this one's place.
    fn renewed(&self) -> Box<dyn Balancer>;

    /// What it is called, for those who look at the table.
    fn name(&self) -> &'static str {
        "custom"
    }
}

/// Makes the balancer of a new set.
pub type Policy = Arc<dyn Fn() -> Box<dyn Balancer> + Send + Sync>;

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
        let named = declared.and_then(|declared| match declared.kind() {
            BalancerKind::RoundRobin => Some(PolicyName::RoundRobin),
            BalancerKind::Random => Some(PolicyName::Random),
            BalancerKind::LeastRequest => Some(PolicyName::LeastRequest),
            _ => None,
        });
        named.map_or_else(|| Arc::clone(&self.policy), PolicyName::policy)
    }
}

/// The policies that come with the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyName {
    /// One after the other.
    RoundRobin,
    /// By lot.
    Random,
    /// Of two drawn by lot, the one with fewer requests in flight for its weight.
    #[default]
    LeastRequest,
}

impl PolicyName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::Random, Self::LeastRequest];

    /// As `--balancer` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::LeastRequest => "least-request",
        }
    }

    /// What makes balancers of this policy.
    pub fn policy(self) -> Policy {
        Arc::new(move || match self {
            Self::RoundRobin => Box::new(RoundRobin::default()),
            Self::Random => Box::new(Random),
            Self::LeastRequest => Box::new(LeastRequest),
        })
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| "must be round-robin, random or least-request".to_owned())
    }
}

/// The weights of a set, in the form that a draw needs.
#[derive(Debug)]
pub(crate) enum Weights {
    /// All are the same: a draw is one number.
    Equal,
    /// They differ: a draw is a binary search.
    Unequal {
        /// The sums of all weights up to and with each.
        sums: Box<[u64]>,
        /// The largest weight.
        heaviest: u16,
    },
}

impl Weights {
    pub(crate) fn of(weights: impl Iterator<Item = u16> + Clone) -> Self {
        let first = weights.clone().next();
        if weights.clone().all(|weight| Some(weight) == first) {
            return Self::Equal;
        }
        let heaviest = weights.clone().max().unwrap_or(1);
        let mut sum = 0;
        let running = weights.map(|weight| {
            sum += u64::from(weight);
            sum
        });
        Self::Unequal { sums: running.collect(), heaviest }
    }
}

/// The members of a set, as a policy sees them. There is at least one.
pub struct Candidates<'a> {
    members: &'a [Arc<EndpointState>],
    weights: &'a Weights,
    usable: &'a dyn Fn(usize) -> bool,
}

#[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
impl<'a> Candidates<'a> {
    pub(crate) fn new(
        members: &'a [Arc<EndpointState>],
        weights: &'a Weights,
        usable: &'a dyn Fn(usize) -> bool,
    ) -> Self {
        Self { members, weights, usable }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether one may take the request.
    pub fn is_usable(&self, at: usize) -> bool {
        (self.usable)(at)
    }

    /// The share of traffic of one, never 0.
    pub fn weight(&self, at: usize) -> u16 {
        self.members[at].weight()
    }

    /// The largest weight.
    pub fn heaviest(&self) -> u16 {
        match self.weights {
            Weights::Equal => self.members[0].weight(),
            Weights::Unequal { heaviest, .. } => *heaviest,
        }
    }

    /// The requests in flight to one.
    pub fn in_flight(&self, at: usize) -> u64 {
        self.members[at].load()
    }

    /// Whether all weights are the same.
    pub fn weights_are_equal(&self) -> bool {
        matches!(self.weights, Weights::Equal)
    }

    /// Draws one by lot, in proportion to the weights.
    pub fn draw(&self, seed: &mut Rng) -> usize {
        match self.weights {
            Weights::Equal => seed.usize(..self.members.len()),
            Weights::Unequal { sums, .. } => {
                let total = sums.last().copied().unwrap_or(1);
                let lot = seed.u64(..total);
                sums.partition_point(|sum| *sum <= lot)
            }
        }
    }

    /// Draws a usable one by lot, in proportion to the weights, by a look at all of them.
    pub(crate) fn draw_usable(&self, seed: &mut Rng) -> Option<usize> {
        let mut drawn = None;
        let mut total = 0;
        for at in (0..self.members.len()).filter(|at| self.is_usable(*at)) {
            let weight = u64::from(self.weight(at));
            total += weight;
            if seed.u64(..total) < weight {
                drawn = Some(at);
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests;
