//! A worker: one thread with all that it needs to serve, and its life from the first accept to the last answer.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    ops::Deref,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use fastrand::Rng;
use http::HeaderValue;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout_at},
};

use super::{
    ServeConfig, ShutdownReport,
    client::{ClientConnection, Phase},
    connection,
    doors::Doors,
    handshake::RefusalLog,
    ports::Command,
};
use crate::{
    forward::MirrorPlaces,
    metrics,
    overload::{self, Shedder},
    pool::Pools,
    table::{OWN_PORT, SharedTable, Table, TableReader},
};

/// The longest time between two sweeps; timeouts are exact to this.
const SWEEP: Duration = Duration::from_millis(250);
/// How long a client that was accepted during the shutdown has for its first request.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);
/// How long to wait after an accept failed because something ran out, file descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Stop, and be done at this time.
pub(super) type StopAt = Option<Instant>;

/// A table that requests of one thread hold, without counting on a word that other threads count on too.
pub(crate) struct HeldTable(Arc<Table>);

impl Deref for HeldTable {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.0
    }
}

/// One thread's share of the proxy.
pub(crate) struct Worker {
    pub(crate) config: ServeConfig,
    pub(crate) pools: Pools,
    pub(crate) metrics: Arc<metrics::Worker>,
    pub(super) protocols: connection::Protocols,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) mirrors: MirrorPlaces,
    pub(crate) shedder: Shedder,
    reader: RefCell<TableReader>,
    /// The table that the reader last saw. Requests share it by counting on this thread only.
    held: RefCell<Option<Rc<HeldTable>>>,
    now: Cell<Instant>,
    /// The same as a field, for answers that have none.
    date: RefCell<HeaderValue>,
    /// The number of the port that is there whatever the table says.
    pub(super) own_port: u16,
    pub(super) refusals: RefusalLog,
    /// The table that connections were last held against.
    checked: RefCell<Option<Rc<HeldTable>>>,
    winding_down: Cell<bool>,
    clients: RefCell<HashMap<u64, Rc<ClientConnection>>>,
    next_client: Cell<u64>,
    all_gone: Notify,
}

impl Worker {
    pub(super) fn new(
        config: ServeConfig,
        own_port: u16,
        table: &SharedTable,
        metrics: Arc<metrics::Worker>,
    ) -> Rc<Self> {
        Rc::new(Self {
            pools: Pools::new(&config),
            shedder: Shedder::new(config.overload, config.threads),
            protocols: connection::Protocols::new(&config),
            config,
            metrics,
            rng: RefCell::new(Rng::new()),
            mirrors: MirrorPlaces::default(),
            reader: RefCell::new(table.reader()),
            held: RefCell::new(None),
            now: Cell::new(Instant::now()),
            date: RefCell::new(date()),
            own_port,
            refusals: RefusalLog::default(),
            checked: RefCell::new(None),
            winding_down: Cell::new(false),
            clients: RefCell::default(),
            next_client: Cell::new(0),
            all_gone: Notify::new(),
        })
    }

    /// The current table, to be held for as long as a request needs it.
    pub(crate) fn table(&self) -> Option<Rc<HeldTable>> {
        let mut reader = self.reader.borrow_mut();
        let current = reader.load()?;
        let mut held = self.held.borrow_mut();
        match &*held {
            Some(table) if Arc::ptr_eq(&table.0, current) => Some(Rc::clone(table)),
            _ => {
                let table = Rc::new(HeldTable(Arc::clone(current)));
                *held = Some(Rc::clone(&table));
                Some(table)
            }
        }
    }

    /// The time of the latest sweep: cheap, and late by at most [`SWEEP`].
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    /// The same as answers say it (RFC 9110, section 6.6.1).
    pub(crate) fn date(&self) -> HeaderValue {
        self.date.borrow().clone()
    }

    /// Whether connections are to end with the answer that they carry.
    pub(crate) fn is_winding_down(&self) -> bool {
        self.winding_down.get()
    }

    /// Keeps account of a connection until the value is dropped.
    pub(super) fn admit(self: &Rc<Self>, peer: SocketAddr, port: u16) -> Admitted {
        let client = ClientConnection::new(peer, port, self);
        let id = self.next_client.get();
        self.next_client.set(id + 1);
        self.clients.borrow_mut().insert(id, Rc::clone(&client));
        self.metrics.connection_opened();
        Admitted { worker: Rc::clone(self), client, id }
    }

    fn sweep(&self) {
        let now = Instant::now();
        self.now.set(now);
        *self.date.borrow_mut() = date();
        let hasty = self.is_winding_down().then_some(FIRST_REQUEST_GRACE);
        for client in self.clients.borrow().values() {
            let hasty = hasty.or(client.is_retiring().then_some(FIRST_REQUEST_GRACE));
            client.expire(now, &self.config.timeouts, hasty);
        }
        self.pools.sweep(now);
        // Lets go of a table that was replaced while no request came.
        let table = self.table();
        self.retire_outdated(table);
    }

    /// Ends connections, each after the answer that it carries, whose listeners are no more, or ask something else of
    /// clients than when hands were shaken.
    fn retire_outdated(&self, table: Option<Rc<HeldTable>>) {
        let Some(now) = &table else { return };
        let mut checked = self.checked.borrow_mut();
        if !checked.as_ref().is_some_and(|before| now.edge().is_same(before.edge())) {
            let outdated = |client: &&Rc<ClientConnection>| client.is_outdated(now.edge());
            self.clients.borrow().values().filter(outdated).for_each(|client| client.retire());
        }
        *checked = table;
    }

    /// Ends the connections that came in by a port, each after the answer that it carries.
    pub(super) fn retire_port(&self, port: u16) {
        self.clients
            .borrow()
            .values()
            .filter(|client| client.port() == port)
            .for_each(|client| client.retire());
    }

    fn wind_down(&self) {
        self.winding_down.set(true);
        self.pools.close_idle();
        for client in self.clients.borrow().values() {
            client.wake();
        }
    }

    async fn until_all_gone(&self) {
        while !self.clients.borrow().is_empty() {
            self.all_gone.notified().await;
        }
    }

    fn cut(&self) -> ShutdownReport {
        let mut report = ShutdownReport::default();
        for client in self.clients.borrow().values() {
            match client.phase() {
                Phase::Tunnel => report.cut_upgrades += 1,
                Phase::Busy => report.cut_requests += u64::from(client.active()),
                Phase::Waiting | Phase::Head => {}
            }
        }
        report
    }

    fn sweep_every(&self) -> Duration {
        let timeouts = &self.config.timeouts;
        let shortest = timeouts
            .client_header
            .min(timeouts.client_idle)
            .min(timeouts.stream_idle)
            .min(self.config.pool.idle_timeout);
        (shortest / 8).clamp(Duration::from_millis(5), SWEEP)
    }
}

fn date() -> HeaderValue {
    let text = httpdate::fmt_http_date(SystemTime::now());
    HeaderValue::try_from(text).expect("a date is visible ASCII")
}

/// A connection that its worker keeps account of.
pub(super) struct Admitted {
    worker: Rc<Worker>,
    client: Rc<ClientConnection>,
    id: u64,
}

impl Admitted {
    pub(super) fn client(&self) -> &Rc<ClientConnection> {
        &self.client
    }

    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut clients = self.worker.clients.borrow_mut();
        clients.remove(&self.id);
        self.worker.metrics.connection_closed();
        if clients.is_empty() {
            self.worker.all_gone.notify_one();
        }
    }
}

/// Serves until told to stop, then winds down. Answers with what had to be cut at the deadline.
pub(super) async fn run(
    worker: Rc<Worker>,
    listener: std::net::TcpListener,
    mut commands: mpsc::UnboundedReceiver<Command>,
    mut stop: watch::Receiver<StopAt>,
) -> io::Result<ShutdownReport> {
    let listener = TcpListener::from_std(listener)?;
    let mut doors = Doors::default();
    tokio::task::spawn_local(overload::watch(Rc::clone(&worker)));
    let mut sweeps = interval(worker.sweep_every());
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => take(&worker, stream, peer, OWN_PORT),
                Err(error) => accept_failed(&error).await,
            },
            _ = sweeps.tick() => worker.sweep(),
            Some(command) = commands.recv() => doors.obey(&worker, command).await,
            changed = stop.changed() => match (changed, *stop.borrow_and_update()) {
                (Ok(()), None) => {}
                (Ok(()), Some(deadline)) => break deadline,
                // Whoever could have asked for a graceful end is gone.
                (Err(_), _) => break Instant::now(),
            },
        }
    };
    take_backlog(&worker, listener, OWN_PORT);
    doors.close_all().await;
    worker.wind_down();
    let gone = async {
        tokio::select! {
            () = worker.until_all_gone() => {}
            () = async { loop { sweeps.tick().await; worker.sweep(); } } => {}
        }
    };
    match timeout_at(deadline.into(), gone).await {
        Ok(()) => Ok(ShutdownReport::default()),
        Err(_) => Ok(worker.cut()),
    }
}

pub(super) fn take(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, port: u16) {
    let admitted = worker.admit(peer, port);
    tokio::task::spawn_local(connection::serve(admitted, stream));
}

/// Connections that the kernel has accepted are clients that believe to be served: they are. The kernel is asked
/// itself, as the runtime may not have heard of them yet.
pub(super) fn take_backlog(worker: &Rc<Worker>, listener: TcpListener, port: u16) {
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let taken = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = taken {
            take(worker, stream, peer, port);
        }
    }
}

pub(super) async fn accept_failed(error: &io::Error) {
    // A client that went away while it waited is no reason to pause, nor worth a word.
    let gone = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
    if !gone {
        tracing::warn!(%error, "cannot accept connections");
        sleep(ACCEPT_PAUSE).await;
    }
}
