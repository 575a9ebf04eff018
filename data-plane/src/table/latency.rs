//! How long an endpoint's answers are expected to take: a moving average that is quick to rise and slow to fall.
//!
//! This is the peak-sensitive, exponentially weighted moving average of Finagle's `PeakEwma` (and tower's, which Linkerd
//! uses): an answer that took longer than expected is believed at once; one that took less counts in proportion to the
//! time since the one before, with a time constant of 10 s. What is expected also falls by itself with time, so that an
//! endpoint that was slow is tried again.
//!
//! **Failures** must not make an endpoint look fast. One counts as an answer that took a second longer than it did, and
//! is averaged, not believed at once: what is expected becomes the latency plus a second for the share of requests that
//! fail, so that a few failures everywhere change little, and an endpoint that only fails is a second away. (Finagle
//! leaves this to failure accrual, which takes an endpoint out. Linkerd penalises the same answers where it is asked to:
//! linkerd2-proxy, pull request 4537.)
//!
//! A request that was **given up** says only that the answer would have taken longer.
//!
//! It is one atomic word, so that nothing is ever half written: the expectation as an `f32` of microseconds, and when it
//! was written, in units of 128 µs, which come round after six days. Two threads that write at once: one is written
//! after the other, by compare and swap.
//!
//! Deliberately absent: the clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The time constant: what was expected has lost 63 % of its weight.
const DECAY: Duration = Duration::from_secs(10);
/// What a failure counts more than it took.
const FAILURE: Duration = Duration::from_secs(1);
/// The bits of a microsecond that are left out of times.
const UNIT_BITS: u32 = 7;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// It was not, or with an error of the endpoint's.
    Failed,
    /// Nobody waited for the answer.
    GivenUp,
}

/// The word; 0 where nothing is known.
#[derive(Debug, Default)]
pub(super) struct Latency(AtomicU64);

impl Latency {
    /// The same as another's.
    pub(super) fn continued(other: &Self) -> Self {
        Self(AtomicU64::new(other.0.load(Ordering::Relaxed)))
    }

    /// Takes note of a request. `now` is the time of a steady clock.
    pub(super) fn observe(&self, took: Duration, outcome: Outcome, now: Duration) {
        let now = units(now);
        // Given back unchanged where the closure says no.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            let next = next(Word::read(held), micros(took), outcome, now)?;
            Some(next.write())
        });
    }

    /// How many microseconds the next answer is expected to take; `None` where nothing is known.
    pub(super) fn expected(&self, now: Duration) -> Option<f32> {
        let word = Word::read(self.0.load(Ordering::Relaxed))?;
        Some(word.expected * kept(word.at, units(now)))
    }
}

#[derive(Clone, Copy, Debug)]
struct Word {
    expected: f32,
    /// When it was written.
    at: u32,
}

impl Word {
    fn read(held: u64) -> Option<Self> {
        let word = Self { expected: f32::from_bits((held >> 32) as u32), at: held as u32 };
        (held != 0).then_some(word)
    }

    fn write(self) -> u64 {
        u64::from(self.expected.to_bits()) << 32 | u64::from(self.at)
    }
}

/// What is expected after a request; `None` where nothing changes.
fn next(held: Option<Word>, took: f32, outcome: Outcome, now: u32) -> Option<Word> {
    // More than 0: a word that is 0 knows nothing.
    let took = took.max(1.0);
    let counts = match outcome {
        Outcome::Failed => took + micros(FAILURE),
        Outcome::Answered | Outcome::GivenUp => took,
    };
    let Some(Word { expected, at }) = held else { return Some(Word { expected: counts, at: now }) };
    let is_peak = took > expected;
    if outcome == Outcome::GivenUp && !is_peak {
        return None;
    }
    let kept = kept(at, now);
    let averaged = expected * kept + counts * (1.0 - kept);
    let expected = if is_peak { averaged.max(took) } else { averaged };
    Some(Word { expected, at: if elapsed(at, now) > 0 { now } else { at } })
}

/// The weight that what was known at one time has at another.
fn kept(at: u32, now: u32) -> f32 {
    (-(elapsed(at, now) as f32) / units(DECAY) as f32).exp()
}

/// The units from one time to another; 0 where the other is not later.
fn elapsed(at: u32, now: u32) -> u32 {
    let passed = now.wrapping_sub(at);
    if passed > u32::MAX / 2 { 0 } else { passed }
}

fn units(time: Duration) -> u32 {
    (time.as_micros() >> UNIT_BITS) as u32
}

fn micros(time: Duration) -> f32 {
    time.as_secs_f32() * 1e6
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn expected_ms(latency: &Latency, now: Duration) -> f32 {
        latency.expected(now).expect("something is known") / 1000.0
    }

    #[test]
    fn it_rises_at_once_and_falls_with_time() {
        let latency = Latency::default();
        assert_eq!(latency.expected(MS), None);
        latency.observe(5 * MS, Outcome::Answered, MS);
        latency.observe(80 * MS, Outcome::Answered, 2 * MS);
        assert!((79.0..80.1).contains(&expected_ms(&latency, 2 * MS)));
        let later = 2 * MS + DECAY;
        assert!((28.0..31.0).contains(&expected_ms(&latency, later)), "it falls with nobody asking");
        latency.observe(5 * MS, Outcome::Answered, later);
        let expected = expected_ms(&latency, later);
        assert!((31.0..34.0).contains(&expected), "63 % of 5 and the rest of 80: {expected}");
    }

    #[test]
    fn failures_count_by_their_share() {
        for (every, least, most) in [(1, 900.0, 1010.0), (10, 80.0, 125.0), (1000, 4.0, 12.0)] {
            let latency = Latency::default();
            let mut now = MS;
            for number in 0..100_000 {
                now += MS;
                let outcome = if number % every == 0 { Outcome::Failed } else { Outcome::Answered };
                latency.observe(5 * MS, outcome, now);
            }
            let expected = expected_ms(&latency, now);
            assert!((least..most).contains(&expected), "one of {every} fails: {expected} ms");
        }
    }

    #[test]
    fn what_was_given_up_only_tells_that_it_would_have_taken_longer() {
        let latency = Latency::default();
        latency.observe(50 * MS, Outcome::Answered, MS);
        latency.observe(MS, Outcome::GivenUp, 1000 * MS);
        latency.observe(MS, Outcome::GivenUp, 2000 * MS);
        let unchanged = Latency::default();
        unchanged.observe(50 * MS, Outcome::Answered, MS);
        assert_eq!(latency.expected(2000 * MS), unchanged.expected(2000 * MS));
        latency.observe(90 * MS, Outcome::GivenUp, 2000 * MS);
        assert!(expected_ms(&latency, 2000 * MS) >= 89.9);
    }

    proptest! {
        #[test]
        fn it_stays_between_what_was_seen(
            took in vec((1..10_000_u32, 0..2_000_u32), 1..60), start in any::<u32>(),
        ) {
            let latency = Latency::default();
            let mut now = Duration::from_millis(start.into());
            let mut longest = 0.0_f32;
            for (took, pause) in took {
                now += MS * pause;
                latency.observe(MS * took, Outcome::Answered, now);
                longest = longest.max(took as f32);
                let expected = expected_ms(&latency, now);
                prop_assert!(expected <= longest * 1.001 && expected >= 0.999, "{expected} of {longest}");
                prop_assert!(expected >= took as f32 * 0.999, "the last one is never forgotten at once");
            }
        }

        #[test]
        fn threads_that_write_at_once_lose_nothing_but_their_order(took in vec(1..1_000_u32, 4..40)) {
            let latency = Latency::default();
            std::thread::scope(|scope| {
                for part in took.chunks(took.len().div_ceil(4)) {
                    let latency = &latency;
                    scope.spawn(move || part.iter().for_each(|took| latency.observe(MS * *took, Outcome::Answered, MS)));
                }
            });
            // At one and the same time the longest counts, whoever wrote it.
            let longest = took.iter().max().copied().unwrap_or_default() as f32;
            prop_assert!((expected_ms(&latency, MS) - longest).abs() < 0.01);
        }
    }
}
