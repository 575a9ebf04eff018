//! The members of a set, as a policy sees them at one choice.
//!
//! Everything is read at the moment it is asked for, and nothing that is not asked for costs anything: the clock above
//! all.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;

use crate::table::EndpointState;

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
    pub(super) members: &'a [Arc<EndpointState>],
    pub(super) weights: &'a Weights,
    pub(super) usable: &'a dyn Fn(usize) -> bool,
    pub(super) key: Option<u64>,
    /// Milliseconds of a steady clock.
    pub(super) now: &'a dyn Fn() -> u64,
}

#[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
impl<'a> Candidates<'a> {
    pub(crate) fn new(
        members: &'a [Arc<EndpointState>],
        weights: &'a Weights,
        usable: &'a dyn Fn(usize) -> bool,
        key: Option<u64>,
        now: &'a dyn Fn() -> u64,
    ) -> Self {
        Self { members, weights, usable, key, now }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// One of them.
    pub fn member(&self, at: usize) -> &Arc<EndpointState> {
        &self.members[at]
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

    /// The same for each unit of weight, where the heaviest has one unit.
    pub fn relative_load(&self, at: usize) -> f64 {
        let load = self.in_flight(at) as f64;
        if self.weights_are_equal() {
            return load;
        }
        load * f64::from(self.heaviest()) / f64::from(self.weight(at))
    }

    /// Whether one failed when it last answered, less than a second ago.
    pub fn is_failing(&self, at: usize) -> bool {
        self.members[at].is_failing(self.now)
    }

    /// How long answers of one are expected to take, in microseconds. Known only where a policy of its set
    /// [needs it](super::Balancer::needs_latency), and once one has answered.
    pub fn latency(&self, at: usize) -> Option<f32> {
        let now = Duration::from_millis(self.now());
        self.members[at].latency_at(now)
    }

    /// What the request has in common with those that should go to the same endpoint, where the service's policy names
    /// something and the request has it.
    pub fn key(&self) -> Option<u64> {
        self.key
    }

    /// Milliseconds of a steady clock, never 0. Costs a look at the clock.
    pub fn now(&self) -> u64 {
        (self.now)()
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

    /// Draws two by lot so that a fair choice between them is in proportion to the weights: where all are the same two
    /// that differ, else each by itself.
    pub fn draw_two(&self, seed: &mut Rng) -> (usize, usize) {
        let first = self.draw(seed);
        if self.len() == 1 || !self.weights_are_equal() {
            return (first, self.draw(seed));
        }
        let second = seed.usize(..self.len() - 1);
        (first, second + usize::from(second >= first))
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
