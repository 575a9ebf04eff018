//! How a change is made: planned from the newest view, committed, and planned again after a conflict.
//!
//! It is planned by the store's time as far as that is known, and never before what is known to have happened, so
//! that replicas whose clocks disagree do not turn the order of things around.
//!
//! Deliberately absent: what is planned (see `plan`).

use std::{sync::atomic::Ordering, time::Duration};

use waypost_proto::{
    error::{Error, ErrorCode},
    name::InstanceKey,
};

use super::{
    Registry,
    plan::{self, Plan},
    view::View,
};
use crate::store::{Mutation, Now, StoreError};

/// How often a plan is made again after a conflict.
const ATTEMPTS: usize = 64;
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
        let view = self.view();
        let past = view.events.iter().rev().take_while(|past| past.revision >= revision).last();
        let Some(past) = past.filter(|past| past.revision == revision && past.at != asked.wall) else {
            return;
        };
        let micros = |length: Duration| i64::try_from(length.as_micros()).unwrap_or(i64::MAX);
        let ahead =
            past.at.duration_since(ours.wall).map_or_else(|behind| -micros(behind.duration()), micros);
        self.store_ahead.store(ahead, Ordering::Release);
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
            match self.store.commit(*mutation, now).await {
                Ok(revision) if self.wait_for(revision).await => {
                    self.learn_time(revision, now, ours);
                    return Ok(revision);
                }
                Err(StoreError::Conflict { revision, .. }) if self.wait_for(revision).await => {}
                Ok(revision) | Err(StoreError::Conflict { revision, .. }) => {
                    return Err(Error::new(
                        ErrorCode::Unavailable,
                        format!(
                            "the store is at revision {revision}, which has not come back from it in \
                             {COMES_BACK:?}: try again"
                        ),
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::new(
            ErrorCode::Unavailable,
            format!("others changed the same instance {ATTEMPTS} times in a row: try again"),
        ))
    }

    /// Waits until the view has reached a revision; `false` if it does not in time.
    pub(super) async fn wait_for(&self, revision: u64) -> bool {
        self.reach(revision, COMES_BACK).await
    }
}
