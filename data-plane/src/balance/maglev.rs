//! By a key in a table: Maglev's consistent hashing (Eisenbud et al., NSDI 2016, section 3.4).
//!
//! Each endpoint has a permutation of the table's places, made of its id. In turns, each takes the first place of its
//! permutation that is free, until all are taken; with weights the turns come in proportion to them. A key's place is its
//! hash modulo the size. Shares are more even than on a ring and a lookup is one read; where an endpoint leaves, a few
//! keys of others move, too.
//!
//! The size is one prime for all sets, as in Envoy: with one that followed the number of endpoints nearly all keys would
//! move where it changes. A table takes 256 KiB, and is shared with the next set where endpoints and weights are the same.
//! With more than 655 endpoints shares are uneven by more than 1 % (the paper asks for a hundred places for each).

use std::{cmp::Ordering, collections::BinaryHeap, sync::Arc};

use fastrand::Rng;

use super::{
    Balancer, Candidates, LoadBound,
    keyed::{self, Name},
};
use crate::table::EndpointState;

/// The places of a table; a prime, so that every step visits all of them.
const SIZE: u64 = 65_537;
/// A place that is nobody's yet.
const FREE: u32 = u32::MAX;
/// What sets the two hashes of an id apart.
const OFFSET_SALT: u64 = 1;
const STEP_SALT: u64 = 2;

/// Chooses by a table.
#[derive(Debug, Default)]
pub struct Maglev {
    bound: LoadBound,
    table: Arc<Lookup>,
}

#[derive(Debug, Default)]
struct Lookup {
    names: Box<[Name]>,
    /// Whose each place is.
    places: Box<[u32]>,
}

impl Maglev {
    /// A table whose endpoints take no more than a bound.
    pub fn bounded(bound: LoadBound) -> Self {
        Self { bound, table: Arc::default() }
    }
}

impl Balancer for Maglev {
    fn prepare(&mut self, members: &[Arc<EndpointState>]) {
        let names = Name::all(members);
        if self.table.names != names {
            self.table = Arc::new(Lookup::of(names));
        }
    }

    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        let key = keyed::key_of(among, seed);
        keyed::first(among, key, self.table.order(key), &self.table.names, self.bound)
    }

    fn renewed(&self) -> Box<dyn Balancer> {
        Box::new(Self { bound: self.bound, table: Arc::clone(&self.table) })
    }

    fn name(&self) -> &'static str {
        "maglev"
    }
}

/// Whose turn it is when: after as many turns as it had, for each unit of weight.
struct Turn {
    after: f64,
    at: u32,
}

impl Lookup {
    fn of(names: Box<[Name]>) -> Self {
        if names.is_empty() {
            return Self::default();
        }
        // Where each permutation is, and how it goes on.
        let mut walks: Vec<(u64, u64)> = names
            .iter()
            .map(|name| (name.salted(OFFSET_SALT) % SIZE, name.salted(STEP_SALT) % (SIZE - 1) + 1))
            .collect();
        let mut turns: BinaryHeap<Turn> =
            (0_u32..).take(names.len()).map(|at| Turn { after: 0.0, at }).collect();
        let mut places = vec![FREE; SIZE as usize];
        for _ in 0..SIZE {
            let Some(mut turn) = turns.pop() else { break };
            let (place, step) = &mut walks[turn.at as usize];
            while places[*place as usize] != FREE {
                *place = (*place + *step) % SIZE;
            }
            places[*place as usize] = turn.at;
            turn.after += 1.0 / f64::from(names[turn.at as usize].weight);
            turns.push(turn);
        }
        Self { names, places: places.into() }
    }

    /// The endpoints in the order in which they follow a key's place; one may come several times.
    fn order(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = if self.places.is_empty() { 0 } else { (key % SIZE) as usize };
        let (before, after) = self.places.split_at(start);
        after.iter().chain(before).map(|at| *at as usize)
    }
}

impl Ord for Turn {
    /// The greatest comes next: the one that had the fewest, and of those the first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.after.total_cmp(&self.after).then(other.at.cmp(&self.at))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}
