//! The registry over the memory store: promises to registrants, operators and proxies.

use std::sync::atomic::AtomicU32;

use futures_util::{StreamExt, future, stream};
use waypost_proto::{error::ErrorCode, v1::EventKind};

use super::{sweep::Sweep, *};
use crate::store::{
    Finding, Lapsed, LeaseStatus, Loaded, Memory, Mutation, StoreError, Watch,
    conformance::{ManualClock, TTL, spec, wire},
};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn key(text: &str) -> InstanceKey {
    text.parse().expect("a good key")
}

fn healthy(healthy: bool, reason: &str) -> Option<Health> {
    Some(Health { healthy, reason: reason.to_owned() })
}

/// A registry whose time a test moves.
pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) registry: Arc<Registry>,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::over(Arc::new(Memory::new())).await
    }

    async fn over(store: Arc<dyn Store>) -> Self {
        let clock = ManualClock::new();
        let time = clock.clone();
        let options = Options { clock: Arc::new(move || time.now()), ..Options::default() };
        Self { clock, registry: Registry::open(store, options).await.expect("it opens") }
    }

    pub(super) async fn register(&self, key: &str) -> Registered {
        self.registry.register(spec(key), TTL, "test").await.expect("it registers")
    }

    pub(super) async fn beat(&self, text: &str, epoch: u64, health: Option<Health>) -> BeatOutcome {
        self.beat_with(text, epoch, health, None).await
    }

    pub(super) async fn beat_with(
        &self,
        text: &str,
        epoch: u64,
        health: Option<Health>,
        load: Option<Load>,
    ) -> BeatOutcome {
        let beats = vec![Beat { key: key(text), epoch, health, load }];
        self.registry.heartbeat(beats).await.expect("the store answers")[0].outcome
    }

    /// Lets time pass and sweeps. All that the sweep has committed is visible afterwards.
    pub(super) async fn pass(&self, sweep: &mut Sweep<'_>, length: Duration) {
        let now = self.clock.pass(length);
        sweep.all(now).await.expect("it sweeps");
        let revision = self.registry.store.load().await.expect("it loads").revision;
        assert!(self.registry.wait_for(revision).await);
    }

    pub(super) fn state(&self, text: &str) -> Option<InstanceState> {
        self.registry.view().instance(&key(text)).map(|instance| instance.state())
    }

    fn kinds(&self) -> Vec<EventKind> {
        let events = self.registry.view().list_events(&v1::ListEventsRequest::default());
        events.expect("a good request").events.iter().map(v1::Event::kind).collect()
    }
}

#[tokio::test]
async fn a_registration_replaces_its_predecessor_and_outlives_its_ghosts() {
    let world = World::new().await;
    let old = world.register("users/a").await;
    let new = world.register("users/a").await;
    assert!(new.epoch > old.epoch && new.revision > old.revision);
    assert_eq!(world.beat("users/a", old.epoch, healthy(false, "a ghost")).await, BeatOutcome::Stale);
    let refused = world.registry.deregister(&key("users/a"), old.epoch, "late", "test").await;
    assert_eq!(refused.expect_err("an older epoch").code, ErrorCode::StaleEpoch);
    let refused = world.registry.set_draining(&key("users/a"), old.epoch, true, "late", "test").await;
    assert_eq!(refused.expect_err("an older epoch").code, ErrorCode::StaleEpoch);
    assert_eq!(world.registry.view().revision(), new.revision, "nothing has changed");
    assert_eq!(world.state("users/a"), Some(InstanceState::Up));
    world.registry.deregister(&key("users/a"), new.epoch, "done", "test").await.expect("it leaves");
    assert_eq!(world.beat("users/a", new.epoch, None).await, BeatOutcome::Unknown);
    assert!(world.register("users/a").await.epoch > new.epoch, "even after it has left");
    use EventKind::{Deregistered, Registered, Replaced};
    assert_eq!(world.kinds(), [Registered, Replaced, Deregistered, Registered]);
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends_at_its_deadline() {
    let world = World::new().await;
    let mut sweep = Sweep::new(&world.registry);
    let lease = world.register("users/a").await;
    world.pass(&mut sweep, TTL / 2).await;
    assert_eq!(world.beat("users/a", lease.epoch, None).await, BeatOutcome::Renewed);
    world.pass(&mut sweep, TTL - SECOND).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Up));
    let next = sweep.all(world.clock.now()).await.expect("it sweeps").expect("something is due");
    assert_eq!(next, world.clock.now().monotonic + SECOND, "it looks again at the deadline");
    world.pass(&mut sweep, SECOND).await;
    assert_eq!(world.state("users/a"), None);
    assert_eq!(world.kinds().last(), Some(&EventKind::Expired));
}

#[tokio::test]
async fn a_beat_costs_a_revision_only_if_it_says_something_new() {
    let world = World::new().await;
    let lease = world.register("users/a").await;
    let revision = || (world.registry.view().revision(), world.registry.view().head());
    let beat = |health| world.beat("users/a", lease.epoch, health);
    let at_first = revision();
    beat(None).await;
    beat(healthy(true, "200")).await;
    assert_eq!(revision(), at_first);
    world.clock.pass(SECOND);
    beat(None).await;
    let renewed = world.registry.view().record(&key("users/a")).expect("it is there").renewed.get();
    assert_eq!(renewed, world.clock.now().wall, "but the time is noted");

    beat(healthy(false, "500")).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Down));
    let down = revision();
    assert_eq!(down, (at_first.0 + 1, at_first.0 + 1));
    beat(healthy(false, "500")).await;
    assert_eq!(revision(), down);
    beat(healthy(false, "503")).await;
    assert_eq!(revision(), (down.0 + 1, down.1), "another reason is for people, not for proxies");
    let shown = world.registry.view().instance(&key("users/a")).expect("it is there");
    assert!(shown.reason.contains("503"), "{}", shown.reason);
    beat(healthy(true, "")).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Up));
    use EventKind::{Health, Registered};
    assert_eq!(world.kinds(), [Registered, Health, Health]);
}

#[tokio::test]
async fn an_instance_that_starts_unhealthy_waits_for_its_first_good_report() {
    let world = World::new().await;
    let wire = v1::InstanceSpec { start_unhealthy: true, ..wire("users/a") };
    let spec = InstanceSpec::from_wire(&wire).expect("a good spec");
    let lease = world.registry.register(spec, TTL, "test").await.expect("it registers");
    world.beat("users/a", lease.epoch, None).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Down));
    world.beat("users/a", lease.epoch, healthy(true, "")).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Up));
}

#[tokio::test]
async fn draining_is_stronger_than_an_override_and_that_than_health() {
    let world = World::new().await;
    let mut sweep = Sweep::new(&world.registry);
    let lease = world.register("users/a").await;
    let instance = key("users/a");
    world.beat("users/a", lease.epoch, healthy(false, "500")).await;
    let word = Some((InstanceState::Up, SECOND * 5, "trust me".to_owned()));
    let (shown, _) = world.registry.set_override(&instance, word, "op").await.expect("it is overridden");
    assert_eq!((shown.state(), shown.reason.contains("trust me")), (InstanceState::Up, true));

    let first = world.registry.set_draining(&instance, 0, true, "deploy", "op").await.expect("it drains");
    let again = world.registry.set_draining(&instance, 0, true, "deploy", "op").await.expect("it drains");
    assert!(first == again && world.registry.view().revision() == first, "draining twice is draining once");
    assert_eq!(world.state("users/a"), Some(InstanceState::Draining));
    let renewed = world.register("users/a").await;
    assert!(renewed.epoch > lease.epoch);
    let shown = world.registry.view().instance(&instance).expect("it is there");
    assert_eq!(shown.state(), InstanceState::Up, "a new registration does not drain");
    assert!(shown.r#override.is_some(), "but an operator's word stays");

    world.beat("users/a", renewed.epoch, healthy(false, "500")).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Up));
    world.pass(&mut sweep, SECOND * 5).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Down), "the override ends by itself");

    let too_long = Some((InstanceState::Draining, SECOND * 3600 * 24 * 8, String::new()));
    let refused = world.registry.set_override(&instance, too_long, "op").await.expect_err("out of bounds");
    let fields: Vec<_> = refused.violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["state", "ttl"]);
}

#[tokio::test]
async fn a_mass_expiry_is_held_as_suspect_until_a_beat_or_the_end() {
    let world = World::new().await;
    let mut sweep = Sweep::new(&world.registry);
    let mut leases = Vec::new();
    for id in ["users/a", "users/b", "users/c", "users/d"] {
        leases.push(world.register(id).await);
        // Beats are spread over a third of the lease; the first to lapse must not go either.
        world.clock.pass(SECOND);
    }
    world.register("orders/a").await;
    world.pass(&mut sweep, SECOND * 6).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Suspect));
    assert_eq!(world.state("users/b"), Some(InstanceState::Up), "its lease lives for another second");
    world.pass(&mut sweep, SECOND * 4).await;
    for id in ["users/a", "users/b", "users/c", "users/d"] {
        assert_eq!(world.state(id), Some(InstanceState::Suspect));
    }
    assert_eq!(world.state("orders/a"), None, "another service is not held back by that");

    assert_eq!(world.beat("users/a", leases[0].epoch, None).await, BeatOutcome::Renewed);
    assert_eq!(world.state("users/a"), Some(InstanceState::Up));
    world.registry.deregister(&key("users/b"), leases[1].epoch, "done", "test").await.expect("it leaves");
    let held = Options::default().suspect_hold;
    world.pass(&mut sweep, TTL).await;
    assert_eq!(world.state("users/a"), None, "one that beat again is one like any other");
    world.pass(&mut sweep, held - TTL - SECOND).await;
    assert_eq!(world.state("users/c"), Some(InstanceState::Suspect));
    world.pass(&mut sweep, SECOND * 4).await;
    assert_eq!((world.state("users/c"), world.state("users/d")), (None, None));
}

#[tokio::test]
async fn one_dead_instance_of_ten_goes_at_once() {
    let world = World::new().await;
    let mut sweep = Sweep::new(&world.registry);
    let mut leases = Vec::new();
    for id in 0..10 {
        leases.push(world.register(&format!("users/{id}")).await);
    }
    for _ in 0..3 {
        world.pass(&mut sweep, TTL / 3).await;
        for lease in &leases[1..] {
            let beat = Beat { key: lease.key.clone(), epoch: lease.epoch, health: None, load: None };
            world.registry.heartbeat(vec![beat]).await.expect("the store answers");
        }
    }
    world.pass(&mut sweep, SECOND).await;
    assert_eq!(world.state("users/0"), None);
    assert_eq!(world.registry.view().instance_count(), 9);
}

#[tokio::test]
async fn a_standstill_of_this_process_expires_nobody() {
    let world = World::new().await;
    let mut sweep = Sweep::new(&world.registry);
    let lease = world.register("users/a").await;
    let wake = world.clock.now().monotonic + SECOND;
    world.clock.pass(TTL * 2);
    sweep.notice_standstill(wake);
    world.pass(&mut sweep, SECOND).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Up));
    assert_eq!(world.beat("users/a", lease.epoch, None).await, BeatOutcome::Renewed);
    world.pass(&mut sweep, TTL * 3).await;
    assert_eq!(world.state("users/a"), None, "patience ends");
}

#[tokio::test]
async fn settling_is_published_once_its_time_is_over() {
    let world = World::new().await;
    let mut sweep = Sweep::new(&world.registry);
    let (snapshot, mut feed) = world.registry.feed();
    assert!(!snapshot.settled());
    world.pass(&mut sweep, SECOND * 9).await;
    assert!(!world.registry.view().settled());
    world.pass(&mut sweep, SECOND).await;
    let publication = feed.try_recv().expect("it is published");
    assert!(publication.settled && publication.change.is_empty());
    assert!(world.registry.view().settled() && publication.revision == world.registry.view().head());
    world.pass(&mut sweep, SECOND).await;
    assert!(feed.try_recv().is_err(), "once");
}

#[tokio::test]
async fn a_service_without_instances_is_kept_for_a_while() {
    let world = World::new().await;
    let mut sweep = Sweep::new(&world.registry);
    let lease = world.register("users/a").await;
    world.registry.deregister(&lease.key, lease.epoch, "done", "test").await.expect("it leaves");
    let view = world.registry.view();
    assert_eq!((view.service_count(), view.route_count()), (1, 1));
    let resolve = v1::ResolveRequest { key: Some(lease.key.service().to_wire()), ..Default::default() };
    assert_eq!(view.resolve(&resolve).expect_err("nobody is there").code, ErrorCode::Unavailable);
    let retention = Options::default().retention;
    world.pass(&mut sweep, retention - SECOND).await;
    assert_eq!(world.registry.view().service_count(), 1);
    world.pass(&mut sweep, SECOND).await;
    let view = world.registry.view();
    assert_eq!((view.service_count(), view.route_count()), (0, 0));
    assert_eq!(view.resolve(&resolve).expect_err("it is forgotten").code, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_claim_outlives_the_instances_that_made_it() {
    let world = World::new().await;
    let first = world.register("users/a").await;
    world.clock.pass(SECOND);
    let rival = InstanceSpec { prefix: Some("/users".parse().expect("a prefix")), ..spec("rival/a") };
    let lost = world.registry.register(rival, TTL, "test").await.expect("it registers").conflicts;
    assert_eq!(lost.len(), 1);
    let winner = lost[0].winner.as_ref().map(|key| key.name.as_str());
    assert_eq!((lost[0].route.as_str(), winner), ("/users", Some("users")));
    world.clock.pass(SECOND);
    world.register("users/b").await;
    world.registry.deregister(&first.key, first.epoch, "replaced", "test").await.expect("it leaves");
    let routes = world.registry.view().list_routes(&v1::ListRoutesRequest::default()).expect("it answers");
    let entry = routes.routes[0].entry.clone().expect("a route has an entry");
    assert_eq!(entry.service.expect("a service").name, "users", "the service claimed it first");
    assert_eq!(world.registry.view().conflicts(), lost);
}

#[tokio::test]
async fn a_wrong_name_is_answered_with_the_nearest() {
    let world = World::new().await;
    world.register("users/a-1").await;
    let refused = world.registry.deregister(&key("usres/a-1"), 0, "", "op").await.expect_err("a typo");
    assert!(
        refused.code == ErrorCode::NotFound && refused.message.contains("did you mean users?"),
        "{refused}"
    );
    let refused = world.registry.deregister(&key("users/a-2"), 0, "", "op").await.expect_err("a typo");
    assert!(refused.message.contains("did you mean users/a-1?"), "{refused}");
}

#[tokio::test]
async fn questions_are_answered_by_what_matches() {
    let world = World::new().await;
    for (id, version, zone, tags) in
        [("a", "1", "west", vec!["blue"]), ("b", "2", "east", vec!["blue", "canary"])]
    {
        let wire = v1::InstanceSpec {
            version: version.to_owned(),
            zone: zone.to_owned(),
            tags: tags.into_iter().map(str::to_owned).collect(),
            ..wire(&format!("users/{id}"))
        };
        let spec = InstanceSpec::from_wire(&wire).expect("a good spec");
        world.registry.register(spec, TTL, "test").await.expect("it registers");
    }
    world.register("users2/a").await;
    let view = world.registry.view();
    let listed = |request: v1::ListInstancesRequest| -> Vec<String> {
        let found = view.list_instances(&request).expect("a good request").instances;
        let text = |key: v1::InstanceKey| format!("{}/{}", key.service, key.id);
        found.into_iter().filter_map(|instance| instance.key.map(text)).collect()
    };
    let all = v1::ListInstancesRequest::default;
    assert_eq!(listed(all()), ["users/a", "users/b", "users2/a"]);
    assert_eq!(listed(v1::ListInstancesRequest { service: "users".into(), ..all() }), ["users/a", "users/b"]);
    assert_eq!(listed(v1::ListInstancesRequest { version: "2".into(), ..all() }), ["users/b"]);
    assert_eq!(listed(v1::ListInstancesRequest { tags: vec!["canary".into()], ..all() }), ["users/b"]);
    assert_eq!(listed(v1::ListInstancesRequest { namespace: "other".into(), ..all() }), [""; 0]);
    assert_eq!(listed(v1::ListInstancesRequest { state: 2, ..all() }), [""; 0]);
    assert!(view.list_instances(&v1::ListInstancesRequest { state: 77, ..all() }).is_err());
    assert!(view.list_instances(&v1::ListInstancesRequest { namespace: "a b".into(), ..all() }).is_err());

    let service = key("users/a").service().to_wire();
    let resolve = |zone: &str, version: &str| {
        let request = v1::ResolveRequest {
            key: Some(service.clone()),
            zone: zone.to_owned(),
            version: version.to_owned(),
            tags: Vec::new(),
        };
        let found = view.resolve(&request).map(|answer| answer.instances);
        found.map(|found| found.into_iter().filter_map(|one| one.key.map(|key| key.id)).collect::<Vec<_>>())
    };
    assert_eq!(resolve("", "").expect("two"), ["a", "b"]);
    assert_eq!(resolve("east", "").expect("two"), ["b", "a"]);
    assert_eq!(resolve("", "2").expect("one"), ["b"]);
    assert_eq!(resolve("", "3").expect_err("nobody has it").code, ErrorCode::NotFound);

    let summed = view.list_services(&v1::ListServicesRequest::default()).expect("it answers").services;
    assert_eq!((summed.len(), summed[0].up), (2, 2));
    assert_eq!(
        (summed[0].versions.join(","), summed[0].tags.join(",")),
        ("1,2".into(), "blue,canary".into())
    );

    let events = |request: v1::ListEventsRequest| view.list_events(&request).expect("a good request").events;
    let newest = events(v1::ListEventsRequest { limit: 1, ..Default::default() });
    assert_eq!(newest[0].revision, view.revision());
    let ids = |events: Vec<v1::Event>| events.into_iter().map(|event| event.revision).collect::<Vec<_>>();
    assert_eq!(ids(events(v1::ListEventsRequest { service: "users".into(), ..Default::default() })), [1, 2]);
    assert_eq!(ids(events(v1::ListEventsRequest { after_revision: 2, ..Default::default() })), [3]);
    assert_eq!(ids(events(v1::ListEventsRequest { instance: "a".into(), ..Default::default() })), [1, 3]);
    assert!(view.list_events(&v1::ListEventsRequest { limit: 10_001, ..Default::default() }).is_err());
}

/// Whatever happens at the same time, each change gets through and the feed tells all of it, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_at_the_same_time_all_get_through() {
    let registry = Registry::open(Arc::new(Memory::new()), Options::default()).await.expect("it opens");
    let (snapshot, mut feed) = registry.feed();
    let mut watch = registry.watch_instances();
    let task = |number: u32| {
        let registry = registry.clone();
        tokio::spawn(async move {
            let name = format!("users/{}", number % 3);
            for round in 0..20 {
                registry.register(spec(&name), TTL, "test").await?;
                match (number + round) % 3 {
                    // Another task may have removed it in the meantime.
                    0 => drop(registry.set_draining(&key(&name), 0, true, "", "").await),
                    1 => drop(registry.deregister(&key(&name), 0, "", "").await),
                    _ => {}
                }
            }
            Ok::<_, Error>(())
        })
    };
    for done in future::join_all((0..8).map(task)).await {
        done.expect("no panic").expect("every registration gets through");
    }
    let mut proxy = Snapshot::clone(&snapshot);
    while let Ok(publication) = feed.try_recv() {
        assert!(publication.revision > proxy.revision());
        let settled = publication.settled;
        proxy = proxy.change(publication.change, publication.revision, settled).expect("nothing dangles").0;
    }
    let (now, _) = registry.feed();
    assert_eq!(proxy.position(), now.position());
    let mut newest = 0;
    while let Ok(changed) = watch.try_recv() {
        assert!(changed.revision > newest && !changed.keys.is_empty());
        newest = changed.revision;
    }
    assert_eq!(newest, registry.view().revision());
}

#[tokio::test]
async fn the_sweep_runs_by_itself_until_it_is_told_to_stop() {
    let registry = Registry::open(Arc::new(Memory::new()), Options::default()).await.expect("it opens");
    let mut changes = registry.watch_instances();
    let shutdown = CancellationToken::new();
    let sweep = tokio::spawn(registry.clone().run(None, shutdown.clone()));
    registry.register(spec("users/a"), Duration::from_millis(50), "test").await.expect("it registers");
    while registry.view().instance_count() > 0 {
        changes.recv().await.expect("its end is announced");
    }
    shutdown.cancel();
    sweep.await.expect("it ends");
}

/// A store whose watches break after two commits, and which then remembers nothing, every other time.
struct Forgetful {
    inner: Memory,
    watches: AtomicU32,
}

#[tonic::async_trait]
impl Store for Forgetful {
    fn url(&self) -> &str {
        "forgetful://"
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        self.inner.load().await
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        if self.watches.fetch_add(1, Ordering::AcqRel) % 3 == 1 {
            return Err(StoreError::Compacted { oldest: after + 1 });
        }
        let broken = stream::iter([Err(StoreError::Unavailable("it broke".to_owned()))]);
        Ok(Box::pin(self.inner.watch(after).await?.take(2).chain(broken)))
    }

    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        self.inner.commit(mutation, now).await
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], now: Now) -> Result<Vec<Renewal>, StoreError> {
        self.inner.renew(leases, now).await
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        self.inner.lapsed(now).await
    }

    async fn leases(
        &self,
        service: &waypost_proto::name::ServiceKey,
        now: Now,
    ) -> Result<Vec<LeaseStatus>, StoreError> {
        self.inner.leases(service, now).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.inner.examine().await
    }
}

#[tokio::test]
async fn a_watch_that_breaks_or_is_forgotten_loses_nothing() {
    let world = World::over(Arc::new(Forgetful { inner: Memory::new(), watches: AtomicU32::new(0) })).await;
    let (snapshot, mut feed) = world.registry.feed();
    let mut proxy = Snapshot::clone(&snapshot);
    for round in 0..3 {
        future::join_all((0..3).map(|id| async move { format!("users/{id}") }).map(|name| async {
            let name = name.await;
            world.register(&name).await;
        }))
        .await;
        world.registry.deregister(&key("users/0"), 0, "", "").await.expect("it leaves");
        assert_eq!(world.registry.view().instance_count(), 2, "round {round}");
    }
    while let Ok(publication) = feed.try_recv() {
        proxy = proxy.change(publication.change, publication.revision, false).expect("nothing dangles").0;
    }
    assert_eq!(proxy.position(), world.registry.feed().0.position());
}
