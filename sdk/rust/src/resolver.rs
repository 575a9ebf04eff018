//! A client-side balancer: a live local set of a service's instances, and a pick among them.
//!
//! The set is kept up by a watch, so a pick calls nobody. While the control plane is away the last known
//! set stays. After the control plane has restarted, instances that it does not know yet are kept until it
//! says that it has settled, because they may be about to register again.

mod balancer;
mod known;

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::watch, task::AbortHandle, time::Instant};
use waypost_proto::{
    instance::Endpoint,
    name::{InstanceKey, ServiceKey},
    v1,
};

use self::{balancer::Balancer, known::Known};
use crate::{client::Client, watch::WatchEvent};

/// How often to ask a control plane that has just started whether it has settled.
const SETTLE_POLL: Duration = Duration::from_millis(500);

/// How a [`Resolver`] picks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turn, in proportion to the weights.
    #[default]
    RoundRobin,
    /// The one with the fewest picks that are still held, in proportion to the weights.
    LeastInFlight,
}

/// Says what a [`Resolver`] picks from, and how.
#[derive(Clone, Debug)]
pub struct ResolverBuilder {
    client: Client,
    service: ServiceKey,
    version: String,
    tags: Vec<String>,
    zone: String,
    balance: Balance,
}

impl ResolverBuilder {
    pub(crate) fn new(client: Client, service: ServiceKey) -> Self {
        let (version, zone) = (String::new(), String::new());
        Self { client, service, version, tags: Vec::new(), zone, balance: Balance::default() }
    }

    /// Only instances of this version.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Only instances that have this label, and all others that are given.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Instances of this zone, for as long as one of them takes traffic.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// How to pick; in turn unless given.
    #[must_use]
    pub fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// Starts to keep the set. Must be called within a tokio runtime.
    pub fn start(self) -> Resolver {
        let shared = Arc::new(Shared {
            balancer: Mutex::new(Balancer::default()),
            available: watch::Sender::new(0),
            balance: self.balance,
        });
        let task = tokio::spawn(keep(self, shared.clone())).abort_handle();
        Resolver { shared, task }
    }

    fn takes(&self, endpoint: &Endpoint) -> bool {
        endpoint.takes_traffic()
            && (self.version.is_empty() || *endpoint.version == *self.version)
            && self.tags.iter().all(|tag| endpoint.tags.iter().any(|label| **label == **tag))
    }

    /// Those of `known` to pick from.
    fn eligible(&self, known: &Known) -> Vec<Arc<Endpoint>> {
        let all: Vec<_> = known.endpoints().filter(|endpoint| self.takes(endpoint)).cloned().collect();
        let near: Vec<_> = all.iter().filter(|endpoint| *endpoint.zone == *self.zone).cloned().collect();
        if self.zone.is_empty() || near.is_empty() { all } else { near }
    }
}

#[derive(Debug)]
struct Shared {
    balancer: Mutex<Balancer>,
    available: watch::Sender<usize>,
    balance: Balance,
}

/// A live set of a service's instances that take traffic. It is kept for as long as this lives.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Resolver {
    /// An instance, or `None` if none is known to take traffic. It counts as in use until it is dropped.
    pub fn pick(&self) -> Option<Picked> {
        let (endpoint, in_flight) = self.shared.balancer.lock().pick(self.shared.balance)?;
        in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Picked { endpoint, in_flight })
    }

    /// The instances that are picked from, by id.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.shared.balancer.lock().endpoints()
    }

    /// How many instances are picked from, now and from now on.
    pub fn available(&self) -> watch::Receiver<usize> {
        self.shared.available.subscribe()
    }

    /// Returns when there is at least one instance to pick.
    pub async fn ready(&self) {
        let mut available = self.available();
        // It cannot fail: the sender is in `self`.
        let _ = available.wait_for(|count| *count > 0).await;
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An instance that was picked, in use until this is dropped.
#[derive(Debug)]
pub struct Picked {
    endpoint: Arc<Endpoint>,
    in_flight: Arc<AtomicU64>,
}

impl Deref for Picked {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps the set until the resolver is dropped.
async fn keep(builder: ResolverBuilder, shared: Arc<Shared>) {
    let key = builder.service.to_wire();
    let filter = v1::WatchRequest { namespace: key.namespace, service: key.name };
    let mut events = builder.client.watch(filter);
    let mut known = Known::default();
    let mut settle_at: Option<Instant> = None;
    loop {
        let settle = async {
            match settle_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(WatchEvent::Initial { instances, .. })) => {
                    known.replace(endpoints(&instances));
                    settle_at = known.is_carrying().then(Instant::now);
                }
                Some(Ok(WatchEvent::Changed { changed, removed, .. })) => {
                    known.change(endpoints(&changed), &removed);
                }
                Some(Ok(WatchEvent::Interrupted(error))) => {
                    tracing::debug!(service = %builder.service, %error, "resolver keeps its last known set");
                }
                Some(Err(error)) => tracing::error!(service = %builder.service, %error, "resolver cannot watch"),
                None => return,
            },
            () = settle => {
                settle_at = Some(Instant::now() + SETTLE_POLL);
                if builder.client.status().await.is_ok_and(|status| status.settled) {
                    known.settle();
                    settle_at = None;
                }
            }
        }
        let eligible = builder.eligible(&known);
        let count = eligible.len();
        shared.balancer.lock().replace(eligible);
        shared.available.send_if_modified(|shown| std::mem::replace(shown, count) != count);
    }
}

/// The instances as endpoints. One that breaks a rule (of a newer control plane) is left out.
fn endpoints(instances: &[v1::Instance]) -> Vec<(InstanceKey, Arc<Endpoint>)> {
    let read = |instance: &v1::Instance| {
        let spec = waypost_proto::instance::InstanceSpec::from_wire(instance.spec.as_ref()?);
        let spec = spec.inspect_err(|error| tracing::warn!(%error, "instance left out")).ok()?;
        Some((spec.key.clone(), Arc::new(Endpoint::of(&spec, instance.state(), instance.epoch))))
    };
    instances.iter().filter_map(read).collect()
}
