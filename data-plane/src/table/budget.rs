//! How many requests to a service may be sent again: a share of those that are sent at all, so that retries cannot turn
//! a service that is slow or failing into one that is overrun (Finagle's and Linkerd's retry budgets).
//!
//! ```text
//! requests ── a share of each ──▶ ┌─────────┐ ── one for each retry ──▶
//! time ── some each second ─────▶ │ balance │
//!                                 └─────────┘ ── what is beyond ten seconds' worth is lost
//! ```
//!
//! Requests are not counted here: the endpoints know how many have begun, and are asked when something is to be sent
//! again, and seldom. A request that is answered costs nothing.
//!
//! A request that no instance has seen yet is sent again without it (see [`crate::forward`]): what is then sent is what the
//! client has sent, once.
//!
//! Deliberately absent: the clock. Times are milliseconds of a steady clock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use waypost_proto::v1::TrafficRetry;

/// What a budget lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAllowance {
    /// Retries for each hundred requests.
    pub percent: u32,
    /// Retries a second beside these, for services with few requests.
    pub minimum_per_second: u32,
}

impl RetryAllowance {
    /// What was declared.
    pub(super) fn of(declared: &TrafficRetry) -> Self {
        let own = Self::default();
        Self {
            percent: declared.budget_percent.unwrap_or(own.percent),
            minimum_per_second: declared.budget_minimum_per_second.unwrap_or(own.minimum_per_second),
        }
    }
}

impl Default for RetryAllowance {
    /// 20 for each hundred, and 10 a second.
    fn default() -> Self {
        Self { percent: 20, minimum_per_second: 10 }
    }
}

/// For how long what is not used is kept, milliseconds.
const WINDOW_MS: u64 = 10_000;
/// How often requests are counted at most, milliseconds.
const STEP_MS: u64 = 100;
/// The balance is kept in thousandths of a retry.
const RETRY: i64 = 1000;

/// One service's budget at this proxy. Any thread may use it.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    balance: AtomicI64,
    /// When requests were last counted; 0: never.
    counted_at: AtomicU64,
    /// How many requests, retries among them, had begun by then.
    counted: AtomicU64,
    /// How many retries were granted since, those that cost nothing among them.
    granted: AtomicU64,
}

impl RetryBudget {
    /// Takes one retry from the balance; `false`: there is none. `begun` says how many requests, retries among them,
    /// have begun so far; a count that falls, as when endpoints leave, stands for no new ones.
    pub(super) fn withdraw(&self, allowance: RetryAllowance, now: u64, begun: impl FnOnce() -> u64) -> bool {
        self.deposit(allowance, now, begun);
        let take = |balance: i64| (balance >= RETRY).then(|| balance - RETRY);
        let taken = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if taken {
            self.granted.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// How many retries there are now. Counts requests as [`Self::withdraw`] does.
    pub(super) fn left(&self, allowance: RetryAllowance, now: u64, begun: impl FnOnce() -> u64) -> u64 {
        self.deposit(allowance, now, begun);
        u64::try_from(self.balance.load(Ordering::Relaxed) / RETRY).unwrap_or(0)
    }

    /// Takes note of a retry that costs nothing, so that it does not count as a request that earns something.
    pub(super) fn note_free(&self) {
        self.granted.fetch_add(1, Ordering::Relaxed);
    }

    fn deposit(&self, allowance: RetryAllowance, now: u64, begun: impl FnOnce() -> u64) {
        let before = self.counted_at.load(Ordering::Relaxed);
        let is_first = before == 0;
        // Whoever has just started has earned what ten seconds bring.
        let passed = now.saturating_sub(before).max(if is_first { WINDOW_MS } else { 0 });
        let is_due = is_first || passed >= STEP_MS;
        // One thread counts; the others go by the balance that there is.
        if !is_due
            || self.counted_at.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        let begun = begun();
        let all = begun.saturating_sub(self.counted.swap(begun, Ordering::Relaxed));
        let fresh = all.saturating_sub(self.granted.swap(0, Ordering::Relaxed));
        let earned = earnings(allowance, fresh, passed);
        let add = |balance: i64| Some(balance.saturating_add(earned.fresh).min(earned.most));
        // It never fails, as `add` always says what comes next.
        let _ = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

/// What a while brings, thousandths of a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Earnings {
    fresh: i64,
    /// The most that may be kept: what ten seconds like these bring.
    most: i64,
}

fn earnings(allowance: RetryAllowance, requests: u64, passed: u64) -> Earnings {
    let RetryAllowance { percent, minimum_per_second } = allowance;
    let passed = u128::from(passed.max(1));
    let by_requests = u128::from(requests) * u128::from(percent) * 10;
    let within = |window: u128| by_requests * window / passed + u128::from(minimum_per_second) * window;
    let window = u128::from(WINDOW_MS);
    let clamped = |thousandths: u128| i64::try_from(thousandths).unwrap_or(i64::MAX);
    Earnings { fresh: clamped(within(passed.min(window))), most: clamped(within(window)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: RetryAllowance = RetryAllowance { percent: 20, minimum_per_second: 10 };

    /// Every request fails and would be sent again, twice, as often as the budget lets it.
    fn storm(allowance: RetryAllowance, seconds: u64, requests_per_second: u64) -> (u64, u64) {
        let (budget, mut begun, mut retries) = (RetryBudget::default(), 0, 0);
        let begin = 1_000_000;
        for number in 0..seconds * requests_per_second {
            let now = begin + number * 1000 / requests_per_second;
            begun += 1;
            for _ in 0..2 {
                if !budget.withdraw(allowance, now, || begun) {
                    break;
                }
                begun += 1;
                retries += 1;
            }
        }
        (begun - retries, retries)
    }

    #[test]
    fn a_retry_storm_stays_within_a_fifth_of_the_requests() {
        let (requests, retries) = storm(DEFAULT, 60, 1000);
        let free = 10 * 60 + 10 * 10;
        assert!(retries <= requests / 5 + free, "{retries} retries of {requests} requests");
        assert!(retries >= requests / 5, "the share is given: {retries} retries of {requests} requests");
    }

    #[test]
    fn few_requests_may_be_sent_again_all_the_same() {
        let (requests, retries) = storm(DEFAULT, 30, 2);
        assert_eq!(retries, requests * 2, "ten a second are free");
    }

    #[test]
    fn free_retries_neither_cost_nor_earn_anything() {
        let budget = RetryBudget::default();
        let drain =
            |now: u64, begun: u64| (0..10_000).filter(|_| budget.withdraw(DEFAULT, now, || begun)).count();
        drain(1_000_000, 0);
        (0..1000).for_each(|_| budget.note_free());
        assert_eq!(
            drain(1_001_000, 100 + 1000),
            10,
            "a hundred were granted, and a thousand free, and nothing else came"
        );
    }

    #[test]
    fn an_allowance_of_nothing_lets_nothing_through() {
        let none = RetryAllowance { percent: 0, minimum_per_second: 0 };
        assert_eq!(storm(none, 10, 100).1, 0);
    }

    #[test]
    fn what_was_earned_long_ago_is_lost() {
        let budget = RetryBudget::default();
        assert!(budget.withdraw(DEFAULT, 1_000, || 0));
        // A million requests in a day are 116 in ten seconds.
        let day = 24 * 3600 * 1000;
        let mut granted = 0;
        while budget.withdraw(DEFAULT, 1_000 + day, || 1_000_000) {
            granted += 1;
        }
        assert!((100..=130).contains(&granted), "{granted}");
    }

    #[test]
    fn a_proxy_that_has_just_started_may_send_again_at_once() {
        let budget = RetryBudget::default();
        let granted = (0..1000).filter(|_| budget.withdraw(DEFAULT, 1, || 1)).count();
        assert_eq!(granted, 100, "what ten seconds bring, whatever comes");
    }

    #[test]
    fn endpoints_that_leave_with_their_counts_do_not_stop_it() {
        let budget = RetryBudget::default();
        let spend =
            |now: u64, begun: u64| (0..1000).filter(|_| budget.withdraw(DEFAULT, now, || begun)).count();
        assert_eq!(spend(1_000_000, 1000), 100 + 2, "a thousand in as many seconds are ten in ten");
        assert_eq!(spend(1_001_000, 0), 10, "all are replaced");
        assert_eq!(spend(1_002_000, 1000), 10 + 198, "a fifth of those that are no retries");
    }

    proptest! {
        #[test]
        fn over_any_time_retries_are_at_most_what_was_earned_in_it_and_ten_seconds_before(
            steps in prop::collection::vec((0_u64..5_000, 0_u64..2_000, 0_usize..300), 1..60),
            percent in 0_u32..=100,
            minimum_per_second in 0_u32..50,
        ) {
            let allowance = RetryAllowance { percent, minimum_per_second };
            let budget = RetryBudget::default();
            let (mut now, mut requests, mut retries) = (1_000_000, 0, 0);
            for (passed, fresh, asked) in steps {
                now += passed;
                requests += fresh;
                for _ in 0..asked {
                    if budget.withdraw(allowance, now, || requests + retries) {
                        retries += 1;
                    }
                }
                let seconds = (now - 1_000_000).div_ceil(1000) + 10;
                let most = requests * u64::from(percent) / 100 + u64::from(minimum_per_second) * seconds;
                prop_assert!(retries <= most, "{retries} > {most}");
            }
        }
    }
}
