//! Any store, measured: operations and how long they took, the watch and how far it is behind.
//!
//! Deliberately absent: time limits and repetition, which each store knows best for itself.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use parking_lot::Mutex;
use waypost_proto::name::{InstanceKey, ServiceKey};

use super::{Commit, Finding, Lapsed, LeaseStatus, Loaded, Mutation, Now, Renewal, Store, StoreError, Watch};
use crate::metrics::StoreMetrics;

/// How many commits may be on their way back for their delay to be measured.
const ON_THEIR_WAY: usize = 4096;

/// A store that is measured.
pub struct Measured {
    inner: Arc<dyn Store>,
    watched: Arc<Watched>,
}

/// What comes back by the watch.
struct Watched {
    metrics: StoreMetrics,
    /// When each commit of ours was acknowledged that has not come back.
    on_their_way: Mutex<BTreeMap<u64, Instant>>,
}

impl Measured {
    /// Measures a store.
    pub fn new(inner: Arc<dyn Store>, metrics: StoreMetrics) -> Self {
        Self { inner, watched: Arc::new(Watched { metrics, on_their_way: Mutex::default() }) }
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let done = work.await;
        self.watched.metrics.operated(operation, done.as_ref().err(), begun.elapsed());
        done
    }
}

#[tonic::async_trait]
impl Store for Measured {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        self.timed("load", self.inner.load()).await
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        let watch = self.timed("watch", self.inner.watch(after)).await?;
        let watched = self.watched.clone();
        Ok(Box::pin(watch.inspect(move |commit| watched.saw(commit.as_ref()))))
    }

    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        let revision = self.timed("commit", self.inner.commit(mutation, now)).await?;
        self.watched.acknowledged(revision);
        Ok(revision)
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], now: Now) -> Result<Vec<Renewal>, StoreError> {
        self.timed("renew", self.inner.renew(leases, now)).await
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        self.timed("lapsed", self.inner.lapsed(now)).await
    }

    async fn leases(&self, service: &ServiceKey, now: Now) -> Result<Vec<LeaseStatus>, StoreError> {
        self.timed("leases", self.inner.leases(service, now)).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.timed("examine", self.inner.examine()).await
    }
}

impl Watched {
    fn acknowledged(&self, revision: u64) {
        let mut on_their_way = self.on_their_way.lock();
        if self.metrics.watched_revision() >= revision {
            drop(on_their_way);
            self.metrics.came_back(Duration::ZERO);
        } else if on_their_way.len() < ON_THEIR_WAY {
            on_their_way.insert(revision, Instant::now());
        }
    }

    fn saw(&self, commit: Result<&Arc<Commit>, &StoreError>) {
        let Ok(commit) = commit else { return self.metrics.watch_broke() };
        let mut on_their_way = self.on_their_way.lock();
        self.metrics.saw_revision(commit.revision);
        let later = on_their_way.split_off(&(commit.revision + 1));
        let back = std::mem::replace(&mut *on_their_way, later);
        drop(on_their_way);
        back.values().for_each(|acknowledged| self.metrics.came_back(acknowledged.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Memory,
            conformance::{self, Fixture, ManualClock, Time},
        },
        *,
    };
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_measured_store_does_what_it_did_and_is_counted() {
        let metrics = Metrics::new();
        for case in conformance::CASES {
            let store = Measured::new(Arc::new(Memory::new()), metrics.store("memory"));
            conformance::run(case, &Fixture::new(Arc::new(store), Time::Manual(ManualClock::new()))).await;
        }
        let text = metrics.render().expect("it renders");
        for line in [
            "db_client_operation_duration_seconds_count{db_operation_name=\"commit\",db_system_name=\"memory\",error_type=\"\"}",
            "db_client_operation_duration_seconds_count{db_operation_name=\"commit\",db_system_name=\"memory\",error_type=\"conflict\"}",
            "waypost_store_watch_delay_seconds_count{store=\"memory\"}",
            "waypost_store_available{store=\"memory\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
