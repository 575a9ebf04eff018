//! Starting the workers and stopping them.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot, watch},
};

use super::{
    Listening, ServeConfig,
    ports::Ports,
    worker::{self, StopAt, Worker},
};
use crate::{listener, metrics::Metrics, table::SharedTable};

/// How a shutdown went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Requests that had not been answered at the deadline.
    pub cut_requests: u64,
    /// Upgraded connections that had not ended at the deadline.
    pub cut_upgrades: u64,
    /// Workers that ended by a defect instead of serving to the end.
    pub failed_workers: u64,
}

impl ShutdownReport {
    /// Whether nothing was cut.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, other: Self) {
        self.cut_requests += other.cut_requests;
        self.cut_upgrades += other.cut_upgrades;
        self.failed_workers += other.failed_workers;
    }
}

/// A proxy that serves. Dropping it cuts everything; [`Running::shutdown`] does not.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    listening: Listening,
    stop: watch::Sender<StopAt>,
    reports: Vec<oneshot::Receiver<io::Result<ShutdownReport>>>,
}

/// Binds the listening sockets and starts the workers.
///
/// # Errors
/// The address cannot be bound, or a thread or its runtime cannot be made.
#[expect(clippy::needless_pass_by_value, reason = "they are the proxy's from here on")]
pub fn start(config: ServeConfig, table: SharedTable, metrics: Arc<Metrics>) -> io::Result<Running> {
    let listeners = listener::bind(config.listen, config.threads.max(1))?;
    let address = listeners[0].local_addr()?;
    let (stop, stopped) = watch::channel(None);
    let mut reports = Vec::with_capacity(listeners.len());
    let mut workers = Vec::with_capacity(listeners.len());
    for (index, listener) in listeners.into_iter().enumerate() {
        let (report, reported) = oneshot::channel();
        let (commander, commands) = mpsc::unbounded_channel();
        workers.push(commander);
        let (config, table, counters) = (config.clone(), table.clone(), metrics.worker());
        let stopped = stopped.clone();
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let run = || {
                let runtime =
                    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
                let worker = Worker::new(config, address.port(), &table, counters);
                runtime.block_on(worker::run(worker, listener, commands, stopped))
            };
            // Nobody waits where the whole proxy was dropped.
            let _ = report.send(run());
        })?;
        reports.push(reported);
    }
    let listening = Listening::default();
    let ports = Ports { own: address, workers, table, metrics, listening: listening.clone() };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("ports".to_owned()).spawn(move || runtime.block_on(ports.run(stopped)))?;
    Ok(Running { address, listening, stop, reports })
}

impl Running {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The ports beside that which tables ask for.
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Stops accepting, lets what is in flight end, and cuts what has not ended within `limit`.
    pub async fn shutdown(self, limit: Duration) -> ShutdownReport {
        // An error means that all workers have ended already; their reports say how.
        let _ = self.stop.send(Some(Instant::now() + limit));
        let mut total = ShutdownReport::default();
        for reported in self.reports {
            match reported.await {
                Ok(Ok(report)) => total.add(report),
                Ok(Err(_)) | Err(_) => total.failed_workers += 1,
            }
        }
        total
    }
}
