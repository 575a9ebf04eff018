//! The proxy as a whole: everything is wired together here, and nowhere else.
//!
//! ```text
//!  state directory ─▶ Core, Compiler ─▶ SharedTable ─▶ serving threads
//!                        ▲    │
//!   control planes ─▶ Subscriber ─▶ saver ─▶ state directory        admin port ◀─ all of it
//! ```
//!
//! The serving threads have runtimes of their own. All else runs on the runtime that [`Proxy::start`] is
//! called in, which needs no more than one thread.

use std::{
    fs, io,
    net::SocketAddr,
    process,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fastrand::Rng;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use waypost_sdk::control_planes::ControlPlanes;

use crate::{
    admin::{self, Admin},
    config::Config,
    health,
    metrics::Metrics,
    serve::{self, Running, ShutdownReport},
    state_dir::{Loaded, Saved, StateDir, StateDirError, saver},
    subscription::{Core, Identity, Status, Subscriber, Wiring},
    table::{Compiler, SharedTable},
};

/// The stream is all that a proxy asks of a control plane, and has a limit of its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the admin port and the saver may take to end.
const WIND_DOWN: Duration = Duration::from_secs(2);

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error(
        "{option} {address} cannot be listened on; choose an address of this machine that is free, or port 0"
    )]
    Listen {
        /// The option that names it.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// A control plane's address is malformed.
    #[error("{0}")]
    ControlPlane(waypost_sdk::Error),
}

/// A proxy that serves.
#[derive(Debug)]
pub struct Proxy {
    traffic: Running,
    admin: SocketAddr,
    table: SharedTable,
    drain_deadline: Duration,
    shutting_down: CancellationToken,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Proxy {
    /// Starts to serve, from the state directory where there is one, and to follow the control planes. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// An address cannot be bound, or the state directory cannot be used.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let planes = ControlPlanes::new(&config.control_planes, CALL_TIMEOUT, fastrand::u64(..))
            .map_err(StartError::ControlPlane)?;
        let state_dir = config.state_dir.as_deref().map(|path| StateDir::open(path, &config.namespaces));
        let state_dir = state_dir.transpose()?.map(Arc::new);
        let proxy_id = proxy_id(&config, state_dir.as_deref())?;

        let metrics = Arc::new(Metrics::new());
        let status = Arc::new(Status::new(SystemTime::now()));
        let table = SharedTable::new();
        let compiler = Compiler::new(table.clone(), config.balancer.policy(), Arc::new(Notify::new()));
        let mut compiler = compiler.in_zone(&config.zone);
        // Known before it is bound in most cases, and certain after.
        compiler.listen_on(config.serve.listen.port());
        let loaded = state_dir.as_ref().map(|dir| dir.load(config.state_max_age, SystemTime::now()));
        let (core, restored) = restore(loaded, &mut compiler, &status);

        let listen = config.serve.listen;
        let traffic = serve::start(config.serve, table.clone(), Arc::clone(&metrics))
            .map_err(|source| StartError::Listen { option: "--listen", address: listen, source })?;
        compiler.listen_on(traffic.addr().port());
        let refuse =
            |source| StartError::Listen { option: "--admin-listen", address: config.admin_listen, source };
        let listener = admin::bind(config.admin_listen).map_err(refuse)?;
        let admin_address = listener.local_addr().map_err(refuse)?;
        tracing::info!(traffic = %traffic.addr(), admin = %admin_address, "listening");
        restored.log();

        let identity = Identity {
            proxy_id: proxy_id.clone(),
            listen_address: traffic.addr().to_string(),
            admin_address: admin_address.to_string(),
            zone: config.zone,
            namespaces: config.namespaces,
        };
        let (saved, latest) = watch::channel(None);
        let (stop, shutting_down) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        if let Some(dir) = state_dir {
            tasks.spawn(saver::run(dir, latest, Arc::clone(&status), Arc::clone(&metrics), stop.clone()));
        }
        tasks.spawn(health::run(table.clone(), metrics.worker(), stop.clone()));
        let admin = Admin {
            proxy_id: proxy_id.into(),
            table: table.clone(),
            metrics: Arc::clone(&metrics),
            status: Arc::clone(&status),
            listening: traffic.listening().clone(),
            shutting_down: shutting_down.clone(),
        };
        let stopped = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = admin.serve(listener, stopped).await {
                tracing::error!(%error, "the admin port has failed");
            }
        });
        let wiring = Wiring { identity, planes, status, metrics, saved };
        tasks.spawn(Subscriber::new(wiring, core, compiler).run(stop.clone()));
        let (admin, drain_deadline) = (admin_address, config.drain_deadline);
        Ok(Self { traffic, admin, table, drain_deadline, shutting_down, stop, tasks })
    }

    /// Where it listens for traffic.
    pub fn traffic_address(&self) -> SocketAddr {
        self.traffic.addr()
    }

    /// Where its admin port is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The table that it serves by.
    pub fn table(&self) -> &SharedTable {
        &self.table
    }

    /// Stops accepting, lets what is in flight end until the drain deadline, and stores the state. The control
    /// planes are followed, and told what is in flight, until nothing is.
    pub async fn shutdown(mut self) -> ShutdownReport {
        self.shutting_down.cancel();
        let report = self.traffic.shutdown(self.drain_deadline).await;
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(WIND_DOWN, ended).await.is_err() {
            tracing::warn!(waited = ?WIND_DOWN, "a task has not ended in time and is cut");
        }
        report
    }
}

/// What became of the stored state, to be logged when the addresses are.
enum Restored {
    Nothing,
    From { revision: u64, age: Duration },
    Refused(Loaded),
}

impl Restored {
    fn log(&self) {
        match self {
            Self::Nothing => {}
            Self::From { revision, age } => {
                tracing::info!(revision, age_s = age.as_secs(), "serving by the stored state");
            }
            Self::Refused(Loaded::Unusable { file, reason, moved_to }) => {
                let (file, moved_to) =
                    (file.display(), moved_to.as_ref().map(|path| path.display().to_string()));
                tracing::warn!(%file, %reason, moved_to, "the stored state cannot be used, starting without it");
            }
            Self::Refused(_) => {}
        }
    }
}

fn restore(loaded: Option<Loaded>, compiler: &mut Compiler, status: &Status) -> (Core, Restored) {
    match loaded {
        Some(Loaded::Found(saved, age)) => {
            let Saved { current, carried } = *saved;
            let revision = current.revision();
            let core = Core::restored(current, carried);
            if let Some(source) = core.source() {
                compiler.serve(&source, &source.everything());
            }
            status.restored(core.position());
            (core, Restored::From { revision, age })
        }
        Some(unusable @ Loaded::Unusable { .. }) => (Core::default(), Restored::Refused(unusable)),
        Some(Loaded::Nothing) | None => (Core::default(), Restored::Nothing),
    }
}

fn proxy_id(config: &Config, state_dir: Option<&StateDir>) -> Result<String, StartError> {
    let fresh = || {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = Some(host.trim()).filter(|host| !host.is_empty()).unwrap_or("proxy");
        format!("{host}-{}-{:06x}", process::id(), Rng::new().u32(..1 << 24))
    };
    match (&config.proxy_id, state_dir) {
        (Some(given), _) => Ok(given.clone()),
        (None, Some(dir)) => Ok(dir.proxy_id(fresh)?),
        (None, None) => Ok(fresh()),
    }
}
