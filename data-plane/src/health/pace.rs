//! When things may begin that must not all begin at once: so many a second, with small bursts, and jitter between.
//!
//! The pace is the virtual scheduling algorithm of ITU-T I.371 (also known as GCRA): one time, and no queue.
//!
//! Deliberately absent: the clock.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

/// The share of an interval that it is longer or shorter at most.
const JITTER: f64 = 0.1;

/// So many a second.
#[derive(Debug)]
pub(super) struct Pace {
    period: Duration,
    burst: u32,
    /// When the next one would begin if all kept the period.
    due: Option<Instant>,
}

impl Pace {
    /// With so many at once after a pause.
    pub(super) fn of(per_second: u32, burst: u32) -> Self {
        Self { period: Duration::from_secs(1) / per_second.max(1), burst: burst.max(1), due: None }
    }

    /// When the next one may begin.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let ahead = self.period * (self.burst - 1);
        self.due.and_then(|due| due.checked_sub(ahead)).map_or(now, |next| next.max(now))
    }

    /// Begins one, if it may.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let may = self.next(now) <= now;
        if may {
            self.due = Some(self.due.map_or(now, |due| due.max(now)) + self.period);
        }
        may
    }
}

/// An interval, a tenth longer or shorter at most, so that what began together does not stay together.
pub(super) fn jittered(interval: Duration, rng: &mut Rng) -> Duration {
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.f64())
}

/// Anywhere in the first interval: many proxies see a new endpoint at the same moment.
pub(super) fn first(interval: Duration, rng: &mut Rng) -> Duration {
    interval.mul_f64(rng.f64())
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn intervals_differ_by_a_tenth_at_most() {
        let (mut rng, interval) = (Rng::with_seed(1), Duration::from_secs(10));
        for _ in 0..1000 {
            let length = jittered(interval, &mut rng);
            assert!((9.0..=11.0).contains(&length.as_secs_f64()), "{length:?}");
            assert!(first(interval, &mut rng) <= interval);
        }
    }

    proptest! {
        #[test]
        fn over_any_time_no_more_begin_than_the_pace_and_a_burst(
            steps in prop::collection::vec((0..200_u64, 0..40_usize), 1..50),
            per_second in 1..500_u32,
            burst in 1..20_u32,
        ) {
            let begin = Instant::now();
            let (mut pace, mut passed, mut begun) = (Pace::of(per_second, burst), 0, 0_u64);
            for (millis, asked) in steps {
                passed += millis;
                let now = begin + Duration::from_millis(passed);
                for _ in 0..asked {
                    let may = pace.next(now) <= now;
                    prop_assert_eq!(pace.take(now), may);
                    begun += u64::from(may);
                }
                let most = u64::from(burst) + passed * u64::from(per_second) / 1000 + 1;
                prop_assert!(begun <= most, "{} of {}", begun, most);
            }
        }

        #[test]
        fn who_waits_until_the_next_time_may_begin(per_second in 1..500_u32, burst in 1..20_u32) {
            let mut now = Instant::now();
            let mut pace = Pace::of(per_second, burst);
            for _ in 0..100 {
                now = pace.next(now);
                prop_assert!(pace.take(now));
            }
        }
    }
}
