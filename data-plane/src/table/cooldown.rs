//! How long an endpoint is skipped after it failed: a first length, doubling with each further failure up to a longest.
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
//! [`Backoff`] is the machine, without the word. [`Cooldown`] is what follows failures to connect: 1 s, up to 30 s. The
//! machine's other user is [`crate::health`], with lengths that a policy declares.
//!
//! Deliberately absent: the clock. Times are milliseconds of a steady clock, never 0.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How long a probe may take to report before another one may go.
const PROBE_MS: u64 = 1_000;

/// How long it lasts, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// After the first failure.
    pub(crate) first: u64,
    /// At most, however many follow.
    pub(crate) longest: u64,
}

/// After failures to connect.
const CONNECT: Lengths = Lengths { first: 1_000, longest: 30_000 };

/// The machine, as 56 bits: when it is over (ms) << 8 | probing << 7 | failures; 0 where nothing failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff(u64);

const PROBING: u64 = 1 << 7;
const FAILURES: u64 = PROBING - 1;

impl Backoff {
    pub(crate) fn of(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// After this many failures, the last of which is over at `due`.
    pub(crate) fn remembering(due: u64, failures: u64) -> Self {
        Self(due << 8 | failures.min(FAILURES))
    }

    /// When it is over, or a probe has had its time; 0 where nothing failed.
    pub(crate) fn due(self) -> u64 {
        self.0 >> 8
    }

    pub(crate) fn failures(self) -> u64 {
        self.0 & FAILURES
    }

    pub(crate) fn is_probing(self) -> bool {
        self.0 & PROBING != 0
    }

    /// Whether a request may go. The clock is asked only after a failure.
    pub(crate) fn is_over(self, now: impl Fn() -> u64) -> bool {
        self.0 == 0 || self.due() <= now()
    }

    /// The state in which one request probes.
    pub(crate) fn probed(self, now: u64) -> Self {
        Self((now + PROBE_MS) << 8 | PROBING | self.failures())
    }

    /// The state after one more failure; `None` where that changes nothing.
    pub(crate) fn failed(self, now: u64, lengths: Lengths) -> Option<Self> {
        let lasts = self.0 != 0 && !self.is_probing() && self.due() > now;
        (!lasts).then(|| {
            let doubled = |failures: u64| lengths.first.saturating_mul(1 << (failures - 1).min(32));
            let before = self.failures();
            // Failures beyond the longest time say nothing more, and would have to be forgotten one by one.
            let failures = if before > 0 && doubled(before) >= lengths.longest { before } else { before + 1 };
            Self::remembering(now + doubled(failures).min(lengths.longest), failures)
        })
    }
}

/// What follows failures to connect.
#[derive(Debug, Default)]
pub(super) struct Cooldown(AtomicU64);

impl Cooldown {
    /// The same as another's.
    pub(super) fn continued(other: &Self) -> Self {
        Self(AtomicU64::new(other.held().bits()))
    }

    fn held(&self) -> Backoff {
        Backoff::of(self.0.load(Ordering::Relaxed))
    }

    /// Whether a request may go to the endpoint. The clock is asked only after a failure.
    pub(super) fn is_over(&self, now: impl Fn() -> u64) -> bool {
        self.held().is_over(now)
    }

    /// Claims the right to send a request: always granted where nothing failed, to one request where a
    /// cooldown is over, and to none while it lasts.
    pub(super) fn claim(&self, now: impl Fn() -> u64) -> bool {
        let held = self.held();
        if held == Backoff::default() {
            return true;
        }
        let now = now();
        let (before, probe) = (held.bits(), held.probed(now).bits());
        held.is_over(|| now)
            && self.0.compare_exchange(before, probe, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Takes note of a failure.
    pub(super) fn failed(&self, now: u64) {
        // An update that another thread made meanwhile says the same as this one would.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            Backoff::of(held).failed(now, CONNECT).map(Backoff::bits)
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
        self.held().due()
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
