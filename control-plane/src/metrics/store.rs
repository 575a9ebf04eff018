//! What is measured of a store, by the names of OpenTelemetry's database conventions where there are any.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{OPERATION_BUCKETS, PROPAGATION_BUCKETS, counters, gauges, register};
use crate::store::StoreError;

/// The metrics of all kinds of stores.
#[derive(Debug)]
pub(super) struct All {
    operations: HistogramVec,
    delays: HistogramVec,
    breaks: IntCounterVec,
    revision: IntGaugeVec,
    available: IntGaugeVec,
}

/// What is measured of one store.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    kind: Arc<str>,
    operations: HistogramVec,
    delay: prometheus::Histogram,
    breaks: IntCounter,
    revision: IntGauge,
    watched: Arc<AtomicU64>,
    available: IntGauge,
}

impl All {
    pub(super) fn new(registry: &Registry) -> Self {
        let operations = HistogramOpts::new(
            "db_client_operation_duration_seconds",
            "operations of the registry's store by name and what went wrong",
        );
        let delays = HistogramOpts::new(
            "waypost_store_watch_delay_seconds",
            "from when the store acknowledged a commit of ours until its watch brought it back",
        );
        let labels = ["db_system_name", "db_operation_name", "error_type"];
        Self {
            operations: register(
                registry,
                HistogramVec::new(operations.buckets(OPERATION_BUCKETS.to_vec()), &labels),
            ),
            delays: register(
                registry,
                HistogramVec::new(delays.buckets(PROPAGATION_BUCKETS.to_vec()), &["store"]),
            ),
            breaks: counters(
                registry,
                "waypost_store_watch_breaks_total",
                "how often the store's watch broke and was begun again",
                &["store"],
            ),
            revision: gauges(
                registry,
                "waypost_store_watch_revision",
                "the newest revision that the store's watch has brought",
                &["store"],
            ),
            available: gauges(
                registry,
                "waypost_store_available",
                "1 when the last operation of the store went well",
                &["store"],
            ),
        }
    }

    pub(super) fn of(&self, kind: &str) -> StoreMetrics {
        StoreMetrics {
            kind: Arc::from(kind),
            operations: self.operations.clone(),
            delay: self.delays.with_label_values(&[kind]),
            breaks: self.breaks.with_label_values(&[kind]),
            revision: self.revision.with_label_values(&[kind]),
            watched: Arc::default(),
            available: self.available.with_label_values(&[kind]),
        }
    }
}

impl StoreMetrics {
    /// An operation has ended.
    pub fn operated(&self, operation: &str, error: Option<&StoreError>, took: Duration) {
        let kind = error.map_or("", error_type);
        self.operations.with_label_values(&[&self.kind, operation, kind]).observe(took.as_secs_f64());
        let well = matches!(error, None | Some(StoreError::Conflict { .. } | StoreError::Compacted { .. }));
        self.available.set(well.into());
    }

    /// The watch has brought a commit.
    pub fn saw_revision(&self, revision: u64) {
        self.watched.store(revision, Ordering::Release);
        self.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    /// The newest revision that the watch has brought.
    pub fn watched_revision(&self) -> u64 {
        self.watched.load(Ordering::Acquire)
    }

    /// The watch has brought a commit of ours, so long after it was acknowledged.
    pub fn came_back(&self, after: Duration) {
        self.delay.observe(after.as_secs_f64());
    }

    /// The watch has broken.
    pub fn watch_broke(&self) {
        self.breaks.inc();
    }
}

fn error_type(error: &StoreError) -> &'static str {
    match error {
        StoreError::Conflict { .. } => "conflict",
        StoreError::Compacted { .. } => "compacted",
        StoreError::Unavailable(_) => "unavailable",
        StoreError::Refused(_) => "refused",
        StoreError::Malformed { .. } => "malformed",
        StoreError::Unknown { .. } => "unknown",
    }
}
