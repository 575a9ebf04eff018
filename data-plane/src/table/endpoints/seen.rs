//! What the control plane is told of an endpoint's answers: that there were good ones, and how many failed.
//!
//! Good answers are not counted where they come: how many requests have begun and how many are in flight is known
//! anyway, so that those that have ended are too, and those that failed are taken off. What a good answer costs is a
//! look at a word of the line that the request touches anyway; it is written once between two reports.
//!
//! Deliberately absent: who is told and when ([`crate::subscription`]).

use std::sync::atomic::{AtomicU32, Ordering};

use super::{EndpointState, IN_FLIGHT, now};

/// There was a good answer.
const ANSWERED: u32 = 1 << 31;

/// Whether there was a good answer, and how many failures, since somebody last asked.
#[derive(Debug, Default)]
pub(super) struct Seen(AtomicU32);

impl Seen {
    fn answered(&self) {
        if self.0.load(Ordering::Relaxed) & ANSWERED == 0 {
            self.0.fetch_or(ANSWERED, Ordering::Relaxed);
        }
    }

    fn failed(&self) {
        // Only somebody who does not ask for 2^31 failures would take one for an answer.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> (bool, u32) {
        // Of most endpoints there is nothing new, and their lines stay where they are.
        if self.0.load(Ordering::Relaxed) == 0 {
            return (false, 0);
        }
        let seen = self.0.swap(0, Ordering::Relaxed);
        (seen & ANSWERED != 0, seen & !ANSWERED)
    }
}

/// How many requests have become what since somebody last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Answered well: those that have ended and did not fail. At least one where an answer has begun, none where
    /// none has.
    pub(crate) succeeded: u32,
    /// Failed.
    pub(crate) failed: u32,
}

impl EndpointState {
    /// Says whether a request that came to an end here, or to its answer's head, has failed.
    pub(crate) fn note_answer(&self, failed: bool) {
        self.report_outcome(failed, now);
        if failed {
            self.hot.seen.failed();
        } else {
            self.hot.seen.answered();
        }
    }

    /// What is new since this was last asked. One alone may ask.
    pub(crate) fn news(&self) -> News {
        let (answered, failed) = self.hot.seen.take();
        let requests = self.hot.requests.load(Ordering::Relaxed);
        let begun = u32::try_from(requests >> 32).unwrap_or(u32::MAX);
        let in_flight = u32::try_from(requests & IN_FLIGHT).unwrap_or(u32::MAX);
        let ended = begun.wrapping_sub(in_flight);
        let before = self.told.load(Ordering::Relaxed);
        if ended != before {
            self.told.store(ended, Ordering::Relaxed);
        }
        let since = ended.wrapping_sub(before).saturating_sub(failed);
        News { succeeded: if answered { since.max(1) } else { 0 }, failed }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{super::tests::set_of, *};
    use crate::balance::PolicyName;

    fn news(succeeded: u32, failed: u32) -> News {
        News { succeeded, failed }
    }

    #[test]
    fn an_answer_is_told_of_while_its_body_is_still_under_way_and_not_again_when_that_ends() {
        let set = set_of(&[1], PolicyName::RoundRobin);
        let state = &set.members()[0];
        let request = state.begin().expect("it takes requests");
        assert_eq!(state.news(), News::default(), "there is no answer yet");
        state.note_answer(false);
        assert_eq!(state.news(), news(1, 0));
        drop(request);
        assert_eq!(state.news(), News::default());
    }

    #[test]
    fn a_request_that_is_given_up_is_no_answer() {
        let set = set_of(&[1], PolicyName::RoundRobin);
        let state = &set.members()[0];
        drop(state.begin());
        assert_eq!(state.news(), News::default());
    }

    proptest! {
        #[test]
        fn what_ended_is_told_of_once(reports in vec(vec(any::<bool>(), 0..20), 0..20)) {
            let set = set_of(&[1], PolicyName::RoundRobin);
            let state = &set.members()[0];
            for answers in reports {
                for failed in &answers {
                    let request = state.begin().expect("it takes requests");
                    state.note_answer(*failed);
                    drop(request);
                }
                let failed = answers.iter().filter(|failed| **failed).count();
                let expected = (answers.len() - failed, failed);
                let told = state.news();
                prop_assert_eq!((told.succeeded as usize, told.failed as usize), expected);
            }
        }
    }
}
