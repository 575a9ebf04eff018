//! Since when an endpoint has taken traffic, where that is known: endpoints that are new may get less at first.
//!
//! A proxy that starts finds endpoints that may have been there for long, and so does one whose control plane starts and
//! gets to know them one by one. These are not new. What comes after is.

use std::sync::atomic::{AtomicU64, Ordering};

/// It takes no traffic yet.
const NOT_YET: u64 = u64::MAX;
/// It takes traffic, nobody knows since when.
const LONG: u64 = 0;

/// Milliseconds of a steady clock, or one of the two above.
#[derive(Debug)]
pub(super) struct Since(AtomicU64);

impl Since {
    /// Notes that it takes traffic since `now`, or since long. Only the first note counts.
    pub(super) fn note(&self, now: Option<u64>) {
        let noted = now.unwrap_or(LONG);
        // Fails where there is a note.
        let _ = self.0.compare_exchange(NOT_YET, noted, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Since when; `None` where it is not new, or takes no traffic yet.
    pub(super) fn get(&self) -> Option<u64> {
        let since = self.0.load(Ordering::Relaxed);
        (since != LONG && since != NOT_YET).then_some(since)
    }
}

impl Default for Since {
    fn default() -> Self {
        Self(AtomicU64::new(NOT_YET))
    }
}

impl Clone for Since {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_note_counts() {
        let (new, old) = (Since::default(), Since::default());
        assert_eq!(new.get(), None);
        new.note(Some(7));
        new.note(Some(9));
        old.note(None);
        old.note(Some(9));
        assert_eq!((new.get(), new.clone().get(), old.get()), (Some(7), Some(7), None));
    }
}
