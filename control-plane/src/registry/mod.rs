//! The registry: who is there, in what state, and how that came about.
//!
//! ```text
//!   register, heartbeat, drain …        store                    registry
//!        plan (pure) ── mutation ──▶ compare-and-set ── commits, in order ──▶ state (pure)
//!          ▲                                                        │ view       ──▶ queries, the next plan
//!          └──────────────── planned again after a conflict ◀───────┤ publication ──▶ proxies
//!                                                                   └ changed keys ──▶ watches
//! ```
//!
//! Every change goes through the store and comes back from it, so that all replicas of a store apply the
//! same changes in the same order. An operation answers once this replica has applied its own change.
//!
//! Deliberately absent: gRPC and HTTP; and any state that the store does not have, the event history aside.

mod busy;
mod change;
mod contact;
mod deadlines;
mod declare;
mod declared;
mod evidence;
mod follow;
mod guard;
mod missing;
mod plan;
mod query;
pub mod reserved;
mod state;
mod sweep;
mod view;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use waypost_proto::{
    error::{Error, Violation},
    instance::InstanceSpec,
    load::Load,
    name::InstanceKey,
    snapshot::{Change, Snapshot},
    v1::{self, BeatOutcome, InstanceState},
};

pub use self::evidence::{Evidence, Failing, InQuestion, Seen};
use self::{
    contact::Contact,
    plan::Plan,
    state::{Limits, State},
};
pub use self::{contact::Lost, declare::Declaration, declared::Held, query::inside, view::View};
pub use crate::store::Health;
use crate::store::{Loaded, Now, Override, Renewal, Store};

/// How many changes a watch can lag behind.
const WATCH_BUFFER: usize = 4096;
/// How many beats are taken before others get their turn.
const BEATS_AT_ONCE: usize = 256;
/// How far the clocks of replicas may differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);
const MIN_OVERRIDE: Duration = Duration::from_secs(1);
const MAX_OVERRIDE: Duration = Duration::from_secs(7 * 24 * 3600);

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
    /// Whether other control planes may use the same store; their clocks may differ from ours.
    pub shared: bool,
    /// An operation of the store that takes longer than this counts as a gap, after which no lease expires
    /// before it has had its full length again.
    pub store_limit: Duration,
    /// Tells the time.
    pub clock: Clock,
}

impl Options {
    fn limits(&self) -> Limits {
        let allowance = if self.shared { CLOCKS_DIFFER } else { Duration::ZERO };
        Limits { history: self.history_limit, retention: self.retention, allowance }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(10),
            retention: Duration::from_secs(600),
            history_limit: 10_000,
            suspect_hold: Duration::from_secs(300),
            suspect_window: None,
            shared: false,
            store_limit: Duration::from_secs(5),
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
    /// The routes that it claims and that another service holds.
    pub conflicts: Vec<v1::Conflict>,
}

/// Renews one lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    /// Whose.
    pub key: InstanceKey,
    /// Its epoch.
    pub epoch: u64,
    /// The instance's own health, if it is known.
    pub health: Option<Health>,
    /// How busy it is, if it is known.
    pub load: Option<Load>,
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
    /// Nothing of it was there at this revision. It is the one before `revision`, except where the commits
    /// between the two were not seen one by one.
    pub after: u64,
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
    /// Which, maybe more than once; those that the view does not have are gone.
    pub keys: Vec<InstanceKey>,
}

/// The registry.
pub struct Registry {
    store: Contact,
    options: Options,
    /// When this history was first seen.
    began: Mutex<Instant>,
    state: Mutex<State>,
    view: RwLock<Arc<View>>,
    feeds: Mutex<Vec<mpsc::UnboundedSender<Publication>>>,
    changes: Mutex<broadcast::Sender<Arc<InstancesChanged>>>,
    /// The revision of the view, for those who wait for one.
    applied: watch::Sender<u64>,
    /// The greatest epoch that is known.
    epochs: AtomicU64,
    /// How far the store's clock is ahead of ours, in microseconds, as far as our own commits have shown.
    store_ahead: AtomicI64,
    /// Leases that were found to be lapsed, by whichever replica, since the last sweep.
    expired: Mutex<Vec<(InstanceKey, Instant)>>,
    /// Held by whoever declares resources.
    declaring: tokio::sync::Mutex<()>,
    /// Cancelled when the control plane stops.
    stopping: CancellationToken,
}

impl Registry {
    /// Loads what a store holds and follows it from then on, as long as the registry lives.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn open(store: Arc<dyn Store>, options: Options) -> Result<Arc<Self>, Error> {
        let store = Contact::new(store, options.clock.clone(), options.store_limit);
        let loaded = store.load().await?;
        let now = (options.clock)();
        let epochs = greatest_epoch(&loaded);
        let state = State::load(loaded, options.limits(), now);
        let view = state.view().clone();
        view.resources().for_each(Held::log);
        let registry = Arc::new(Self {
            store,
            options,
            began: Mutex::new(now.monotonic),
            applied: watch::Sender::new(view.revision()),
            view: RwLock::new(Arc::new(view)),
            state: Mutex::new(state),
            feeds: Mutex::default(),
            changes: Mutex::new(broadcast::Sender::new(WATCH_BUFFER)),
            epochs: AtomicU64::new(epochs),
            store_ahead: AtomicI64::new(0),
            expired: Mutex::default(),
            declaring: tokio::sync::Mutex::default(),
            stopping: CancellationToken::new(),
        });
        tokio::spawn(follow::follow(Arc::downgrade(&registry)));
        Ok(registry)
    }

    /// Registers an instance, or replaces the one with the same id; either way under a new epoch. It is not
    /// draining then; an operator's override stays.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn register(
        &self,
        spec: InstanceSpec,
        ttl: Duration,
        client: &str,
    ) -> Result<Registered, Error> {
        let key = spec.key.clone();
        let epoch = AtomicU64::new(0);
        let plan = |view: &View, now: Now| {
            // Each attempt has seen more of what the other replicas do.
            epoch.store(self.next_epoch(now), Ordering::Release);
            Ok(plan::register(view, spec.clone(), ttl, client, epoch.load(Ordering::Acquire), now))
        };
        let revision = self.change(plan).await?;
        let epoch = epoch.into_inner();
        let view = self.view();
        // Somebody else may have removed or replaced it since. The registration was made all the same, and
        // its next beat tells the client.
        let Some(record) = view.record(&key) else {
            return Ok(Registered { key, epoch, ttl, revision, conflicts: Vec::new() });
        };
        let claimed = |route: &str| record.claims.iter().any(|claim| *claim.route == *route);
        let lost = view.lost_by(key.service()).filter(|(route, _)| claimed(route));
        let conflicts = lost.map(|(_, lost)| lost.to_wire(key.service())).collect();
        let epoch = if record.revision == revision { record.epoch } else { epoch };
        Ok(Registered { key, epoch, ttl, revision, conflicts })
    }

    /// Renews leases; the results are in the order of the beats.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn heartbeat(&self, beats: Vec<Beat>) -> Result<Vec<BeatResult>, Error> {
        let mut results = Vec::with_capacity(beats.len());
        for beats in beats.chunks(BEATS_AT_ONCE) {
            let now = self.now();
            let leases: Vec<_> = beats.iter().map(|beat| (beat.key.clone(), beat.epoch)).collect();
            let renewals = self.store.renew(&leases, now).await?;
            for (beat, renewal) in beats.iter().zip(renewals) {
                let outcome = self.beaten(beat, renewal, now).await?;
                results.push(BeatResult { key: beat.key.clone(), epoch: beat.epoch, outcome });
            }
            tokio::task::yield_now().await;
        }
        Ok(results)
    }

    /// Takes an instance out of rotation, or puts it back. `epoch` 0 means whichever is there.
    /// Answers a revision after which proxies know; it is the same for an instance that is there already.
    ///
    /// # Errors
    /// There is no such instance, or it lives under another epoch; nothing has changed then.
    pub async fn set_draining(
        &self,
        key: &InstanceKey,
        epoch: u64,
        draining: bool,
        reason: &str,
        actor: &str,
    ) -> Result<u64, Error> {
        self.see(key, epoch).await?;
        self.change(|view, _| plan::drain(view, key, epoch, draining, reason, actor)).await
    }

    /// Removes an instance. `epoch` 0 means whichever is there. Answers the revision that removed it.
    ///
    /// # Errors
    /// There is no such instance, or it lives under another epoch; nothing has changed then.
    pub async fn deregister(
        &self,
        key: &InstanceKey,
        epoch: u64,
        reason: &str,
        actor: &str,
    ) -> Result<u64, Error> {
        self.see(key, epoch).await?;
        self.change(|view, now| plan::deregister(view, key, epoch, reason, actor, now)).await
    }

    /// Overrides an instance's state for a time (UP or DOWN, its length from 1 s to 7 days, and why), or ends
    /// the override. Answers the instance after it and the revision.
    ///
    /// # Errors
    /// There is no such instance, or the state or the length breaks its rule; nothing has changed then.
    pub async fn set_override(
        &self,
        key: &InstanceKey,
        word: Option<(InstanceState, Duration, String)>,
        actor: &str,
    ) -> Result<(v1::Instance, u64), Error> {
        let now = self.planning_time(self.now());
        let word = word.map(|word| checked_override(word, now)).transpose()?;
        let revision = self.change(|view, _| plan::set_override(view, key, word.as_ref(), actor)).await?;
        let instance = self.view().instance(key).ok_or_else(|| missing::gone_again(key))?;
        Ok((instance, revision))
    }

    /// What the registry holds now. It never changes; ask again for a newer one.
    pub fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// All that proxies need as of now, and every change after it, in order, none left out. The receiver's
    /// queue is unbounded: whoever asks for a feed drains it at once.
    pub fn feed(&self) -> (Arc<Snapshot>, mpsc::UnboundedReceiver<Publication>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let state = self.state.lock();
        self.feeds.lock().push(sender);
        (Arc::new(state.snapshot()), receiver)
    }

    /// Every change of an instance from now on. A receiver that lags lists again.
    pub fn watch_instances(&self) -> broadcast::Receiver<Arc<InstancesChanged>> {
        self.changes.lock().subscribe()
    }

    /// Expires leases, ends overrides and settling, and forgets empty services, until `shutdown`. `evidence` may speak
    /// for instances whose lease has lapsed.
    pub async fn run(self: Arc<Self>, evidence: Option<Arc<dyn Evidence>>, shutdown: CancellationToken) {
        sweep::run(&self, evidence, shutdown).await;
        self.stopping.cancel();
    }

    /// Since when the store is gone and why; `None` while it is there.
    pub fn lost(&self) -> Option<Lost> {
        self.store.lost()
    }

    async fn beaten(&self, beat: &Beat, renewal: Renewal, now: Now) -> Result<BeatOutcome, Error> {
        match renewal {
            Renewal::Unknown => return Ok(BeatOutcome::Unknown),
            Renewal::Stale => return Ok(BeatOutcome::Stale),
            Renewal::Renewed => {}
        }
        let view = self.view();
        if let Some(record) = view.record(&beat.key).filter(|record| record.epoch == beat.epoch) {
            record.renewed.set(now.wall);
        }
        // Most beats say nothing new, and cost no more than this look.
        if let Plan::Commit(_) = plan::beat(&view, beat) {
            self.change(|view, _| Ok(plan::beat(view, beat))).await?;
        }
        Ok(BeatOutcome::Renewed)
    }
}

/// The greatest epoch that is known of; that of an instance which has left is in its events.
fn greatest_epoch(loaded: &Loaded) -> u64 {
    let events = loaded.events.iter().map(|past| past.event.epoch);
    loaded.records.iter().map(|record| record.epoch).chain(events).max().unwrap_or(0)
}

fn checked_override(
    (state, ttl, reason): (InstanceState, Duration, String),
    now: Now,
) -> Result<Override, Error> {
    let mut violations = Vec::new();
    if !matches!(state, InstanceState::Up | InstanceState::Down) {
        violations.push(Violation::new("state", state.as_str_name(), "must be UP or DOWN"));
    }
    if !(MIN_OVERRIDE..=MAX_OVERRIDE).contains(&ttl) {
        violations.push(Violation::new("ttl", format!("{ttl:?}"), "must be from 1 s to 7 days"));
    }
    if violations.is_empty() {
        Ok(Override { state, expires_at: now.wall + ttl, reason })
    } else {
        Err(Error::invalid(violations))
    }
}

#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod tests;
