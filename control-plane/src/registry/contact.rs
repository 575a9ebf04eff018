//! The store, and whether we are in touch with it.
//!
//! Every operation of the registry goes through here. A failure, an operation that takes longer than its
//! limit, and a watch that breaks are gaps: clients could not renew their leases through us meanwhile, so
//! nothing may expire by our word before they have had the time to (see `sweep`). The same notes say to
//! operators since when the store is gone and why.
//!
//! ```text
//!   in touch ── an operation fails or the watch breaks ──▶ lost
//!      ▲                                                     │
//!      └── an operation begun after that succeeds, and the watch is open again
//! ```
//!
//! Deliberately absent: trying again; who asked decides that.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use waypost_proto::name::{InstanceKey, ServiceKey};

use super::Clock;
use crate::store::{Lapsed, LeaseStatus, Loaded, Mutation, Now, Renewal, Store, StoreError, Watch};

/// Since when the store is gone, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Since when, by our clock.
    pub since: SystemTime,
    /// Why, in words.
    pub reason: String,
}

#[derive(Debug)]
struct Failure {
    lost: Lost,
    noted: Instant,
}

#[derive(Debug)]
struct Notes {
    /// The operation that failed last, unless one has succeeded since.
    failed: Option<Failure>,
    /// Why there is no watch, unless there is one.
    unwatched: Option<Failure>,
    /// Since when we are in touch without a gap, if we are.
    steady_since: Instant,
}

/// A store that is watched over.
pub(super) struct Contact {
    store: Arc<dyn Store>,
    clock: Clock,
    limit: Duration,
    notes: Mutex<Notes>,
}

impl Contact {
    /// In touch as of now. An operation that takes longer than `limit` counts as a gap.
    pub(super) fn new(store: Arc<dyn Store>, clock: Clock, limit: Duration) -> Self {
        let notes = Notes { failed: None, unwatched: None, steady_since: clock().monotonic };
        Self { store, clock, limit, notes: Mutex::new(notes) }
    }

    /// Since when the store is gone and why; `None` while it is there.
    pub(super) fn lost(&self) -> Option<Lost> {
        let notes = self.notes.lock();
        let failures = notes.failed.iter().chain(&notes.unwatched);
        failures.map(|failure| failure.lost.clone()).min_by_key(|lost| lost.since)
    }

    /// Since when there has been no gap; `None` within one.
    pub(super) fn steady_since(&self) -> Option<Instant> {
        let notes = self.notes.lock();
        (notes.failed.is_none() && notes.unwatched.is_none()).then_some(notes.steady_since)
    }

    /// Whether there is a watch.
    #[cfg(test)]
    pub(super) fn is_watched(&self) -> bool {
        self.notes.lock().unwatched.is_none()
    }

    /// The watch has broken.
    pub(super) fn unwatched(&self, error: &StoreError) {
        let now = (self.clock)();
        let mut notes = self.notes.lock();
        if notes.unwatched.is_none() {
            let lost = Lost { since: now.wall, reason: error.to_string() };
            notes.unwatched = Some(Failure { lost, noted: now.monotonic });
        }
    }

    /// The watch is open.
    pub(super) fn watched(&self) {
        let now = (self.clock)();
        let mut notes = self.notes.lock();
        if notes.unwatched.take().is_some() {
            notes.steady_since = now.monotonic;
        }
    }

    /// See [`Store::load`].
    pub(super) async fn load(&self) -> Result<Loaded, StoreError> {
        self.noted(self.store.load()).await
    }

    /// See [`Store::watch`].
    pub(super) async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        self.noted(self.store.watch(after)).await
    }

    /// See [`Store::commit`].
    pub(super) async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        self.noted(self.store.commit(mutation, now)).await
    }

    /// See [`Store::renew`].
    pub(super) async fn renew(
        &self,
        leases: &[(InstanceKey, u64)],
        now: Now,
    ) -> Result<Vec<Renewal>, StoreError> {
        self.noted(self.store.renew(leases, now)).await
    }

    /// See [`Store::lapsed`].
    pub(super) async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        self.noted(self.store.lapsed(now)).await
    }

    /// See [`Store::leases`].
    pub(super) async fn leases(
        &self,
        service: &ServiceKey,
        now: Now,
    ) -> Result<Vec<LeaseStatus>, StoreError> {
        self.noted(self.store.leases(service, now)).await
    }

    async fn noted<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = (self.clock)();
        let result = operation.await;
        let ended = (self.clock)().monotonic;
        let failure = match &result {
            // An answer, if not the one that was hoped for.
            Ok(_) | Err(StoreError::Conflict { .. } | StoreError::Compacted { .. }) => None,
            Err(error) => Some(error.to_string()),
        };
        let mut notes = self.notes.lock();
        match failure {
            Some(reason) => {
                let since = notes.failed.take().map_or(began.wall, |failure| failure.lost.since);
                notes.failed = Some(Failure { lost: Lost { since, reason }, noted: ended });
            }
            None => {
                let over = notes.failed.as_ref().is_some_and(|failure| failure.noted <= began.monotonic);
                let slow = ended.saturating_duration_since(began.monotonic) > self.limit;
                if over {
                    notes.failed = None;
                }
                if over || slow {
                    notes.steady_since = ended;
                }
            }
        }
        result
    }
}
