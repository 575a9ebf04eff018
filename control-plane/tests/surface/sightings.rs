//! What proxies see of instances: who asks is told, and who is seen to answer is not taken for dead.

use std::time::Duration;

use tokio::task::AbortHandle;
use waypost_proto::{
    time::wire_duration,
    v1::{self, EndpointHealth, EventKind, InstanceState, subscribe_request::Kind},
};

use crate::harness::{Plane, Proxy, eventually, fields, spec};

fn observation(registered: &v1::RegisterResponse, succeeded: u32, failed: u32) -> v1::Observation {
    v1::Observation {
        key: registered.key.clone(),
        epoch: registered.epoch,
        succeeded,
        failed,
        health: EndpointHealth::Well.into(),
        reason: String::new(),
    }
}

fn observed(observation: v1::Observation) -> Kind {
    let period = Some(wire_duration(Duration::from_millis(100)));
    Kind::Observed(v1::Observed { instances: vec![observation], period })
}

async fn only_instance(plane: &Plane) -> Option<v1::Instance> {
    let listed = plane.discovery().list_instances(v1::ListInstancesRequest::default()).await;
    listed.expect("a list").into_inner().instances.pop()
}

async fn sightings(plane: &Plane) -> v1::Sightings {
    only_instance(plane).await.expect("it is there").sightings.unwrap_or_default()
}

async fn with_lease(plane: &Plane, ttl: Duration) -> v1::RegisterResponse {
    let request = v1::RegisterRequest {
        instance: Some(spec("users", 9001)),
        ttl: Some(wire_duration(ttl)),
        client: "test".into(),
    };
    plane.registry().register(request).await.expect("a good registration").into_inner()
}

async fn events(plane: &Plane) -> Vec<v1::Event> {
    let listed = plane.discovery().list_events(v1::ListEventsRequest::default()).await;
    listed.expect("a list").into_inner().events
}

/// Says again and again that an instance answers, until it is told to stop.
fn keep_saying(proxy: &Proxy, registered: &v1::RegisterResponse) -> AbortHandle {
    let (requests, said) = (proxy.requests.clone(), observation(registered, 3, 0));
    let saying = tokio::spawn(async move {
        let request = v1::SubscribeRequest { kind: Some(observed(said)) };
        while requests.send(request.clone()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    saying.abort_handle()
}

#[tokio::test]
async fn what_proxies_say_is_told_until_they_leave() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let one = Proxy::connect(&plane, "one", None).await;
    assert!(one.may_tell, "proxies are told that they may say it");
    let two = Proxy::connect(&plane, "two", None).await;
    let ejected = v1::Observation {
        health: EndpointHealth::Ejected.into(),
        reason: "5 errors in a row".into(),
        ..observation(&registered, 0, 5)
    };
    one.say(observed(observation(&registered, 7, 1))).await;
    two.say(observed(ejected)).await;
    eventually("both have said it", || async { sightings(&plane).await.proxies == 2 }).await;
    let seen = sightings(&plane).await;
    assert_eq!((seen.connected, seen.succeeded, seen.failed, seen.answering), (2, 7, 6, 1));
    let group = &seen.passed_over[0];
    let said = (group.health(), &*group.reason, group.count, &*group.proxies);
    assert_eq!(said, (EndpointHealth::Ejected, "5 errors in a row", 1, &["two".to_owned()][..]));
    for path in ["/v1/instances", "/v1/services/users"] {
        let (status, _, body) = plane.get(path).await;
        assert!(status == 200 && body.contains("5 errors in a row"), "{body}");
    }
    drop(two);
    eventually("it is forgotten", || async { sightings(&plane).await.passed_over.is_empty() }).await;
    assert_eq!(sightings(&plane).await.proxies, 1);
    let _one = Proxy::connect(&plane, "one", None).await;
    eventually("it begins anew", || async { sightings(&plane).await == v1::Sightings::default() }).await;
}

#[tokio::test]
async fn a_report_of_nobody_ends_the_stream_with_the_reason() {
    let plane = Plane::start().await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.say(observed(v1::Observation::default())).await;
    assert_eq!(fields(&proxy.end().await.expect("it says why")), ["observed.instances.key.service"]);
}

#[tokio::test]
async fn an_instance_that_answers_outlives_its_lease_until_it_answers_no_more() {
    let plane = Plane::start().await;
    let registered = with_lease(&plane, Duration::from_secs(2)).await;
    let proxy = Proxy::connect(&plane, "p", None).await;
    let saying = keep_saying(&proxy, &registered);
    eventually("it is suspect", || async {
        only_instance(&plane).await.is_some_and(|one| one.state() == InstanceState::Suspect)
    })
    .await;
    let kept = only_instance(&plane).await.expect("it is there");
    assert!(kept.reason.contains("a proxy saw it answer"), "{}", kept.reason);
    saying.abort();
    eventually("it is gone", || async { only_instance(&plane).await.is_none() }).await;
    let events = events(&plane).await;
    let kinds: Vec<EventKind> = events.iter().map(v1::Event::kind).collect();
    assert_eq!(kinds, [EventKind::Registered, EventKind::Suspect, EventKind::Expired]);
    assert!(events[2].reason.contains("no proxy has seen an answer for"), "{}", events[2].reason);
}

#[tokio::test]
async fn failures_speak_for_nobody() {
    let plane = Plane::start().await;
    let registered = with_lease(&plane, Duration::from_secs(1)).await;
    let proxy = Proxy::connect(&plane, "p", None).await;
    proxy.say(observed(observation(&registered, 9, 1))).await;
    proxy.say(observed(observation(&registered, 0, 1))).await;
    eventually("it is gone", || async { only_instance(&plane).await.is_none() }).await;
    let kinds: Vec<EventKind> = events(&plane).await.iter().map(v1::Event::kind).collect();
    assert_eq!(kinds, [EventKind::Registered, EventKind::Expired]);
}
