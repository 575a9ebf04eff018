//! How much of the requests a worker that is behind refuses: a pure function of what was, how late a timer has fired,
//! and the clock.
//!
//! A timer fires as late as what was ready before it takes. That it is late once says nothing (a burst, a neighbour on
//! the machine): what counts is the **least** lateness of an interval, as in CoDel (RFC 8289). Where even that is above
//! the target there is a queue that stays. Then more is refused with each interval; and less with each one in which it
//! was below half of the target. Requests of normal priority are refused only from five times the target on: a busy
//! neighbour on the machine makes a timer late as well, and nobody wants to lose requests to that.
//!
//! ```text
//! level   0    1    2    3    4    5    …   11
//! low     0   1/4  1/2  3/4   all  all  …   all
//! normal  0    0    0    0    0    1/8  …   7/8      never all: what is let through shows when it is over
//! high    0    0    0    0    0    0    …   0
//! ```
//!
//! Deliberately absent: the clock and the timer (see [`super::shedder`]).

use std::time::Duration;

use super::Priority;

/// What is looked at as a whole.
const INTERVAL: Duration = Duration::from_millis(500);
/// And so many ticks at least: a process that was stopped and goes on has one that is very late.
const TICKS: u32 = 3;
/// All of low priority, and 7/8 of normal priority.
const HIGHEST: u8 = 11;
/// How many times the target is too late for requests of normal priority.
const URGENT: u32 = 5;
/// The level up to which requests of low priority alone are refused.
const LOW_ONLY: u8 = 4;
/// How the level rises and falls with an interval: from anything to nothing in two seconds.
const UP: u8 = 2;
const DOWN: u8 = 3;
/// Shares are counted in these.
pub(super) const WHOLE: u8 = 8;

/// How far behind a worker is, and what it does about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    level: u8,
    /// When the interval began, by the worker's clock.
    began: Duration,
    /// The least lateness in it.
    least: Duration,
    ticks: u32,
}

impl Pressure {
    /// What comes after a tick at `now` that was `late`.
    pub(super) fn next(self, late: Duration, now: Duration, target: Duration) -> Self {
        let least = if self.ticks == 0 { late } else { self.least.min(late) };
        let ticks = self.ticks + 1;
        if ticks < TICKS || now.saturating_sub(self.began) < INTERVAL {
            return Self { least, ticks, ..self };
        }
        let level = if least > target * URGENT {
            (self.level + UP).min(HIGHEST)
        } else if least > target {
            // Towards where all of low priority is refused, from below and from above.
            (self.level + UP).min(LOW_ONLY.max(self.level.saturating_sub(1)))
        } else if least * 2 < target {
            self.level.saturating_sub(DOWN)
        } else {
            self.level
        };
        Self { level, began: now, least, ticks: 0 }
    }

    /// 0 where nothing is refused.
    pub(super) fn level(self) -> u8 {
        self.level
    }

    /// How many eighths of the requests of a priority are refused.
    pub(super) fn share(self, priority: Priority) -> u8 {
        match priority {
            Priority::Low => self.level.min(LOW_ONLY) * (WHOLE / LOW_ONLY),
            Priority::Normal => self.level.saturating_sub(LOW_ONLY),
            Priority::High => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const TARGET: Duration = Duration::from_millis(100);

    fn ticks(mut pressure: Pressure, now: &mut Duration, count: u32, late: Duration) -> Pressure {
        for _ in 0..count {
            *now += 20 * MS + late;
            pressure = pressure.next(late, *now, TARGET);
        }
        pressure
    }

    #[test]
    fn a_queue_that_stays_has_low_refused_first_then_normal_and_high_never() {
        let (mut pressure, mut now) = (Pressure::default(), 1000 * MS);
        let mut seen = Vec::new();
        for _ in 0..10 {
            pressure = ticks(pressure, &mut now, 3, 550 * MS);
            seen.push(Priority::ALL.map(|priority| pressure.share(priority)));
        }
        assert_eq!(seen[..4], [[4, 0, 0], [8, 0, 0], [8, 2, 0], [8, 4, 0]]);
        assert_eq!(seen[9], [8, 7, 0]);
    }

    #[test]
    fn below_five_times_the_target_low_priority_alone_is_refused_from_either_side() {
        let (mut pressure, mut now) = (Pressure::default(), 1000 * MS);
        pressure = ticks(pressure, &mut now, 100, 450 * MS);
        assert_eq!(Priority::ALL.map(|priority| pressure.share(priority)), [8, 0, 0]);
        pressure = ticks(pressure, &mut now, 100, 550 * MS);
        assert_eq!(Priority::ALL.map(|priority| pressure.share(priority)), [8, 7, 0]);
        pressure = ticks(pressure, &mut now, 100, 450 * MS);
        assert_eq!(Priority::ALL.map(|priority| pressure.share(priority)), [8, 0, 0]);
    }

    #[test]
    fn after_two_seconds_without_delay_nothing_is_refused() {
        let (mut pressure, mut now) = (Pressure::default(), 1000 * MS);
        pressure = ticks(pressure, &mut now, 100, 600 * MS);
        assert_eq!(pressure.level(), HIGHEST);
        let begun = now;
        while pressure.level() > 0 {
            pressure = ticks(pressure, &mut now, 1, MS);
        }
        assert!(now - begun <= 2100 * MS, "{:?}", now - begun);
    }

    #[test]
    fn bursts_and_a_process_that_was_stopped_are_no_queue() {
        let (mut pressure, mut now) = (Pressure::default(), 1000 * MS);
        for _ in 0..100 {
            pressure = ticks(pressure, &mut now, 1, 400 * MS);
            pressure = ticks(pressure, &mut now, 5, MS);
        }
        assert_eq!(pressure.level(), 0);
        pressure = ticks(pressure, &mut now, 1, 60_000 * MS);
        pressure = ticks(pressure, &mut now, 2, MS);
        assert_eq!(pressure.level(), 0);
    }

    proptest! {
        #[test]
        fn only_an_interval_that_is_late_throughout_raises_the_level(
            late in vec(0_u64..300, 1..400),
        ) {
            let (mut pressure, mut now) = (Pressure::default(), 1000 * MS);
            let mut interval = Vec::new();
            for late in late {
                let late = MS * u32::try_from(late).expect("small");
                now += 20 * MS + late;
                interval.push(late);
                let next = pressure.next(late, now, TARGET);
                if next.level() > pressure.level() {
                    prop_assert!(interval.iter().all(|late| *late > TARGET) && interval.len() >= 3);
                }
                if next.began != pressure.began {
                    interval.clear();
                }
                prop_assert!(next.level() <= HIGHEST);
                pressure = next;
            }
        }
    }
}
