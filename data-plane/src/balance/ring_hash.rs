//! By a key on a ring: consistent hashing (Karger et al., 1997), with as many points for each endpoint as ketama has.
//!
//! Each endpoint has points on a circle of hashes, in proportion to its weight; a key belongs to the point that comes
//! next. Where an endpoint leaves, its keys alone move. The points come from the endpoint's id, so that all proxies, and
//! those that start again, have the same ring.
//!
//! An endpoint's points depend on its own weight, and on the average weight rounded down to a power of two: others may
//! come and go, and change what they weigh, without its points being others.

use std::sync::Arc;

use fastrand::Rng;

use super::{
    Balancer, Candidates, LoadBound,
    keyed::{self, Name},
};
use crate::table::EndpointState;

/// Points of an endpoint whose weight is the average rounded down to a power of two: ketama's 40 hashes with 4 each.
const POINTS: u64 = 160;

/// Chooses by a ring.
#[derive(Debug, Default)]
pub struct RingHash {
    bound: LoadBound,
    ring: Arc<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    names: Box<[Name]>,
    /// Sorted: where a point is, and whose it is.
    points: Box<[(u64, u32)]>,
}

impl RingHash {
    /// A ring whose endpoints take no more than a bound.
    pub fn bounded(bound: LoadBound) -> Self {
        Self { bound, ring: Arc::default() }
    }
}

impl Balancer for RingHash {
    fn prepare(&mut self, members: &[Arc<EndpointState>]) {
        let names = Name::all(members);
        if self.ring.names != names {
            self.ring = Arc::new(Ring::of(names));
        }
    }

    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        let key = keyed::key_of(among, seed);
        keyed::first(among, key, self.ring.order(key), &self.ring.names, self.bound)
    }

    fn renewed(&self) -> Box<dyn Balancer> {
        Box::new(Self { bound: self.bound, ring: Arc::clone(&self.ring) })
    }

    fn name(&self) -> &'static str {
        "ring-hash"
    }
}

impl Ring {
    fn of(names: Box<[Name]>) -> Self {
        let total: u64 = names.iter().map(|name| u64::from(name.weight)).sum();
        let average = (total / names.len().max(1) as u64).max(1);
        let unit = 1 << average.ilog2();
        let mut points = Vec::new();
        for (at, name) in (0_u32..).zip(&names) {
            let count = (u64::from(name.weight) * POINTS / unit).max(1);
            points.extend((1..=count).map(|number| (name.salted(number), at)));
        }
        points.sort_unstable();
        Self { names, points: points.into() }
    }

    /// The endpoints in the order in which their points follow a key; one may come several times.
    fn order(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.points.partition_point(|(place, _)| *place < key);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|(_, at)| *at as usize)
    }
}
