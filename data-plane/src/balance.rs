//! Balancing: which endpoint of a set takes a request. One trait, one file for each policy.
//!
//! A policy proposes an endpoint; whether that may take the request (it was not tried, does not drain, does
//! not cool down) is the set's to check, which asks again or looks through all (see
//! [`EndpointSet::pick`](crate::table::EndpointSet::pick)). Every policy honours weights. None takes a lock
//! or allocates to choose. `BALANCING.md` in the folder beside this file says what each is good for.
//!
//! Deliberately absent: state of endpoints (it is theirs and survives a swap).

mod bounded_load;
mod candidates;
mod declared;
mod key;
mod keyed;
mod least_request;
mod maglev;
mod peak_ewma;
mod prequal;
mod random;
mod ring_hash;
mod round_robin;
mod slow_start;
mod zone_aware;

use std::{fmt, str::FromStr, sync::Arc};

use fastrand::Rng;

pub use self::{
    bounded_load::LoadBound, candidates::Candidates, declared::Own, key::KeySource,
    least_request::LeastRequest, maglev::Maglev, peak_ewma::PeakEwma, prequal::Prequal, random::Random,
    ring_hash::RingHash, round_robin::RoundRobin, slow_start::SlowStart, zone_aware::ZoneAware,
};
pub(crate) use self::{candidates::Weights, declared::key_source};
use crate::table::EndpointState;

/// A policy, with what it remembers about one set.
pub trait Balancer: fmt::Debug + Send + Sync {
    /// Is told the members of its set, once, before any choice: all have a weight above 0, and they are sorted by id
    /// where they are a service's. There may be none.
    fn prepare(&mut self, members: &[Arc<EndpointState>]) {
        let _ = members;
    }

    /// The index of the candidate to try next; `among` is never empty. It may be one that is not usable,
    /// which is then passed over.
    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize;

    /// The balancer for the set that takes this one's place.
    fn renewed(&self) -> Box<dyn Balancer>;

    /// What it is called, for those who look at the table.
    fn name(&self) -> &'static str {
        "custom"
    }

    /// Whether it asks how long answers take ([`Candidates::latency`]), which is measured only for those that do.
    fn needs_latency(&self) -> bool {
        false
    }
}

/// Makes the balancer of a new set.
pub type Policy = Arc<dyn Fn() -> Box<dyn Balancer> + Send + Sync>;

/// The policies that a proxy can have for all services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyName {
    /// One after the other.
    RoundRobin,
    /// By lot.
    Random,
    /// Of two drawn by lot, the one with fewer requests in flight for its weight.
    #[default]
    LeastRequest,
    /// Of two drawn by lot, the one that is expected to answer sooner.
    PeakEwma,
    /// Of a few drawn by lot, the one with the lowest latency among those that are not busier than most.
    Prequal,
}

impl PolicyName {
    /// All of them. Those that go by a key are not among these: a key has to be declared for each service.
    pub const ALL: [Self; 5] =
        [Self::RoundRobin, Self::Random, Self::LeastRequest, Self::PeakEwma, Self::Prequal];

    /// As `--balancer` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::LeastRequest => "least-request",
            Self::PeakEwma => "peak-ewma",
            Self::Prequal => "prequal",
        }
    }

    /// What makes balancers of this policy.
    pub fn policy(self) -> Policy {
        Arc::new(move || match self {
            Self::RoundRobin => Box::new(RoundRobin::default()),
            Self::Random => Box::new(Random),
            Self::LeastRequest => Box::new(LeastRequest),
            Self::PeakEwma => Box::new(PeakEwma),
            Self::Prequal => Box::new(Prequal::default()),
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
        found.ok_or_else(|| "must be round-robin, random, least-request, peak-ewma or prequal".to_owned())
    }
}

#[cfg(test)]
mod tests;
