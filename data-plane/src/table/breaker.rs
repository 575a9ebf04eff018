//! A circuit breaker: a service whose requests mostly fail is left alone for a while, and tried again by single requests
//! (Nygard, "Release It!", 2007; the states are those of Polly and resilience4j).
//!
//! ```text
//!          too many of a window's requests failed             time passes, claimed by one request
//!  closed ──────────────────────────────────────▶ open ◀───────────────────────────────────────▶ half-open
//!    ▲                                                          it failed, or never reported          │
//!    └───────────────────────────────── it was answered ──────────────────────────────────────────────┘
//! ```
//!
//! Windows follow each other, and each begins anew: what was before says nothing. Requests that began before it opened
//! say nothing any more.
//!
//! Both words are atomic; there is no lock.
//!
//! Deliberately absent: the clock. Times are milliseconds of a steady clock, never 0.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use waypost_proto::{
    time::{WireDuration, duration},
    v1::CircuitBreaker,
};

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trip {
    /// So many of 100 requests of a window.
    percent: u64,
    window_ms: u64,
    /// Fewer requests in a window say nothing.
    minimum: u64,
    open_ms: u64,
}

impl Trip {
    /// What was declared; `None`: it never opens.
    pub(super) fn of(declared: &CircuitBreaker) -> Option<Self> {
        let or = |wire: Option<&WireDuration>, seconds| {
            let declared = wire.and_then(duration).filter(|length| !length.is_zero());
            millis(declared.unwrap_or(Duration::from_secs(seconds)))
        };
        (declared.failure_percent > 0).then(|| Self {
            percent: declared.failure_percent.into(),
            window_ms: or(declared.window.as_ref(), 10),
            minimum: if declared.minimum_requests == 0 { 20 } else { declared.minimum_requests.into() },
            open_ms: or(declared.open_time.as_ref(), 5),
        })
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX >> 2).max(1)
}

/// Whether a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may, and what becomes of it is counted.
    Closed,
    /// It may, and decides whether the breaker closes.
    Probe,
    /// It may not, for so long at least.
    Open(Duration),
}

/// One service's breaker at this proxy.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// The window's number << 40 | its requests << 20 | those that failed.
    counts: AtomicU64,
    /// When the next request may try; 0 where it is closed.
    due: AtomicU64,
}

const COUNT_BITS: u32 = 20;
const MOST: u64 = (1 << COUNT_BITS) - 1;

impl Breaker {
    /// Asks for one request.
    pub(super) fn admit(&self, trip: Trip, now: u64) -> Admission {
        let due = self.due.load(Ordering::Relaxed);
        if due == 0 {
            return Admission::Closed;
        }
        let claim =
            || self.due.compare_exchange(due, now + trip.open_ms, Ordering::Relaxed, Ordering::Relaxed);
        if due <= now && claim().is_ok() {
            return Admission::Probe;
        }
        Admission::Open(Duration::from_millis(due.saturating_sub(now).max(1)))
    }

    /// Says what became of a request that was admitted. Whether the breaker opens by it.
    pub(super) fn report(&self, trip: Trip, admitted: Admission, failed: bool, now: u64) -> bool {
        match (admitted, failed) {
            (Admission::Open(_), _) => false,
            (Admission::Probe, true) => {
                self.due.store(now + trip.open_ms, Ordering::Relaxed);
                false
            }
            (Admission::Probe, false) => {
                self.counts.store(0, Ordering::Relaxed);
                self.due.store(0, Ordering::Relaxed);
                false
            }
            (Admission::Closed, failed) => self.count(trip, failed, now) && self.open(trip, now),
        }
    }

    /// For how long it stays open; `None` where it is closed.
    pub(super) fn open_for(&self, now: u64) -> Option<Duration> {
        let due = self.due.load(Ordering::Relaxed);
        (due != 0).then(|| Duration::from_millis(due.saturating_sub(now)))
    }

    /// Counts, and says whether that was one too many.
    fn count(&self, trip: Trip, failed: bool, now: u64) -> bool {
        // The number comes round only after thousands of windows.
        let window = (now / trip.window_ms) & ((1 << (64 - 2 * COUNT_BITS)) - 1);
        let mut counted = (0, 0);
        // It never fails, as the closure always says what comes next.
        let _ = self.counts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            let (mut requests, mut failures) = ((held >> COUNT_BITS) & MOST, held & MOST);
            if held >> (2 * COUNT_BITS) != window || requests == MOST {
                (requests, failures) = (0, 0);
            }
            counted = (requests + 1, failures + u64::from(failed));
            Some(window << (2 * COUNT_BITS) | counted.0 << COUNT_BITS | counted.1)
        });
        let (requests, failures) = counted;
        failed && requests >= trip.minimum && failures * 100 >= trip.percent * requests
    }

    fn open(&self, trip: Trip, now: u64) -> bool {
        self.due.compare_exchange(0, now + trip.open_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRIP: Trip = Trip { percent: 50, window_ms: 10_000, minimum: 20, open_ms: 5_000 };

    fn send(breaker: &Breaker, failed: bool, now: u64) -> Admission {
        let admitted = breaker.admit(TRIP, now);
        breaker.report(TRIP, admitted, failed, now);
        admitted
    }

    #[test]
    fn it_opens_where_half_of_a_window_fails() {
        let breaker = Breaker::default();
        for number in 0..39 {
            assert_eq!(send(&breaker, number % 2 == 1 && number != 1, 20_000 + number), Admission::Closed);
        }
        assert_eq!(breaker.open_for(20_039), None, "18 of 39");
        assert_eq!(send(&breaker, true, 20_040), Admission::Closed, "19 of 40");
        assert_eq!(send(&breaker, true, 20_041), Admission::Closed, "20 of 41");
        assert_eq!(send(&breaker, true, 20_042), Admission::Closed);
        assert_eq!(send(&breaker, true, 20_043), Admission::Open(Duration::from_millis(4_999)), "21 of 42");
    }

    #[test]
    fn few_requests_say_nothing_and_a_window_forgets_the_one_before() {
        let breaker = Breaker::default();
        for number in 0..19 {
            assert_eq!(send(&breaker, true, 20_000 + number), Admission::Closed);
        }
        for number in 0..19 {
            assert_eq!(send(&breaker, true, 30_000 + number), Admission::Closed);
        }
        assert_eq!(send(&breaker, true, 30_020), Admission::Closed, "the twentieth opens it");
        assert!(breaker.open_for(30_021).is_some());
    }

    #[test]
    fn one_request_tries_and_its_answer_closes_it() {
        let breaker = Breaker::default();
        for _ in 0..20 {
            send(&breaker, true, 20_000);
        }
        assert!(matches!(breaker.admit(TRIP, 24_999), Admission::Open(_)));
        let probe = breaker.admit(TRIP, 25_000);
        assert_eq!(probe, Admission::Probe);
        assert!(matches!(breaker.admit(TRIP, 25_001), Admission::Open(_)), "one alone");
        breaker.report(TRIP, Admission::Closed, false, 25_002);
        assert!(breaker.open_for(25_002).is_some(), "what began before it opened says nothing");
        breaker.report(TRIP, probe, true, 25_003);
        assert!(matches!(breaker.admit(TRIP, 30_002), Admission::Open(_)), "a failure begins the time anew");
        let probe = breaker.admit(TRIP, 30_003);
        breaker.report(TRIP, probe, false, 30_004);
        assert_eq!(breaker.admit(TRIP, 30_005), Admission::Closed);
    }

    #[test]
    fn a_probe_that_never_reports_holds_nobody_up() {
        let breaker = Breaker::default();
        for _ in 0..20 {
            send(&breaker, true, 20_000);
        }
        assert_eq!(breaker.admit(TRIP, 25_000), Admission::Probe);
        assert!(matches!(breaker.admit(TRIP, 29_999), Admission::Open(_)));
        assert_eq!(breaker.admit(TRIP, 30_000), Admission::Probe);
    }

    proptest! {
        #[test]
        fn it_does_as_a_plain_model_does(
            steps in prop::collection::vec((0_u64..3_000, any::<bool>()), 1..400),
        ) {
            let breaker = Breaker::default();
            let (mut now, mut due, mut window, mut requests, mut failures) = (20_000, 0, 0, 0_u64, 0_u64);
            for (passed, failed) in steps {
                now += passed;
                let expected = match due {
                    0 => Admission::Closed,
                    due if due <= now => Admission::Probe,
                    due => Admission::Open(Duration::from_millis(due - now)),
                };
                prop_assert_eq!(send(&breaker, failed, now), expected);
                match expected {
                    Admission::Closed => {
                        if window != now / TRIP.window_ms {
                            (window, requests, failures) = (now / TRIP.window_ms, 0, 0);
                        }
                        requests += 1;
                        failures += u64::from(failed);
                        if failed && requests >= TRIP.minimum && failures * 100 >= TRIP.percent * requests {
                            due = now + TRIP.open_ms;
                        }
                    }
                    Admission::Probe if failed => due = now + TRIP.open_ms,
                    Admission::Probe => (due, window, requests, failures) = (0, 0, 0, 0),
                    Admission::Open(_) => {}
                }
            }
        }
    }
}
