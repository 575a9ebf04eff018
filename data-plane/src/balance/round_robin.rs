//! One after the other, in proportion to the weights, without a lock.
//!
//! This is static stride scheduling, as gRPC's weighted round robin has it (gRFC A58): a counter that all
//! threads advance walks over the endpoints round after round, and an endpoint sits out the rounds that its
//! weight does not earn it. Each has an offset of its own, so that light ones do not all come in the same round.

use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;

use super::{Balancer, Candidates};

/// How many are passed over at most; where so few are heavy and so many light, a lot decides.
const MOST_STEPS: usize = 256;

/// Walks over the set.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicU64,
}

impl Balancer for RoundRobin {
    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        let count = among.len() as u64;
        let heaviest = u64::from(among.heaviest());
        for _ in 0..MOST_STEPS {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let (round, place) = (turn / count, turn % count);
            let at = usize::try_from(place).unwrap_or(0);
            let weight = u64::from(among.weight(at));
            let offset = place.wrapping_mul(heaviest / 2);
            // Over `heaviest` rounds this holds in exactly `weight` of them.
            if (weight.wrapping_mul(round).wrapping_add(offset)) % heaviest >= heaviest - weight {
                return at;
            }
        }
        among.draw(seed)
    }

    fn renewed(&self) -> Box<dyn Balancer> {
        Box::new(Self { turn: AtomicU64::new(self.turn.load(Ordering::Relaxed)) })
    }

    fn name(&self) -> &'static str {
        "round-robin"
    }
}
