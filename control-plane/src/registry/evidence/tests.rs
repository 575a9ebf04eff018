//! Busy is not dead, and quiet is not busy.

use std::sync::Arc;

use parking_lot::Mutex;
use waypost_proto::v1::{self, BeatOutcome, EventKind, InstanceState};

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
    asked: Mutex<Vec<InQuestion>>,
}

#[tonic::async_trait]
impl Evidence for Witness {
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

#[test]
fn the_time_to_be_seen_in_is_the_leases_own_within_bounds() {
    let seconds = |ttl: u64| within(Duration::from_secs(ttl)).as_secs();
    assert_eq!([1, 3, 4, 5, 3600].map(seconds), [3, 3, 4, 5, 5]);
}
