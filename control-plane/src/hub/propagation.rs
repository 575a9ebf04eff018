//! From commit to applied: the latest samples, for the status at a glance.
//!
//! The exact distribution is in the metrics; this is what a person wants to see without a dashboard.

use std::time::Duration;

use waypost_proto::{time::wire_duration, v1};

const MOST: usize = 1_024;

/// The latest samples, and how many there ever were.
#[derive(Debug, Default)]
pub(super) struct Propagation {
    count: u64,
    latest: Vec<Duration>,
    next: usize,
}

impl Propagation {
    /// Takes a sample; the oldest makes room.
    pub(super) fn add(&mut self, sample: Duration) {
        self.count += 1;
        if self.latest.len() < MOST {
            self.latest.push(sample);
        } else {
            self.latest[self.next] = sample;
        }
        self.next = (self.next + 1) % MOST;
    }

    /// Sums up, by nearest rank.
    pub(super) fn to_wire(&self) -> v1::Propagation {
        let mut sorted = self.latest.clone();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
            Some(wire_duration(sorted.get(at).copied().unwrap_or_default()))
        };
        v1::Propagation { samples: self.count, p50: rank(50), p99: rank(99), max: rank(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_samples_count_and_older_ones_do_not() {
        let mut propagation = Propagation::default();
        assert_eq!(propagation.to_wire().p99, Some(wire_duration(Duration::ZERO)));
        propagation.add(Duration::from_secs(60));
        (1..=1_024).for_each(|millis| propagation.add(Duration::from_millis(millis)));
        let summed_up = propagation.to_wire();
        assert_eq!(summed_up.samples, 1_025);
        assert_eq!(summed_up.p50, Some(wire_duration(Duration::from_millis(512))));
        assert_eq!(summed_up.p99, Some(wire_duration(Duration::from_millis(1_014))));
        assert_eq!(summed_up.max, Some(wire_duration(Duration::from_millis(1_024))));
    }
}
