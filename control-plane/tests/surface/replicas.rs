//! Several control planes over one store: they find each other, answer for all, and hand proxies to each other.

use std::{sync::Arc, time::Duration};

use tonic::Code;
use waypost_control_plane::store::Memory;
use waypost_proto::{
    instance::InstanceSpec,
    snapshot::Snapshot,
    time::wire_duration,
    v1::{self, InstanceState},
};

use crate::harness::{Plane, Proxy, eventually, fields, spec};

/// Two that know each other.
async fn pair() -> (Arc<Memory>, Plane, Plane) {
    let store = Arc::new(Memory::new());
    let (one, two) = (Plane::replica(&store, "one").await, Plane::replica(&store, "two").await);
    know_each_other(&one, &two).await;
    (store, one, two)
}

async fn know_each_other(one: &Plane, two: &Plane) {
    for plane in [one, two] {
        eventually("each knows the other", || async {
            let status = plane.status().await;
            status.settled && status.replicas.iter().filter(|replica| replica.reachable).count() == 2
        })
        .await;
    }
}

/// Until a replica has seen all that another one has.
async fn level(one: &Plane, other: &Plane) {
    let revision = one.server.plane.registry.view().revision();
    eventually("the other sees it", || async { other.server.plane.registry.view().revision() >= revision })
        .await;
}

fn in_flight(registered: &v1::RegisterResponse, count: u64) -> Vec<v1::InFlight> {
    vec![v1::InFlight { key: registered.key.clone(), epoch: registered.epoch, count }]
}

async fn drain(plane: &Plane, registered: &v1::RegisterResponse, deadline: Duration) -> v1::DrainOutcome {
    let request = v1::DrainRequest {
        key: registered.key.clone(),
        wait: true,
        deadline: Some(wire_duration(deadline)),
        ..Default::default()
    };
    plane.operations().drain(request).await.expect("it answers").into_inner().drain.expect("an outcome")
}

/// A change that people see and proxies do not.
async fn cosmetic(plane: &Plane, registered: &v1::RegisterResponse) {
    let request = v1::OverrideRequest {
        key: registered.key.clone(),
        state: InstanceState::Up.into(),
        reason: "it looks good".to_owned(),
        ..Default::default()
    };
    plane.operations().r#override(request).await.expect("a good one");
}

#[tokio::test]
async fn control_planes_find_each_other_and_are_nobody_elses_business() {
    let (_, one, two) = pair().await;
    let status = one.status().await;
    assert_eq!((status.replica.as_str(), status.services, status.instances, status.routes), ("one", 0, 0, 0));
    let addresses: Vec<_> = status.replicas.iter().map(|replica| replica.address.clone()).collect();
    assert_eq!(addresses, [one.server.grpc.to_string(), two.server.grpc.to_string()]);

    let list = async |namespace: &str| {
        let request = v1::ListServicesRequest { namespace: namespace.to_owned() };
        one.discovery().list_services(request).await.expect("a list").into_inner().services
    };
    assert_eq!(list("").await, []);
    assert_eq!(list("waypost").await[0].up, 2);
    let body = one.get("/v1/instances").await.2;
    assert!(!body.contains("control-plane"), "{body}");
    let mut proxy = Proxy::connect(&one, "p", None).await;
    proxy.next().await.expect("everything");
    assert_eq!(proxy.held.as_ref().expect("a snapshot").services().len(), 0, "never pushed");

    let mut foreign = spec("control-plane", 9001);
    foreign.namespace = "waypost".into();
    let request = v1::RegisterRequest { instance: Some(foreign), ..Default::default() };
    let refused = one.registry().register(request).await.expect_err("reserved");
    assert_eq!(fields(&refused), ["instance.namespace"]);
    assert!(refused.message().contains("reserved"), "{}", refused.message());
    let key = Some(v1::InstanceKey {
        namespace: "waypost".into(),
        service: "control-plane".into(),
        id: "two".into(),
    });
    let request = v1::DeregisterRequest { key, ..Default::default() };
    assert_eq!(fields(&one.registry().deregister(request).await.expect_err("reserved")), ["key.namespace"]);

    two.server.stop(Duration::from_secs(2)).await;
    eventually("who stops leaves", || async { list("waypost").await.first().is_some_and(|all| all.up == 1) })
        .await;
    eventually("and is forgotten", || async { one.status().await.replicas.len() == 1 }).await;
}

#[tokio::test]
async fn a_drain_asked_of_one_waits_for_the_proxies_of_the_other() {
    let (_, one, two) = pair().await;
    let registered = one.register("users", 9001).await;
    let mut proxy = Proxy::connect(&two, "p", None).await;
    proxy.reach(registered.revision).await;
    proxy.applied(in_flight(&registered, 2)).await;
    eventually("its report", || async { one.proxies().await.first().is_some_and(|seen| seen.digest_ok) })
        .await;

    let outcome = drain(&one, &registered, Duration::from_millis(200)).await;
    assert!(!outcome.complete, "{outcome:?}");
    assert_eq!(outcome.waiting_for, ["two/p"]);
    proxy.next().await.expect("it drains");
    proxy.applied(in_flight(&registered, 2)).await;
    let outcome = drain(&one, &registered, Duration::from_millis(200)).await;
    assert_eq!((outcome.complete, outcome.in_flight), (false, 2), "{outcome:?}");
    let waiting = drain(&one, &registered, Duration::from_secs(20));
    tokio::pin!(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    proxy.applied(Vec::new()).await;
    let outcome = waiting.await;
    assert!(outcome.complete && outcome.waiting_for.is_empty(), "{outcome:?}");
}

#[tokio::test]
async fn a_drain_is_not_missed_by_a_proxy_that_moves_meanwhile() {
    // On any machine, the proxy has moved by then.
    let (store, grace) = (Arc::new(Memory::new()), Duration::from_secs(2));
    let one = Plane::replica_with(&store, "one", grace).await;
    let two = Plane::replica_with(&store, "two", grace).await;
    know_each_other(&one, &two).await;
    let registered = one.register("users", 9001).await;
    let mut proxy = Proxy::connect(&two, "p", None).await;
    proxy.reach(registered.revision).await;
    proxy.applied(in_flight(&registered, 1)).await;
    eventually("its report", || async { one.proxies().await.first().is_some_and(|seen| seen.digest_ok) })
        .await;
    let plane = one.channel.clone();
    let request = v1::DrainRequest { key: registered.key.clone(), wait: true, ..Default::default() };
    let waiting = tokio::spawn(async move {
        let mut operations = v1::operations_client::OperationsClient::new(plane);
        operations.drain(request).await.expect("it answers").into_inner().drain.expect("an outcome")
    });
    proxy.next().await.expect("it drains");
    proxy.applied(in_flight(&registered, 1)).await;
    let held = proxy.held.take();
    drop(proxy);
    let moved = Proxy::connect(&one, "p", held).await;
    moved.applied(in_flight(&registered, 1)).await;
    // Longer than anybody waits for one who has left.
    let early = tokio::time::sleep(grace + Duration::from_secs(1));
    tokio::select! {
        () = early => {}
        () = async { while !waiting.is_finished() { tokio::time::sleep(Duration::from_millis(5)).await } } => {
            panic!("it has a request in flight");
        }
    }
    moved.applied(Vec::new()).await;
    let outcome = waiting.await.expect("no panic");
    assert!(outcome.complete, "{outcome:?}");
}

#[tokio::test]
async fn the_watermark_is_that_of_all_proxies_of_all_replicas() {
    let (_, one, two) = pair().await;
    let first = one.register("users", 9001).await;
    let mut near = Proxy::connect(&one, "near", None).await;
    let mut far = Proxy::connect(&two, "far", None).await;
    near.reach(first.revision).await;
    far.reach(first.revision).await;
    let second = two.register("users", 9002).await;
    near.reach(second.revision).await;
    let mut request = v1::WaitAppliedRequest {
        revision: second.revision,
        deadline: Some(wire_duration(Duration::from_millis(200))),
    };
    level(&two, &one).await;
    let late = one.operations().wait_applied(request).await.expect_err("far is behind");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(late.message().contains("two/far") && !late.message().contains("near"), "{}", late.message());
    for plane in [&one, &two] {
        let status = plane.status().await;
        assert_eq!((status.watermark < second.revision, status.proxies), (true, 2), "{status:?}");
        let listed: Vec<_> = plane.proxies().await.into_iter().map(|seen| (seen.id, seen.replica)).collect();
        assert_eq!(listed, [("far".into(), "two".into()), ("near".into(), "one".to_owned())]);
    }
    far.reach(second.revision).await;
    request.deadline = None;
    let answer = one.operations().wait_applied(request).await.expect("it is applied").into_inner();
    assert_eq!(answer.proxies, 2);
    eventually("the watermark", || async { one.status().await.watermark >= second.revision }).await;
}

#[tokio::test]
async fn a_replica_that_is_gone_is_waited_for_until_its_lease_ends_and_no_longer() {
    let (_, one, two) = pair().await;
    let registered = one.register("users", 9001).await;
    // Nobody listens there, nobody renews: a control plane that was killed.
    let nobody = tokio::net::TcpSocket::new_v4().expect("a socket");
    nobody.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let killed = InstanceSpec::from_wire(&v1::InstanceSpec {
        namespace: "waypost".into(),
        service: "control-plane".into(),
        id: "killed".into(),
        address: nobody.local_addr().expect("an address").to_string(),
        prefix: Some(String::new()),
        ..Default::default()
    });
    let registry = &one.server.plane.registry;
    registry.register(killed.expect("a spec"), Duration::from_secs(2), "test").await.expect("it registers");
    let began = std::time::Instant::now();
    let outcome = drain(&two, &registered, Duration::from_millis(300)).await;
    assert!(!outcome.complete);
    assert!(outcome.waiting_for[0].starts_with("killed/"), "{outcome:?}");
    let status = two.status().await;
    let seen = status.replicas.iter().find(|replica| replica.id == "killed").expect("it is listed");
    assert!(!seen.reachable && !seen.reason.is_empty(), "{seen:?}");
    let outcome = drain(&one, &registered, Duration::from_secs(20)).await;
    assert!(outcome.complete, "{outcome:?}");
    assert!(
        began.elapsed() >= Duration::from_millis(1900),
        "not before its lease is over: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_proxy_moves_between_replicas_without_being_sent_everything() {
    let (store, one, two) = pair().await;
    let first = one.register("users", 9001).await;
    let mut proxy = Proxy::connect(&one, "p", None).await;
    proxy.reach(first.revision).await;
    assert_eq!(proxy.chunks, 1);
    // To one that has followed all the time, and missed a change on the way.
    let held = proxy.held.take();
    drop(proxy);
    let second = one.register("users", 9002).await;
    let mut proxy = Proxy::connect(&two, "p", held).await;
    proxy.reach(second.revision).await;
    assert_eq!((proxy.chunks, proxy.deltas), (0, 1));

    // To one that has loaded what the others followed, after changes that are nothing to proxies.
    cosmetic(&one, &second).await;
    level(&one, &two).await;
    let head = two.status().await.head.expect("a head").revision;
    proxy.reach(head).await;
    let three = Plane::replica(&store, "three").await;
    assert!(three.status().await.head.expect("a head").revision > head, "the same contents by a later name");
    let held = proxy.held.take();
    drop(proxy);
    let mut proxy = Proxy::connect(&three, "p", held).await;
    proxy.next().await.expect("an empty step");
    assert_eq!((proxy.chunks, proxy.deltas), (0, 1));
    proxy.applied(Vec::new()).await;

    // And back, to one that calls the same contents by an earlier name.
    let named = proxy.held.as_ref().map(Snapshot::revision);
    let held = proxy.held.take();
    drop(proxy);
    let mut proxy = Proxy::connect(&two, "p", held).await;
    proxy.next().await.expect("an empty step");
    assert_eq!((proxy.chunks, proxy.deltas), (0, 1));
    assert!(proxy.held.as_ref().map(Snapshot::revision) >= named, "it never goes back");
    proxy.applied(Vec::new()).await;
    eventually("it counts as applied", || async {
        let status = two.status().await;
        status.watermark >= status.head.expect("a head").revision
    })
    .await;
    let third = three.register("users", 9003).await;
    proxy.reach(third.revision).await;
    assert_eq!((proxy.chunks, proxy.deltas), (0, 2));
    let seen = &two.proxies().await[0];
    assert_eq!((seen.digest_ok, seen.resyncs, seen.replica.as_str()), (true, 0, "two"));
    let answer = one.operations().wait_applied(v1::WaitAppliedRequest::default()).await;
    assert_eq!(answer.expect("it is applied everywhere").into_inner().proxies, 1);
}

#[tokio::test]
async fn what_a_proxy_of_one_sees_is_known_to_the_other_and_keeps_who_answers() {
    let (_, one, two) = pair().await;
    let request = v1::RegisterRequest {
        instance: Some(spec("users", 9001)),
        ttl: Some(wire_duration(Duration::from_secs(2))),
        ..Default::default()
    };
    let registered = one.registry().register(request).await.expect("a good registration").into_inner();
    level(&one, &two).await;
    let proxy = Proxy::connect(&two, "p", None).await;
    let said = v1::Observation {
        key: registered.key.clone(),
        epoch: registered.epoch,
        succeeded: 1,
        ..Default::default()
    };
    let said = v1::Observed { instances: vec![said], period: None };
    let requests = proxy.requests.clone();
    tokio::spawn(async move {
        let request = v1::SubscribeRequest { kind: Some(v1::subscribe_request::Kind::Observed(said)) };
        while requests.send(request.clone()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let seen = async |plane: &Plane| {
        let request = v1::ListInstancesRequest::default();
        plane.discovery().list_instances(request).await.expect("a list").into_inner().instances.pop()
    };
    for plane in [&one, &two] {
        eventually("it is told", || async {
            let sightings = seen(plane).await.and_then(|instance| instance.sightings).unwrap_or_default();
            (sightings.proxies, sightings.connected, sightings.answering) == (1, 1, 1)
        })
        .await;
    }
    // Both sweep, and only one of them has the proxy.
    eventually("it is suspect", || async {
        seen(&one).await.is_some_and(|instance| instance.state() == InstanceState::Suspect)
    })
    .await;
}
