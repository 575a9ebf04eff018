//! Several registries over one store: clocks that disagree, a store that is away, a store that has lost its data.

use std::sync::atomic::AtomicBool;

use waypost_proto::{error::ErrorCode, v1::EventKind};

use super::{sweep::Sweep, *};
use crate::store::{
    Finding, Lapsed, LeaseStatus, Memory, Mutation, StoreError, Watch,
    conformance::{ManualClock, TTL, spec},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn key(text: &str) -> InstanceKey {
    text.parse().expect("a good key")
}

/// How far a replica's wall clock is off.
#[derive(Clone, Copy)]
enum Off {
    Ahead(Duration),
    Behind(Duration),
}

/// A store of which tests take away the connection, or the contents.
#[derive(Default)]
struct Fragile {
    inner: RwLock<Arc<Memory>>,
    away: AtomicBool,
    /// Told when watches are to break.
    cut: watch::Sender<u32>,
}

impl Fragile {
    fn go_away(&self) {
        self.away.store(true, Ordering::Release);
        self.cut.send_modify(|cut| *cut += 1);
    }

    fn come_back(&self) {
        self.away.store(false, Ordering::Release);
    }

    /// What `kept` holds is all that it holds from now on.
    fn turn_into(&self, kept: Memory) {
        *self.inner.write() = Arc::new(kept);
        self.cut.send_modify(|cut| *cut += 1);
    }

    fn lose_everything(&self) {
        self.turn_into(Memory::new());
    }

    fn reach(&self) -> Result<Arc<Memory>, StoreError> {
        if self.away.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("the cable is out".to_owned()));
        }
        Ok(self.inner.read().clone())
    }
}

#[tonic::async_trait]
impl Store for Fragile {
    fn url(&self) -> &str {
        "fragile://"
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        self.reach()?.load().await
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        use futures_util::{StreamExt, stream};
        let mut cut = self.cut.subscribe();
        let commits = self.reach()?.watch(after).await?.take_until(async move {
            let _ = cut.changed().await;
        });
        Ok(Box::pin(commits.chain(stream::iter([Err(StoreError::Unavailable("it broke".to_owned()))]))))
    }

    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        self.reach()?.commit(mutation, now).await
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], now: Now) -> Result<Vec<Renewal>, StoreError> {
        self.reach()?.renew(leases, now).await
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        self.reach()?.lapsed(now).await
    }

    async fn leases(
        &self,
        service: &waypost_proto::name::ServiceKey,
        now: Now,
    ) -> Result<Vec<LeaseStatus>, StoreError> {
        self.reach()?.leases(service, now).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.reach()?.examine().await
    }
}

/// A replica whose wall clock is off.
async fn replica(store: Arc<dyn Store>, clock: &Arc<ManualClock>, off: Off) -> Arc<Registry> {
    let time = clock.clone();
    let read = move || {
        let now = time.now();
        let wall = match off {
            Off::Ahead(length) => now.wall + length,
            Off::Behind(length) => now.wall - length,
        };
        Now { wall, ..now }
    };
    let options = Options { clock: Arc::new(read), shared: true, ..Options::default() };
    Registry::open(store, options).await.expect("it opens")
}

/// Two replicas over one store, minutes apart.
struct Pair {
    clock: Arc<ManualClock>,
    ahead: Arc<Registry>,
    behind: Arc<Registry>,
}

impl Pair {
    async fn over(store: Arc<dyn Store>) -> Self {
        let clock = ManualClock::new();
        let ahead = replica(store.clone(), &clock, Off::Ahead(MINUTE * 3)).await;
        let behind = replica(store, &clock, Off::Behind(MINUTE * 4)).await;
        Self { clock, ahead, behind }
    }

    /// Both sweep, each by its own clock, and both see all of it.
    async fn sweep(&self, sweeps: &mut [Sweep<'_>; 2]) {
        for (sweep, registry) in sweeps.iter_mut().zip([&self.ahead, &self.behind]) {
            sweep.all(registry.now()).await.expect("it sweeps");
        }
        self.agree().await;
    }

    async fn agree(&self) {
        let revision = self.ahead.store.load().await.expect("it loads").revision;
        assert!(self.ahead.wait_for(revision).await && self.behind.wait_for(revision).await);
    }

    fn sweeps(&self) -> [Sweep<'_>; 2] {
        [Sweep::new(&self.ahead), Sweep::new(&self.behind)]
    }

    fn events(&self) -> Vec<v1::Event> {
        let request = v1::ListEventsRequest { limit: 1000, ..Default::default() };
        self.ahead.view().list_events(&request).expect("a good request").events
    }
}

fn state(registry: &Registry, text: &str) -> Option<InstanceState> {
    registry.view().instance(&key(text)).map(|instance| instance.state())
}

#[tokio::test]
async fn clocks_that_disagree_end_no_override_early() {
    let pair = Pair::over(Arc::new(Memory::new())).await;
    let mut sweeps = pair.sweeps();
    let hour = MINUTE * 60;
    for (registry, name) in [(&pair.ahead, "users/a"), (&pair.behind, "users/b")] {
        registry.register(spec(name), hour, "test").await.expect("it registers");
        let word = Some((InstanceState::Down, MINUTE, "odd".to_owned()));
        registry.set_override(&key(name), word, "test").await.expect("it is overridden");
    }
    pair.agree().await;
    pair.clock.pass(MINUTE - SECOND);
    pair.sweep(&mut sweeps).await;
    for registry in [&pair.ahead, &pair.behind] {
        assert_eq!(state(registry, "users/a"), Some(InstanceState::Down), "not a second early");
        assert_eq!(state(registry, "users/b"), Some(InstanceState::Down), "not a second early");
    }
    pair.clock.pass(SECOND);
    pair.sweep(&mut sweeps).await;
    assert_eq!(state(&pair.behind, "users/a"), Some(InstanceState::Up));
    assert_eq!(state(&pair.ahead, "users/b"), Some(InstanceState::Up));
    let ended = pair.events().iter().filter(|event| event.reason.contains("time is over")).count();
    assert_eq!(ended, 2, "each ends once");
}

#[tokio::test]
async fn a_replica_that_starts_with_a_clock_ahead_ends_nothing_early() {
    let store = Arc::new(Memory::new());
    let pair = Pair::over(store.clone()).await;
    pair.behind.register(spec("users/a"), MINUTE * 60, "test").await.expect("it registers");
    let word = Some((InstanceState::Down, MINUTE, "odd".to_owned()));
    pair.behind.set_override(&key("users/a"), word, "test").await.expect("it is overridden");
    let late = replica(store, &pair.clock, Off::Ahead(Duration::ZERO)).await;
    let mut sweep = Sweep::new(&late);
    pair.clock.pass(MINUTE - SECOND);
    sweep.all(late.now()).await.expect("it sweeps");
    assert!(late.wait_for(late.store.load().await.expect("it loads").revision).await);
    assert_eq!(state(&late, "users/a"), Some(InstanceState::Down));
    pair.clock.pass(CLOCKS_DIFFER + SECOND);
    sweep.all(late.now()).await.expect("it sweeps");
    assert!(late.wait_for(late.store.load().await.expect("it loads").revision).await);
    assert_eq!(state(&late, "users/a"), Some(InstanceState::Up), "but not never");
}

#[tokio::test]
async fn clocks_that_disagree_forget_no_service_early() {
    let pair = Pair::over(Arc::new(Memory::new())).await;
    let mut sweeps = pair.sweeps();
    pair.behind.register(spec("users/a"), TTL, "test").await.expect("it registers");
    pair.behind.deregister(&key("users/a"), 0, "", "").await.expect("it leaves");
    pair.agree().await;
    pair.clock.pass(MINUTE * 10 - SECOND);
    pair.sweep(&mut sweeps).await;
    assert_eq!((pair.ahead.view().service_count(), pair.behind.view().service_count()), (1, 1));
    pair.clock.pass(SECOND);
    pair.sweep(&mut sweeps).await;
    assert_eq!((pair.ahead.view().service_count(), pair.behind.view().service_count()), (0, 0));
}

#[tokio::test]
async fn epochs_grow_and_events_are_in_order_whoever_is_asked() {
    let pair = Pair::over(Arc::new(Memory::new())).await;
    let mut newest = 0;
    for round in 0..8 {
        let (registry, other) =
            if round % 2 == 0 { (&pair.ahead, &pair.behind) } else { (&pair.behind, &pair.ahead) };
        let lease = registry.register(spec("users/a"), TTL, "test").await.expect("it registers");
        assert!(lease.epoch > newest, "round {round}");
        newest = lease.epoch;
        pair.agree().await;
        if round % 3 == 0 {
            other.deregister(&key("users/a"), newest, "", "").await.expect("it leaves");
            pair.agree().await;
        }
        pair.clock.pass(SECOND);
    }
    let times: Vec<_> = pair.events().iter().map(|event| event.time).collect();
    let nanos = |time: &Option<pbjson_types::Timestamp>| {
        time.as_ref().map(|time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
    };
    assert!(times.is_sorted_by_key(nanos), "{times:?}");
}

#[tokio::test]
async fn a_lapsed_lease_is_expired_once_whoever_sweeps() {
    let pair = Pair::over(Arc::new(Memory::new())).await;
    let mut sweeps = pair.sweeps();
    for id in 0..10 {
        pair.ahead.register(spec(&format!("users/{id}")), TTL, "test").await.expect("it registers");
    }
    let gone = pair.behind.register(spec("users/gone"), TTL / 2, "test").await.expect("it registers");
    pair.agree().await;
    pair.clock.pass(TTL / 2);
    let [one, other] = &mut sweeps;
    let (one, other) = tokio::join!(one.all(pair.ahead.now()), other.all(pair.behind.now()));
    assert!(one.is_ok() && other.is_ok(), "whoever is late has nothing to do");
    pair.agree().await;
    pair.sweep(&mut sweeps).await;
    let expired: Vec<_> =
        pair.events().into_iter().filter(|event| event.kind() == EventKind::Expired).collect();
    assert_eq!(expired.len(), 1, "{expired:?}");
    assert_eq!(expired[0].epoch, gone.epoch);
}

#[tokio::test]
async fn a_mass_expiry_is_noticed_even_if_others_sweep_its_beginning() {
    let pair = Pair::over(Arc::new(Memory::new())).await;
    let mut sweeps = pair.sweeps();
    // Two of six that lapse are no mass expiry; with the third, which is not overdue by then, they are.
    for (id, ttl) in [10, 10, 18, 60, 60, 60].into_iter().enumerate() {
        let ttl = SECOND * ttl;
        pair.ahead.register(spec(&format!("users/{id}")), ttl, "test").await.expect("it registers");
    }
    pair.agree().await;
    let [one, other] = &mut sweeps;
    pair.clock.pass(SECOND * 10);
    one.all(pair.ahead.now()).await.expect("it sweeps");
    pair.agree().await;
    pair.clock.pass(SECOND * 8);
    assert_eq!(pair.behind.view().instance_count(), 4, "the first two are gone");
    other.all(pair.behind.now()).await.expect("it sweeps");
    pair.agree().await;
    assert_eq!(state(&pair.behind, "users/2"), Some(InstanceState::Suspect), "the third is one too many");
}

#[tokio::test]
async fn nothing_expires_before_clients_could_beat_again_after_the_store_was_away() {
    let store = Arc::new(Fragile::default());
    let pair = Pair::over(store.clone()).await;
    let mut sweep = Sweep::new(&pair.ahead);
    pair.ahead.register(spec("users/a"), TTL, "test").await.expect("it registers");
    assert_eq!(pair.ahead.lost(), None);
    store.go_away();
    wait_until(|| !pair.ahead.store.is_watched()).await;
    pair.clock.pass(TTL * 3);
    sweep.all(pair.ahead.now()).await.expect_err("it is away");
    let lost = pair.ahead.lost().expect("it is noticed");
    assert!(lost.reason.contains("the cable is out") || lost.reason.contains("it broke"), "{lost:?}");
    store.come_back();
    wait_until(|| pair.ahead.store.is_watched()).await;
    sweep.all(pair.ahead.now()).await.expect("it is back");
    assert_eq!(pair.ahead.lost(), None);
    pair.clock.pass(TTL - SECOND);
    let next = sweep.all(pair.ahead.now()).await.expect("it sweeps");
    pair.agree().await;
    assert_eq!(state(&pair.ahead, "users/a"), Some(InstanceState::Up), "no whole lease has passed");
    assert_eq!(next, Some(pair.clock.now().monotonic + SECOND));
    pair.clock.pass(SECOND);
    sweep.all(pair.ahead.now()).await.expect("it sweeps");
    pair.agree().await;
    assert_eq!(state(&pair.ahead, "users/a"), None);
}

#[tokio::test]
async fn it_settles_when_clients_could_come_back_after_the_store_was_away() {
    let store = Arc::new(Fragile::default());
    let pair = Pair::over(store.clone()).await;
    let mut sweep = Sweep::new(&pair.ahead);
    store.go_away();
    wait_until(|| pair.ahead.lost().is_some()).await;
    pair.clock.pass(SECOND * 11);
    store.come_back();
    wait_until(|| pair.ahead.store.is_watched()).await;
    for (passed, settled) in [(9, false), (1, true)] {
        pair.clock.pass(SECOND * passed);
        sweep.all(pair.ahead.now()).await.expect("it sweeps");
        assert_eq!(pair.ahead.view().settled(), settled, "{passed} s later");
    }
}

#[tokio::test]
async fn a_store_that_lost_its_last_commits_is_followed_without_a_restart() {
    let store = Arc::new(Fragile::default());
    let clock = ManualClock::new();
    let registry = replica(store.clone(), &clock, Off::Ahead(Duration::ZERO)).await;
    // A copy that has not got as far: as after a failover to one that lagged.
    let kept = Memory::of_history(registry.view().history());
    kept.commit(Mutation::Complete, clock.now()).await.expect("it says that it is all there is");
    for id in 0..3 {
        registry.register(spec(&format!("users/{id}")), TTL, "test").await.expect("it registers");
    }
    let (_, mut feed) = registry.feed();
    wait_until(|| store.cut.receiver_count() > 0).await;
    store.turn_into(kept);
    wait_until(|| registry.view().revision() == 1).await;
    while feed.recv().await.is_some() {}
    assert_eq!((registry.view().instance_count(), registry.view().settled()), (0, false));
    registry.register(spec("users/a"), TTL, "test").await.expect("it registers");
    assert_eq!(registry.view().revision(), 2);
}

#[tokio::test]
async fn what_was_registered_at_another_replica_a_moment_ago_can_be_drained_and_removed() {
    let memory = Arc::new(Memory::new());
    let lagging = Arc::new(Fragile { inner: RwLock::new(memory.clone()), ..Fragile::default() });
    let clock = ManualClock::new();
    let one = replica(memory, &clock, Off::Ahead(Duration::ZERO)).await;
    let other = replica(lagging.clone(), &clock, Off::Ahead(Duration::ZERO)).await;
    for _ in 0..2 {
        wait_until(|| lagging.cut.receiver_count() > 0).await;
        lagging.cut.send_modify(|cut| *cut += 1);
        wait_until(|| !other.store.is_watched()).await;
        let lease = one.register(spec("users/a"), TTL, "test").await.expect("it registers");
        other.set_draining(&key("users/a"), lease.epoch, true, "", "").await.expect("it is there");
        other.deregister(&key("users/a"), lease.epoch, "", "").await.expect("it is still there");
        let gone = other.deregister(&key("users/a"), lease.epoch, "", "").await;
        assert_eq!(gone.expect_err("it is gone").code, ErrorCode::NotFound);
    }
}

async fn wait_until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it comes about");
}

#[tokio::test]
async fn a_store_that_lost_its_data_is_followed_without_a_restart() {
    let store = Arc::new(Fragile::default());
    let pair = Pair::over(store.clone()).await;
    let mut sweep = Sweep::new(&pair.ahead);
    for id in 0..5 {
        pair.ahead.register(spec(&format!("users/{id}")), TTL, "test").await.expect("it registers");
    }
    let old = pair.ahead.register(spec("users/a"), MINUTE, "test").await.expect("it registers");
    pair.clock.pass(SECOND * 11);
    sweep.all(pair.ahead.now()).await.expect("it sweeps");
    pair.agree().await;
    assert!(pair.ahead.view().settled());
    let history = pair.ahead.view().history().to_owned();
    let (_, mut feed) = pair.ahead.feed();
    let mut watcher = pair.behind.watch_instances();

    store.lose_everything();
    wait_until(|| pair.ahead.view().history() != history && pair.behind.view().history() != history).await;
    while feed.recv().await.is_some() {}
    while !matches!(watcher.recv().await, Err(broadcast::error::RecvError::Closed)) {}
    assert_eq!(pair.ahead.view().instance_count(), 0);
    assert!(!pair.ahead.view().settled(), "what is missing is not known to be gone");
    let beat = Beat { key: key("users/a"), epoch: old.epoch, health: None, load: None };
    let results = pair.ahead.heartbeat(vec![beat]).await.expect("it answers");
    assert_eq!(results[0].outcome, BeatOutcome::Unknown, "clients are told to register again");
    let new = pair.behind.register(spec("users/a"), TTL, "test").await.expect("it registers");
    assert!(new.epoch > old.epoch);
    pair.agree().await;
    assert_eq!(state(&pair.ahead, "users/a"), Some(InstanceState::Up));
    sweep.all(pair.ahead.now()).await.expect("it sweeps");
    assert!(!pair.ahead.view().settled());
    pair.clock.pass(SECOND * 10);
    sweep.all(pair.ahead.now()).await.expect("it sweeps");
    assert!(pair.ahead.view().settled(), "it settles again by itself");
}
