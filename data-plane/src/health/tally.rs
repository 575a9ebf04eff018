//! What an endpoint's answers were since somebody last looked: two words, counted by any thread.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The answers of an endpoint in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// How many requests were answered, or should have been.
    pub(crate) requests: u64,
    /// How many of these were failures of the endpoint's.
    pub(crate) failures: u64,
    /// How long all of them took, microseconds; 0 where that is not measured.
    pub(crate) micros: u64,
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Failures << 32 | all.
    answers: AtomicU64,
    micros: AtomicU64,
}

impl Tally {
    /// Counts an answer, and how long it took where that is measured.
    pub(super) fn count(&self, failed: bool, took: Option<Duration>) {
        self.answers.fetch_add(u64::from(failed) << 32 | 1, Ordering::Relaxed);
        if let Some(took) = took {
            self.micros
                .fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX >> 16), Ordering::Relaxed);
        }
    }

    /// What was counted; the count begins anew. An answer that is counted just now may have its time in the next one.
    pub(super) fn take(&self) -> Sample {
        let answers = self.answers.swap(0, Ordering::Relaxed);
        let micros = self.micros.swap(0, Ordering::Relaxed);
        Sample { requests: answers & u64::from(u32::MAX), failures: answers >> 32, micros }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interval_begins_anew() {
        let tally = Tally::default();
        tally.count(false, Some(Duration::from_millis(2)));
        tally.count(true, None);
        assert_eq!(tally.take(), Sample { requests: 2, failures: 1, micros: 2_000 });
        assert_eq!(tally.take(), Sample::default());
    }
}
