//! The registry: who is there, in what state, and how that came about.

mod view;

use std::{sync::Arc, time::{Duration, Instant, SystemTime}};

use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use waypost_proto::{
    error::{Error, ErrorCode},
    instance::InstanceSpec,
    name::InstanceKey,
    snapshot::{Change, Snapshot},
    v1::{self, BeatOutcome, InstanceState},
};

pub use self::view::View;
pub use crate::store::Health;
use crate::store::{Now, Store};

/// Tells the time. Tests bring their own.
pub type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// How a registry behaves.
#[derive(Clone)]
pub struct Options {
    /// After a start with nothing known: how long registrations from before may still be missing.
    pub settle: Duration,
    /// How long a service without instances is kept.
    pub retention: Duration,
    /// How many events are kept.
    pub history_limit: usize,
    /// How long the instances of a mass expiry are held as suspect.
    pub suspect_hold: Duration,
    /// Over what time expiries are counted together; `None`: the length of the lease that lapses.
    pub suspect_window: Option<Duration>,
    /// Tells the time.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(10),
            retention: Duration::from_secs(600),
            history_limit: 10_000,
            suspect_hold: Duration::from_secs(300),
            suspect_window: None,
            clock: Arc::new(|| Now { monotonic: Instant::now(), wall: SystemTime::now() }),
        }
    }
}

/// A lease that was granted.
#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    /// The instance's name.
    pub key: InstanceKey,
    /// The epoch of its lease.
    pub epoch: u64,
    /// The lease's length.
    pub ttl: Duration,
    /// The revision that the registration made.
    pub revision: u64,
    /// The routes that it claims and that an older claim of another service holds.
    pub conflicts: Vec<v1::Conflict>,
}

/// Renews one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub key: InstanceKey,
    /// Its epoch.
    pub epoch: u64,
    /// The instance's own health, if it is known.
    pub health: Option<Health>,
}

/// What became of a beat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeatResult {
    /// Whose.
    pub key: InstanceKey,
    /// The epoch that was beaten for.
    pub epoch: u64,
    /// The outcome.
    pub outcome: BeatOutcome,
}

/// A change that matters to proxies.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The revision after it.
    pub revision: u64,
    /// What changes; empty where only `settled` does.
    pub change: Change,
    /// When it was committed.
    pub committed_at: (Instant, SystemTime),
    /// Whether what is missing is known to be gone, from this revision on.
    pub settled: bool,
}

/// Instances that changed, came or left, for those who watch.
#[derive(Clone, Debug)]
pub struct InstancesChanged {
    /// The revision after it; a view of at least this revision shows it.
    pub revision: u64,
    /// Which; those that the view does not have are gone.
    pub keys: Vec<InstanceKey>,
}

/// The registry.
pub struct Registry {
    view: parking_lot::RwLock<Arc<View>>,
}

impl Registry {
    /// Loads what a store holds and follows it from then on.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn open(_store: Arc<dyn Store>, _options: Options) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { view: parking_lot::RwLock::new(Arc::new(View::default())) }))
    }

    /// Registers an instance, or replaces the one with the same id; either way under a new epoch.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn register(
        &self,
        _spec: InstanceSpec,
        _ttl: Duration,
        _client: &str,
    ) -> Result<Registered, Error> {
        Err(Error::new(ErrorCode::Unavailable, "not yet"))
    }

    /// Renews leases; the results are in the order of the beats.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn heartbeat(&self, _beats: Vec<Beat>) -> Result<Vec<BeatResult>, Error> {
        Err(Error::new(ErrorCode::Unavailable, "not yet"))
    }

    /// Takes an instance out of rotation, or puts it back. `epoch` 0 means whichever is there.
    /// Answers a revision after which proxies know.
    ///
    /// # Errors
    /// There is no such instance, or it lives under another epoch; nothing has changed then.
    pub async fn set_draining(
        &self,
        _key: &InstanceKey,
        _epoch: u64,
        _draining: bool,
        _reason: &str,
        _actor: &str,
    ) -> Result<u64, Error> {
        Err(Error::new(ErrorCode::Unavailable, "not yet"))
    }

    /// Removes an instance. `epoch` 0 means whichever is there. Answers the revision that removed it.
    ///
    /// # Errors
    /// There is no such instance, or it lives under another epoch; nothing has changed then.
    pub async fn deregister(
        &self,
        _key: &InstanceKey,
        _epoch: u64,
        _reason: &str,
        _actor: &str,
    ) -> Result<u64, Error> {
        Err(Error::new(ErrorCode::Unavailable, "not yet"))
    }

    /// Overrides an instance's state for a time (UP or DOWN, its length, and why), or ends the override.
    /// Answers the instance after it and the revision.
    ///
    /// # Errors
    /// There is no such instance, or the state or the length breaks its rule; nothing has changed then.
    pub async fn set_override(
        &self,
        _key: &InstanceKey,
        _word: Option<(InstanceState, Duration, String)>,
        _actor: &str,
    ) -> Result<(v1::Instance, u64), Error> {
        Err(Error::new(ErrorCode::Unavailable, "not yet"))
    }

    /// What the registry holds now. It never changes; ask again for a newer one.
    pub fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// All that proxies need as of now, and every change after it, in order, none left out.
    pub fn feed(&self) -> (Arc<Snapshot>, mpsc::UnboundedReceiver<Publication>) {
        let (_sender, receiver) = mpsc::unbounded_channel();
        (Arc::new(Snapshot::empty("none")), receiver)
    }

    /// Every change of an instance from now on. A receiver that lags lists again.
    pub fn watch_instances(&self) -> broadcast::Receiver<Arc<InstancesChanged>> {
        broadcast::channel(1).1
    }

    /// Expires leases, ends overrides and settling, and forgets empty services, until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        shutdown.cancelled().await;
    }
}
