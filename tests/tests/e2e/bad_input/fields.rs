//! Every field of every call, with values that break its rule.

use std::time::Duration;

use pbjson_types::Duration as WireDuration;
use tonic::{Code, Status};
use waypost_proto::v1::{
    self, Beat, DeregisterRequest, DrainRequest, GetServiceRequest, Hello, InstanceKey, InstanceSpec,
    InstanceState, ListEventsRequest, ListInstancesRequest, ListRoutesRequest, ListServicesRequest,
    OverrideRequest, RegisterRequest, ResolveRequest, ServiceKey, SubscribeRequest, WaitAppliedRequest,
    WatchRequest, subscribe_request::Kind,
};
use waypost_tests::{
    api::{Api, spec},
    cluster::Cluster,
};

const LEASE: Duration = Duration::from_secs(600);

/// Refused as bad input, with a message that names the field and the value.
#[track_caller]
fn assert_names<T: std::fmt::Debug>(answer: Result<T, Status>, field: &str, value: &str) {
    let status = answer.expect_err(&format!("{field} = {value:?} must be refused"));
    let named = status.message().contains(&format!("{field} = {value:?}: "));
    assert_eq!(status.code(), Code::InvalidArgument, "{field} = {value:?}: {status:?}");
    assert!(named, "the message names field, value and rule of {field} = {value:?}: {}", status.message());
    assert!(!status.details().is_empty(), "programs can read it too: {status:?}");
}

fn seconds(seconds: i64) -> Option<WireDuration> {
    Some(WireDuration { seconds, nanos: 0 })
}

fn key(service: &str, id: &str) -> Option<InstanceKey> {
    Some(InstanceKey { service: service.into(), id: id.into(), ..Default::default() })
}

async fn cluster() -> (Cluster, u64) {
    let cluster = Cluster::builder().proxies(0).start().await;
    cluster.api().register(&spec("users", "127.0.0.1:9001"), LEASE).await.expect("a lease");
    cluster.converged().await;
    let revision = cluster.api().status().await.expect("a status").revision;
    (cluster, revision)
}

async fn assert_unchanged(cluster: &Cluster, revision: u64) {
    let status = cluster.api().status().await.expect("a status");
    assert_eq!((status.revision, status.instances, status.services), (revision, 1, 1), "nothing has changed");
}

/// A bad value of one field: the field, the value as it is to be named, and how it gets into a registration.
type Bad = (&'static str, String, fn(&mut InstanceSpec, &str));

fn bad(field: &'static str, value: &str, set: fn(&mut InstanceSpec, &str)) -> Bad {
    (field, value.to_owned(), set)
}

fn bad_registrations() -> Vec<Bad> {
    let long = "a".repeat(300);
    let mut all = Vec::new();
    for name in ["", "a b", "-a", "a-", "ä", "a/b", "a\n", &long] {
        all.push(bad("service", name, |spec, value| spec.service = value.into()));
    }
    for name in ["a b", "-a", "a/b", &long] {
        all.push(bad("namespace", name, |spec, value| spec.namespace = value.into()));
    }
    for id in ["a b", "a/b", "\u{7f}", &long] {
        all.push(bad("id", id, |spec, value| spec.id = value.into()));
    }
    for address in
        ["", "nowhere", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "0.0.0.0:80", "http://a:80", ":80"]
    {
        all.push(bad("address", address, |spec, value| spec.address = value.into()));
    }
    for label in ["a b", "ä", &long] {
        all.push(bad("version", label, |spec, value| spec.version = value.into()));
        all.push(bad("zone", label, |spec, value| spec.zone = value.into()));
        all.push(bad("tags", label, |spec, value| spec.tags = vec![value.into()]));
    }
    all.push(bad("tags", "", |spec, value| spec.tags = vec![value.into()]));
    all.push(bad("tags", "65 entries", |spec, _| spec.tags = (0..65).map(|tag| tag.to_string()).collect()));
    for weight in ["65536", "4294967295"] {
        all.push(bad("weight", weight, |spec, value| spec.weight = value.parse().ok()));
    }
    for protocol in ["99", "-1"] {
        all.push(bad("protocol", protocol, |spec, value| spec.protocol = value.parse().expect("a number")));
    }
    for prefix in ["users", "/a//b", "/..", "/a?b", "/a b", "/{id}", "/%2e"] {
        all.push(bad("prefix", prefix, |spec, value| spec.prefix = Some(value.into())));
    }
    for endpoint in ["", "GET", "GET users", "G T /a", "GET /{a b}", "GET /{a:path}/b", "GET /a/../b"] {
        all.push(bad("endpoints", endpoint, |spec, value| spec.endpoints = vec![value.into()]));
    }
    all.push(bad("metadata", "a b", |spec, value| {
        spec.metadata.insert(value.into(), String::new());
    }));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_names_every_field_that_is_wrong() {
    let (cluster, revision) = cluster().await;
    for (field, value, set) in bad_registrations() {
        let mut instance = spec("shop", "127.0.0.1:9002");
        set(&mut instance, &value);
        assert_names(cluster.api().register(&instance, LEASE).await, field, &value);
    }
    for (wire, shown) in [
        ((0, 0), "0.000000000s"),
        ((3601, 0), "3601.000000000s"),
        ((-5, 0), "-5.000000000s"),
        ((0, 1), "0.000000001s"),
    ] {
        let request = RegisterRequest {
            instance: Some(spec("shop", "127.0.0.1:9002")),
            ttl: Some(WireDuration { seconds: wire.0, nanos: wire.1 }),
            ..Default::default()
        };
        assert_names(cluster.api().registry().register(request).await, "ttl", shown);
    }
    let nothing = cluster.api().registry().register(RegisterRequest::default()).await;
    assert_eq!(nothing.expect_err("an empty registration").code(), Code::InvalidArgument);
    assert_unchanged(&cluster, revision).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_and_beating_name_the_field_that_is_wrong() {
    let (cluster, revision) = cluster().await;
    let api = cluster.api();
    let deregister = |key, drain_deadline| {
        let request = DeregisterRequest { key, drain: true, drain_deadline, ..Default::default() };
        async move { api.registry().deregister(request).await }
    };
    assert_names(deregister(key("a b", "x"), None).await, "key.service", "a b");
    assert_names(deregister(key("users", ""), None).await, "key.id", "");
    assert_names(deregister(None, None).await, "key.service", "");
    let users = || key("users", "127.0.0.1:9001");
    assert_names(deregister(users(), seconds(3601)).await, "drain_deadline", "3601s");
    assert_names(deregister(users(), seconds(-1)).await, "drain_deadline", "-1s");

    let beat = |key| Beat { key, epoch: 1, health: None, load: None };
    let refused = api.beats(vec![beat(users()), beat(key("users", "a b"))]).await;
    assert_names(refused, "beats[1].key.id", "a b");
    let refused = api.beats(vec![beat(users()); 10_001]).await;
    assert_names(refused, "beats", "10001 entries");
    assert_unchanged(&cluster, revision).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_name_the_field_that_is_wrong() {
    let (cluster, revision) = cluster().await;
    let (mut ask, bad) = (cluster.api().discovery(), || "a b".to_owned());
    assert_names(ask.list_services(ListServicesRequest { namespace: bad() }).await, "namespace", "a b");
    assert_names(ask.list_routes(ListRoutesRequest { namespace: bad() }).await, "namespace", "a b");
    let service = Some(ServiceKey { namespace: String::new(), name: bad() });
    assert_names(ask.get_service(GetServiceRequest { key: service.clone() }).await, "service", "a b");
    assert_names(ask.get_service(GetServiceRequest { key: None }).await, "service", "");
    let resolve = ResolveRequest { key: service, ..Default::default() };
    assert_names(ask.resolve(resolve).await, "service", "a b");

    let instances = ListInstancesRequest { service: bad(), ..Default::default() };
    assert_names(ask.list_instances(instances).await, "service", "a b");
    let instances = ListInstancesRequest { state: 99, ..Default::default() };
    assert_names(ask.list_instances(instances).await, "state", "99");
    let watch = WatchRequest { service: bad(), ..Default::default() };
    assert_names(ask.watch(watch).await, "service", "a b");
    let events = ListEventsRequest { limit: 10_001, ..Default::default() };
    assert_names(ask.list_events(events).await, "limit", "10001");
    let events = ListEventsRequest { namespace: bad(), ..Default::default() };
    assert_names(ask.list_events(events).await, "namespace", "a b");
    assert_unchanged(&cluster, revision).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_name_the_field_that_is_wrong() {
    let (cluster, revision) = cluster().await;
    let mut steer = cluster.api().operations();
    let users = || key("users", "127.0.0.1:9001");
    let drain = |key, deadline| DrainRequest { key, deadline, wait: true, ..Default::default() };
    assert_names(steer.drain(drain(key("users", "a b"), None)).await, "key.id", "a b");
    assert_names(steer.drain(drain(users(), seconds(3601))).await, "deadline", "3601s");

    let down = i32::from(InstanceState::Down);
    let force = |state, ttl| OverrideRequest { key: users(), state, ttl, ..Default::default() };
    let draining = i32::from(InstanceState::Draining);
    assert_names(steer.r#override(force(draining, None)).await, "state", "INSTANCE_STATE_DRAINING");
    assert_names(steer.r#override(force(99, None)).await, "state", "99");
    assert_names(steer.r#override(force(down, seconds(0))).await, "ttl", "0s");
    assert_names(steer.r#override(force(down, seconds(604_801))).await, "ttl", "604801s");

    let wait = WaitAppliedRequest { revision: 0, deadline: seconds(3601) };
    assert_names(steer.wait_applied(wait).await, "deadline", "3601s");
    assert_unchanged(&cluster, revision).await;
}

async fn subscribe(api: &Api, kind: Option<Kind>) -> Result<(), Status> {
    let first = tokio_stream::once(SubscribeRequest { kind });
    let mut answers = api.snapshots().subscribe(first).await?.into_inner();
    answers.message().await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_begins_with_who_subscribes() {
    let (cluster, revision) = cluster().await;
    let applied = Kind::Applied(v1::Applied::default());
    for first in [None, Some(applied)] {
        let refused = subscribe(cluster.api(), first.clone()).await.expect_err("no Hello");
        assert_eq!(refused.code(), Code::InvalidArgument, "{first:?}: {refused}");
    }
    let hello = |proxy_id: &str, namespace: &str| {
        Some(Kind::Hello(Hello {
            proxy_id: proxy_id.into(),
            namespaces: vec![namespace.into()],
            ..Default::default()
        }))
    };
    assert_names(subscribe(cluster.api(), hello("", "default")).await, "hello.proxy_id", "");
    assert_names(subscribe(cluster.api(), hello("proxy-x", "a b")).await, "hello.namespaces", "a b");
    assert_eq!(cluster.api().proxies().await.expect("proxies").len(), 0, "nobody has subscribed");
    assert_unchanged(&cluster, revision).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_to_be_missing_with_a_way_out() {
    let (cluster, revision) = cluster().await;
    let api = cluster.api();
    let service = Some(ServiceKey { namespace: String::new(), name: "user".into() });
    let missing = api.discovery().get_service(GetServiceRequest { key: service }).await.expect_err("no such");
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.message().contains("users"), "it names the nearest there is: {}", missing.message());

    let gone = key("users", "nobody").expect("a key");
    let missing = api.deregister(&gone, 0, None).await.expect_err("no such instance");
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
    assert!(missing.message().contains("nobody"), "{}", missing.message());
    assert_unchanged(&cluster, revision).await;
}
