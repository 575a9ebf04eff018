//! What proxies see of instances, and who is told of it.

use std::time::Duration;

use waypost_proto::{
    time::wire_duration,
    v1::{self, EndpointHealth, subscribe_request::Kind},
};

use crate::harness::{Plane, Proxy, eventually, fields};

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
