//! A circuit breaker: a service whose requests mostly fail is left alone for a while, and tried again by single requests
//! (Nygard, "Release It!", 2007; the states are those of Polly and resilience4j).
//!
//! ```text
//!          too many of a window's requests failed             time passes, claimed by one request
//!  closed ──────────────────────────────────────▶ open ◀───────────────────────────────────────▶ half-open
//!    ▲                                                                it failed, or takes long        │
//!    └───────────────────────────────── it was answered ──────────────────────────────────────────────┘
//! ```
//!
//! A probe that is dropped without a word has found nothing out (its client went away, or it was never sent): the next
//! request tries at once.
//!
//! Windows follow each other, and each begins anew: what was before says nothing. Requests that began before it opened
//! say nothing any more, however late they end: who is admitted holds the number of times that it had opened by then.
//!
//! Both words are atomic; there is no lock.
//!
//! Deliberately absent: the clock. Times are milliseconds of a steady clock, never 0.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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

/// That a request may go.
#[derive(Debug)]
pub(crate) enum Admission {
    /// What becomes of it does not count: no breaker is declared.
    Uncounted,
    /// The breaker is closed, and had opened so many times.
    Closed(Generation),
    /// It decides whether the breaker closes.
    Probe(Probe),
}

/// How many times a breaker has opened, modulo 2^16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u16);

/// One request's right to try. Dropped without a report it is free for the next one.
#[derive(Debug)]
pub(crate) struct Probe {
    breaker: Arc<Breaker>,
    /// The state that the claim has left.
    claimed: State,
    reported: bool,
}

impl Drop for Probe {
    fn drop(&mut self) {
        if !self.reported {
            self.breaker.change(self.claimed, State { probing: false, due: LONG_DUE, ..self.claimed });
        }
    }
}

/// What a report changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Too many have failed.
    Opens,
    /// The one that tried was answered.
    Closes,
}

/// How a breaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stance {
    /// Requests go.
    Closed,
    /// None goes for so long.
    Open(Duration),
    /// The next request tries, or one does.
    HalfOpen {
        /// Whether one does.
        probing: bool,
    },
}

impl Stance {
    /// All names there are.
    pub(crate) const NAMES: [&str; 3] = ["closed", "open", "half_open"];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed => Self::NAMES[0],
            Self::Open(_) => Self::NAMES[1],
            Self::HalfOpen { .. } => Self::NAMES[2],
        }
    }
}

/// One service's breaker at this proxy.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// The window's number << 40 | its requests << 20 | those that failed.
    counts: AtomicU64,
    /// A [`State`].
    state: AtomicU64,
}

const COUNT_BITS: u32 = 20;
const MOST: u64 = (1 << COUNT_BITS) - 1;

/// Whether a breaker is open: its generation << 48 | probing << 47 | when the next request may try; 0 where it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    generation: Generation,
    /// Whether a request tries.
    probing: bool,
    due: u64,
}

const GENERATION_SHIFT: u32 = 48;
const DUE_BITS: u32 = 47;
const LATEST: u64 = (1 << DUE_BITS) - 1;
/// A time that has passed.
const LONG_DUE: u64 = 1;

impl State {
    fn of(bits: u64) -> Self {
        let generation = Generation(u16::try_from(bits >> GENERATION_SHIFT).unwrap_or_default());
        Self { generation, probing: bits >> DUE_BITS & 1 == 1, due: bits & LATEST }
    }

    fn bits(self) -> u64 {
        u64::from(self.generation.0) << GENERATION_SHIFT | u64::from(self.probing) << DUE_BITS | self.due
    }

    fn is_closed(self) -> bool {
        self.due == 0
    }

    /// The same, open for as long as is declared.
    fn lasting(self, trip: Trip, now: u64) -> Self {
        Self { probing: false, due: now.saturating_add(trip.open_ms).min(LATEST), ..self }
    }

    fn closed(self) -> Self {
        Self { probing: false, due: 0, ..self }
    }
}

impl Breaker {
    /// Asks for one request.
    ///
    /// # Errors
    /// It may not go, for so long at least.
    pub(super) fn admit(self: &Arc<Self>, trip: Trip, now: u64) -> Result<Admission, Duration> {
        let held = self.state();
        if held.is_closed() {
            return Ok(Admission::Closed(held.generation));
        }
        let claimed = State { probing: true, ..held.lasting(trip, now) };
        if held.due <= now && self.change(held, claimed) {
            let breaker = Arc::clone(self);
            return Ok(Admission::Probe(Probe { breaker, claimed, reported: false }));
        }
        Err(Duration::from_millis(held.due.saturating_sub(now).max(1)))
    }

    /// Says what became of a request that was admitted, and gets what changes by it.
    pub(super) fn report(&self, trip: Trip, admitted: Admission, failed: bool, now: u64) -> Option<Change> {
        match admitted {
            Admission::Uncounted => None,
            Admission::Closed(generation) => {
                let held = self.state();
                let counts = held.is_closed() && held.generation == generation;
                let opens = counts && self.count(trip, failed, now) && self.open(held, trip, now);
                opens.then_some(Change::Opens)
            }
            Admission::Probe(mut probe) => {
                probe.reported = true;
                let is_its = self.probed(probe.claimed.generation, trip, failed, now);
                (is_its && !failed).then_some(Change::Closes)
            }
        }
    }

    /// Takes note of what a probe has found out, unless another one, which went as this one took long, has closed the
    /// breaker since. Whether it did.
    fn probed(&self, generation: Generation, trip: Trip, failed: bool, now: u64) -> bool {
        let is_its = |held: State| !held.is_closed() && held.generation == generation;
        if !failed && is_its(self.state()) {
            // Nobody counts before it closes.
            self.counts.store(0, Ordering::Relaxed);
        }
        let next = |held: State| if failed { held.lasting(trip, now) } else { held.closed() };
        let next = |held| Some(State::of(held)).filter(|held| is_its(*held)).map(|held| next(held).bits());
        // An error is a state of which it says nothing.
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    fn state(&self) -> State {
        State::of(self.state.load(Ordering::Relaxed))
    }

    /// Whether the state was the one that it is believed to be.
    fn change(&self, from: State, to: State) -> bool {
        let (from, to) = (from.bits(), to.bits());
        self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How it is.
    pub(super) fn stance(&self, now: u64) -> Stance {
        let held = self.state();
        if held.is_closed() {
            Stance::Closed
        } else if held.due <= now {
            Stance::HalfOpen { probing: false }
        } else if held.probing {
            Stance::HalfOpen { probing: true }
        } else {
            Stance::Open(Duration::from_millis(held.due - now))
        }
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

    fn open(&self, closed: State, trip: Trip, now: u64) -> bool {
        let generation = Generation(closed.generation.0.wrapping_add(1));
        self.change(closed, State { generation, ..closed }.lasting(trip, now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRIP: Trip = Trip { percent: 50, window_ms: 10_000, minimum: 20, open_ms: 5_000 };

    /// What a breaker says to one request.
    #[derive(Debug, PartialEq, Eq)]
    enum Said {
        Closed,
        Probe,
        /// For so many milliseconds.
        Open(u64),
    }

    fn said(admitted: &Result<Admission, Duration>) -> Said {
        match admitted {
            Ok(Admission::Probe(_)) => Said::Probe,
            Ok(_) => Said::Closed,
            Err(lasts) => Said::Open(millis(*lasts)),
        }
    }

    fn send(breaker: &Arc<Breaker>, failed: bool, now: u64) -> Said {
        let admitted = breaker.admit(TRIP, now);
        let said = said(&admitted);
        if let Ok(admitted) = admitted {
            breaker.report(TRIP, admitted, failed, now);
        }
        said
    }

    /// One that opened at 20,000, and a request from before.
    fn opened() -> (Arc<Breaker>, Vec<Admission>) {
        let breaker = Arc::<Breaker>::default();
        let stragglers = (0..50).filter_map(|_| breaker.admit(TRIP, 19_000).ok()).collect();
        for _ in 0..20 {
            assert_eq!(send(&breaker, true, 20_000), Said::Closed);
        }
        assert_eq!(breaker.stance(20_000), Stance::Open(Duration::from_secs(5)));
        (breaker, stragglers)
    }

    #[test]
    fn it_opens_where_half_of_a_window_fails() {
        let breaker = Arc::<Breaker>::default();
        for number in 0..39 {
            assert_eq!(send(&breaker, number % 2 == 1 && number != 1, 20_000 + number), Said::Closed);
        }
        assert_eq!(breaker.stance(20_039), Stance::Closed, "18 of 39");
        assert_eq!(send(&breaker, true, 20_040), Said::Closed, "19 of 40");
        assert_eq!(send(&breaker, true, 20_041), Said::Closed, "20 of 41");
        assert_eq!(send(&breaker, true, 20_042), Said::Closed);
        assert_eq!(send(&breaker, true, 20_043), Said::Open(4_999), "21 of 42");
    }

    #[test]
    fn few_requests_say_nothing_and_a_window_forgets_the_one_before() {
        let breaker = Arc::<Breaker>::default();
        for now in (20_000..20_019).chain(30_000..30_019) {
            assert_eq!(send(&breaker, true, now), Said::Closed);
        }
        assert_eq!(send(&breaker, true, 30_020), Said::Closed, "the twentieth opens it");
        assert_ne!(breaker.stance(30_021), Stance::Closed);
    }

    #[test]
    fn one_request_tries_and_its_answer_closes_it() {
        let (breaker, _) = opened();
        assert_eq!(said(&breaker.admit(TRIP, 24_999)), Said::Open(1));
        let probe = breaker.admit(TRIP, 25_000);
        assert_eq!(said(&probe), Said::Probe);
        assert_eq!(said(&breaker.admit(TRIP, 25_001)), Said::Open(4_999), "one alone");
        assert_eq!(breaker.stance(25_001), Stance::HalfOpen { probing: true });
        breaker.report(TRIP, probe.expect("it may go"), true, 25_003);
        assert_eq!(said(&breaker.admit(TRIP, 30_002)), Said::Open(1), "a failure begins the time anew");
        assert_eq!(send(&breaker, false, 30_003), Said::Probe);
        assert_eq!(send(&breaker, false, 30_005), Said::Closed);
    }

    #[test]
    fn what_began_before_it_opened_says_nothing_even_after_it_has_closed() {
        let (breaker, mut stragglers) = opened();
        for straggler in stragglers.drain(..25) {
            breaker.report(TRIP, straggler, false, 25_002);
        }
        assert_ne!(breaker.stance(25_002), Stance::Closed, "good answers do not close it");
        assert_eq!(send(&breaker, false, 25_003), Said::Probe);
        for straggler in stragglers {
            let changed = breaker.report(TRIP, straggler, true, 79_000);
            assert_eq!(changed, None, "nor do late failures open it again");
        }
        assert_eq!(breaker.stance(79_000), Stance::Closed);
    }

    #[test]
    fn a_probe_that_has_found_nothing_out_leaves_its_place_to_the_next_request() {
        let (breaker, _) = opened();
        let probe = breaker.admit(TRIP, 25_000);
        drop(probe);
        assert_eq!(breaker.stance(25_000), Stance::HalfOpen { probing: false });
        let probe = breaker.admit(TRIP, 25_000);
        assert_eq!(said(&probe), Said::Probe);
        breaker.report(TRIP, probe.expect("it may go"), true, 25_000);
        assert_eq!(said(&breaker.admit(TRIP, 25_000)), Said::Open(5_000), "one that reports does not");
    }

    #[test]
    fn a_probe_that_takes_long_holds_nobody_up_and_its_answer_counts() {
        let (breaker, _) = opened();
        let slow = [25_000, 30_000, 35_000].map(|now| breaker.admit(TRIP, now));
        assert!(slow.iter().all(|probe| said(probe) == Said::Probe));
        assert_eq!(said(&breaker.admit(TRIP, 39_999)), Said::Open(1));
        let [given_up, answered, failed] = slow.map(|probe| probe.expect("it may go"));
        drop(given_up);
        assert_eq!(said(&breaker.admit(TRIP, 39_999)), Said::Open(1), "others are under way");
        assert_eq!(breaker.report(TRIP, answered, false, 39_999), Some(Change::Closes));
        assert_eq!(send(&breaker, false, 39_999), Said::Closed);
        breaker.report(TRIP, failed, true, 40_000);
        assert_eq!(breaker.stance(40_000), Stance::Closed, "it has closed");
    }

    proptest! {
        #[test]
        fn it_does_as_a_plain_model_does(
            steps in prop::collection::vec((0_u64..3_000, any::<bool>()), 1..400),
        ) {
            let breaker = Arc::<Breaker>::default();
            let (mut now, mut due, mut window, mut requests, mut failures) = (20_000, 0, 0, 0_u64, 0_u64);
            for (passed, failed) in steps {
                now += passed;
                let expected = match due {
                    0 => Said::Closed,
                    due if due <= now => Said::Probe,
                    due => Said::Open(due - now),
                };
                prop_assert_eq!(&send(&breaker, failed, now), &expected);
                match expected {
                    Said::Closed => {
                        if window != now / TRIP.window_ms {
                            (window, requests, failures) = (now / TRIP.window_ms, 0, 0);
                        }
                        requests += 1;
                        failures += u64::from(failed);
                        if failed && requests >= TRIP.minimum && failures * 100 >= TRIP.percent * requests {
                            due = now + TRIP.open_ms;
                        }
                    }
                    Said::Probe if failed => due = now + TRIP.open_ms,
                    Said::Probe => (due, window, requests, failures) = (0, 0, 0, 0),
                    Said::Open(_) => {}
                }
            }
        }
    }
}
