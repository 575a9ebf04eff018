//! One function wires the control plane together: store → registry → hub → gRPC and HTTP.
//!
//! [`start`] takes listeners and a store that are there already, so that a test hands in its own and finds
//! the same server that `main` runs. [`Server::stop`] is the way back: health says NOT_SERVING, streams end
//! with a word of farewell, and what is still open after the deadline is left behind.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::{ServingStatus, server::HealthReporter};
use waypost_proto::{
    error::{Error, ErrorCode},
    snapshot::SnapshotError,
    time, v1,
};

use crate::{
    grpc, http,
    hub::{Hub, HubOptions},
    metrics::Metrics,
    registry::{self, Publication, Registry},
    replicas::{self, Replicas},
    store::{Location, Measured, Store},
};

/// How often the health service is told whether the store is there.
const HEALTH_PACE: Duration = Duration::from_millis(200);
/// How often what proxies say of instances that are gone is dropped.
const SIGHTINGS_PACE: Duration = Duration::from_secs(10);

/// How a control plane behaves.
#[derive(Clone, Default)]
pub struct Options {
    /// The registry.
    pub registry: registry::Options,
    /// The hub.
    pub hub: HubOptions,
    /// How it finds other control planes; `None` where the store is its alone.
    pub replicas: Option<replicas::Options>,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for {surface} on {address}; another program may hold it, or the address is not this \
     machine's: choose another with {flag} (port 0 picks a free one)"
)]
pub struct ListenError {
    surface: &'static str,
    address: SocketAddr,
    flag: &'static str,
    source: std::io::Error,
}

/// Where the control plane listens.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For HTTP.
    pub http: TcpListener,
}

impl Listeners {
    /// Binds both.
    ///
    /// # Errors
    /// Names the address that cannot be listened on.
    pub async fn bind(grpc: SocketAddr, http: SocketAddr) -> Result<Self, ListenError> {
        let fail = |surface, address, flag| move |source| ListenError { surface, address, flag, source };
        let grpc_bound = TcpListener::bind(grpc).await.map_err(fail("gRPC", grpc, "--grpc-listen"))?;
        let http_bound = TcpListener::bind(http).await.map_err(fail("HTTP", http, "--http-listen"))?;
        Ok(Self { grpc: grpc_bound, http: http_bound })
    }
}

/// What all surfaces share.
pub struct Plane {
    /// Who is registered.
    pub registry: Arc<Registry>,
    /// The way to the proxies.
    pub hub: Arc<Hub>,
    /// The control planes that share the store.
    pub replicas: Arc<Replicas>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    store_url: String,
    started_at: SystemTime,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Plane {
    /// Resolves when the control plane is about to stop.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Whether the control plane is about to stop.
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// What callers are told who wait for something when the control plane is about to stop.
    pub fn going_away(&self) -> Error {
        Error::new(ErrorCode::Unavailable, "this control plane is about to stop; try again at another one")
    }

    /// Runs a task that goes on when its caller goes away, and ends early when the control plane stops.
    ///
    /// # Errors
    /// The task's own, or that the control plane stops.
    pub async fn detached<T: Send + 'static>(
        self: &Arc<Self>,
        task: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let plane = self.clone();
        let task = async move {
            tokio::select! {
                result = task => result,
                () = plane.closing() => Err(plane.going_away()),
            }
        };
        self.tasks.spawn(task).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a call's task has failed");
            Err(Error::new(ErrorCode::Internal, "the call failed; the control plane's log says why"))
        })
    }

    /// Runs a task until it ends by itself.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// This control plane alone at a glance.
    pub fn status(&self) -> v1::GetStatusResponse {
        // The view comes first: what the hub knows then is at least what the view shows.
        let view = self.registry.view();
        let hub = self.hub.status();
        let lost = self.registry.lost();
        let everywhere = hub.watermark >= view.head();
        v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Some(time::timestamp(self.started_at)),
            head: Some(hub.head),
            revision: view.revision(),
            watermark: if everywhere { view.revision().max(hub.watermark) } else { hub.watermark },
            settled: hub.settled,
            store: self.store_url.clone(),
            services: small(view.service_count()),
            instances: small(view.instance_count()),
            routes: small(view.route_count()),
            proxies: small(hub.proxies),
            conflicts: view.conflicts(),
            propagation: Some(hub.propagation),
            replica: self.replicas.id().to_owned(),
            replicas: Vec::new(),
            store_lost_since: lost.as_ref().map(|lost| time::timestamp(lost.since)),
            store_lost_reason: lost.map(|lost| lost.reason).unwrap_or_default(),
        }
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A control plane that runs.
pub struct Server {
    /// Where it listens for gRPC.
    pub grpc: SocketAddr,
    /// Where it listens for HTTP.
    pub http: SocketAddr,
    /// What its surfaces share.
    pub plane: Arc<Plane>,
    health: HealthReporter,
}

/// Starts a control plane on a store.
///
/// # Errors
/// The store cannot be read, or a listener is broken.
pub async fn start(
    mut options: Options,
    listeners: Listeners,
    store: Arc<dyn Store>,
) -> Result<Server, Error> {
    let address = |listener: &TcpListener| {
        let broken = |error| Error::new(ErrorCode::Internal, format!("a listener has no address: {error}"));
        listener.local_addr().map_err(broken)
    };
    let (grpc, http) = (address(&listeners.grpc)?, address(&listeners.http)?);
    let metrics = Arc::new(Metrics::new());
    let store_url = store.url().to_owned();
    options.registry.shared |= options.replicas.is_some();
    // A store of somebody else's has a scheme that is not known here.
    let kind = Location::parse(&store_url).map_or("custom", |location| location.kind.name());
    let store = Arc::new(Measured::new(store, metrics.store(kind)));
    let registry = Registry::open(store, options.registry).await?;
    let (head, publications) = registry.feed();
    let hub = Hub::new(&head, options.hub, metrics.clone());
    let replicas = Replicas::new(registry.clone(), hub.clone(), options.replicas, grpc);
    let plane = Arc::new(Plane {
        registry,
        hub,
        replicas,
        metrics,
        store_url,
        started_at: SystemTime::now(),
        closing: CancellationToken::new(),
        tasks: TaskTracker::new(),
    });
    plane.metrics.start_counting_events_after(plane.registry.view().revision());
    plane.spawn(plane.registry.clone().run(Some(plane.replicas.clone()), plane.closing.clone()));
    plane.spawn(publish(plane.clone(), publications));
    plane.spawn(plane.replicas.clone().run(plane.closing.clone()));
    plane.spawn(forget_sightings(plane.clone()));
    let health = HealthReporter::new();
    plane.spawn(grpc::serve(plane.clone(), listeners.grpc, health.clone()));
    plane.spawn(http::serve(plane.clone(), listeners.http));
    for service in grpc::SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    plane.spawn(show_health(plane.clone(), health.clone()));
    Ok(Server { grpc, http, plane, health })
}

impl Server {
    /// Stops: says so to everyone, and waits until all is ended or `deadline` has passed.
    pub async fn stop(self, deadline: Duration) {
        for service in grpc::SERVICES {
            self.health.set_service_status(service, ServingStatus::NotServing).await;
        }
        // The others need not wait for us then; proxies and clients go when the streams end.
        self.plane.replicas.leave(deadline / 2).await;
        self.plane.closing.cancel();
        self.plane.tasks.close();
        if tokio::time::timeout(deadline, self.plane.tasks.wait()).await.is_err() {
            tracing::info!(open = self.plane.tasks.len(), "the deadline has passed, the rest is cut");
        }
    }
}

/// Shows by the health service whether the store is there.
async fn show_health(plane: Arc<Plane>, health: HealthReporter) {
    let mut shown = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep(HEALTH_PACE) => {}
            () = plane.closing() => return,
        }
        let lost = plane.registry.lost();
        if lost.is_none() == shown {
            continue;
        }
        shown = lost.is_none();
        if let Some(lost) = lost {
            tracing::warn!(reason = lost.reason, "the store is away, going on from what is known");
        } else {
            tracing::info!("the store is back");
        }
        let status = if shown { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in grpc::NEED_THE_STORE {
            health.set_service_status(service, status).await;
        }
    }
}

/// Drops what proxies have said of instances that are gone.
async fn forget_sightings(plane: Arc<Plane>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SIGHTINGS_PACE) => {}
            () = plane.closing() => return,
        }
        let view = plane.registry.view();
        plane.hub.retain_sightings(|key| view.has_instance(key));
    }
}

/// Hands what the registry publishes to the hub.
async fn publish(plane: Arc<Plane>, mut publications: tokio::sync::mpsc::UnboundedReceiver<Publication>) {
    loop {
        let publication = tokio::select! {
            publication = publications.recv() => publication,
            () = plane.closing() => return,
        };
        let fits = match &publication {
            Some(publication) => plane.hub.publish(publication),
            // The store has begun a new history, and the registry with it.
            None => Err(SnapshotError::History {
                held: plane.hub.status().head.history,
                got: plane.registry.view().history().to_owned(),
            }),
        };
        if let Err(error) = fits {
            tracing::error!(%error, "a change does not fit, all proxies get everything");
            let (head, restarted) = plane.registry.feed();
            if publication.is_none() {
                plane.metrics.start_counting_events_after(head.revision());
            }
            plane.hub.replace(&head);
            publications = restarted;
        }
    }
}
