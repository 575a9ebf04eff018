//! What the SDK promises when a program ends: a drain waits for the barrier and keeps the lease alive
//! meanwhile, and says truthfully how it ended.

mod fake;

use std::time::{Duration, Instant};

use fake::{Fake, Registry};
use waypost_sdk::{Client, DrainOutcome, LeaseStatus, Registered, Registration};

const TTL: Duration = Duration::from_secs(1);
const KEY: &str = "users/127.0.0.1:9001";

async fn registered(urls: impl IntoIterator<Item = String>) -> Registered {
    let client = Client::builder()
        .control_planes(urls)
        .call_timeout(Duration::from_millis(500))
        .build()
        .expect("good addresses");
    let registration = Registration::new("users", "127.0.0.1:9001").ttl(TTL);
    client.register(registration).await.expect("registered")
}

#[tokio::test]
async fn a_drain_waits_for_the_barrier_and_the_lease_lives_on_meanwhile() {
    let fake = Fake::start();
    let registry = fake.registry().clone();
    registry.with(|state| state.hold_drains = true);
    let registered = registered([fake.url()]).await;
    let epoch = registered.epoch();
    let mut status = registered.status();
    let draining = tokio::spawn(async move { registered.drain(Duration::from_secs(30)).await });
    registry.until("a drain", |state| state.instances.values().any(|held| held.draining).then_some(())).await;
    let seen = registry.with(|state| state.beats.len());
    registry.until_beats(seen + 4).await;
    assert!(!draining.is_finished(), "the barrier still holds");
    registry.with(|state| state.hold_drains = false);
    let outcome = draining.await.expect("it ends");
    assert!(outcome.is_complete(), "{outcome}");
    registry.until_gone(KEY).await;
    status.wait_for(|status| *status == LeaseStatus::Left).await.expect("it was told");
    assert_eq!(registry.with(|state| state.deregistrations[0].epoch), epoch);
}

#[tokio::test]
async fn a_drain_that_misses_its_deadline_names_what_it_waited_for() {
    let fake = Fake::start();
    fake.registry().with(|state| state.hold_drains = true);
    let outcome = registered([fake.url()]).await.drain(Duration::from_millis(200)).await;
    let DrainOutcome::Incomplete { in_flight, waiting_for, .. } = &outcome else { panic!("{outcome}") };
    assert_eq!((*in_flight, waiting_for.as_slice()), (1, ["proxy-1".to_owned()].as_slice()));
}

#[tokio::test]
async fn what_is_gone_already_needs_no_drain() {
    let fake = Fake::start();
    let registered = registered([fake.url()]).await;
    fake.registry().with(|state| {
        state.instances.clear();
        state.frozen = true;
    });
    let outcome = registered.drain(Duration::from_secs(30)).await;
    assert!(matches!(outcome, DrainOutcome::Gone { .. }), "{outcome}");
}

#[tokio::test]
async fn a_late_drain_of_an_old_epoch_changes_nothing() {
    let fake = Fake::start();
    let old = registered([fake.url()]).await;
    let _new = registered([fake.url()]).await;
    let outcome = old.drain(Duration::from_secs(30)).await;
    assert!(matches!(outcome, DrainOutcome::Gone { .. }), "{outcome}");
    assert!(fake.registry().with(|state| state.instances.values().all(|held| !held.draining)));
}

#[tokio::test]
async fn a_drain_goes_on_with_another_control_plane() {
    let registry = Registry::new();
    registry.with(|state| state.hold_drains = true);
    let fakes = [Fake::start_with(registry.clone()), Fake::start_with(registry.clone())];
    let registered = registered(fakes.iter().map(Fake::url)).await;
    let draining = tokio::spawn(async move { registered.drain(Duration::from_secs(30)).await });
    let drains = |count| move |state: &fake::State| (state.deregistrations.len() >= count).then_some(());
    registry.until("a drain", drains(1)).await;
    let [one, two] = fakes;
    let address = one.kill();
    let one = Fake::start_at(address, registry.clone());
    let address = two.kill();
    registry.until("a drain at the other one", drains(2)).await;
    let _two = Fake::start_at(address, registry.clone());
    registry.with(|state| state.hold_drains = false);
    let outcome = draining.await.expect("it ends");
    assert!(outcome.is_complete(), "{outcome}");
    drop(one);
}

#[tokio::test]
async fn without_a_control_plane_a_drain_ends_at_its_deadline() {
    let fake = Fake::start();
    let registered = registered([fake.url()]).await;
    let address = fake.kill();
    let started = Instant::now();
    let outcome = registered.drain(Duration::from_secs(1)).await;
    assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
    assert!(matches!(outcome, DrainOutcome::Failed { .. }), "{outcome}");
    assert!(outcome.to_string().contains(&address.to_string()), "{outcome}");
}

#[tokio::test]
async fn deregistering_and_dropping_remove_the_instance_without_a_drain() {
    let fake = Fake::start();
    fake.registry().with(|state| state.hold_drains = true);
    registered([fake.url()]).await.deregister().await.expect("deregistered");
    fake.registry().until_gone(KEY).await;
    drop(registered([fake.url()]).await);
    fake.registry().until_gone(KEY).await;
    assert!(fake.registry().with(|state| state.deregistrations.iter().all(|request| !request.drain)));
}
