//! `waypost.v1.Operations`, health and reflection over a socket.

use std::time::Duration;

use crate::harness::{Plane, Proxy, fields};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use waypost_proto::{
    time::wire_duration,
    v1::{self, InstanceState},
};

#[tokio::test]
async fn the_status_counts_what_there_is() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let status = plane.status().await;
    assert_eq!((status.services, status.instances, status.routes, status.proxies), (1, 1, 1, 0));
    assert_eq!((status.revision, status.watermark), (registered.revision, registered.revision));
    assert_eq!((status.store.as_str(), status.settled), ("memory://", false));
    assert!(status.started_at.is_some() && !status.version.is_empty());
}

#[tokio::test]
async fn an_override_holds_until_it_is_ended() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let mut request = v1::OverrideRequest {
        key: registered.key,
        state: InstanceState::Down.into(),
        reason: "looks odd".into(),
        ..Default::default()
    };
    let answer = plane.operations().r#override(request.clone()).await.expect("a good one").into_inner();
    let instance = answer.instance.expect("the instance");
    assert_eq!(instance.state(), InstanceState::Down);
    assert_eq!(instance.r#override.expect("it is in force").reason, "looks odd");
    request.state = InstanceState::Unspecified.into();
    let answer = plane.operations().r#override(request.clone()).await.expect("it ends").into_inner();
    assert_eq!(answer.instance.expect("the instance").state(), InstanceState::Up);

    request.state = InstanceState::Draining.into();
    request.ttl = Some(wire_duration(Duration::from_secs(8 * 24 * 3600)));
    request.reason = "x".repeat(1_025);
    let refused = plane.operations().r#override(request).await.expect_err("nothing fits");
    assert_eq!(fields(&refused), ["ttl", "reason", "state"]);
}

#[tokio::test]
async fn a_drain_takes_an_instance_out_and_can_be_cancelled() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let mut request = v1::DrainRequest { key: registered.key.clone(), wait: true, ..Default::default() };
    let answer = plane.operations().drain(request.clone()).await.expect("it drains").into_inner();
    assert!(answer.drain.expect("an outcome").complete, "there is no proxy");
    let state = async || {
        let request = v1::ListInstancesRequest::default();
        let listed = plane.discovery().list_instances(request).await.expect("a list").into_inner();
        listed.instances[0].state()
    };
    assert_eq!(state().await, InstanceState::Draining);
    request.cancel = true;
    fields(&plane.operations().drain(request.clone()).await.expect_err("there is nothing to wait for"));
    assert_eq!(state().await, InstanceState::Draining);
    request.wait = false;
    let answer = plane.operations().drain(request.clone()).await.expect("it is back").into_inner();
    assert_eq!((state().await, answer.drain), (InstanceState::Up, None));
    request.key.as_mut().expect("a key").id = "10.0.0.1:1".into();
    assert_eq!(plane.operations().drain(request).await.expect_err("no such").code(), Code::NotFound);
}

#[tokio::test]
async fn waiting_for_a_revision_names_who_is_behind() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let mut request = v1::WaitAppliedRequest::default();
    let answer = plane.operations().wait_applied(request).await.expect("no proxy").into_inner();
    assert_eq!((answer.revision, answer.proxies), (registered.revision, 0));
    let mut proxy = Proxy::connect(&plane, "late", None).await;
    proxy.next().await.expect("everything");
    request.deadline = Some(wire_duration(Duration::from_millis(20)));
    let late = plane.operations().wait_applied(request).await.expect_err("it has not said so");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(late.message().contains("late"), "{}", late.message());
    proxy.applied(Vec::new()).await;
    request.deadline = None;
    let answer = plane.operations().wait_applied(request).await.expect("it has").into_inner();
    assert_eq!((answer.watermark, answer.proxies), (registered.revision, 1));
    request.revision = registered.revision + 1;
    let refused = plane.operations().wait_applied(request).await.expect_err("it does not exist");
    assert_eq!(fields(&refused), ["revision"]);
}

#[tokio::test]
async fn a_cosmetic_change_is_applied_where_the_head_is() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(registered.revision).await;
    let mut spec = crate::harness::spec("users", 9001);
    spec.description = "keeps users".into();
    let request = v1::RegisterRequest { instance: Some(spec), ..Default::default() };
    let second = plane.registry().register(request).await.expect("a good registration").into_inner();
    proxy.reach(plane.status().await.head.expect("a head").revision).await;
    let request = v1::WaitAppliedRequest { revision: second.revision, ..Default::default() };
    let answer = plane.operations().wait_applied(request).await.expect("it is applied").into_inner();
    assert!(answer.watermark >= second.revision);
}

#[tokio::test]
async fn health_covers_every_service() {
    let plane = Plane::start().await;
    let mut health = HealthClient::new(plane.channel.clone());
    for service in waypost_control_plane::grpc::SERVICES {
        let request = HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.expect("it is known").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest { service: "waypost.v1.Registry".into() };
    let mut watch = health.watch(request).await.expect("a stream").into_inner();
    assert_eq!(watch.message().await.expect("a word").expect("a word").status(), ServingStatus::Serving);
    let stop = tokio::spawn(plane.server.stop(Duration::from_secs(1)));
    assert_eq!(watch.message().await.expect("a word").expect("a word").status(), ServingStatus::NotServing);
    drop(watch);
    stop.await.expect("it ends");
}

#[tokio::test]
async fn the_contract_can_be_asked_for() {
    let plane = Plane::start().await;
    let mut reflection = ServerReflectionClient::new(plane.channel.clone());
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let mut answers =
        reflection.server_reflection_info(tokio_stream::once(request)).await.expect("a stream").into_inner();
    let answer = answers.next().await.expect("an answer").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in &waypost_control_plane::grpc::SERVICES[1..] {
        assert!(names.contains(service), "{service} is not in {names:?}");
    }
}
