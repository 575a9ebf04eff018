//! How a change is made: planned from the newest view, committed, and planned again after a conflict.
//!
//! It is planned by the store's time as far as that is known, and never before what is known to have happened, so
//! that replicas whose clocks disagree do not turn the order of things around.
//!
//! Deliberately absent: what is planned (see `plan`).

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use imbl::Vector;
use waypost_proto::{
    error::{Error, ErrorCode},
    name::InstanceKey,
};

use super::{
    Registry,
    plan::{self, Plan},
    view::View,
};
use crate::store::{Mutation, Now, PastEvent, StoreError};

/// How often a plan is made again after a conflict.
pub(super) const ATTEMPTS: usize = 64;
/// How long an operation waits until its own change comes back from the store.
const COMES_BACK: Duration = Duration::from_secs(10);

impl Registry {
    /// Waits until the view has reached a revision; `false` if it does not within `patience`.
    pub async fn reach(&self, revision: u64, patience: Duration) -> bool {
        let mut applied = self.applied.subscribe();
        let reached = tokio::time::timeout(patience, applied.wait_for(|applied| *applied >= revision)).await;
        matches!(reached, Ok(Ok(_)))
    }

    pub(super) fn now(&self) -> Now {
        (self.options.clock)()
    }

    /// The time by which changes are planned: the store's as far as it is known, and never before what is
    /// known to have happened. So clocks that disagree do not turn the order of things around.
    pub(super) fn planning_time(&self, now: Now) -> Now {
        let ahead = self.store_ahead.load(Ordering::Acquire);
        let shift = Duration::from_micros(ahead.unsigned_abs());
        let wall = if ahead < 0 { now.wall.checked_sub(shift) } else { now.wall.checked_add(shift) };
        let wall = wall.unwrap_or(now.wall);
        let newest = self.view().events.back().map_or(wall, |past| past.at);
        Now { monotonic: now.monotonic, wall: wall.max(newest) }
    }

    /// Learns from a commit of our own how far the store's clock is ahead of ours.
    fn learn_time(&self, revision: u64, asked: Now, ours: Now) {
        if let Some(ahead) = store_ahead(&self.view().events, revision, asked.wall, ours.wall) {
            self.store_ahead.store(ahead, Ordering::Release);
        }
    }

    pub(super) fn next_epoch(&self, now: Now) -> u64 {
        let grown = |greatest: u64| Some(plan::next_epoch(greatest, now));
        let before = self.epochs.fetch_update(Ordering::AcqRel, Ordering::Acquire, grown);
        plan::next_epoch(before.unwrap_or_default(), now)
    }

    /// Commits what nobody waits for, not even for its coming back.
    pub(super) async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        self.store.commit(mutation, self.planning_time(now)).await
    }

    /// Waits until the view shows the epoch of an instance that a caller names, if the store has it: it may have been
    /// registered at another replica a moment ago. Epoch 0 names none.
    pub(super) async fn see(&self, key: &InstanceKey, epoch: u64) -> Result<(), Error> {
        let shown = || self.view().record(key).is_some_and(|record| record.epoch >= epoch);
        if epoch == 0 || shown() {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        let leases = self.store.leases(key.service(), self.now()).await?;
        if !leases.iter().any(|lease| lease.key == *key && lease.epoch == epoch) {
            return Ok(());
        }
        // If it does not come, the view answers for itself.
        let _ = tokio::time::timeout(COMES_BACK, applied.wait_for(|_| shown())).await;
        Ok(())
    }

    /// Makes a plan and commits it, again and again while others change the same record.
    pub(super) async fn change(
        &self,
        plan: impl Fn(&View, Now) -> Result<Plan, Error>,
    ) -> Result<u64, Error> {
        for _ in 0..ATTEMPTS {
            let ours = self.now();
            let now = self.planning_time(ours);
            let mutation = match plan(&self.view(), now)? {
                Plan::Done(revision) => return Ok(revision),
                Plan::Commit(mutation) => mutation,
            };
            if let Some(revision) = self.attempt(*mutation, now, ours).await? {
                return Ok(revision);
            }
        }
        Err(contended("the same instance"))
    }

    /// Commits a mutation and waits until the view shows it; `None` where others were first, which the view shows then.
    pub(super) async fn attempt(
        &self,
        mutation: Mutation,
        now: Now,
        ours: Now,
    ) -> Result<Option<u64>, Error> {
        match self.store.commit(mutation, now).await {
            Ok(revision) if self.wait_for(revision).await => {
                self.learn_time(revision, now, ours);
                Ok(Some(revision))
            }
            Err(StoreError::Conflict { revision, .. }) if self.wait_for(revision).await => Ok(None),
            Ok(revision) | Err(StoreError::Conflict { revision, .. }) => Err(Error::new(
                ErrorCode::Unavailable,
                format!(
                    "the store is at revision {revision}, which has not come back from it in {COMES_BACK:?}: \
                     try again"
                ),
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the view has reached a revision; `false` if it does not in time.
    pub(super) async fn wait_for(&self, revision: u64) -> bool {
        self.reach(revision, COMES_BACK).await
    }
}

/// Others were faster, again and again.
pub(super) fn contended(what: &str) -> Error {
    let message = format!("others changed {what} {ATTEMPTS} times in a row: try again");
    Error::new(ErrorCode::Unavailable, message)
}

/// How far the store's clock is ahead of ours, microseconds, where the event of a revision tells: the store has
/// dated it otherwise than it was asked to. An event that is dated like the one before it tells nothing: it may
/// have been put in order behind one that was planned later and committed earlier.
fn store_ahead(
    events: &Vector<Arc<PastEvent>>,
    revision: u64,
    asked: SystemTime,
    ours: SystemTime,
) -> Option<i64> {
    let mut newest_first = events.iter().rev().skip_while(|past| past.revision > revision);
    let past = newest_first.next().filter(|past| past.revision == revision && past.at != asked)?;
    if newest_first.next().is_some_and(|before| before.at == past.at) {
        return None;
    }
    let micros = |length: Duration| i64::try_from(length.as_micros()).unwrap_or(i64::MAX);
    Some(past.at.duration_since(ours).map_or_else(|behind| -micros(behind.duration()), micros))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use waypost_proto::v1::EventKind;

    use super::*;
    use crate::store::Event;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn events(dated: &[(u64, u64)]) -> Vector<Arc<PastEvent>> {
        let event = Event {
            kind: EventKind::Registered,
            instance: "users/a".parse().expect("a good key"),
            address: "127.0.0.1:1".into(),
            reason: String::new(),
            actor: "test".into(),
            epoch: 1,
        };
        let past =
            |&(revision, millis)| Arc::new(PastEvent { revision, at: at(millis), event: event.clone() });
        dated.iter().map(past).collect()
    }

    #[test]
    fn the_clock_of_a_store_that_has_one_is_learned() {
        let events = events(&[(1, 100), (2, 250), (3, 400)]);
        assert_eq!(store_ahead(&events, 2, at(200), at(190)), Some(60_000));
        assert_eq!(store_ahead(&events, 3, at(500), at(500)), Some(-100_000));
        assert_eq!(store_ahead(&events, 2, at(250), at(190)), None, "the store has taken our time");
        assert_eq!(store_ahead(&events, 4, at(250), at(190)), None, "no event tells");
    }

    // Otherwise many changes at once drive the times of all that follow into the future.
    #[test]
    fn commits_that_overtake_each_other_tell_nothing_of_the_clock() {
        let events = events(&[(1, 250), (2, 250)]);
        assert_eq!(store_ahead(&events, 2, at(200), at(200)), None);
    }
}
