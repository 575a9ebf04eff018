//! Whether an endpoint's last answer was a failure, for policies that look at nothing but load: whoever fails at once has nothing
//! in flight, and would get everything.
//!
//! Deliberately absent: what a failure is (see [`crate::forward`]), and ejection, which needs a policy (see [`crate::health`]).

use std::sync::atomic::{AtomicU16, Ordering};

/// What times are counted in, milliseconds: there is no room for more on the line that every request touches.
const STEP_MS: u64 = 16;
/// For how long a failure counts where nothing follows it: 1024 ms.
const LASTS: u16 = 64;

/// When an endpoint's last answer was a failure, steps modulo 2^16 (a failure of 17 minutes ago, with nothing since, counts
/// once more); 0: it was none.
#[derive(Debug, Default)]
pub(super) struct Failing(AtomicU16);

impl Failing {
    pub(super) fn answered(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn failed(&self, now: u64) {
        self.0.store(steps(now).max(1), Ordering::Relaxed);
    }

    /// Whether it fails, as far as is known. The clock is asked only after a failure.
    pub(super) fn is_on(&self, now: impl FnOnce() -> u64) -> bool {
        let at = self.0.load(Ordering::Relaxed);
        at != 0 && steps(now()).wrapping_sub(at) < LASTS
    }
}

fn steps(millis: u64) -> u16 {
    u16::try_from((millis / STEP_MS) & u64::from(u16::MAX)).unwrap_or(u16::MAX)
}
