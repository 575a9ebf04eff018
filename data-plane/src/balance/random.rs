//! By lot, in proportion to the weights.

use fastrand::Rng;

use super::{Balancer, Candidates};

/// Draws by lot.
#[derive(Debug)]
pub struct Random;

impl Balancer for Random {
    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        among.draw(seed)
    }

    fn renewed(&self) -> Box<dyn Balancer> {
        Box::new(Self)
    }

    fn name(&self) -> &'static str {
        "random"
    }
}
