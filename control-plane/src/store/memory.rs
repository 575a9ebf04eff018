//! The default store: this process's memory.
//!
//! It begins empty, with a history of its own, and so does not know what was registered before
//! ([`Loaded::complete`]): SDKs and agents register again by themselves.
//!
//! Deliberately absent: durability.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use waypost_proto::name::{InstanceKey, ServiceKey};

use super::{
    Commit, EmptyService, Event, Finding, Lapsed, LeaseChange, LeaseStatus, Loaded, Mutation, Now, Record,
    Renewal, Store, StoreError, Watch, Written, leases::Leases, record::first_key,
};

/// How many commits a watch can go back.
const REMEMBERED: usize = 4096;

/// A registry kept in memory.
pub struct Memory {
    history: Arc<str>,
    remembered: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    revision: u64,
    complete: bool,
    records: BTreeMap<InstanceKey, Arc<Record>>,
    empty_services: BTreeMap<ServiceKey, Arc<EmptyService>>,
    leases: Leases,
    log: VecDeque<Arc<Commit>>,
    watchers: Vec<mpsc::UnboundedSender<Result<Arc<Commit>, StoreError>>>,
}

impl Memory {
    /// An empty store under a new history.
    pub fn new() -> Self {
        Self::remembering(REMEMBERED)
    }

    /// An empty store that takes itself for another one.
    #[cfg(test)]
    pub(crate) fn of_history(history: &str) -> Self {
        Self { history: Arc::from(history), ..Self::new() }
    }

    /// An empty store whose watches can go back this many commits.
    fn remembering(commits: usize) -> Self {
        Self {
            history: Arc::from(uuid::Uuid::new_v4().to_string()),
            remembered: commits,
            inner: Mutex::default(),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[tonic::async_trait]
impl Store for Memory {
    fn url(&self) -> &str {
        "memory://"
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        let inner = self.inner.lock();
        Ok(Loaded {
            history: self.history.clone(),
            revision: inner.revision,
            complete: inner.complete,
            records: inner.records.values().cloned().collect(),
            empty_services: inner.empty_services.values().cloned().collect(),
            events: Vec::new(),
        })
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        let mut inner = self.inner.lock();
        let oldest = inner.revision - inner.log.len() as u64;
        // Who asks for what is still to come has followed another history.
        if after < oldest || after > inner.revision {
            return Err(StoreError::Compacted { oldest });
        }
        // A watcher that falls behind costs memory, never the others' time. There is one, and it keeps up.
        let (sender, receiver) = mpsc::unbounded_channel();
        for commit in inner.log.iter().filter(|commit| commit.revision > after) {
            sender.send(Ok(commit.clone())).expect("the receiver is still here");
        }
        inner.watchers.push(sender);
        let next = |mut receiver: mpsc::UnboundedReceiver<_>| async move {
            receiver.recv().await.map(|commit| (commit, receiver))
        };
        Ok(Box::pin(stream::unfold(receiver, next)))
    }

    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        let mut inner = self.inner.lock();
        let (written, event) = match mutation {
            Mutation::Put { record, expected, lease, event } => {
                (inner.put(record, expected, lease, now)?, event)
            }
            Mutation::Remove { key, expected, lapsed, emptied, event } => {
                (inner.remove(key, expected, lapsed, emptied, now)?, Some(event))
            }
            Mutation::Forget { service, expected } => (inner.forget(service, expected)?, None),
            Mutation::Complete => (inner.complete(), None),
        };
        Ok(inner.append(written, event, now, self.remembered))
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], now: Now) -> Result<Vec<Renewal>, StoreError> {
        let mut inner = self.inner.lock();
        Ok(leases.iter().map(|(key, epoch)| inner.leases.renew(key, *epoch, now.monotonic)).collect())
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        Ok(self.inner.lock().leases.lapsed(now.monotonic))
    }

    async fn leases(&self, service: &ServiceKey, now: Now) -> Result<Vec<LeaseStatus>, StoreError> {
        Ok(self.inner.lock().leases.of(service, now.monotonic))
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        let detail = "this process's memory: it is gone with the process; --data-dir keeps it".to_owned();
        Ok(vec![Finding { subject: "reachable".to_owned(), good: true, detail, remedy: String::new() }])
    }
}

impl Inner {
    fn conflict(&self, entry: &dyn std::fmt::Display) -> StoreError {
        StoreError::Conflict { entry: entry.to_string(), revision: self.revision }
    }

    fn check(&self, key: &InstanceKey, expected: Option<u64>) -> Result<(), StoreError> {
        let held = self.records.get(key).map(|record| record.revision);
        if held == expected { Ok(()) } else { Err(self.conflict(key)) }
    }

    fn put(
        &mut self,
        mut record: Record,
        expected: Option<u64>,
        lease: LeaseChange,
        now: Now,
    ) -> Result<Written, StoreError> {
        let key = record.key().clone();
        self.check(&key, expected)?;
        match lease {
            LeaseChange::Grant => self.leases.grant(&key, record.epoch, record.ttl, now.monotonic),
            LeaseChange::Keep => {}
            LeaseChange::Hold(length) => {
                if !self.leases.hold(&key, length, now.monotonic) {
                    return Err(self.conflict(&key));
                }
            }
        }
        record.revision = self.revision + 1;
        let record = Arc::new(record);
        self.empty_services.remove(key.service());
        self.records.insert(key, record.clone());
        Ok(Written::Put(record))
    }

    fn remove(
        &mut self,
        key: InstanceKey,
        expected: u64,
        lapsed: bool,
        mut emptied: EmptyService,
        now: Now,
    ) -> Result<Written, StoreError> {
        self.check(&key, Some(expected))?;
        if lapsed && !self.leases.has_lapsed(&key, now.monotonic) {
            return Err(self.conflict(&key));
        }
        self.leases.revoke(&key);
        self.records.remove(&key);
        let first = first_key(key.service());
        let last = self.records.range(first..).next().is_none_or(|(next, _)| next.service() != key.service());
        let emptied = last.then(|| {
            emptied.revision = self.revision + 1;
            let emptied = Arc::new(emptied);
            self.empty_services.insert(key.service().clone(), emptied.clone());
            emptied
        });
        Ok(Written::Removed { key, emptied })
    }

    fn forget(&mut self, service: ServiceKey, expected: u64) -> Result<Written, StoreError> {
        if self.empty_services.get(&service).map(|empty| empty.revision) != Some(expected) {
            return Err(self.conflict(&service));
        }
        self.empty_services.remove(&service);
        Ok(Written::Forgotten(service))
    }

    fn complete(&mut self) -> Written {
        self.complete = true;
        Written::Completed
    }

    fn append(&mut self, written: Written, event: Option<Event>, now: Now, remembered: usize) -> u64 {
        self.revision += 1;
        let commit = Arc::new(Commit { revision: self.revision, at: now, written, event });
        self.watchers.retain(|watcher| watcher.send(Ok(commit.clone())).is_ok());
        self.log.push_back(commit);
        if self.log.len() > remembered {
            self.log.pop_front();
        }
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::conformance::{self, Fixture, ManualClock, Time},
        *,
    };

    fn fixture() -> Fixture {
        Fixture::new(Arc::new(Memory::new()), Time::Manual(ManualClock::new()))
    }

    #[tokio::test]
    async fn the_memory_store_does_what_every_store_does() {
        for case in conformance::CASES {
            conformance::run(case, &fixture()).await;
        }
    }

    #[tokio::test]
    async fn the_memory_store_is_a_plain_map() {
        for seed in 0..50 {
            conformance::model::compare(&fixture(), seed, 60).await;
        }
    }

    #[tokio::test]
    async fn a_watch_from_a_forgotten_revision_is_told_so() {
        let now = ManualClock::new().now();
        let store = Memory::remembering(2);
        for _ in 0..5 {
            store.commit(Mutation::Complete, now).await.expect("it commits");
        }
        assert_eq!(store.watch(2).await.err(), Some(StoreError::Compacted { oldest: 3 }));
        assert!(store.watch(3).await.is_ok() && store.watch(5).await.is_ok());
    }
}
