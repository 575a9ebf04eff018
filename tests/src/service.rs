//! A sample service: HTTP/1.1, cleartext HTTP/2 and WebSocket on one port, in this process.
//!
//! Every answer carries [`INSTANCE_HEADER`]. What it answers depends on the path that arrives, which is the
//! path behind the service's prefix:
//!
//! | path | answer |
//! | --- | --- |
//! | `/ws` | a WebSocket that echoes text, and is closed with a close frame when the service drains |
//! | `/slow?ms=N` | the usual answer, after N milliseconds |
//! | `/stream?chunks=N&ms=M` | N chunks, one every M milliseconds |
//! | `/status?code=N` | the usual answer, with this status |
//! | `/flaky?key=K&failures=N&code=C` | status C for the first N requests with this key, then the usual answer |
//! | `/echo` | the request's body, streamed back |
//! | anything else | JSON: instance, method, path and headers, as they arrived |
//!
//! A gRPC call is answered with the same JSON as its one message, and with the status that the call's header
//! `x-give-status` asks for, else 0. A request whose header `x-remember` has a word is remembered by it
//! (see [`SampleService::remembered`]).

mod answer;
mod websocket;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use waypost_sdk::{Client, DrainOutcome, Registered, Registration};

/// Names the instance that answered.
pub const INSTANCE_HEADER: &str = "x-instance";

/// What every connection of a service knows.
struct Shared {
    instance: String,
    draining: watch::Receiver<bool>,
    stopped: CancellationToken,
    memory: Arc<Memory>,
}

/// What a service keeps of requests that ask for it.
#[derive(Default)]
struct Memory {
    /// Requests by the word of their `x-remember`.
    remembered: Mutex<HashMap<String, Vec<Remembered>>>,
    /// What came to `/echo`, by the same word.
    echoed: Mutex<HashMap<String, Vec<u8>>>,
    /// How often `/flaky` was asked, by key.
    asked: Mutex<HashMap<String, u64>>,
    /// Whether everything is answered with 503.
    failing: AtomicBool,
}

/// A request that came in with `x-remember`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its path and query.
    pub path: String,
    /// Its host.
    pub host: String,
    /// Its headers, by lower-case name.
    pub headers: http::HeaderMap,
}

/// A running service. Everything that is connected to it is cut when this is dropped.
pub struct SampleService {
    /// What it calls itself in [`INSTANCE_HEADER`].
    pub instance: String,
    /// Where it listens.
    pub address: SocketAddr,
    draining: watch::Sender<bool>,
    stopped: CancellationToken,
    accepting: JoinHandle<()>,
    memory: Arc<Memory>,
}

impl SampleService {
    /// Starts a service on a free port of the loopback.
    ///
    /// # Panics
    /// There is none.
    pub async fn start(instance: &str) -> Self {
        Self::listen(instance, "127.0.0.1:0").await.expect("a free port")
    }

    /// Starts a service on an address.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn listen(instance: &str, address: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (draining, drains) = watch::channel(false);
        let stopped = CancellationToken::new();
        let memory = Arc::<Memory>::default();
        let shared = Arc::new(Shared {
            instance: instance.to_owned(),
            draining: drains,
            stopped: stopped.clone(),
            memory: Arc::clone(&memory),
        });
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self { instance: instance.to_owned(), address, draining, stopped, accepting, memory })
    }

    /// The requests that came in with this word in `x-remember`.
    pub fn remembered(&self, word: &str) -> Vec<Remembered> {
        self.memory.remembered.lock().get(word).cloned().unwrap_or_default()
    }

    /// The bodies that came to `/echo` with this word in `x-remember`, as far as they have come.
    pub fn echoed(&self, word: &str) -> Vec<u8> {
        self.memory.echoed.lock().get(word).cloned().unwrap_or_default()
    }

    /// Answers everything with 503 from now on, or no longer.
    pub fn set_failing(&self, failing: bool) {
        self.memory.failing.store(failing, Ordering::Relaxed);
    }

    /// Closes every WebSocket with a close frame, and each one that opens from now on.
    pub fn close_sockets(&self) {
        self.draining.send_replace(true);
    }

    /// Stops at once: takes no connection any more and cuts those that are open.
    pub fn stop(&self) {
        self.accepting.abort();
        self.stopped.cancel();
    }
}

impl Drop for SampleService {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let stopped = shared.stopped.clone();
    let service = service_fn(move |request| answer::answer(Arc::clone(&shared), request));
    let builder = auto::Builder::new(TokioExecutor::new());
    tokio::select! {
        // A client that goes away is no concern of the service.
        _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service) => {}
        () = stopped.cancelled() => {}
    }
}

/// A sample service that is registered through the SDK.
pub struct RegisteredService {
    /// The service.
    pub service: SampleService,
    /// Its registration.
    pub registered: Registered,
}

impl RegisteredService {
    /// Starts an instance and registers it as the plainest of services.
    pub async fn start(client: &Client, service: &str, instance: &str) -> Self {
        Self::start_with(client, service, instance, |registration| registration).await
    }

    /// Starts an instance and registers it with more than a name and an address.
    ///
    /// # Panics
    /// It cannot be registered.
    pub async fn start_with(
        client: &Client,
        service: &str,
        instance: &str,
        more: impl FnOnce(Registration) -> Registration,
    ) -> Self {
        let running = SampleService::start(instance).await;
        let registration = more(Registration::new(service, running.address.to_string()).id(instance));
        let registered = client.register(registration).await.expect("the instance can be registered");
        Self { service: running, registered }
    }

    /// Leaves as a good service does: it closes its WebSockets, drains, and then stops at once.
    pub async fn retire(self, deadline: Duration) -> DrainOutcome {
        self.service.close_sockets();
        let outcome = self.registered.drain(deadline).await;
        self.service.stop();
        outcome
    }
}
