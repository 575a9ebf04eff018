//! What the hub promises: any subscriber ends with the head's contents, whatever it missed; each step is
//! encoded once; nothing counts as applied that was not; a drain ends when it may and not before.

use std::collections::HashMap;

use proptest::{collection::vec, prelude::*};
use prost::Message;
use waypost_proto::{
    frame::Frame,
    instance::{Endpoint, InstanceSpec},
    name::ServiceKey,
    route::{Route, RouteMatch},
    snapshot::Change,
    v1::{InstanceState, Position, SubscribeResponse, subscribe_response::Kind},
};

use super::{
    scope::{Due, Namespaces},
    *,
};

const NAMESPACES: [&str; 2] = ["default", "other"];

fn service(number: u8) -> ServiceKey {
    ServiceKey::new(NAMESPACES[usize::from(number % 2)], &format!("s{number}")).expect("a good name")
}

fn endpoint(number: u8, id: u8, epoch: u64) -> Endpoint {
    let key = service(number);
    let wire = v1::InstanceSpec {
        namespace: key.namespace().to_owned(),
        service: key.name().to_owned(),
        address: format!("10.0.0.{id}:80"),
        ..Default::default()
    };
    Endpoint::of(&InstanceSpec::from_wire(&wire).expect("a good spec"), InstanceState::Up, epoch)
}

/// The route `/r<number>`, to whichever service.
fn route(number: u8, to: u8) -> Route {
    let matches = RouteMatch::Prefix { path: format!("/r{number}").parse().expect("a prefix"), strip: true };
    Route::new(service(to), matches, Vec::new())
}

fn put(number: u8, id: u8, epoch: u64) -> Change {
    Change {
        services: vec![service(number)],
        instances: vec![endpoint(number, id, epoch)],
        ..Change::default()
    }
}

/// A registry of one snapshot, which publishes what is done to it.
struct Source {
    head: Snapshot,
    newest: u64,
}

impl Source {
    fn new() -> Self {
        Self { head: Snapshot::empty("h"), newest: 0 }
    }

    fn publish(&mut self, change: Change, settled: bool) -> Publication {
        self.newest += 1;
        let (next, _) = self.head.change(change.clone(), self.newest, settled).expect("a sound change");
        self.head = next;
        let committed_at = (Now::read().monotonic, SystemTime::now());
        Publication { revision: self.newest, after: self.newest - 1, change, settled, committed_at }
    }

    fn forget(&self, number: u8) -> Change {
        let key = service(number);
        let instances = self.head.instances().filter(|instance| *instance.key.service() == key);
        let routes = self.head.routes().filter(|route| route.service == key);
        Change {
            removed_instances: instances.map(|instance| instance.key.clone()).collect(),
            removed_routes: routes.map(|route| route.id.clone()).collect(),
            removed_services: vec![key],
            ..Change::default()
        }
    }
}

fn greeting(id: &str, namespaces: &[&str], position: Option<Position>) -> Greeting {
    Greeting {
        id: id.into(),
        version: String::new(),
        listen_address: String::new(),
        admin_address: String::new(),
        zone: String::new(),
        namespaces: Namespaces::new(namespaces.iter().map(ToString::to_string).collect()),
        peer: None,
        position,
        resyncs: 0,
    }
}

/// What a proxy makes of frames.
#[derive(Default)]
struct Proxy {
    held: Option<Snapshot>,
    chunks: Vec<v1::SnapshotChunk>,
    deltas: usize,
}

impl Proxy {
    /// Takes a frame; true when something new is served by.
    fn take(&mut self, frame: &Frame) -> bool {
        match SubscribeResponse::decode(frame.as_ref()).expect("a message").kind.expect("a kind") {
            Kind::Delta(delta) => {
                let held = self.held.as_ref().expect("a delta comes to those who hold something");
                self.held = Some(held.apply(&delta).expect("every delta fits").0);
                self.deltas += 1;
                true
            }
            Kind::Chunk(chunk) => {
                let last = chunk.last;
                self.chunks.push(chunk);
                if last {
                    let chunks = std::mem::take(&mut self.chunks);
                    self.held = Some(Snapshot::from_chunks(&chunks).expect("the chunks fit"));
                }
                last
            }
        }
    }

    fn position(&self) -> Position {
        self.held.as_ref().map(Snapshot::position).unwrap_or_default()
    }

    fn applied(&self, draining: Vec<v1::InFlight>) -> v1::Applied {
        v1::Applied { position: Some(self.position()), draining }
    }
}

fn contents(snapshot: &Snapshot) -> (BTreeSet<String>, u64, bool) {
    let services = snapshot.services().map(|key| format!("{key}"));
    let instances = snapshot.instances().map(|instance| format!("{instance:?}"));
    let routes = snapshot.routes().map(|route| format!("{route:?}"));
    (services.chain(instances).chain(routes).collect(), snapshot.digest(), snapshot.settled())
}

#[derive(Clone, Debug)]
enum Step {
    Put { service: u8, id: u8, epoch: u64 },
    Remove { service: u8, id: u8 },
    Forget { service: u8 },
    Route { number: u8, to: u8 },
    Settle,
    Read { proxy: usize },
    Report { proxy: usize },
    Reject { proxy: usize },
    Return { proxy: usize, with: With },
}

/// What a proxy comes back with.
#[derive(Clone, Copy, Debug)]
enum With {
    Everything,
    Nothing,
    WrongDigest,
    OtherHistory,
}

const SCOPES: [&[&str]; 3] = [&[], &["default"], &["other"]];

fn step() -> impl Strategy<Value = Step> {
    let with = prop_oneof![
        3 => Just(With::Everything),
        1 => Just(With::Nothing),
        1 => Just(With::WrongDigest),
        1 => Just(With::OtherHistory)
    ];
    prop_oneof![
        6 => (0..4_u8, 1..6_u8, 1..9_u64).prop_map(|(service, id, epoch)| Step::Put { service, id, epoch }),
        3 => (0..4_u8, 1..6_u8).prop_map(|(service, id)| Step::Remove { service, id }),
        1 => (0..4_u8).prop_map(|service| Step::Forget { service }),
        2 => (0..3_u8, 0..4_u8).prop_map(|(number, to)| Step::Route { number, to }),
        1 => Just(Step::Settle),
        6 => (0..3_usize).prop_map(|proxy| Step::Read { proxy }),
        2 => (0..3_usize).prop_map(|proxy| Step::Report { proxy }),
        1 => (0..3_usize).prop_map(|proxy| Step::Reject { proxy }),
        1 => (0..3_usize, with).prop_map(|(proxy, with)| Step::Return { proxy, with }),
    ]
}

/// A core with three proxies, one in each scope.
struct World {
    source: Source,
    settled: bool,
    core: Core,
    proxies: Vec<(Proxy, fleet::SessionId)>,
}

impl World {
    fn new() -> Self {
        let source = Source::new();
        let options = HubOptions { ring: 4, chunk_entries: 2, ..HubOptions::default() };
        let mut core = Core::new(&source.head, options, Now::read());
        let connect = |(at, scope): (usize, &&[&str])| {
            let opened = core.connect(greeting(&at.to_string(), scope, None), Now::read());
            (Proxy::default(), opened.session)
        };
        let proxies = SCOPES.iter().enumerate().map(connect).collect();
        Self { source, settled: false, core, proxies }
    }

    fn publish(&mut self, change: Change) {
        let publication = self.source.publish(change, self.settled);
        self.core.publish(&publication).expect("a sound change fits every scope");
    }

    /// Reads what is due, if anything, and applies it unless it is lost.
    fn read(&mut self, at: usize, apply: bool) -> bool {
        let (proxy, session) = &mut self.proxies[at];
        let frames = match self.core.due(*session).expect("the session is open") {
            Due::Nothing => return false,
            Due::Delta(delta) => vec![delta.frame(|| ())],
            Due::Full(full) => full.encode(|| ()).to_vec(),
        };
        if apply {
            frames.iter().for_each(|frame| {
                proxy.take(frame);
            });
        }
        true
    }

    fn report(&mut self, at: usize) {
        let (proxy, session) = &self.proxies[at];
        let reported = self.core.applied(*session, proxy.position(), HashMap::new(), Now::read());
        assert!(!reported.expect("the session is open").resync, "the digests agree");
    }

    fn come_back(&mut self, at: usize, with: With) {
        let (proxy, session) = &mut self.proxies[at];
        self.core.disconnect(*session, Now::read());
        let mut position = proxy.held.as_ref().map(Snapshot::position);
        match (with, &mut position) {
            (With::Everything, _) | (_, None) => {}
            (With::Nothing, position) => *position = None,
            (With::WrongDigest, Some(position)) => position.digest ^= 1,
            (With::OtherHistory, Some(position)) => position.history = "another".into(),
        }
        let opened = self.core.connect(greeting(&at.to_string(), SCOPES[at], position), Now::read());
        *session = opened.session;
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Put { service, id, epoch } => self.publish(put(service, id, epoch)),
            Step::Remove { service, id } => {
                let removed_instances = vec![endpoint(service, id, 0).key];
                self.publish(Change { removed_instances, ..Change::default() });
            }
            Step::Forget { service } => self.publish(self.source.forget(service)),
            Step::Route { number, to } => {
                let (services, routes) = (vec![service(to)], vec![route(number, to)]);
                self.publish(Change { services, routes, ..Change::default() });
            }
            Step::Settle => {
                self.settled = true;
                self.publish(Change::default());
            }
            Step::Read { proxy } => {
                self.read(proxy, true);
            }
            Step::Report { proxy } => self.report(proxy),
            Step::Reject { proxy } => {
                if self.read(proxy, false) {
                    let (proxy, session) = &self.proxies[proxy];
                    let reason = "cannot".to_owned();
                    let position = proxy.held.as_ref().map(Snapshot::position);
                    self.core.rejected(*session, &v1::Rejected { revision: 0, reason, position });
                }
            }
            Step::Return { proxy, with } => self.come_back(proxy, with),
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_proxy_misses_it_ends_with_the_contents_of_its_scope(steps in vec(step(), 0..80)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        // Whoever rejected the last change is sent nothing before the next, which here touches every scope.
        let mut both = put(0, 9, 9);
        both.services.push(service(1));
        both.instances.push(endpoint(1, 9, 9));
        world.publish(both);
        for (at, scope) in SCOPES.iter().enumerate() {
            let behind = world.core.behind(world.source.newest);
            prop_assert!(behind.iter().any(|id| **id == *at.to_string()), "nothing counts before it is applied");
            while world.read(at, true) {}
            let held = world.proxies[at].0.held.as_ref().expect("something was sent");
            let scope = scope.iter().map(ToString::to_string).collect();
            prop_assert_eq!(contents(held), contents(&world.source.head.scoped(&scope)));
            world.report(at);
        }
        prop_assert_eq!(world.core.watermark(), world.source.newest);
    }
}

fn hub() -> (Arc<Hub>, Source) {
    let source = Source::new();
    (Hub::new(&source.head, HubOptions::default(), Arc::new(Metrics::new())), source)
}

fn encodes(hub: &Hub, kind: &str) -> u64 {
    hub.metrics.encodes.with_label_values(&[kind]).get()
}

/// Reads until the proxy holds the head, and reports it.
async fn catch_up(hub: &Hub, proxy: &mut Proxy, subscription: &mut Subscription, reports: &Reports) {
    while proxy.held.as_ref().is_none_or(|held| held.position() != hub.status().head) {
        proxy.take(&subscription.next().await.expect("the stream is open"));
    }
    reports.applied(proxy.applied(Vec::new())).expect("a good report");
}

fn in_flight(endpoint: &Endpoint, count: u64) -> Vec<v1::InFlight> {
    vec![v1::InFlight { key: Some(endpoint.key.to_wire()), epoch: endpoint.epoch, count }]
}

#[tokio::test]
async fn a_step_is_encoded_once_for_all_subscribers() {
    let (hub, mut source) = hub();
    let mut fleet: Vec<_> =
        (0..50).map(|at| (Proxy::default(), hub.subscribe(greeting(&format!("p{at}"), &[], None)))).collect();
    for revision in 1..=10 {
        for (proxy, (subscription, reports)) in &mut fleet {
            catch_up(&hub, proxy, subscription, reports).await;
        }
        hub.publish(&source.publish(put(1, revision, 1), true)).expect("a sound change");
    }
    for (proxy, (subscription, reports)) in &mut fleet {
        catch_up(&hub, proxy, subscription, reports).await;
        assert_eq!(proxy.deltas, 10);
    }
    assert_eq!((encodes(&hub, "full"), encodes(&hub, "delta")), (1, 10));
    assert_eq!(hub.metrics.commit_to_applied.get_sample_count(), 500);
    assert_eq!(hub.status().propagation.samples, 500);
}

#[tokio::test]
async fn a_slow_subscriber_gets_one_merged_delta() {
    let (hub, mut source) = hub();
    let (mut subscription, reports) = hub.subscribe(greeting("slow", &[], None));
    let mut proxy = Proxy::default();
    catch_up(&hub, &mut proxy, &mut subscription, &reports).await;
    for revision in 1..=1_000_u64 {
        let id = u8::try_from(revision % 200).expect("small") + 1;
        hub.publish(&source.publish(put(1, id, revision), true)).expect("a sound change");
    }
    assert!(proxy.take(&subscription.next().await.expect("the stream is open")));
    assert_eq!(contents(proxy.held.as_ref().expect("something")), contents(&source.head));
    assert_eq!(proxy.deltas, 1);
}

#[tokio::test]
async fn many_who_join_while_things_change_share_one_full_encoding() {
    let (hub, mut source) = hub();
    hub.publish(&source.publish(put(1, 1, 1), true)).expect("a sound change");
    // The first is still being sent its chunks while others join and the head moves on.
    let first = hub.core.lock().connect(greeting("first", &[], None), Now::read());
    let sending = hub.core.lock().due(first.session);
    for id in 2..5 {
        hub.publish(&source.publish(put(1, id, 1), true)).expect("a sound change");
        let (mut subscription, reports) = hub.subscribe(greeting(&format!("p{id}"), &[], None));
        let mut proxy = Proxy::default();
        catch_up(&hub, &mut proxy, &mut subscription, &reports).await;
    }
    drop(sending);
    assert_eq!(encodes(&hub, "full"), 1);
}

#[tokio::test]
async fn a_wrong_digest_is_healed_by_sending_everything_and_counted() {
    let (hub, mut source) = hub();
    let (mut subscription, reports) = hub.subscribe(greeting("p", &[], None));
    let mut proxy = Proxy::default();
    hub.publish(&source.publish(put(1, 1, 1), true)).expect("a sound change");
    catch_up(&hub, &mut proxy, &mut subscription, &reports).await;
    let mut wrong = proxy.applied(Vec::new());
    wrong.position.as_mut().expect("a position").digest ^= 1;
    reports.applied(wrong).expect("well-formed");
    let seen = &hub.proxies()[0];
    assert!(!seen.digest_ok && seen.resyncs == 1, "{seen:?}");
    assert_eq!((hub.status().watermark, hub.metrics.resyncs.get()), (0, 1));
    let mut healed = Proxy::default();
    catch_up(&hub, &mut healed, &mut subscription, &reports).await;
    assert!(hub.proxies()[0].digest_ok);
    assert_eq!(hub.status().watermark, 1);
}

#[tokio::test]
async fn a_rejection_is_kept_with_its_reason_and_the_next_change_builds_on_what_the_proxy_has() {
    let (hub, mut source) = hub();
    let (mut subscription, reports) = hub.subscribe(greeting("p", &[], None));
    let mut proxy = Proxy::default();
    catch_up(&hub, &mut proxy, &mut subscription, &reports).await;
    hub.publish(&source.publish(put(1, 1, 1), true)).expect("a sound change");
    subscription.next().await.expect("the change that is rejected");
    let position = Some(proxy.position());
    reports.rejected(v1::Rejected { revision: 1, reason: "too new for me".into(), position });
    assert_eq!(hub.proxies()[0].last_rejection, "revision 1: too new for me");
    assert_eq!((hub.status().watermark, hub.metrics.rejections.get()), (0, 1));
    hub.publish(&source.publish(put(1, 2, 1), true)).expect("a sound change");
    catch_up(&hub, &mut proxy, &mut subscription, &reports).await;
    assert_eq!((proxy.deltas, hub.status().watermark), (1, 2));
}

#[tokio::test]
async fn the_newer_of_two_streams_of_a_proxy_wins() {
    let (hub, _source) = hub();
    let (mut older, older_reports) = hub.subscribe(greeting("p", &[], None));
    let (mut newer, newer_reports) = hub.subscribe(greeting("p", &[], None));
    assert!(older.next().await.is_none());
    older_reports.closed().await;
    drop((older, older_reports));
    assert!(newer.next().await.is_some());
    assert!(hub.proxies()[0].connected, "the end of the older one does not end the newer one");
    drop((newer, newer_reports));
    assert!(!hub.proxies()[0].connected);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_left_is_listed_for_a_while_and_holds_nothing_back() {
    let (hub, mut source) = hub();
    let session = hub.subscribe(greeting("p", &[], None));
    assert_eq!(hub.status().proxies, 1);
    drop(session);
    hub.publish(&source.publish(put(1, 1, 1), true)).expect("a sound change");
    assert_eq!((hub.status().proxies, hub.status().watermark), (0, 1));
    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(hub.proxies().len(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(hub.proxies().len(), 0);
}

/// A hub with an instance that drains at the newest revision, and proxies that hold what was before.
async fn draining(ids: &[&str]) -> (Arc<Hub>, Barrier, Vec<(Proxy, Subscription, Reports)>) {
    let (hub, mut source) = hub();
    hub.publish(&source.publish(put(1, 1, 7), true)).expect("a sound change");
    let mut fleet = Vec::new();
    for id in ids {
        let (mut subscription, reports) = hub.subscribe(greeting(id, &[], None));
        let mut proxy = Proxy::default();
        catch_up(&hub, &mut proxy, &mut subscription, &reports).await;
        fleet.push((proxy, subscription, reports));
    }
    let instance = Endpoint { state: InstanceState::Draining, ..endpoint(1, 1, 7) };
    let barrier = Barrier { key: instance.key.clone(), epoch: 7, revision: 2 };
    let change = Change { instances: vec![instance], ..Change::default() };
    hub.publish(&source.publish(change, true)).expect("a sound change");
    (hub, barrier, fleet)
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_drain_ends_when_all_have_applied_it_and_nothing_is_in_flight() {
    let (hub, barrier, mut fleet) = draining(&["a", "b"]).await;
    let mut wait = Box::pin(hub.wait_drained(&barrier, LONG));
    let instance = endpoint(1, 1, 7);
    for (proxy, subscription, reports) in &mut fleet {
        assert!(futures_util::poll!(&mut wait).is_pending(), "someone has not applied it");
        proxy.take(&subscription.next().await.expect("the stream is open"));
        reports.applied(proxy.applied(in_flight(&instance, 2))).expect("a good report");
    }
    assert!(futures_util::poll!(&mut wait).is_pending(), "something is in flight");
    fleet[0].2.applied(fleet[0].0.applied(Vec::new())).expect("a good report");
    assert!(futures_util::poll!(&mut wait).is_pending(), "something is in flight in the other");
    let other_epoch = in_flight(&endpoint(1, 1, 8), 1);
    fleet[1].2.applied(fleet[1].0.applied(other_epoch)).expect("a good report");
    let outcome = wait.await;
    assert!(outcome.complete && outcome.waiting_for.is_empty() && outcome.in_flight == 0, "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_does_not_end_says_what_it_waits_for() {
    let (hub, barrier, mut fleet) = draining(&["a", "b", "c"]).await;
    for (proxy, subscription, reports) in &mut fleet[..2] {
        proxy.take(&subscription.next().await.expect("the stream is open"));
        let counts = in_flight(&endpoint(1, 1, 7), 3);
        reports.applied(proxy.applied(counts)).expect("a good report");
    }
    fleet[0].2.applied(fleet[0].0.applied(Vec::new())).expect("a good report");
    let outcome = hub.wait_drained(&barrier, LONG).await;
    assert!(!outcome.complete);
    assert_eq!((outcome.in_flight, outcome.waiting_for), (3, vec!["b".to_owned(), "c".to_owned()]));
    assert_eq!(outcome.took, Some(waypost_proto::time::wire_duration(LONG)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_proxies_is_complete_at_once() {
    let (hub, barrier, _) = draining(&[]).await;
    let began = tokio::time::Instant::now();
    assert!(hub.wait_drained(&barrier, LONG).await.complete);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_a_little_for_a_proxy_that_lost_its_connection() {
    let (hub, barrier, fleet) = draining(&["a"]).await;
    drop(fleet);
    let began = tokio::time::Instant::now();
    assert!(hub.wait_drained(&barrier, LONG).await.complete);
    assert_eq!(began.elapsed(), Duration::from_secs(5), "its grace, and then it is given up");
    let outcome = hub.wait_drained(&barrier, LONG).await;
    assert_eq!(outcome.took, Some(waypost_proto::time::wire_duration(Duration::ZERO)));
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_comes_back_during_a_drain_is_waited_for_again() {
    let (hub, barrier, mut fleet) = draining(&["a"]).await;
    let (mut proxy, subscription, reports) = fleet.remove(0);
    drop((subscription, reports));
    let mut wait = Box::pin(hub.wait_drained(&barrier, LONG));
    assert!(futures_util::poll!(&mut wait).is_pending());
    let (mut subscription, reports) = hub.subscribe(greeting("a", &[], Some(proxy.position())));
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(futures_util::poll!(&mut wait).is_pending(), "it is back, and has not applied it");
    proxy.take(&subscription.next().await.expect("the stream is open"));
    assert_eq!(proxy.deltas, 1, "it resumes from what it holds");
    reports.applied(proxy.applied(Vec::new())).expect("a good report");
    assert!(wait.await.complete);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_holds_the_drain_already_is_waited_for_until_it_reports() {
    let (hub, barrier, mut fleet) = draining(&["a"]).await;
    let (mut proxy, mut subscription, reports) = fleet.remove(0);
    catch_up(&hub, &mut proxy, &mut subscription, &reports).await;
    drop((subscription, reports));
    let (mut subscription, reports) = hub.subscribe(greeting("a", &[], Some(proxy.position())));
    let mut wait = Box::pin(hub.wait_drained(&barrier, LONG));
    assert!(futures_util::poll!(&mut wait).is_pending(), "what is in flight in it is not known yet");
    proxy.take(&subscription.next().await.expect("an empty delta asks for a report"));
    reports.applied(proxy.applied(Vec::new())).expect("a good report");
    assert!(wait.await.complete);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_revision_ends_with_it_or_names_who_is_behind() {
    let (hub, _, mut fleet) = draining(&["a", "b"]).await;
    let (proxy, subscription, reports) = &mut fleet[0];
    catch_up(&hub, proxy, subscription, reports).await;
    let behind = hub.wait_applied(2, LONG).await.expect_err("b is behind");
    assert_eq!((behind.proxies, behind.live, behind.watermark), (vec![Arc::from("b")], 2, 1));
    let mut wait = Box::pin(hub.wait_applied(2, LONG));
    assert!(futures_util::poll!(&mut wait).is_pending());
    let (proxy, subscription, reports) = &mut fleet[1];
    catch_up(&hub, proxy, subscription, reports).await;
    assert_eq!(wait.await, Ok(AppliedEverywhere { watermark: 2, proxies: 2 }));
}

#[tokio::test]
async fn a_change_outside_of_a_scope_counts_as_applied_there() {
    let (hub, mut source) = hub();
    let (mut subscription, reports) = hub.subscribe(greeting("p", &["other"], None));
    let mut proxy = Proxy::default();
    proxy.take(&subscription.next().await.expect("the stream is open"));
    reports.applied(proxy.applied(Vec::new())).expect("a good report");
    hub.publish(&source.publish(put(0, 1, 1), false)).expect("a sound change");
    assert_eq!(hub.status().watermark, 1);
    hub.publish(&source.publish(put(1, 1, 1), false)).expect("a sound change");
    assert_eq!(hub.status().watermark, 1, "this one is inside");
}

/// How a service is treated, as an entry of its own.
fn traffic(number: u8, panic_threshold: u32) -> v1::DeclaredEntry {
    let key = service(number);
    let entry = v1::TrafficEntry {
        service: Some(key.to_wire()),
        panic_threshold_percent: Some(panic_threshold),
        ..v1::TrafficEntry::default()
    };
    let id = format!("traffic/{}/{}", key.namespace(), key.name());
    v1::DeclaredEntry { id, kind: Some(v1::declared_entry::Kind::Traffic(entry)) }
}

#[tokio::test]
async fn a_proxy_gets_the_policies_of_its_own_namespaces_alone() {
    let (hub, mut source) = hub();
    let both = Change { declared: vec![traffic(0, 10), traffic(1, 20)], ..Change::default() };
    hub.publish(&source.publish(both, true)).expect("a sound change");
    let (mut subscription, reports) = hub.subscribe(greeting("p", &["other"], None));
    let mut proxy = Proxy::default();
    let ids = |proxy: &Proxy| -> Vec<String> {
        let held = proxy.held.as_ref().expect("something");
        let mut ids: Vec<String> = held.declared().map(|entry| entry.id.clone()).collect();
        ids.sort_unstable();
        ids
    };
    proxy.take(&subscription.next().await.expect("the stream is open"));
    assert_eq!(ids(&proxy), ["traffic/other/s1"], "as a whole");
    reports.applied(proxy.applied(Vec::new())).expect("a good report");

    let changed =
        Change { declared: vec![traffic(0, 11), traffic(1, 21), traffic(3, 30)], ..Change::default() };
    hub.publish(&source.publish(changed, true)).expect("a sound change");
    proxy.take(&subscription.next().await.expect("the stream is open"));
    assert_eq!(ids(&proxy), ["traffic/other/s1", "traffic/other/s3"], "step by step");

    let gone = ["traffic/default/s0", "traffic/other/s1"].map(Arc::from).to_vec();
    let gone = Change { removed_declared: gone, ..Change::default() };
    hub.publish(&source.publish(gone, true)).expect("a sound change");
    proxy.take(&subscription.next().await.expect("the stream is open"));
    assert_eq!(ids(&proxy), ["traffic/other/s3"]);
}

#[tokio::test(start_paused = true)]
async fn right_after_a_start_a_drain_waits_for_proxies_that_may_come_back() {
    let (hub, mut source) = hub();
    hub.publish(&source.publish(put(1, 1, 7), false)).expect("a sound change");
    let barrier = Barrier { key: endpoint(1, 1, 7).key, epoch: 7, revision: 1 };
    let outcome = hub.wait_drained(&barrier, Duration::from_secs(1)).await;
    assert!(!outcome.complete && outcome.waiting_for.len() == 1, "{outcome:?}");
    let began = tokio::time::Instant::now();
    assert!(hub.wait_drained(&barrier, LONG).await.complete);
    assert_eq!(began.elapsed(), Duration::from_secs(4), "the rest of the grace after the start");
}

#[tokio::test(start_paused = true)]
async fn right_after_a_restart_a_drain_waits_although_everything_is_known() {
    let mut source = Source::new();
    source.publish(put(1, 1, 7), true);
    let hub = Hub::new(&source.head, HubOptions::default(), Arc::new(Metrics::new()));
    let barrier = Barrier { key: endpoint(1, 1, 7).key, epoch: 7, revision: 1 };
    assert!(!hub.wait_drained(&barrier, Duration::from_secs(1)).await.complete);
    let began = tokio::time::Instant::now();
    assert!(hub.wait_drained(&barrier, LONG).await.complete);
    assert_eq!(began.elapsed(), Duration::from_secs(4), "the rest of the grace after the start");
}
