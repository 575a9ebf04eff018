//! `waypost.v1.Snapshots` over a socket.

use std::time::Duration;

use crate::harness::{Plane, Proxy, eventually, fields};
use tonic::Code;
use waypost_control_plane::server::Options;
use waypost_proto::{
    snapshot::Snapshot,
    v1::{self, subscribe_request::Kind},
};

async fn forget(plane: &Plane, registered: &v1::RegisterResponse) -> u64 {
    let request = v1::DeregisterRequest { key: registered.key.clone(), ..Default::default() };
    plane.registry().deregister(request).await.expect("it is removed").into_inner().revision
}

#[tokio::test]
async fn a_proxy_gets_everything_first_and_then_what_changes() {
    let plane = Plane::start().await;
    let first = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(first.revision).await;
    assert_eq!((proxy.chunks, proxy.deltas), (1, 0));
    let second = plane.register("users", 9002).await;
    proxy.reach(second.revision).await;
    assert_eq!((proxy.chunks, proxy.deltas), (1, 1));
    let held = proxy.held.clone().expect("a snapshot");
    assert_eq!((held.services().len(), held.instances().len(), held.routes().len()), (1, 2, 1));
    eventually("the report", || async { plane.status().await.watermark == second.revision }).await;
    let seen = &plane.proxies().await[0];
    assert!(seen.connected && seen.digest_ok, "{seen:?}");
    assert_eq!((seen.applied.clone(), seen.sent_revision), (Some(held.position()), second.revision));
    assert_eq!((seen.full_snapshots, seen.deltas), (1, 1));
    let status = plane.status().await;
    assert_eq!(status.propagation.expect("samples").samples, 1);
}

#[tokio::test]
async fn a_known_revision_is_resumed_with_a_delta_and_an_unknown_history_with_everything() {
    let plane = Plane::start().await;
    let first = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(first.revision).await;
    let held = proxy.held.take();
    drop(proxy);
    let second = plane.register("users", 9002).await;
    let third = forget(&plane, &first).await;
    let mut resumed = Proxy::connect(&plane, "p", held).await;
    resumed.reach(third).await;
    assert_eq!((resumed.chunks, resumed.deltas), (0, 1));

    let other = Plane::start().await;
    let fourth = other.register("users", 9009).await;
    let mut moved = Proxy::connect(&other, "p", resumed.held.clone()).await;
    moved.reach(fourth.revision).await;
    while moved.held.as_ref().map(Snapshot::history) == resumed.held.as_ref().map(Snapshot::history) {
        moved.next().await.expect("the stream goes on");
    }
    assert_eq!((moved.chunks, moved.deltas), (1, 0));
    assert!(second.revision < third);
}

#[tokio::test]
async fn a_position_with_a_wrong_digest_gets_everything() {
    let plane = Plane::start().await;
    let first = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(first.revision).await;
    let mut position = proxy.held.as_ref().expect("a snapshot").position();
    position.digest ^= 1;
    let hello = v1::Hello { proxy_id: "q".into(), position: Some(position), ..Default::default() };
    let mut proxy = Proxy::open(&plane, Kind::Hello(hello)).await;
    proxy.reach(first.revision).await;
    assert_eq!((proxy.chunks, proxy.deltas), (1, 0));
}

#[tokio::test]
async fn many_instances_come_in_chunks() {
    let mut options = Options::default();
    options.hub.chunk_entries = 3;
    let plane = Plane::start_with(options).await;
    let mut last = 0;
    for port in 1..=10 {
        last = plane.register("users", port).await.revision;
    }
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(last).await;
    assert_eq!(proxy.chunks, 4, "a service, a route and ten instances");
}

#[tokio::test]
async fn a_proxy_that_does_not_read_gets_one_delta_for_all_that_it_missed() {
    let plane = Plane::start().await;
    let mut last = plane.register("users", 9001).await.revision;
    let mut slow = Proxy::connect(&plane, "slow", None).await;
    slow.reach(last).await;
    // Far more bytes than the connection keeps for one who does not read, if each change were sent.
    let mut spec = crate::harness::spec("users", 9001);
    spec.tags = (0..64).map(|at| format!("{at:0>128}")).collect();
    let changes = 2_000_usize;
    for count in 0..changes {
        spec.version = count.to_string();
        let request = v1::RegisterRequest { instance: Some(spec.clone()), ..Default::default() };
        last = plane.registry().register(request).await.expect("a good registration").into_inner().revision;
    }
    slow.reach(last).await;
    assert!(slow.deltas < changes / 2, "{} deltas", slow.deltas);
    assert_eq!(slow.chunks, 1);
}

#[tokio::test]
async fn a_rejection_is_listed_with_its_reason() {
    let plane = Plane::start().await;
    let first = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(first.revision).await;
    let position = proxy.held.as_ref().map(Snapshot::position);
    let second = plane.register("users", 9002).await;
    let rejected = v1::Rejected { revision: second.revision, reason: "no room".into(), position };
    proxy.say(Kind::Rejected(rejected)).await;
    let expected = format!("revision {}: no room", second.revision);
    eventually("the rejection", || async { plane.proxies().await[0].last_rejection == expected }).await;
    assert_eq!(plane.status().await.watermark, first.revision);
}

#[tokio::test]
async fn settling_is_pushed_without_any_other_change() {
    let mut options = Options::default();
    options.registry.settle = Duration::from_millis(200);
    let plane = Plane::start_with(options).await;
    let first = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(first.revision).await;
    while !proxy.held.as_ref().is_some_and(Snapshot::settled) {
        proxy.next().await.expect("the stream goes on");
    }
    assert_eq!(proxy.chunks, 1);
}

#[tokio::test]
async fn what_is_not_allowed_on_the_stream_ends_it_with_the_reason() {
    let plane = Plane::start().await;
    let early = Kind::Applied(v1::Applied::default());
    let end = Proxy::open(&plane, early).await.end().await.expect("it says why");
    assert_eq!(fields(&end), ["kind"]);
    let nobody = v1::Hello { namespaces: vec!["a b".into()], zone: "x".repeat(256), ..Default::default() };
    let end = Proxy::open(&plane, Kind::Hello(nobody)).await.end().await.expect("it says why");
    assert_eq!(fields(&end), ["hello.proxy_id", "hello.zone", "hello.namespaces"]);

    let mut twice = Proxy::connect(&plane, "p", None).await;
    twice.say(Kind::Hello(v1::Hello { proxy_id: "p".into(), ..Default::default() })).await;
    assert_eq!(fields(&twice.end().await.expect("it says why")), ["kind"]);
    let mut bad = Proxy::connect(&plane, "p", None).await;
    let draining = vec![v1::InFlight { count: 1, ..Default::default() }];
    bad.say(Kind::Applied(v1::Applied { position: None, draining })).await;
    assert_eq!(fields(&bad.end().await.expect("it says why")), ["applied.draining.key.service"]);
}

#[tokio::test]
async fn a_newer_stream_of_a_proxy_ends_the_older_one_with_the_reason() {
    let plane = Plane::start().await;
    let mut older = Proxy::connect(&plane, "p", None).await;
    older.next().await.expect("everything");
    let mut newer = Proxy::connect(&plane, "p", None).await;
    newer.next().await.expect("everything");
    let end = older.end().await.expect("it says why");
    assert_eq!(end.code(), Code::FailedPrecondition);
    assert!(end.message().contains("\"p\""), "{}", end.message());
    let last = plane.register("users", 9001).await.revision;
    newer.reach(last).await;
    assert_eq!(plane.proxies().await.len(), 1);
}

#[tokio::test]
async fn a_proxy_that_hangs_up_is_noticed_at_once() {
    let plane = Plane::start().await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.next().await.expect("everything");
    assert_eq!(plane.status().await.proxies, 1);
    drop(proxy);
    eventually("the end", || async { plane.status().await.proxies == 0 }).await;
    assert!(!plane.proxies().await[0].connected);
}

#[tokio::test]
async fn a_scope_holds_its_namespaces_alone() {
    let plane = Plane::start().await;
    plane.register("users", 9001).await;
    let mut spec = crate::harness::spec("users", 9002);
    spec.namespace = "other".into();
    let request = v1::RegisterRequest { instance: Some(spec), ..Default::default() };
    let second = plane.registry().register(request).await.expect("a good registration").into_inner();
    let hello = v1::Hello { proxy_id: "p".into(), namespaces: vec!["other".into()], ..Default::default() };
    let mut proxy = Proxy::open(&plane, Kind::Hello(hello)).await;
    proxy.reach(second.revision).await;
    let held = proxy.held.as_ref().expect("a snapshot");
    assert_eq!(held.instances().map(|one| one.address.port()).collect::<Vec<_>>(), [9002]);
    plane.register("users", 9003).await;
    let third = plane.register("users", 9004).await;
    eventually("the watermark", || async { plane.status().await.watermark == third.revision }).await;
    assert_eq!(plane.proxies().await[0].deltas, 0, "nothing of it concerns this proxy");
}
