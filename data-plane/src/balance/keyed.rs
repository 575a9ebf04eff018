//! What the policies by key have in common: names of endpoints, and who takes a request whose first choice cannot.
//!
//! A key has an order of endpoints. The first that is usable and has room takes the request, so that all requests of
//! the key go on together, and come back together. The order is looked at for a few steps; after that all endpoints are
//! compared (rendezvous hashing, Thaler and Ravishankar, 1998), which needs no order and gives the same answer to the
//! same question, too.
//!
//! A request without a key is spread by a key that is drawn for it.

use std::sync::Arc;

use fastrand::Rng;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Candidates, LoadBound};
use crate::table::EndpointState;

/// How far an order is followed before all are compared.
const STEPS: usize = 64;

/// An endpoint of a set: a hash of its id, which outlives its address and its lease, and its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) hash: u64,
    pub(super) weight: u16,
}

impl Name {
    /// The names of a set's members.
    pub(super) fn all(members: &[Arc<EndpointState>]) -> Box<[Self]> {
        let name = |member: &Arc<EndpointState>| Self {
            hash: xxh3_64(member.key().id().as_bytes()),
            weight: member.weight(),
        };
        members.iter().map(name).collect()
    }

    /// The same for another use of it.
    pub(super) fn salted(self, salt: u64) -> u64 {
        xxh3_64_with_seed(&self.hash.to_le_bytes(), salt)
    }
}

/// A key, or one that is drawn.
pub(super) fn key_of(among: &Candidates<'_>, seed: &mut Rng) -> u64 {
    among.key().unwrap_or_else(|| seed.u64(..))
}

/// The first in the order of `key` that is usable and has room; where none is, the first.
pub(super) fn first(
    among: &Candidates<'_>,
    key: u64,
    order: impl Iterator<Item = usize>,
    names: &[Name],
    bound: LoadBound,
) -> usize {
    let room = bound.room(among);
    let fits = |at: usize| among.is_usable(at) && room.is_at(at);
    let mut home = None;
    for at in order.take(STEPS) {
        home.get_or_insert(at);
        if fits(at) {
            return at;
        }
    }
    let rest = (0..among.len()).filter(|at| fits(*at));
    let best = rest.min_by(|one, other| {
        let distance = |at: &usize| names.get(*at).map_or(f64::MAX, |name| distance(key, *name));
        distance(one).total_cmp(&distance(other))
    });
    best.or(home).unwrap_or(0)
}

/// How far an endpoint is from a key. The one that is nearest is drawn by weight (weighted rendezvous hashing; Schindelhauer
/// and Schomaker, 2005).
fn distance(key: u64, name: Name) -> f64 {
    // 53 bits are what a double holds: above 0, below 1.
    let uniform = ((name.salted(key) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(name.weight)
}

#[cfg(test)]
mod tests;
