//! How long to wait before trying what has failed again.
//!
//! Each wait lies between half and the whole of a bound that doubles from 50 ms to 5 s, so that proxies that
//! failed together do not come back together.

use std::time::Duration;

use fastrand::Rng;

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Waits that grow with each failure in a row.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
    seed: Rng,
}

impl Backoff {
    pub(super) fn new(seed: Rng) -> Self {
        Self { failures: 0, seed }
    }

    /// How long to wait after one more failure.
    pub(super) fn wait(&mut self) -> Duration {
        let bound = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(0.5 + self.seed.f64() / 2.0)
    }

    /// It went well: the next wait is a first one.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}
