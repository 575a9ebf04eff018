//! The ports that tables ask for: bound when a table first does, closed when none does any more.
//!
//! One thread binds for all workers and hands each its socket, so that they share a port or nobody has it. A port
//! that cannot be bound is tried again and again, and disturbs nothing else.
//!
//! ```text
//! wanted ──bind──▶ open ──no table asks for it──▶ closed
//!    │ error        (backlog taken, keep-alive connections told to close)
//!    ▼
//!  failed ──1 s, 2 s, … 30 s──▶ bind again
//! ```

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};

use super::worker::StopAt;
use crate::{
    listener,
    metrics::Metrics,
    table::{Edge, OWN_PORT, SharedTable},
};

/// The first wait after a port could not be bound, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Accept at a port.
    Open { port: u16, listener: TcpListener },
    /// Accept there no longer. `closed` is dropped when the socket is.
    Close { port: u16, closed: mpsc::Sender<Infallible> },
}

/// How a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// It is listened on.
    Open,
    /// It cannot be bound, for this reason.
    Failed(String),
}

/// The ports that tables ask for, as they are now. A clone tells the same.
#[derive(Clone, Debug, Default)]
pub struct Listening(Arc<Mutex<BTreeMap<u16, PortState>>>);

impl Listening {
    /// The ports, without the proxy's own.
    pub fn ports(&self) -> BTreeMap<u16, PortState> {
        self.0.lock().clone()
    }
}

/// A port that could not be bound.
struct Failed {
    wait: Duration,
    again: Instant,
}

/// Opens and closes ports for all workers.
pub(super) struct Ports {
    /// The proxy's own address: other ports are bound there, too.
    pub(super) own: SocketAddr,
    pub(super) workers: Vec<mpsc::UnboundedSender<Command>>,
    pub(super) table: SharedTable,
    pub(super) metrics: Arc<Metrics>,
    pub(super) listening: Listening,
}

impl Ports {
    /// Runs until the workers are told to stop, or nobody could tell them any more.
    pub(super) async fn run(self, mut stop: watch::Receiver<StopAt>) {
        let mut swaps = self.table.swaps();
        let mut failed = BTreeMap::new();
        let mut seen: Option<Edge> = None;
        loop {
            if let Some(table) = self.table.load() {
                let edge = table.edge();
                let is_new = !seen.as_ref().is_some_and(|seen| seen.is_same(edge));
                if is_new || !failed.is_empty() {
                    self.follow(edge, &mut failed).await;
                    seen = Some(edge.clone());
                }
                self.count(edge);
            }
            let again = failed.values().map(|failed: &Failed| failed.again).min();
            let retry = async {
                match again {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = stop.changed() => if changed.is_err() || stop.borrow_and_update().is_some() { return },
                changed = swaps.changed() => if changed.is_err() { return },
                () = retry => {}
            }
        }
    }

    async fn follow(&self, edge: &Edge, failed: &mut BTreeMap<u16, Failed>) {
        let now = Instant::now();
        let is_own = |port: &u16| *port == OWN_PORT || *port == self.own.port();
        let wanted: Vec<u16> = edge.ports().filter(|port| !is_own(port)).collect();
        let gone: Vec<u16> =
            self.listening.ports().into_keys().filter(|port| !wanted.contains(port)).collect();
        for port in gone {
            self.close(port).await;
            failed.remove(&port);
        }
        for port in wanted {
            let state = self.listening.0.lock().get(&port).cloned();
            let is_due = failed.get(&port).is_none_or(|failed| failed.again <= now);
            if state == Some(PortState::Open) || !is_due {
                continue;
            }
            match self.open(port) {
                Ok(()) => {
                    failed.remove(&port);
                }
                Err(error) => {
                    let wait =
                        failed.get(&port).map_or(FIRST_WAIT, |failed| (failed.wait * 2).min(LONGEST_WAIT));
                    failed.insert(port, Failed { wait, again: now + wait });
                    let (address, again_s) = (SocketAddr::new(self.own.ip(), port), wait.as_secs());
                    tracing::error!(%address, %error, again_s, "a listener's port cannot be bound");
                    self.listening.0.lock().insert(port, PortState::Failed(error.to_string()));
                }
            }
        }
    }

    fn open(&self, port: u16) -> io::Result<()> {
        let address = SocketAddr::new(self.own.ip(), port);
        let listeners = listener::bind(address, self.workers.len())?;
        for (worker, listener) in self.workers.iter().zip(listeners) {
            // A worker that is gone leaves its share to the others: its socket closes.
            let _ = worker.send(Command::Open { port, listener });
        }
        self.listening.0.lock().insert(port, PortState::Open);
        tracing::info!(%address, "a listener's port is open");
        Ok(())
    }

    /// Closes a port, and waits until it is: it may be asked for again at once.
    async fn close(&self, port: u16) {
        let was_open = self.listening.0.lock().remove(&port) == Some(PortState::Open);
        if was_open {
            let (closed, mut all_closed) = mpsc::channel(1);
            for worker in &self.workers {
                let _ = worker.send(Command::Close { port, closed: closed.clone() });
            }
            drop(closed);
            let _: Option<Infallible> = all_closed.recv().await;
            tracing::info!(port, "a port that no listener asks for any more is closed");
        }
    }

    fn count(&self, edge: &Edge) {
        let ports = self.listening.0.lock();
        let open = ports.values().filter(|state| **state == PortState::Open).count();
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.control.ports_open.set(gauge(open));
        self.metrics.control.ports_failed.set(gauge(ports.len() - open));
        self.metrics.control.edge_problems.set(gauge(edge.problems().count()));
    }
}
