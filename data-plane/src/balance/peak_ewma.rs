//! Of two drawn by lot, the one that is expected to answer sooner.
//!
//! This is Finagle's "Power of Two Choices (P2C) + Peak EWMA" (`PeakEwma.scala`; also Linkerd's): the cost of an
//! endpoint is how long its answers take (see [`crate::table::Latency`]) times the requests in flight with this one. One
//! that has not answered yet while requests are in flight to it comes last; one that is idle and unknown comes first, so
//! that it becomes known by one request.
//!
//! What is in flight is reckoned for each unit of weight, and both are drawn by weight: endpoints that are alike share
//! by weight, and one that is slow gets less whatever it weighs.

use fastrand::Rng;

use super::{Balancer, Candidates};

/// Chooses the cheaper of two.
#[derive(Debug)]
pub struct PeakEwma;

impl Balancer for PeakEwma {
    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        let (first, second) = among.draw_two(seed);
        match (among.is_usable(first), among.is_usable(second)) {
            (true, false) => first,
            (false, true) => second,
            _ if cost(among, second) < cost(among, first) => second,
            _ => first,
        }
    }

    fn renewed(&self) -> Box<dyn Balancer> {
        Box::new(Self)
    }

    fn name(&self) -> &'static str {
        "peak-ewma"
    }

    fn needs_latency(&self) -> bool {
        true
    }
}

/// What the next request would cost, in microseconds.
fn cost(among: &Candidates<'_>, at: usize) -> f64 {
    let load = among.relative_load(at);
    match among.latency(at) {
        Some(latency) => f64::from(latency) * (load + 1.0),
        None if load > 0.0 => f64::MAX,
        None => 0.0,
    }
}
