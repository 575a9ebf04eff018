//! When to tell the control plane what is in flight to draining endpoints: at once when one of them has
//! nothing left, else a few times a second.
//!
//! Deliberately absent: the clock and the counts.

use std::time::{Duration, Instant};

use waypost_proto::v1::InFlight;

/// The most often that mere changes of a count are reported.
const PACE: Duration = Duration::from_millis(100);

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Reports {
    told: Vec<InFlight>,
    told_at: Option<Instant>,
    due: Option<Instant>,
}

impl Reports {
    /// Takes note that `counts` are told with something that had to be told anyway.
    pub(super) fn told(&mut self, counts: Vec<InFlight>, now: Instant) {
        *self = Self { told: counts, told_at: Some(now), due: None };
    }

    /// Whether to tell these counts now. Where not, [`Self::due`] says when to ask again.
    pub(super) fn is_worth_telling(&mut self, counts: &[InFlight], now: Instant) -> bool {
        self.due = None;
        if counts == self.told {
            return false;
        }
        let still_there =
            |entry: &InFlight| counts.iter().any(|new| new.key == entry.key && new.epoch == entry.epoch);
        let next = self.told_at.map_or(now, |at| at + PACE);
        if next <= now || !self.told.iter().all(still_there) {
            return true;
        }
        self.due = Some(next);
        false
    }

    /// When a change that was not worth telling is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use waypost_proto::v1::InstanceKey;

    use super::*;

    fn counts(counts: &[(&str, u64)]) -> Vec<InFlight> {
        let entry = |(id, count): &(&str, u64)| InFlight {
            key: Some(InstanceKey { id: (*id).to_owned(), ..InstanceKey::default() }),
            epoch: 1,
            count: *count,
        };
        counts.iter().map(entry).collect()
    }

    #[test]
    fn the_last_request_is_told_at_once_and_others_at_a_pace() {
        let start = Instant::now();
        let mut reports = Reports::default();
        reports.told(counts(&[("a", 9), ("b", 1)]), start);
        assert!(!reports.is_worth_telling(&counts(&[("a", 9), ("b", 1)]), start + 2 * PACE), "nothing new");
        assert!(!reports.is_worth_telling(&counts(&[("a", 8), ("b", 1)]), start + PACE / 2), "too soon");
        assert_eq!(reports.due(), Some(start + PACE));
        assert!(reports.is_worth_telling(&counts(&[("a", 8), ("b", 1)]), start + PACE), "due");
        assert!(reports.is_worth_telling(&counts(&[("a", 8)]), start + PACE / 2), "b has nothing left");
        reports.told(counts(&[]), start);
        assert_eq!(reports.due(), None);
    }
}
