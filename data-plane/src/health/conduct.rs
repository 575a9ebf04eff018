//! How one endpoint conducts itself: errors in a row, what is counted for comparisons, and what follows from either.
//!
//! It lies on the cache line that every request to the endpoint touches anyway, and is written only where a service's
//! policy asks for it.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{
    ejection::{Cause, Ejection},
    rules::OutlierRules,
    tally::{Sample, Tally},
};

/// What is known of an endpoint's answers and checks.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    pub(crate) ejection: Ejection,
    tally: Tally,
    errors: AtomicU32,
}

impl Conduct {
    /// What goes on from another endpoint that is the same process: whether it is passed over.
    pub(crate) fn continued(other: &Self) -> Self {
        Self { ejection: Ejection::copied(&other.ejection), ..Self::default() }
    }

    /// Takes note of an answer, or of one that did not come. `took`: from the pick to its head, where the rules want to
    /// know. Says why, where the endpoint is ejected upon it. `now` is asked only where something changes.
    pub(crate) fn answered(
        &self,
        failed: bool,
        took: Option<Duration>,
        rules: &OutlierRules,
        now: impl Fn() -> u64,
    ) -> Option<Cause> {
        if rules.comparison.is_some() {
            self.tally.count(failed, took);
        }
        if !failed {
            if self.errors.load(Ordering::Relaxed) != 0 {
                self.errors.store(0, Ordering::Relaxed);
            }
            self.ejection.recovered(now);
            return None;
        }
        let errors = self.errors.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let counted = rules.consecutive_errors.is_some_and(|most| errors >= most.get());
        let cause = counted.then_some(Cause::ConsecutiveErrors).or_else(|| self.ejection.probing())?;
        self.errors.store(0, Ordering::Relaxed);
        self.ejection.eject(cause, now(), rules.lengths).then_some(cause)
    }

    /// What was counted since this was last asked.
    pub(super) fn sample(&self) -> Sample {
        self.tally.take()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::{super::ejection::Heed, *};
    use crate::table::Lengths;

    const ALL: Heed = Heed { ejections: true, illness: true };

    fn rules(errors: u32) -> OutlierRules {
        OutlierRules {
            consecutive_errors: NonZeroU32::new(errors),
            lengths: Lengths { first: 1_000, longest: 30_000 },
            comparison: None,
        }
    }

    #[test]
    fn errors_in_a_row_eject_and_an_answer_between_them_breaks_the_row() {
        let (conduct, rules) = (Conduct::default(), rules(3));
        for failed in [true, true, false, true, true] {
            assert_eq!(conduct.answered(failed, None, &rules, || 1), None);
        }
        assert_eq!(conduct.answered(true, None, &rules, || 1), Some(Cause::ConsecutiveErrors));
        for _ in 0..9 {
            assert_eq!(conduct.answered(true, None, &rules, || 2), None, "it is ejected already");
        }
        assert!(!conduct.ejection.is_open(ALL, || 2));
    }

    #[test]
    fn one_error_of_a_probe_is_enough() {
        let (conduct, rules) = (Conduct::default(), rules(2));
        assert_eq!(conduct.answered(true, None, &rules, || 1), None);
        assert_eq!(conduct.answered(true, None, &rules, || 1), Some(Cause::ConsecutiveErrors));
        assert!(conduct.ejection.claim(ALL, || 1_001));
        assert_eq!(conduct.answered(true, None, &rules, || 1_001), Some(Cause::ConsecutiveErrors));
        assert!(!conduct.ejection.is_open(ALL, || 3_000) && conduct.ejection.claim(ALL, || 3_001));
        assert_eq!(conduct.answered(false, None, &rules, || 3_001), None);
        assert!(conduct.ejection.is_well(ALL));
    }

    #[test]
    fn zero_means_that_errors_in_a_row_do_not_count() {
        let (conduct, rules) = (Conduct::default(), rules(0));
        for _ in 0..1000 {
            assert_eq!(conduct.answered(true, None, &rules, || unreachable!("nothing happens")), None);
        }
        assert_eq!(conduct.sample(), Sample::default(), "and nothing is counted that nobody compares");
    }
}
