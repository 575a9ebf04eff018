//! `waypost.v1.Registry` over a socket.

use std::time::Duration;

use crate::harness::{PATIENCE, Plane, Proxy, eventually, fields, spec};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use waypost_proto::{
    error::{Error, ErrorCode},
    time::wire_duration,
    v1::{self, BeatOutcome, InstanceState},
};

async fn instances(plane: &Plane) -> Vec<v1::Instance> {
    let request = v1::ListInstancesRequest::default();
    plane.discovery().list_instances(request).await.expect("it answers").into_inner().instances
}

fn beat(registered: &v1::RegisterResponse) -> v1::Beat {
    v1::Beat { key: registered.key.clone(), epoch: registered.epoch, health: None, load: None }
}

#[tokio::test]
async fn a_registration_is_granted_with_all_that_a_client_needs() {
    let plane = Plane::start().await;
    let granted = plane.register("users", 9001).await;
    assert_eq!(granted.key.expect("a name").id, "127.0.0.1:9001");
    assert_eq!(granted.ttl, Some(wire_duration(Duration::from_secs(10))));
    assert_eq!(granted.heartbeat_interval, Some(wire_duration(Duration::from_secs(10) / 3)));
    assert!(granted.epoch > 0 && granted.revision > 0 && granted.conflicts.is_empty());
}

#[tokio::test]
async fn bad_registrations_name_every_field_and_change_nothing() {
    let plane = Plane::start().await;
    let request = v1::RegisterRequest {
        instance: Some(v1::InstanceSpec {
            service: "a b".into(),
            address: "nowhere".into(),
            weight: Some(70_000),
            ..Default::default()
        }),
        ttl: Some(wire_duration(Duration::from_millis(1))),
        client: "two\nlines".into(),
    };
    let refused = plane.registry().register(request).await.expect_err("nothing fits");
    let expected = ["instance.service", "instance.address", "instance.weight", "ttl", "client"];
    assert_eq!(fields(&refused), expected);
    let refused =
        plane.registry().register(v1::RegisterRequest::default()).await.expect_err("nothing is there");
    assert_eq!(fields(&refused), ["instance.service", "instance.address"]);
    assert_eq!(instances(&plane).await, []);
}

#[tokio::test]
async fn beats_are_answered_in_order_and_ghosts_change_nothing() {
    let plane = Plane::start().await;
    let older = plane.register("users", 9001).await;
    let newer = plane.register("users", 9001).await;
    assert!(newer.epoch > older.epoch);
    let (beats, sent) = mpsc::channel(4);
    let mut answers =
        plane.registry().heartbeat(ReceiverStream::new(sent)).await.expect("a stream").into_inner();
    let mut ill = beat(&newer);
    ill.health = Some(v1::HealthReport { healthy: false, reason: "GET /health answered 500".into() });
    let mut stranger = beat(&newer);
    stranger.key.as_mut().expect("a name").id = "10.0.0.9:1".into();
    let request = v1::HeartbeatRequest { beats: vec![beat(&older), ill, stranger] };
    beats.send(request).await.expect("the stream is open");
    let answer = answers.message().await.expect("an answer").expect("the stream goes on");
    let outcomes: Vec<BeatOutcome> = answer.results.iter().map(v1::BeatResult::outcome).collect();
    assert_eq!(outcomes, [BeatOutcome::Stale, BeatOutcome::Renewed, BeatOutcome::Unknown]);
    assert_eq!((answer.results[0].epoch, answer.results[1].epoch), (older.epoch, newer.epoch));
    let listed = instances(&plane).await;
    assert_eq!((listed[0].state(), listed[0].epoch), (InstanceState::Down, newer.epoch));
    assert!(listed[0].reason.contains("GET /health answered 500"), "{}", listed[0].reason);

    let late = v1::DeregisterRequest { key: older.key, epoch: older.epoch, ..Default::default() };
    let refused = plane.registry().deregister(late).await.expect_err("another lives there");
    assert_eq!(Error::from(&refused).code, ErrorCode::StaleEpoch);
    assert_eq!(instances(&plane).await.len(), 1);
}

#[tokio::test]
async fn bad_beats_end_the_stream_with_the_field_that_is_wrong() {
    let plane = Plane::start().await;
    let nameless = v1::HeartbeatRequest { beats: vec![v1::Beat::default()] };
    let many = v1::HeartbeatRequest { beats: vec![v1::Beat::default(); 10_001] };
    let key =
        v1::InstanceKey { service: "users".to_owned(), id: "a".to_owned(), ..v1::InstanceKey::default() };
    let load = v1::LoadReport { cpu_utilization: Some(-1.0), ..v1::LoadReport::default() };
    let backwards = v1::Beat { key: Some(key), load: Some(load), ..v1::Beat::default() };
    let negative = v1::HeartbeatRequest { beats: vec![backwards] };
    let refused =
        [(nameless, "beats[0].key.service"), (many, "beats"), (negative, "beats[0].load.cpu_utilization")];
    for (request, field) in refused {
        let (beats, sent) = mpsc::channel(4);
        let mut answers =
            plane.registry().heartbeat(ReceiverStream::new(sent)).await.expect("a stream").into_inner();
        beats.send(request).await.expect("the stream is open");
        assert_eq!(fields(&answers.message().await.expect_err("it is refused")), [field]);
    }
}

#[tokio::test]
async fn a_silent_client_is_told_when_the_control_plane_stops() {
    let plane = Plane::start().await;
    let (_beats, sent) = mpsc::channel(1);
    let mut answers =
        plane.registry().heartbeat(ReceiverStream::new(sent)).await.expect("a stream").into_inner();
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.next().await.expect("everything");
    let stop = tokio::spawn(plane.server.stop(Duration::from_secs(2)));
    assert!(answers.message().await.expect("a farewell").expect("a farewell").going_away);
    assert_eq!(answers.message().await.expect("then it ends"), None);
    assert_eq!(proxy.end().await.expect("it says why").code(), Code::Unavailable);
    tokio::time::timeout(PATIENCE, stop).await.expect("it ends in time").expect("it ends well");
}

#[tokio::test]
async fn a_deregistration_that_drains_ends_when_the_proxies_are_done_with_the_instance() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(registered.revision).await;
    let request = v1::DeregisterRequest {
        key: registered.key.clone(),
        epoch: registered.epoch,
        drain: true,
        ..Default::default()
    };
    let mut registry = plane.registry();
    let mut call = tokio::spawn(async move { registry.deregister(request).await });
    proxy.next().await.expect("it drains");
    let endpoint = proxy.held.as_ref().expect("a snapshot").instances().next().expect("it is there").clone();
    assert_eq!(endpoint.state, InstanceState::Draining);
    let (key, epoch) = (registered.key.clone(), registered.epoch);
    proxy.applied(vec![v1::InFlight { key, epoch, count: 1 }]).await;
    let draining = proxy.held.as_ref().expect("a snapshot").revision();
    eventually("the report", || async { plane.status().await.watermark >= draining }).await;
    assert!(!call.is_finished(), "something is in flight");
    proxy.applied(Vec::new()).await;
    let answer = tokio::time::timeout(PATIENCE, &mut call).await.expect("it ends").expect("it runs");
    let answer = answer.expect("it is removed").into_inner();
    let drain = answer.drain.expect("an outcome");
    assert!(drain.complete && drain.waiting_for.is_empty(), "{drain:?}");
    assert!(answer.revision > draining);
    proxy.reach(answer.revision).await;
    assert_eq!(proxy.held.as_ref().expect("a snapshot").instances().len(), 0);
    assert_eq!(instances(&plane).await, []);
}

#[tokio::test]
async fn an_instance_is_removed_after_its_drain_even_if_the_client_goes_away() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(registered.revision).await;
    let request = v1::DeregisterRequest { key: registered.key, drain: true, ..Default::default() };
    let mut registry = plane.registry();
    let call = tokio::spawn(async move { registry.deregister(request).await });
    proxy.next().await.expect("it drains");
    call.abort();
    proxy.applied(Vec::new()).await;
    eventually("the removal", || async { instances(&plane).await.is_empty() }).await;
}

#[tokio::test]
async fn a_drain_that_does_not_end_in_time_says_so_and_removes_the_instance() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "stuck", None).await;
    proxy.reach(registered.revision).await;
    let mut request = v1::DeregisterRequest {
        key: registered.key,
        drain: true,
        drain_deadline: Some(wire_duration(Duration::from_millis(50))),
        ..Default::default()
    };
    let answer = plane.registry().deregister(request.clone()).await.expect("it is removed").into_inner();
    let drain = answer.drain.expect("an outcome");
    assert!(!drain.complete && drain.waiting_for == ["stuck"], "{drain:?}");
    assert_eq!(instances(&plane).await, []);

    let missing = plane.registry().deregister(request.clone()).await.expect_err("it is gone");
    assert_eq!(missing.code(), Code::NotFound);
    request.key = None;
    request.drain_deadline = Some(wire_duration(Duration::from_secs(3601)));
    let refused = plane.registry().deregister(request).await.expect_err("nothing fits");
    assert_eq!(fields(&refused), ["key.service", "drain_deadline"]);
}

#[tokio::test]
async fn a_replacement_during_a_drain_is_not_removed() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(registered.revision).await;
    let request = v1::DeregisterRequest { key: registered.key, drain: true, ..Default::default() };
    let mut registry = plane.registry();
    let call = tokio::spawn(async move { registry.deregister(request).await });
    proxy.next().await.expect("it drains");
    let again = v1::RegisterRequest { instance: Some(spec("users", 9001)), ..Default::default() };
    let newer = plane.registry().register(again).await.expect("a good registration").into_inner();
    proxy.reach(newer.revision).await;
    let refused = call.await.expect("it runs").expect_err("another lives there now");
    assert_eq!(Error::from(&refused).code, ErrorCode::StaleEpoch);
    assert_eq!(instances(&plane).await[0].epoch, newer.epoch);
}
