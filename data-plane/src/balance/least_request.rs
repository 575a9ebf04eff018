//! Of two drawn by lot, the one with fewer requests in flight for its weight.
//!
//! Two choices are enough to keep the longest queue short (Mitzenmacher, "The Power of Two Choices in
//! Randomized Load Balancing", 2001), and threads that choose at once do not all run to the same endpoint.
//! Both are drawn in proportion to the weights and the first wins a tie, so that an idle set is shared by
//! weight as well. The counts are those of all threads.
//!
//! Whoever failed when it last answered loses against whoever did not, for a second: a failure that comes at once leaves
//! nothing in flight, and would attract the next request. One failure is enough, as one good answer is to be back; where all
//! fail, only load counts.

use fastrand::Rng;

use super::{Balancer, Candidates};

/// Chooses the less loaded of two.
#[derive(Debug)]
pub struct LeastRequest;

impl Balancer for LeastRequest {
    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        let first = among.draw(seed);
        let second = another(among, first, seed);
        match (among.is_usable(first), among.is_usable(second)) {
            (true, false) => first,
            (false, true) => second,
            _ => {
                let load = |at, other| u128::from(among.in_flight(at)) * u128::from(among.weight(other));
                let rank = |at, other| (among.is_failing(at), load(at, other));
                if rank(second, first) < rank(first, second) { second } else { first }
            }
        }
    }

    fn renewed(&self) -> Box<dyn Balancer> {
        Box::new(Self)
    }

    fn name(&self) -> &'static str {
        "least-request"
    }
}

/// Draws one that is not `first`, where there is one.
fn another(among: &Candidates<'_>, first: usize, seed: &mut Rng) -> usize {
    if among.len() == 1 {
        first
    } else if among.weights_are_equal() {
        let drawn = seed.usize(..among.len() - 1);
        drawn + usize::from(drawn >= first)
    } else {
        let drawn = among.draw(seed);
        // A heavy one is often drawn twice; its neighbour then keeps the choice a choice.
        if drawn == first { (first + 1) % among.len() } else { drawn }
    }
}
