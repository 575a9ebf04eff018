//! The hub: every change goes to every proxy, and what every proxy serves by comes back.
//!
//! It stands between the registry, which publishes changes, and the streams of the proxies:
//!
//! ```text
//!  registry ── Publication ──▶ ScopeFeed (head, ring, frames) ── Frame ──▶ Subscription ──▶ proxy
//!                                                                                             │
//!  drain, wait ◀── barrier ◀── Fleet (applied, in flight) ◀──────────────── Reports ◀──────────┘
//! ```
//!
//! A subscriber has no queue. Its task waits until the head is newer than what it was sent, asks for the
//! step from there to the head, and sends it; while a slow client has not taken it, nothing is kept for it,
//! and the next step it gets is a merged one. `SNAPSHOTS.md` tells the whole protocol.
//!
//! State is in [`core`], which neither waits nor knows the time; this file and its neighbours are the
//! shell around it. Deliberately absent: gRPC (see `grpc::snapshots`), and what a change means.

mod barrier;
mod core;
mod fleet;
mod propagation;
mod scope;
mod sightings;
mod subscription;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use tokio::sync::watch;
use waypost_proto::{
    name::InstanceKey,
    snapshot::{Snapshot, SnapshotError},
    v1,
};

pub use self::{
    barrier::{AppliedEverywhere, Behind},
    sightings::{LATELY, add as add_sightings},
    subscription::{Reports, Subscription},
};
use self::{core::Core, sightings::Sightings};
use crate::{
    metrics::Metrics,
    registry::{Failing, InQuestion, Publication},
};

/// How the hub behaves.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// How many recent revisions a scope remembers, so that deltas from them can be made.
    pub ring: usize,
    /// The most entries of a chunk of a full snapshot.
    pub chunk_entries: usize,
    /// How long a drain waits for a proxy whose stream has ended.
    pub drain_grace: Duration,
    /// How long a proxy stays listed after its stream has ended.
    pub proxy_retention: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            ring: 10_000,
            chunk_entries: 2_000,
            drain_grace: Duration::from_secs(5),
            proxy_retention: Duration::from_secs(300),
        }
    }
}

/// A proxy's Hello, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Unique among proxies.
    pub id: Arc<str>,
    /// Its software version.
    pub version: String,
    /// Where it listens for traffic.
    pub listen_address: String,
    /// Where its admin port is.
    pub admin_address: String,
    /// Its failure domain.
    pub zone: String,
    /// Only services of these namespaces; empty means all.
    pub namespaces: Arc<BTreeSet<String>>,
    /// Where its stream comes from.
    pub peer: Option<IpAddr>,
    /// What it holds.
    pub position: Option<v1::Position>,
    /// How many times it has thrown its snapshot away.
    pub resyncs: u64,
}

/// What a drain waits for: everyone has applied `revision` and has nothing in flight to the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The instance.
    pub key: InstanceKey,
    /// Its epoch.
    pub epoch: u64,
    /// The revision by which it drains.
    pub revision: u64,
}

/// The time, by both clocks.
#[derive(Clone, Copy, Debug)]
struct Now {
    monotonic: Instant,
    wall: SystemTime,
}

impl Now {
    /// The monotonic clock is tokio's, so that tests can hold it.
    fn read() -> Self {
        Self { monotonic: tokio::time::Instant::now().into_std(), wall: SystemTime::now() }
    }
}

/// The hub at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct HubStatus {
    /// What a proxy that is up to date holds.
    pub head: v1::Position,
    /// The lowest revision applied by all live proxies; the newest one where there is no proxy.
    pub watermark: u64,
    /// See `SnapshotChunk.settled`.
    pub settled: bool,
    /// How many proxies are connected.
    pub proxies: usize,
    /// From commit to applied.
    pub propagation: v1::Propagation,
}

/// The hub. One per control plane, shared by all streams.
#[derive(Debug)]
pub struct Hub {
    core: Mutex<Core>,
    /// What the proxies see of instances. Never locked together with `core`.
    sightings: Mutex<Sightings>,
    /// Counts what a waiter may wait for: reports, comings, goings and commits.
    moved: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

impl Hub {
    /// The hub of a registry whose contents are `head`.
    pub fn new(head: &Snapshot, options: HubOptions, metrics: Arc<Metrics>) -> Arc<Self> {
        let core = Mutex::new(Core::new(head, options, Now::read()));
        let sightings = Mutex::default();
        Arc::new(Self { core, sightings, moved: watch::Sender::new(0), metrics })
    }

    /// Takes a change; it is on its way to every subscriber when this returns.
    ///
    /// # Errors
    /// The change does not fit; start over with [`Hub::replace`].
    pub fn publish(&self, publication: &Publication) -> Result<(), SnapshotError> {
        let result = self.core.lock().publish(publication);
        self.moved();
        result
    }

    /// Starts over with other contents: every subscriber is sent everything.
    pub fn replace(&self, head: &Snapshot) {
        self.core.lock().replace(head);
        self.moved();
    }

    /// Opens the stream of a proxy. An older stream of the same proxy ends.
    pub fn subscribe(self: &Arc<Self>, greeting: Greeting) -> (Subscription, Reports) {
        let proxy = greeting.id.clone();
        // What it said on another stream it says again.
        self.sightings.lock().forget(&proxy);
        let opened = self.core.lock().connect(greeting, Now::read());
        self.metrics.resyncs.inc_by(opened.resyncs);
        self.moved();
        (Subscription::new(self.clone(), &opened), Reports::new(self.clone(), proxy, &opened))
    }

    /// All proxies, sorted by id.
    pub fn proxies(&self) -> Vec<v1::Proxy> {
        let mut core = self.core.lock();
        core.prune(Now::read());
        core.fleet().to_wire()
    }

    /// What the proxies that hang on this control plane see of instances, in their order.
    pub fn sightings(&self, asked: &[InQuestion]) -> Vec<v1::Sightings> {
        let now = Now::read().monotonic;
        let mut sums: Vec<v1::Sightings> = {
            let seen = self.sightings.lock();
            asked.iter().map(|one| seen.of(&one.key, one.epoch, one.within, now)).collect()
        };
        let core = self.core.lock();
        let mut connected: BTreeMap<&str, u32> = BTreeMap::new();
        for (one, sum) in asked.iter().zip(&mut sums) {
            let service = one.key.service();
            let count = || core.fleet().live().filter(|proxy| proxy.knows(service)).count();
            let known = connected.entry(service.namespace());
            sum.connected = *known.or_insert_with(|| u32::try_from(count()).unwrap_or(u32::MAX));
        }
        sums
    }

    /// The instances that fail at the proxies that hang on this control plane.
    pub fn failing(&self) -> Vec<Failing> {
        self.sightings.lock().failing(Now::read().monotonic)
    }

    /// Drops what was said of instances that are not there any more.
    pub fn retain_sightings(&self, is_there: impl Fn(&InstanceKey) -> bool) {
        self.sightings.lock().retain(is_there);
    }

    /// The hub at a glance.
    pub fn status(&self) -> HubStatus {
        let core = self.core.lock();
        HubStatus {
            head: core.head().position(),
            watermark: core.watermark(),
            settled: core.head().settled(),
            proxies: core.fleet().live().count(),
            propagation: core.propagation().to_wire(),
        }
    }

    /// Something happened that a waiter may wait for.
    fn moved(&self) {
        self.moved.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests;
