//! When too few endpoints of a set are well, all of them take requests: a panic, after Envoy's panic threshold.
//!
//! Where most seem to fail, the fault is more likely in what they have in common, or in the eye of the beholder, and
//! those that are left would be overrun. Whether it is so is found out only when an endpoint is to be passed over, and
//! holds for 100 ms: sets without trouble never ask.
//!
//! Deliberately absent: the clock.

use std::sync::atomic::{AtomicU64, Ordering};

/// The share of endpoints, of 100, that must be well where nothing is declared. Envoy's.
pub(crate) const DEFAULT_PERCENT: u32 = 50;
/// For how long an answer holds.
const HOLDS_MS: u64 = 100;

/// A set's panic. A set that comes after it finds out anew.
#[derive(Debug)]
pub(crate) struct Panic {
    below_percent: u32,
    /// When it was found out (ms) << 1 | whether there is one; 0: never.
    word: AtomicU64,
}

impl Panic {
    /// With fewer than so many of 100 well.
    pub(crate) fn below(percent: u32) -> Self {
        Self { below_percent: percent, word: AtomicU64::new(0) }
    }

    /// How many of 100 must be well.
    pub(crate) fn below_percent(&self) -> u32 {
        self.below_percent
    }

    /// Whether so few are well that there is a panic.
    pub(crate) fn is_for(&self, well: usize, all: usize) -> bool {
        let (well, all) = (well as u128, all as u128);
        well * 100 < all * u128::from(self.below_percent)
    }

    /// The same, found out at most every 100 ms. `count` says how many are well, and how many there are.
    pub(crate) fn is_on(&self, now: u64, count: impl FnOnce() -> (usize, usize)) -> bool {
        let held = self.word.load(Ordering::Relaxed);
        if held != 0 && now < (held >> 1) + HOLDS_MS {
            return held & 1 == 1;
        }
        let (well, all) = count();
        let on = self.is_for(well, all);
        self.word.store(now << 1 | u64::from(on), Ordering::Relaxed);
        on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_below_the_threshold() {
        for (percent, well, all, expected) in [
            (50, 5, 10, false),
            (50, 4, 10, true),
            (50, 0, 1, true),
            (50, 1, 3, true),
            (0, 0, 10, false),
            (100, 9, 10, true),
            (100, 10, 10, false),
        ] {
            assert_eq!(Panic::below(percent).is_for(well, all), expected, "{well} of {all} at {percent}");
        }
    }

    #[test]
    fn what_was_found_out_holds_for_a_while() {
        let panic = Panic::below(DEFAULT_PERCENT);
        assert!(panic.is_on(1_000, || (0, 2)));
        assert!(panic.is_on(1_099, || unreachable!("it is not asked again")));
        assert!(!panic.is_on(1_100, || (1, 2)));
        assert!(!panic.is_on(1_199, || unreachable!("it is not asked again")));
    }
}
