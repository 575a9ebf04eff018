//! Of a few drawn by lot, the one with the lowest latency among those that are not busier than most.
//!
//! This is the rule of Prequal ("Load is not what you should balance", arXiv 2312.10172, section 4): "hot-cold
//! lexicographic". An endpoint is hot where its requests in flight are above a quantile of those of all; of cold ones
//! the lowest latency wins, and only where all are hot the fewest requests in flight do.
//!
//! Prequal asks servers by probes, and keeps the answers in a pool for as long as their budget of reuse allows. Here
//! nobody is asked: what is compared is what this proxy knows by its own requests, read at the moment of the choice. So
//! there is no pool, nothing that grows old in it and nothing to budget; and what other proxies send to an endpoint shows
//! in its latency alone. See `BALANCING.md` beside this file.
//!
//! Latencies that are less than twice one another count as the same, and the fewer requests in flight decide: the estimate
//! keeps peaks for a while, so that among endpoints that are alike it says who was unlucky last. The paper has medians.
//!
//! The quantile follows the endpoints drawn by small steps, up and down in proportion ("frugal streaming", Ma et al.,
//! arXiv 1407.1121). Threads may overwrite each other's steps, which costs a step.

use std::sync::atomic::{AtomicU32, Ordering};

use fastrand::Rng;

use super::{Balancer, Candidates};

/// How many are drawn: the paper probes three for each request and chooses among at most 16.
const DRAWN: usize = 5;
/// Endpoints above this share of all are hot: the paper's 2^-0.25.
const QUANTILE: f32 = 0.84;
/// A latency counts as lower where it is less by this factor.
const FASTER: f64 = 2.0;
/// How far one look moves the threshold, as a share of it.
const STEP: f32 = 0.05;

/// Chooses by latency among those that are not busy.
#[derive(Debug, Default)]
pub struct Prequal {
    /// Requests in flight above which an endpoint is hot, as the bits of an `f32`.
    threshold: AtomicU32,
}

/// What is compared of an endpoint.
#[derive(Clone, Copy)]
struct Seen {
    is_hot: bool,
    /// Requests in flight for each unit of weight.
    load: f64,
    /// In microseconds.
    latency: f64,
}

impl Seen {
    fn is_better_than(self, other: Self) -> bool {
        if self.is_hot != other.is_hot {
            return other.is_hot;
        }
        let is_faster = |one: Self, other: Self| !one.is_hot && one.latency * FASTER < other.latency;
        is_faster(self, other) || (!is_faster(other, self) && self.load < other.load)
    }
}

impl Balancer for Prequal {
    fn choose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        let mut threshold = f32::from_bits(self.threshold.load(Ordering::Relaxed));
        let limit = f64::from(threshold);
        let (mut chosen, mut best): (usize, Option<Seen>) = (0, None);
        for _ in 0..DRAWN {
            let at = among.draw(seed);
            let load = among.relative_load(at);
            let is_hot = load > limit;
            threshold = moved(threshold, load as f32 > threshold);
            if best.is_none() {
                chosen = at;
            }
            if !among.is_usable(at) {
                continue;
            }
            let seen = Seen { is_hot, load, latency: latency(among, at, load) };
            if best.is_none_or(|best| seen.is_better_than(best)) {
                (chosen, best) = (at, Some(seen));
            }
        }
        self.threshold.store(threshold.to_bits(), Ordering::Relaxed);
        chosen
    }

    fn renewed(&self) -> Box<dyn Balancer> {
        Box::new(Self { threshold: AtomicU32::new(self.threshold.load(Ordering::Relaxed)) })
    }

    fn name(&self) -> &'static str {
        "prequal"
    }

    fn needs_latency(&self) -> bool {
        true
    }
}

/// What is known of an endpoint's latency. One that is idle and unknown becomes known by being chosen; one that has not
/// answered yet comes last.
fn latency(among: &Candidates<'_>, at: usize, load: f64) -> f64 {
    match among.latency(at) {
        Some(latency) => f64::from(latency),
        None if load > 0.0 => f64::MAX,
        None => 0.0,
    }
}

/// The threshold after a look at one endpoint, which is above it or not.
fn moved(threshold: f32, is_above: bool) -> f32 {
    let step = STEP * threshold.max(1.0);
    let moved = if is_above { threshold + step * QUANTILE } else { threshold - step * (1.0 - QUANTILE) };
    moved.max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_settles_at_the_quantile() {
        let mut seed = Rng::with_seed(1);
        let mut threshold = 0.0;
        for _ in 0..5_000 {
            threshold = moved(threshold, seed.f32() * 100.0 > threshold);
        }
        let mut sum = 0.0;
        for _ in 0..5_000 {
            threshold = moved(threshold, seed.f32() * 100.0 > threshold);
            sum += threshold;
        }
        let mean = sum / 5_000.0;
        assert!((76.0..92.0).contains(&mean), "of numbers up to 100, 84 % are below 84: {mean}");
    }
}
