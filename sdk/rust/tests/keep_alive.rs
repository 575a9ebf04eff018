//! What the SDK promises of a registration, over real sockets: it is kept alive, and it comes back by
//! itself from every loss but one, the loss of its name to another process.

mod fake;

use std::time::{Duration, Instant};

use fake::{Fake, Registry, Silent};
use tokio::sync::watch;
use waypost_proto::error::{Error as ContractError, ErrorCode};
use waypost_sdk::{Client, Error, LeaseStatus, Load, Registration};

const TTL: Duration = Duration::from_secs(1);
/// Within it a loss is noticed on a busy machine, too.
const LONG_TTL: Duration = Duration::from_secs(6);

fn users() -> Registration {
    Registration::new("users", "127.0.0.1:9001").ttl(TTL)
}

fn client(urls: impl IntoIterator<Item = String>) -> Client {
    Client::builder().control_planes(urls).client_name("test").build().expect("good addresses")
}

async fn until(status: &mut watch::Receiver<LeaseStatus>, wanted: impl FnMut(&LeaseStatus) -> bool) {
    let reached = tokio::time::timeout(Duration::from_secs(20), status.wait_for(wanted));
    reached.await.expect("the status never came").expect("the lease's task has ended");
}

#[tokio::test]
async fn leases_of_one_client_share_one_stream_and_beat_thrice_a_lease() {
    let fake = Fake::start();
    let client = client([fake.url()]);
    let users = client.register(users().ttl(LONG_TTL)).await.expect("registered");
    let orders = Registration::new("orders", "127.0.0.1:9002").ttl(LONG_TTL);
    let orders = client.register(orders).await.expect("registered");
    let started = Instant::now();
    for registered in [&users, &orders] {
        let key = registered.key().to_wire();
        let own = |state: &fake::State| {
            let beats = state.beats.iter().filter(|beat| beat.key.as_ref() == Some(&key));
            beats.filter(|beat| beat.epoch == registered.epoch()).count()
        };
        fake.registry().until("three beats", |state| (own(state) >= 3).then_some(())).await;
    }
    assert!(started.elapsed() > LONG_TTL / 2, "three beats take nearly a lease");
    assert_eq!(fake.registry().with(|state| state.streams), 1);
    assert_eq!(fake.registry().with(|state| state.registrations[0].client.clone()), "test");
}

#[tokio::test]
async fn after_a_restart_that_lost_everything_it_registers_again_by_itself() {
    let fake = Fake::start();
    let client = client([fake.url()]);
    let registered = client.register(users().version("2")).await.expect("registered");
    fake.registry().until_beats(1).await;
    let mut status = registered.status();
    let address = fake.kill();
    until(&mut status, |status| matches!(status, LeaseStatus::Reconnecting(_))).await;
    let fake = Fake::start_at(address, Registry::new());
    let held = fake.registry().until_registered("users/127.0.0.1:9001").await;
    assert_eq!(held.spec.version, "2");
    until(&mut status, |status| *status == LeaseStatus::Active).await;
    fake.registry().until_beats(2).await;
    assert_eq!(registered.epoch(), held.epoch);
}

#[tokio::test]
async fn a_restart_that_lost_nothing_needs_no_new_registration() {
    let fake = Fake::start();
    let client = client([fake.url()]);
    let registered = client.register(users()).await.expect("registered");
    fake.registry().until_beats(1).await;
    let registry = fake.registry().clone();
    let mut status = registered.status();
    let address = fake.kill();
    until(&mut status, |status| matches!(status, LeaseStatus::Reconnecting(_))).await;
    let _fake = Fake::start_at(address, registry.clone());
    until(&mut status, |status| *status == LeaseStatus::Active).await;
    assert_eq!(registry.with(|state| state.registrations.len()), 1);
}

#[tokio::test]
async fn a_lost_lease_comes_back_with_its_health_even_if_it_is_refused_at_first() {
    let fake = Fake::start();
    let client = client([fake.url()]);
    let registered = client.register(users()).await.expect("registered");
    registered.set_health(false, "GET /health answered 500");
    let registry = fake.registry();
    let unhealthy = |state: &fake::State| {
        let mut held = state.instances.values();
        held.any(|held| held.health.as_ref().is_some_and(|health| !health.healthy)).then_some(())
    };
    registry.until("the health report", unhealthy).await;
    registry.with(|state| {
        state.instances.clear();
        state.refusals = vec![ContractError::new(ErrorCode::Unavailable, "not now").into()];
    });
    let held = registry.until_registered("users/127.0.0.1:9001").await;
    assert!(held.spec.start_unhealthy, "it must not take traffic between the registration and the beat");
    registry.until("the health report again", unhealthy).await;
    assert_eq!(registry.with(|state| state.registrations.len()), 3);
}

#[tokio::test]
async fn a_load_goes_with_every_beat_and_one_that_is_none_is_refused_at_once() {
    let fake = Fake::start();
    let client = client([fake.url()]);
    let registered = client.register(users()).await.expect("registered");
    let load = Load { application: Some(0.9), ..Load::default() };
    registered.set_load(Some(load)).expect("a good load");
    let refused = registered.set_load(Some(Load { cpu: Some(f64::NAN), ..Load::default() }));
    let refused = refused.expect_err("it would have every lease's beats refused").to_string();
    assert!(refused.contains("cpu_utilization"), "{refused}");
    let registry = fake.registry();
    let busy = |state: &fake::State| {
        let mut held = state.instances.values();
        held.any(|held| held.load == Some(load.to_wire())).then_some(())
    };
    registry.until("the load", busy).await;
    registry.with(|state| state.instances.values_mut().for_each(|held| held.load = None));
    registry.until("the load again", busy).await;
    registered.set_load(None).expect("nothing is known");
    let none = |state: &fake::State| state.instances.values().all(|held| held.load.is_none()).then_some(());
    registry.until("a beat without", none).await;
}

#[tokio::test]
async fn a_superseded_lease_stops_and_says_so() {
    let fake = Fake::start();
    let client = client([fake.url()]);
    let first = client.register(users().ttl(LONG_TTL)).await.expect("registered");
    let second = client.register(users().ttl(LONG_TTL)).await.expect("registered");
    until(&mut first.status(), |status| *status == LeaseStatus::Superseded).await;
    let registry = fake.registry();
    let seen = registry.with(|state| state.beats.len());
    registry.until_beats(seen + 3).await;
    let stale =
        registry.with(|state| state.beats[seen..].iter().filter(|beat| beat.epoch == first.epoch()).count());
    assert_eq!(stale, 0, "a superseded lease beats no more");
    assert_eq!(*second.status().borrow(), LeaseStatus::Active);
    drop(first);
    let seen = registry.with(|state| state.beats.len());
    registry.until_beats(seen + 2).await;
    assert_eq!(registry.with(|state| state.instances.len()), 1, "the ghost took nothing with it");
}

#[tokio::test]
async fn when_one_of_two_control_planes_dies_the_other_takes_over() {
    let registry = Registry::new();
    let (one, two) = (Fake::start_with(registry.clone()), Fake::start_with(registry.clone()));
    let client = client([one.url(), two.url()]);
    let registered = client.register(users()).await.expect("registered");
    registry.until_beats(1).await;
    let mut running = Vec::new();
    for fake in [one, two] {
        let address = fake.kill();
        let seen = registry.with(|state| state.beats.len());
        registry.until_beats(seen + 2).await;
        running.push(Fake::start_at(address, registry.clone()));
    }
    assert_eq!(registry.with(|state| state.registrations.len()), 1);
    assert_eq!(registered.key().to_string(), "users/127.0.0.1:9001");
}

#[tokio::test]
async fn a_control_plane_that_says_it_is_going_away_is_left_without_an_alarm() {
    let registry = Registry::new();
    let (one, two) = (Fake::start_with(registry.clone()), Fake::start_with(registry.clone()));
    let client = client([one.url(), two.url()]);
    let registered = client.register(users().ttl(LONG_TTL)).await.expect("registered");
    let mut status = registered.status();
    status.mark_unchanged();
    registry.with(|state| state.going_away = true);
    registry.until("a second stream", |state| (state.streams >= 2).then_some(())).await;
    assert!(!status.has_changed().expect("the task runs"));
}

/// Two control planes with a registry each, the one that the client uses first.
async fn first_and_other(client: &Client, one: Fake, two: Fake) -> (Fake, Fake) {
    client.status().await.expect("one of them answers");
    let registered = client.register(users().ttl(LONG_TTL)).await.expect("registered");
    let used = one.registry().with(|state| !state.registrations.is_empty());
    // The handle would deregister it; here its lease is all that is asked about.
    std::mem::forget(registered);
    if used { (one, two) } else { (two, one) }
}

#[tokio::test]
async fn a_control_plane_that_has_lost_its_store_is_left_before_the_lease_runs_out() {
    let (one, two) = (Fake::start(), Fake::start());
    let client = client([one.url(), two.url()]);
    let (first, other) = first_and_other(&client, one, two).await;
    first.registry().until_beats(1).await;
    let away = ContractError::new(ErrorCode::Unavailable, "the registry's store: it is unavailable for now");
    first.registry().with(|state| state.store_away = Some(away.into()));
    let started = Instant::now();
    other.registry().until_registered("users/127.0.0.1:9001").await;
    assert!(started.elapsed() < LONG_TTL, "it took {:?}", started.elapsed());
    let before = first.registry().with(|state| state.streams);
    other.registry().until_beats(3).await;
    assert_eq!(first.registry().with(|state| state.streams), before, "nobody goes back");
}

#[tokio::test]
async fn what_one_control_plane_cannot_do_for_now_another_does() {
    let (one, two) = (Fake::start(), Fake::start());
    let client = client([one.url(), two.url()]);
    let (first, other) = first_and_other(&client, one, two).await;
    let away =
        || ContractError::new(ErrorCode::Unavailable, "the registry's store: it is unavailable for now");
    first.registry().with(|state| state.refusals = vec![away().into(); 9]);
    let orders = client.register(Registration::new("orders", "127.0.0.1:9002")).await.expect("registered");
    assert_eq!(orders.key().to_string(), "orders/127.0.0.1:9002");
    assert!(other.registry().with(|state| state.instances.len()) >= 1);
    assert_eq!(first.registry().with(|state| state.refusals.len()), 8, "it was asked once");
    drop(orders);
    other.registry().until_gone("orders/127.0.0.1:9002").await;
}

#[tokio::test]
async fn a_frozen_control_plane_is_left_before_the_lease_runs_out() {
    let registry = Registry::new();
    let fake = Fake::start_with(registry.clone());
    let client = client([fake.url()]);
    let registered = client.register(users().ttl(LONG_TTL)).await.expect("registered");
    registry.until_beats(1).await;
    let mut status = registered.status();
    registry.with(|state| state.frozen = true);
    let frozen = Instant::now();
    until(&mut status, |status| matches!(status, LeaseStatus::Reconnecting(_))).await;
    assert!(frozen.elapsed() < LONG_TTL, "it took {:?}", frozen.elapsed());
    registry.with(|state| state.frozen = false);
    until(&mut status, |status| *status == LeaseStatus::Active).await;
}

#[tokio::test]
async fn a_socket_that_never_answers_does_not_stop_a_registration() {
    let (silent, fake) = (Silent::start(), Fake::start());
    for _ in 0..4 {
        let client = Client::builder()
            .control_planes([silent.url(), fake.url()])
            .call_timeout(Duration::from_millis(200))
            .build()
            .expect("good addresses");
        client.register(users()).await.expect("registered");
    }
}

#[tokio::test]
async fn a_registration_waits_for_a_control_plane_that_is_not_there_yet() {
    let address = Fake::start().kill();
    let client = client([format!("http://{address}")]);
    let registering = tokio::spawn(async move { client.register(users()).await });
    let short = users().register_timeout(Duration::from_millis(300));
    let elsewhere = self::client([format!("http://{address}")]);
    let error = elsewhere.register(short).await.expect_err("nothing is there");
    let Error::Unreachable { attempts } = &error else { panic!("{error}") };
    assert_eq!(attempts[0].address, format!("http://{address}"));
    assert!(error.to_string().contains("refused"), "{error}");
    let _fake = Fake::start_at(address, Registry::new());
    registering.await.expect("it ends").expect("registered");
}

#[tokio::test]
async fn bad_arguments_fail_at_once_and_refusals_are_not_repeated() {
    let nowhere = client(["http://127.0.0.1:1".to_owned()]);
    let started = Instant::now();
    let error = nowhere.register(users().prefix("users")).await.expect_err("a bad prefix");
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(error.to_string().contains("prefix"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());

    let fake = Fake::start();
    let refusal = ContractError::new(ErrorCode::FailedPrecondition, "not like this");
    fake.registry().with(|state| state.refusals = vec![refusal.clone().into()]);
    let error = client([fake.url()]).register(users()).await.expect_err("it is refused");
    let Error::Answer(answer) = error else { panic!("{error}") };
    assert_eq!(answer, refusal);
    assert_eq!(fake.registry().with(|state| state.registrations.len()), 1);
}
