//! How long an endpoint is skipped after it failed: 1 s, doubling with each further failure up to 30 s.
//!
//! ```text
//!          failed                 time passes, claimed by one request
//!  clear ─────────▶ cooling(n) ─────────────────────────────▶ probing(n)
//!    ▲                  ▲                                       │   │
//!    │                  └──────────── failed: n + 1 ────────────┘   │
//!    └─────────────────────────── succeeded ────────────────────────┘
//! ```
//!
//! Failures while it cools down do not lengthen it: they are of requests that began before. One request
//! alone probes; where it never reports, another may after a second. All of it is one atomic word.
//!
//! Deliberately absent: the clock. Times are milliseconds of a steady clock, never 0.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

const FIRST_MS: u64 = 1_000;
const LONGEST_MS: u64 = 30_000;
const PROBE_MS: u64 = 1_000;

/// The word: when it is over (ms) << 8 | probing << 7 | failures; 0 where nothing failed.
#[derive(Debug, Default)]
pub(super) struct Cooldown(AtomicU64);

const PROBING: u64 = 1 << 7;
const FAILURES: u64 = PROBING - 1;

fn word(due: u64, probing: bool, failures: u64) -> u64 {
    due << 8 | if probing { PROBING } else { 0 } | failures.min(FAILURES)
}

impl Cooldown {
    /// Whether a request may go to the endpoint. The clock is asked only after a failure.
    pub(super) fn is_over(&self, now: impl Fn() -> u64) -> bool {
        let held = self.0.load(Ordering::Relaxed);
        held == 0 || held >> 8 <= now()
    }

    /// Claims the right to send a request: always granted where nothing failed, to one request where a
    /// cooldown is over, and to none while it lasts.
    pub(super) fn claim(&self, now: impl Fn() -> u64) -> bool {
        let held = self.0.load(Ordering::Relaxed);
        if held == 0 {
            return true;
        }
        let now = now();
        let probe = word(now + PROBE_MS, true, held & FAILURES);
        held >> 8 <= now && self.0.compare_exchange(held, probe, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Takes note of a failure.
    pub(super) fn failed(&self, now: u64) {
        // An update that another thread made meanwhile says the same as this one would.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            let lasts = held != 0 && held & PROBING == 0 && held >> 8 > now;
            (!lasts).then(|| {
                let failures = (held & FAILURES) + 1;
                let length = LONGEST_MS.min(FIRST_MS << (failures - 1).min(8));
                word(now + length, false, failures)
            })
        });
    }

    /// Takes note of a success.
    pub(super) fn succeeded(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// When it is over; 0 where nothing failed.
    pub(super) fn due(&self) -> u64 {
        self.0.load(Ordering::Relaxed) >> 8
    }

    /// How long it still lasts.
    pub(super) fn remaining(&self, now: u64) -> Duration {
        Duration::from_millis(self.due().saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_from_one_second_to_thirty() {
        let cooldown = Cooldown::default();
        let mut now = 1;
        for expected in [1, 2, 4, 8, 16, 30, 30, 30] {
            cooldown.failed(now);
            assert_eq!(cooldown.remaining(now), Duration::from_secs(expected));
            now = cooldown.due();
            assert!(cooldown.claim(|| now), "one request probes");
        }
    }

    #[test]
    fn failures_of_requests_that_began_before_do_not_lengthen_it() {
        let cooldown = Cooldown::default();
        (0..100).for_each(|_| cooldown.failed(5));
        assert_eq!(cooldown.remaining(5), Duration::from_secs(1));
    }

    #[test]
    fn one_request_probes_and_its_success_ends_it() {
        let cooldown = Cooldown::default();
        cooldown.failed(1);
        assert!(!cooldown.is_over(|| 1000) && !cooldown.claim(|| 1000));
        assert!(cooldown.is_over(|| 1001) && cooldown.claim(|| 1001));
        assert!(
            !cooldown.is_over(|| 1001) && !cooldown.claim(|| 1001),
            "another request waits for the probe"
        );
        assert!(cooldown.claim(|| 2001), "a probe that never reports holds nobody up");
        cooldown.succeeded();
        assert!(cooldown.claim(|| unreachable!("the clock is not asked")) && cooldown.due() == 0);
    }
}
