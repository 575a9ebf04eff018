//! How much of what is no use to anybody a client may send.
//!
//! Every protocol has frames that cost the sender less than the receiver: requests that are taken back at once
//! (CVE-2023-44487), pings, settings, empty frames (CVE-2019-9511 to -9518). Each of them is in order; it is the number that
//! is not. A client has as many for free as none needs, gets more with time, and more with every request, as those who work
//! also ping and update windows.

use std::time::{Duration, Instant};

/// What a client may do of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    left: u32,
    most: u32,
    /// How much comes back in a second.
    refill: u32,
    filled_at: Instant,
}

/// It was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

impl Budget {
    pub(super) fn new(most: u32, refill: u32, now: Instant) -> Self {
        Self { left: most, most, refill, filled_at: now }
    }

    /// Takes one.
    pub(super) fn spend(&mut self, now: Instant) -> Result<(), Exhausted> {
        if self.left == 0 {
            self.refill(now);
        }
        self.left = self.left.checked_sub(1).ok_or(Exhausted)?;
        Ok(())
    }

    /// Gives some back.
    pub(super) fn earn(&mut self, count: u32) {
        self.left = self.most.min(self.left + count);
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).min(Duration::from_secs(60));
        let count = passed.as_millis() as u64 * u64::from(self.refill) / 1000;
        if count > 0 {
            self.earn(u32::try_from(count).unwrap_or(u32::MAX));
            self.filled_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_comes_back_with_time_and_with_use() {
        let begun = Instant::now();
        let mut budget = Budget::new(3, 10, begun);
        assert_eq!([0; 4].map(|_| budget.spend(begun).is_ok()), [true, true, true, false]);
        assert_eq!(budget.spend(begun + Duration::from_millis(99)), Err(Exhausted));
        assert_eq!(budget.spend(begun + Duration::from_millis(200)), Ok(()));
        budget.earn(100);
        assert_eq!(
            [0; 4].map(|_| budget.spend(begun).is_ok()),
            [true, true, true, false],
            "no more than there was"
        );
    }
}
