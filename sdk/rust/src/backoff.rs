//! How long to wait before the next attempt.
//!
//! Each wait is between half and the whole of a bound that doubles ("equal jitter"), so that a thousand
//! clients that lost one control plane do not come back together. The waiting itself is the caller's.

use std::time::Duration;

/// Grows with each failure until [`Backoff::reset`].
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// Between half and the whole of `first` at first, of `longest` in the end.
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self { first, longest, failures: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// The wait after one more failure, with `longest` lowered to `at_most` this time.
    pub fn after_failure(&mut self, at_most: Duration) -> Duration {
        let grown = self.first.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        let bound = grown.min(self.longest).min(at_most);
        bound.mul_f64(0.5 + self.random.f64() / 2.0)
    }

    /// Something has worked: the next failure is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_wait_lies_between_half_and_the_whole_of_its_bound(
            first in 1_u64..1000, longest in 1_u64..100_000, at_most in 1_u64..100_000, failures in 0_u32..80, seed: u64,
        ) {
            let milliseconds = Duration::from_millis;
            let mut backoff = Backoff::new(milliseconds(first), milliseconds(longest), seed);
            let mut wait = Duration::ZERO;
            for _ in 0..=failures {
                wait = backoff.after_failure(milliseconds(at_most));
            }
            let grown = u128::from(first) << failures.min(64);
            let bound = u64::try_from(grown.min(u128::from(longest.min(at_most)))).expect("it fits");
            prop_assert!(wait <= milliseconds(bound) + Duration::from_nanos(1));
            prop_assert!(wait + Duration::from_nanos(1) >= milliseconds(bound) / 2);
            backoff.reset();
            prop_assert!(backoff.after_failure(milliseconds(at_most)) <= milliseconds(first));
        }
    }
}
