//! A control plane for tests: the generated servers over a real socket, with a registry that does what a
//! test tells it to. It has no leases that expire and no proxies; a drain ends when the test says so.

#![allow(dead_code, reason = "each test binary uses a part of it")]

mod services;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::TcpSocket, runtime::Runtime, sync::watch};
use tonic::transport::{Server, server::TcpIncoming};
use waypost_proto::{
    name::InstanceKey,
    v1::{
        self, discovery_server::DiscoveryServer, operations_server::OperationsServer,
        registry_server::RegistryServer,
    },
};

/// How long a condition may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is registered and what has happened.
#[derive(Default)]
pub(crate) struct State {
    /// What is registered now.
    pub(crate) instances: BTreeMap<InstanceKey, Held>,
    /// The epoch that was granted last.
    pub(crate) epoch: u64,
    /// Every registration.
    pub(crate) registrations: Vec<v1::RegisterRequest>,
    /// Every beat.
    pub(crate) beats: Vec<v1::Beat>,
    /// Every deregistration.
    pub(crate) deregistrations: Vec<v1::DeregisterRequest>,
    /// How many heartbeat streams have been opened.
    pub(crate) streams: usize,
    /// Heartbeats and registrations are read, and not answered.
    pub(crate) frozen: bool,
    /// Drains wait until this is false or their deadline passes.
    pub(crate) hold_drains: bool,
    /// The next registrations are answered with these.
    pub(crate) refusals: Vec<tonic::Status>,
    /// Heartbeats are refused with this.
    pub(crate) store_away: Option<tonic::Status>,
    /// The next answer to heartbeats says that the control plane is about to stop.
    pub(crate) going_away: bool,
    /// What the status says.
    pub(crate) settled: bool,
}

/// A registered instance.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    /// Its epoch.
    pub(crate) epoch: u64,
    /// The lease.
    pub(crate) ttl: Duration,
    /// What was declared.
    pub(crate) spec: v1::InstanceSpec,
    /// Its health as it was last reported.
    pub(crate) health: Option<v1::HealthReport>,
    /// How busy it says it is, by its last beat.
    pub(crate) load: Option<v1::LoadReport>,
    /// Whether it drains.
    pub(crate) draining: bool,
}

/// State that several control planes may share, and that wakes those who wait for it.
#[derive(Clone)]
pub(crate) struct Registry {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let state = State { settled: true, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changes: watch::Sender::new(0) }
    }

    /// Looks at the state, or changes it.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let result = look(&mut self.state.lock());
        self.changes.send_modify(|count| *count += 1);
        result
    }

    /// Waits until `look` finds what it looks for.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        let found = async {
            loop {
                if let Some(found) = look(&self.state.lock()) {
                    return found;
                }
                changes.changed().await.expect("the sender is in `self`");
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("never came: {what}"))
    }

    /// Waits until this many beats have come.
    pub(crate) async fn until_beats(&self, count: usize) {
        self.until("more beats", |state| (state.beats.len() >= count).then_some(())).await;
    }

    /// Waits until an instance is registered, and returns it.
    pub(crate) async fn until_registered(&self, key: &str) -> Held {
        let key: InstanceKey = key.parse().expect("a key");
        self.until("a registration", |state| state.instances.get(&key).cloned()).await
    }

    /// Waits until an instance is not registered.
    pub(crate) async fn until_gone(&self, key: &str) {
        let key: InstanceKey = key.parse().expect("a key");
        self.until("a deregistration", |state| (!state.instances.contains_key(&key)).then_some(())).await;
    }
}

/// A control plane that runs until it is stopped or dropped, in a runtime of its own, so that stopping it
/// cuts every connection as a killed process would.
pub(crate) struct Fake {
    address: SocketAddr,
    registry: Registry,
    runtime: Option<Runtime>,
}

impl Fake {
    /// A control plane with an empty registry on a free port.
    pub(crate) fn start() -> Self {
        Self::start_with(Registry::new())
    }

    /// A control plane over this registry on a free port.
    pub(crate) fn start_with(registry: Registry) -> Self {
        Self::start_at(free_address(), registry)
    }

    /// A control plane over this registry on this port.
    pub(crate) fn start_at(address: SocketAddr, registry: Registry) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let guard = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(bind(address)).expect("a listener");
        let address = listener.local_addr().expect("it is bound");
        let server = Server::builder()
            .add_service(RegistryServer::new(registry.clone()))
            .add_service(DiscoveryServer::new(registry.clone()))
            .add_service(OperationsServer::new(registry.clone()))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        runtime.spawn(server);
        drop(guard);
        Self { address, registry, runtime: Some(runtime) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as clients take it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it holds.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Ends it as SIGKILL would.
    pub(crate) fn kill(mut self) -> SocketAddr {
        self.cut();
        self.address
    }

    fn cut(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.cut();
    }
}

/// An address to listen at, by sockets that share addresses as servers' do, and again after a kill. It stays taken:
/// nobody else is given it.
pub(crate) fn free_address() -> SocketAddr {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    std::mem::forget(socket);
    address
}

fn bind(address: SocketAddr) -> TcpListener {
    // A runtime that shuts down in the background may hold the port for a moment longer.
    let started = std::time::Instant::now();
    let listener = loop {
        match TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(error) if started.elapsed() > PATIENCE => panic!("{address}: {error}"),
            Err(_) => std::thread::yield_now(),
        }
    };
    listener.set_nonblocking(true).expect("a socket can be non-blocking");
    listener
}

/// A port on which connections are accepted and never answered.
pub(crate) struct Silent {
    listener: TcpListener,
}

impl Silent {
    pub(crate) fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").expect("a free port") }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().expect("it is bound"))
    }
}
