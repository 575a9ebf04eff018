//! From results of checks to health: a pure state machine, for the agent and for [`crate::Service`].
//!
//! ```text
//! Starting ──healthy_after passes in a row──▶ Healthy ──unhealthy_after failures──▶ Unhealthy
//!                                                ▲                                      │
//!                                                └──────healthy_after passes in a row───┘
//! ```
//!
//! A service that is starting may fail for as long as it likes; until it has passed it is not registered.
//! While it starts it is checked more often than later on, so that it takes traffic soon after it can.

pub mod http;

use std::time::{Duration, Instant};

/// The pause between the first checks of a starting service; it doubles up to the interval.
const FIRST_PAUSE: Duration = Duration::from_millis(25);

/// How many results in a row count. Neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Passes.
    pub healthy_after: u32,
    /// Failures.
    pub unhealthy_after: u32,
}

/// What a service's checks amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has not passed yet.
    Starting,
    /// It passes.
    Healthy,
    /// It has passed before, and fails.
    Unhealthy,
}

impl Phase {
    /// The phase in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It has become healthy.
    Up,
    /// It has become unhealthy.
    Down,
}

/// The state of a service's checks.
#[derive(Clone, Debug)]
pub struct Health {
    thresholds: Thresholds,
    phase: Phase,
    since: Instant,
    /// Results in a row that speak against the present phase.
    against: u32,
    pause: Duration,
}

impl Health {
    /// A service that is starting.
    pub fn new(thresholds: Thresholds, now: Instant) -> Self {
        Self { thresholds, phase: Phase::Starting, since: now, against: 0, pause: FIRST_PAUSE }
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Since when it is in this phase.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Other thresholds from now on.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// Takes the result of a check that ended at `now`.
    pub fn observe(&mut self, passed: bool, now: Instant) -> Option<Transition> {
        let speaks_against = passed != (self.phase == Phase::Healthy);
        self.against = if speaks_against { self.against + 1 } else { 0 };
        let (enough, transition, phase) = match self.phase {
            Phase::Healthy => (self.thresholds.unhealthy_after, Transition::Down, Phase::Unhealthy),
            Phase::Starting | Phase::Unhealthy => {
                (self.thresholds.healthy_after, Transition::Up, Phase::Healthy)
            }
        };
        if self.against < enough {
            return None;
        }
        (self.phase, self.since, self.against) = (phase, now, 0);
        Some(transition)
    }

    /// When to check next, after a check that began at `began`.
    pub fn next_check(&mut self, began: Instant, interval: Duration) -> Instant {
        if self.phase != Phase::Starting {
            return began + interval;
        }
        let pause = self.pause.min(interval);
        self.pause = self.pause.saturating_mul(2).min(interval);
        began + pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn health(healthy_after: u32, unhealthy_after: u32) -> Health {
        Health::new(Thresholds { healthy_after, unhealthy_after }, Instant::now())
    }

    #[test]
    fn a_starting_service_may_fail_for_as_long_as_it_likes() {
        let mut health = health(1, 3);
        for _ in 0..100 {
            assert_eq!(health.observe(false, Instant::now()), None);
        }
        assert_eq!(health.phase(), Phase::Starting);
        assert_eq!(health.observe(true, Instant::now()), Some(Transition::Up));
    }

    #[test]
    fn a_starting_service_is_checked_soon_and_later_at_its_interval() {
        let mut health = health(1, 3);
        let (began, interval) = (Instant::now(), Duration::from_millis(70));
        let pauses: Vec<u128> =
            (0..4).map(|_| (health.next_check(began, interval) - began).as_millis()).collect();
        assert_eq!(pauses, [25, 50, 70, 70]);
        health.observe(true, began);
        assert_eq!(health.next_check(began, interval), began + interval);
    }

    proptest! {
        /// The machine agrees with the rule in words: it changes when, and only when, the last N results
        /// since its last change all speak against its phase.
        #[test]
        fn it_changes_after_n_results_in_a_row_and_never_else(
            results in prop::collection::vec(any::<bool>(), 0..200), up in 1_u32..5, down in 1_u32..5,
        ) {
            let mut health = health(up, down);
            let (mut is_up, mut since_change) = (false, Vec::new());
            for passed in results {
                since_change.push(passed);
                let needed = if is_up { down } else { up } as usize;
                let last = since_change.iter().rev().take(needed);
                let expected = since_change.len() >= needed && last.clone().all(|result| *result != is_up);
                let transition = health.observe(passed, Instant::now());
                prop_assert_eq!(transition.is_some(), expected);
                if expected {
                    is_up = !is_up;
                    since_change.clear();
                    prop_assert_eq!(transition, Some(if is_up { Transition::Up } else { Transition::Down }));
                }
                prop_assert_eq!(health.phase() == Phase::Healthy, is_up);
            }
        }
    }
}
