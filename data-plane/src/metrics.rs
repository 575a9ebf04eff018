//! Metrics: counters that each serving thread keeps for itself, summed when they are asked for.
//!
//! A [`Worker`] has one writer, its thread, so that counting is a plain load and store on a cache line that no
//! other thread writes. Names follow OpenTelemetry's semantic conventions where there is one.
//!
//! What is known of each service is found out when somebody asks ([`services`]), and costs requests nothing.
//!
//! Deliberately absent: counts by service or route, and all metrics by endpoint, whose number nobody bounds; the admin
//! port's table tells of single endpoints.

mod control;
mod exposition;
mod services;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use parking_lot::Mutex;
use prometheus::{Registry, proto::MetricFamily};
use waypost_proto::reason::Reason;

pub use self::control::Control;
use crate::{
    health::Cause,
    overload::{self, Priority},
    table::Table,
    tls::Refusal,
};

/// The upper bounds of the duration histogram's buckets, in microseconds: OpenTelemetry's for
/// `http.server.request.duration`, with finer ones below.
const BOUNDS_US: [u64; 17] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000,
    2_500_000, 5_000_000, 7_500_000, 10_000_000,
];

/// A counter with one writer.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, number: u64) {
        self.0.store(self.get().wrapping_add(number), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What became of a copy of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirrored {
    /// It was sent, and there was an answer.
    Answered,
    /// It was not sent, as too many were under way.
    Dropped,
    /// There was nobody to send it to, it broke off, or there was no answer.
    Failed,
}

impl Mirrored {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Answered, Self::Dropped, Self::Failed];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// Durations in buckets; the last has no bound.
#[derive(Debug, Default)]
struct Durations {
    buckets: [Count; BOUNDS_US.len() + 1],
    sum_ns: Count,
}

/// The counters of one serving thread. Only that thread may count.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Worker {
    begun: Count,
    finished: Count,
    /// By the first digit of the status.
    durations: [Durations; 5],
    answers: [Count; Reason::ALL.len()],
    connections_opened: Count,
    connections_closed: Count,
    upgrades: Count,
    tls_accepted: Count,
    tls_refused: [Count; Refusal::ALL.len()],
    upstream_connects: Count,
    upstream_connect_failures: Count,
    upstream_reuses: Count,
    retries: Count,
    retries_refused: Count,
    hedges: Count,
    hedges_won: Count,
    hedges_refused: Count,
    breakers_opened: Count,
    mirrored: [Count; Mirrored::ALL.len()],
    shed: [[Count; overload::Cause::ALL.len()]; Priority::ALL.len()],
    /// Not a count: the level of now.
    shedding_level: AtomicU64,
    ejections: [Count; Cause::ALL.len()],
    checks_passed: Count,
    checks_failed: Count,
    checks_late: Count,
    bytes_received: Count,
    bytes_sent: Count,
}

impl Worker {
    /// A request's head has come.
    pub fn request_began(&self) {
        self.begun.add(1);
    }

    /// How many requests' heads have come.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// How many requests have begun and not ended.
    pub(crate) fn under_way(&self) -> u64 {
        self.begun.get().wrapping_sub(self.finished.get())
    }

    /// A request has ended, after `duration` from its head to the end of its answer.
    pub fn request_ended(&self, status: StatusCode, duration: Duration) {
        self.finished.add(1);
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        let of_class = &self.durations[class];
        let bucket = BOUNDS_US.partition_point(|bound| u128::from(*bound) < duration.as_micros());
        of_class.buckets[bucket].add(1);
        of_class.sum_ns.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The proxy answered by itself.
    pub fn answered(&self, reason: Reason) {
        if let Some(at) = Reason::ALL.iter().position(|known| *known == reason) {
            self.answers[at].add(1);
        }
    }

    /// A client connected.
    pub fn connection_opened(&self) {
        self.connections_opened.add(1);
    }

    /// A client's connection has ended.
    pub fn connection_closed(&self) {
        self.connections_closed.add(1);
    }

    /// A connection was upgraded (WebSocket).
    pub fn upgraded(&self) {
        self.upgrades.add(1);
    }

    /// A TLS handshake with a client was complete.
    pub(crate) fn tls_accepted(&self) {
        self.tls_accepted.add(1);
    }

    /// A client was refused before there was HTTP.
    pub(crate) fn tls_refused(&self, why: Refusal) {
        if let Some(at) = Refusal::ALL.iter().position(|known| *known == why) {
            self.tls_refused[at].add(1);
        }
    }

    /// A connection to an instance was made.
    pub fn upstream_connected(&self) {
        self.upstream_connects.add(1);
    }

    /// A connection to an instance could not be made.
    pub fn upstream_connect_failed(&self) {
        self.upstream_connect_failures.add(1);
    }

    /// A request went over a connection that was there.
    pub fn upstream_reused(&self) {
        self.upstream_reuses.add(1);
    }

    /// A request was sent again, to another instance or over another connection.
    pub fn retried(&self) {
        self.retries.add(1);
    }

    /// A request was not sent again, as the service's budget of retries was used up, or as many were under way as its policy
    /// allows.
    pub fn retry_refused(&self) {
        self.retries_refused.add(1);
    }

    /// A second instance was asked, as the first took long.
    pub fn hedged(&self) {
        self.hedges.add(1);
    }

    /// The second instance's answer was the one that counts.
    pub fn hedge_won(&self) {
        self.hedges_won.add(1);
    }

    /// No second instance was asked, as the service's budget of retries, or a limit of its policy, has not allowed it.
    pub fn hedge_refused(&self) {
        self.hedges_refused.add(1);
    }

    /// A service's circuit breaker has opened.
    pub(crate) fn breaker_opened(&self) {
        self.breakers_opened.add(1);
    }

    /// A copy of a request is done with.
    pub fn mirrored(&self, outcome: Mirrored) {
        self.mirrored[outcome as usize].add(1);
    }

    /// A request was refused, as there was too much to do.
    pub(crate) fn shed(&self, priority: Priority, cause: overload::Cause) {
        self.shed[priority as usize][cause as usize].add(1);
    }

    /// How much is refused by a worker that is behind, from now on; 0: nothing.
    pub(crate) fn set_shedding_level(&self, level: u8) {
        self.shedding_level.store(level.into(), Ordering::Relaxed);
    }

    fn shedding_level(&self) -> u64 {
        self.shedding_level.load(Ordering::Relaxed)
    }

    /// An endpoint was ejected.
    pub(crate) fn ejected(&self, why: Cause) {
        self.ejections[why as usize].add(1);
    }

    /// A health check has ended.
    pub(crate) fn checked(&self, passed: bool) {
        if passed { self.checks_passed.add(1) } else { self.checks_failed.add(1) }
    }

    /// A health check began later than it should, as too many were due.
    pub(crate) fn check_late(&self) {
        self.checks_late.add(1);
    }

    /// Bytes of request bodies came from clients.
    pub fn received(&self, bytes: u64) {
        self.bytes_received.add(bytes);
    }

    /// Bytes of response bodies went to clients.
    pub fn sent(&self, bytes: u64) {
        self.bytes_sent.add(bytes);
    }
}

/// How much a proxy has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests that have begun and not ended.
    pub under_way: u64,
    /// Requests that were refused, in the order of [`Priority::ALL`].
    pub shed: [u64; Priority::ALL.len()],
    /// How much is refused by the worker that is most behind; 0: nothing.
    pub level: u64,
}

/// The metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    workers: Mutex<Vec<Arc<Worker>>>,
    registry: Registry,
    /// The metrics of the subscription and the table.
    pub control: Control,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let control = Control::registered(&registry);
        Self { workers: Mutex::default(), registry, control }
    }
}

impl Metrics {
    /// Metrics without a worker yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counters for one more serving thread.
    pub fn worker(&self) -> Arc<Worker> {
        let worker = Arc::new(Worker::default());
        self.workers.lock().push(Arc::clone(&worker));
        worker
    }

    /// What was refused as there was too much to do, and what is.
    pub fn load(&self) -> Load {
        let workers = self.workers.lock().clone();
        let shed = |priority: Priority| {
            let of = |worker: &Worker| worker.shed[priority as usize].iter().map(Count::get).sum::<u64>();
            workers.iter().map(|worker| of(worker)).sum::<u64>()
        };
        Load {
            under_way: workers.iter().map(|worker| worker.under_way()).fold(0, u64::wrapping_add),
            shed: Priority::ALL.map(shed),
            level: workers.iter().map(|worker| worker.shedding_level()).max().unwrap_or_default(),
        }
    }

    /// All metrics in Prometheus' text format 0.0.4, those of services aside.
    pub fn render(&self) -> String {
        self.rendered(Vec::new())
    }

    /// The same, with those of the services of a table.
    pub fn render_with(&self, table: &Table) -> String {
        self.rendered(services::families(table))
    }

    fn rendered(&self, mut families: Vec<MetricFamily>) -> String {
        let workers = self.workers.lock().clone();
        families.extend(self.registry.gather());
        exposition::render(&workers, families)
    }
}
