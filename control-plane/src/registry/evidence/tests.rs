//! Busy is not dead, and quiet is not busy.

use std::sync::Arc;

use parking_lot::Mutex;
use waypost_proto::{
    load::{Load, Share},
    v1::{self, BeatOutcome, EventKind, InstanceState},
};

use super::{
    super::{
        sweep::Sweep,
        tests::{SECOND, World, key},
    },
    *,
};
use crate::store::conformance::TTL;

/// Says of everybody what a test has it say.
#[derive(Default)]
struct Witness {
    seen: Mutex<Option<Seen>>,
    failing: Mutex<Vec<Failing>>,
    asked: Mutex<Vec<InQuestion>>,
}

#[tonic::async_trait]
impl Evidence for Witness {
    fn failing(&self) -> Vec<Failing> {
        self.failing.lock().clone()
    }

    async fn of(&self, asked: &[InQuestion]) -> Vec<Option<Seen>> {
        self.asked.lock().extend_from_slice(asked);
        vec![*self.seen.lock(); asked.len()]
    }
}

const SEEN: Seen = Seen { proxies: 2, ago: Duration::from_millis(400) };

/// A registry with one instance whose lease is just about to lapse, which proxies see answer.
async fn busy() -> (World, Arc<Witness>, u64) {
    let world = World::new().await;
    let epoch = world.register("users/a").await.epoch;
    let witness = Arc::new(Witness::default());
    *witness.seen.lock() = Some(SEEN);
    (world, witness, epoch)
}

fn last_event(world: &World) -> v1::Event {
    let events = world.registry.view().list_events(&v1::ListEventsRequest::default());
    events.expect("a good request").events.pop().expect("an event")
}

#[tokio::test]
async fn an_instance_that_answers_is_suspect_until_nobody_sees_it_answer() {
    let (world, witness, epoch) = busy().await;
    let mut sweep = Sweep::new(&world.registry).corroborated_by(witness.clone());
    world.pass(&mut sweep, TTL).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Suspect));
    let event = last_event(&world);
    assert_eq!(event.kind(), EventKind::Suspect);
    for part in ["no heartbeat for 10.0 s", "2 proxies saw it answer 0.4 s ago", "up to 30.0 s"] {
        assert!(event.reason.contains(part), "{part:?} in {:?}", event.reason);
    }
    let shown = world.registry.view().instance(&key("users/a")).expect("it is there");
    assert!(shown.reason.contains("2 proxies"), "{}", shown.reason);
    let asked = InQuestion { key: key("users/a"), epoch, within: Duration::from_secs(5) };
    assert_eq!(witness.asked.lock()[0], asked);

    let held = world.registry.view().revision();
    world.pass(&mut sweep, SECOND * 10).await;
    assert_eq!(
        (world.registry.view().revision(), world.state("users/a")),
        (held, Some(InstanceState::Suspect))
    );
    *witness.seen.lock() = None;
    world.pass(&mut sweep, SECOND * 4).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Suspect), "a proxy may be late with its report");
    world.pass(&mut sweep, SECOND).await;
    assert_eq!(world.state("users/a"), None);
    let event = last_event(&world);
    assert_eq!(event.kind(), EventKind::Expired);
    assert!(event.reason.contains("no proxy has seen an answer for 5.4 s"), "{}", event.reason);
}

#[tokio::test]
async fn answers_alone_keep_nobody_for_ever() {
    let (world, witness, _) = busy().await;
    let mut sweep = Sweep::new(&world.registry).corroborated_by(witness);
    world.pass(&mut sweep, TTL).await;
    world.pass(&mut sweep, TTL * 3 - SECOND).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Suspect));
    world.pass(&mut sweep, SECOND).await;
    assert_eq!(world.state("users/a"), None);
    assert!(last_event(&world).reason.contains("suspect until the end"));
    assert_eq!(longest_hold(Duration::from_secs(3600)), LONGEST_HOLD);
}

#[tokio::test]
async fn a_beat_ends_the_suspicion() {
    let (world, witness, epoch) = busy().await;
    let mut sweep = Sweep::new(&world.registry).corroborated_by(witness.clone());
    world.pass(&mut sweep, TTL).await;
    assert_eq!(world.beat("users/a", epoch, None).await, BeatOutcome::Renewed);
    assert_eq!(world.state("users/a"), Some(InstanceState::Up));
    *witness.seen.lock() = None;
    world.pass(&mut sweep, TTL - SECOND).await;
    assert_eq!(world.state("users/a"), Some(InstanceState::Up), "its lease lives, whatever proxies see");
    world.pass(&mut sweep, SECOND).await;
    assert_eq!(world.state("users/a"), None);
}

#[tokio::test]
async fn who_is_out_of_rotation_anyway_is_not_asked_about() {
    let (world, witness, epoch) = busy().await;
    let mut sweep = Sweep::new(&world.registry).corroborated_by(witness.clone());
    world.registry.set_draining(&key("users/a"), epoch, true, "deploy", "op").await.expect("it drains");
    world.pass(&mut sweep, TTL).await;
    assert_eq!(world.state("users/a"), None);
    assert!(witness.asked.lock().is_empty());
}

#[tokio::test]
async fn who_beats_and_fails_gets_little_until_somebody_sees_it_answer() {
    let (world, witness, epoch) = busy().await;
    let mut sweep = Sweep::new(&world.registry).corroborated_by(witness.clone());
    *witness.failing.lock() = vec![Failing { key: key("users/a"), epoch, failed: 57, proxies: 3 }];
    world.pass(&mut sweep, SECOND).await;
    let shown = || world.registry.view().instance(&key("users/a")).expect("it is there");
    assert_eq!(shown().share_percent, 100, "proxies of other control planes see it answer");

    *witness.seen.lock() = None;
    world.pass(&mut sweep, SECOND).await;
    assert_eq!((shown().state(), shown().share_percent), (InstanceState::Up, 10));
    let why =
        "it gets 10 % of its share: it beats, but 3 proxies saw 57 requests to it fail, and none an answer";
    assert_eq!(shown().reason, why);
    assert_eq!((last_event(&world).kind(), &*last_event(&world).reason), (EventKind::Share, why));
    let fallen = world.registry.view().revision();
    assert_eq!(world.beat("users/a", epoch, None).await, BeatOutcome::Renewed);
    world.pass(&mut sweep, SECOND).await;
    assert_eq!(world.registry.view().revision(), fallen, "nothing is new");

    witness.failing.lock().clear();
    world.pass(&mut sweep, SECOND).await;
    assert_eq!(shown().share_percent, 10, "that nobody says that it fails is not that it answers");
    *witness.seen.lock() = Some(SEEN);
    world.pass(&mut sweep, SECOND).await;
    assert_eq!((shown().share_percent, &*shown().reason), (100, "its lease is alive"));
    assert_eq!(last_event(&world).reason, "proxies see it answer again: it gets all of its share");
}

#[tokio::test]
async fn who_has_failed_under_another_epoch_or_is_out_of_rotation_keeps_its_share() {
    let (world, witness, epoch) = busy().await;
    let mut sweep = Sweep::new(&world.registry).corroborated_by(witness.clone());
    *witness.seen.lock() = None;
    *witness.failing.lock() = vec![Failing { key: key("users/a"), epoch: epoch - 1, failed: 57, proxies: 3 }];
    let before = world.registry.view().revision();
    world.pass(&mut sweep, SECOND).await;
    assert_eq!(world.registry.view().revision(), before);
    world.registry.set_draining(&key("users/a"), epoch, true, "deploy", "op").await.expect("it drains");
    witness.failing.lock()[0].epoch = epoch;
    let before = world.registry.view().revision();
    world.pass(&mut sweep, SECOND).await;
    assert_eq!(world.registry.view().revision(), before);
}

#[tokio::test]
async fn an_instance_that_says_it_is_busy_gets_less_and_proxies_know_before_anything_is_evicted() {
    let (world, _, epoch) = busy().await;
    let (_, mut feed) = world.registry.feed();
    let at = |cpu: f64| Some(Load { cpu: Some(cpu), in_flight: Some(12), ..Load::default() });
    for (cpu, percent) in [(0.93, 50), (1.3, 10), (0.5, 100)] {
        assert_eq!(world.beat_with("users/a", epoch, None, at(cpu)).await, BeatOutcome::Renewed);
        let shown = world.registry.view().instance(&key("users/a")).expect("it is there");
        assert_eq!((shown.state(), shown.share_percent), (InstanceState::Up, percent), "{}", shown.reason);
        let told = feed.recv().await.expect("a publication").change;
        assert_eq!(told.instances[0].share, Share::percent(u8::try_from(percent).expect("a percentage")));
        assert_eq!(last_event(&world).kind(), EventKind::Share);
    }
    let settled = world.registry.view().revision();
    for cpu in [0.5, 0.6, 0.79] {
        world.beat_with("users/a", epoch, None, at(cpu)).await;
    }
    world.beat("users/a", epoch, None).await;
    assert_eq!(world.registry.view().revision(), settled, "beats that change nothing cost no revision");
}

#[tokio::test]
async fn a_new_registration_begins_with_all_of_its_share() {
    let (world, _, epoch) = busy().await;
    world.beat_with("users/a", epoch, None, Some(Load { application: Some(1.0), ..Load::default() })).await;
    let shown = || world.registry.view().instance(&key("users/a")).expect("it is there");
    assert_eq!(shown().reason, "it gets 25 % of its share: it says it is busy: application at 100 %");
    world.register("users/a").await;
    assert_eq!(shown().share_percent, 100);
}

#[test]
fn the_time_to_be_seen_in_is_the_leases_own_within_bounds() {
    let seconds = |ttl: u64| within(Duration::from_secs(ttl)).as_secs();
    assert_eq!([1, 3, 4, 5, 3600].map(seconds), [3, 3, 4, 5, 5]);
}
