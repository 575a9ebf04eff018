//! `waypost.v1.Discovery` over a socket.

use crate::harness::{Plane, fields, service};
use tonic::Code;
use waypost_proto::v1::{self, EventKind};

#[tokio::test]
async fn what_is_registered_is_listed_found_and_resolved() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    plane.register("orders", 9002).await;
    let mut discovery = plane.discovery();
    let services = discovery.list_services(v1::ListServicesRequest::default()).await.expect("a list");
    let names: Vec<String> =
        services.into_inner().services.into_iter().filter_map(|service| Some(service.key?.name)).collect();
    assert_eq!(names, ["orders", "users"]);
    let users = discovery.get_service(v1::GetServiceRequest { key: service("users") }).await.expect("there");
    assert_eq!(users.into_inner().instances[0].epoch, registered.epoch);
    let routes = discovery.list_routes(v1::ListRoutesRequest::default()).await.expect("a list").into_inner();
    let paths: Vec<&str> =
        routes.routes.iter().filter_map(|route| Some(route.entry.as_ref()?.path.as_str())).collect();
    assert_eq!(paths, ["/orders", "/users"]);
    let request = v1::ResolveRequest { key: service("users"), ..Default::default() };
    let resolved = discovery.resolve(request).await.expect("it takes traffic").into_inner();
    assert_eq!(resolved.instances[0].address, "127.0.0.1:9001");
    let request = v1::ListEventsRequest { service: "users".into(), ..Default::default() };
    let events = discovery.list_events(request).await.expect("a list").into_inner().events;
    assert_eq!((events[0].kind(), events[0].actor.as_str()), (EventKind::Registered, "test"));
}

#[tokio::test]
async fn what_is_not_there_is_answered_with_the_nearest_name() {
    let plane = Plane::start().await;
    plane.register("users", 9001).await;
    let request = v1::GetServiceRequest { key: service("user") };
    let missing = plane.discovery().get_service(request).await.expect_err("there is none");
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.message().contains("users"), "{}", missing.message());
    for (version, tags) in [("2", vec![]), ("", vec!["canary".to_owned()])] {
        let request =
            v1::ResolveRequest { key: service("users"), version: version.into(), tags, ..Default::default() };
        let missing = plane.discovery().resolve(request).await.expect_err("there is none of them");
        assert_eq!(missing.code(), Code::NotFound, "{}", missing.message());
        assert!(missing.message().contains("waypost instances users"), "{}", missing.message());
    }
    let request = v1::GetServiceRequest { key: service("a b") };
    fields(&plane.discovery().get_service(request).await.expect_err("not a name"));
    let request = v1::ListInstancesRequest { state: 99, ..Default::default() };
    fields(&plane.discovery().list_instances(request).await.expect_err("not a state"));
    let request = v1::ListEventsRequest { limit: 10_001, ..Default::default() };
    fields(&plane.discovery().list_events(request).await.expect_err("too many"));
}

#[tokio::test]
async fn a_watch_begins_with_everything_and_goes_on_with_what_changes() {
    let plane = Plane::start().await;
    let first = plane.register("users", 9001).await;
    plane.register("orders", 9002).await;
    let request = v1::WatchRequest { service: "users".into(), ..Default::default() };
    let mut watch = plane.discovery().watch(request).await.expect("a stream").into_inner();
    let step = watch.message().await.expect("a step").expect("the stream goes on");
    assert!(step.initial && step.removed.is_empty());
    assert_eq!(step.changed.len(), 1);

    plane.register("orders", 9003).await;
    let second = plane.register("users", 9004).await;
    let step = watch.message().await.expect("a step").expect("the stream goes on");
    assert!(!step.initial && step.revision >= second.revision);
    assert_eq!(step.changed[0].key, second.key);

    let request = v1::DeregisterRequest { key: first.key.clone(), ..Default::default() };
    plane.registry().deregister(request).await.expect("it is removed");
    let step = watch.message().await.expect("a step").expect("the stream goes on");
    assert_eq!((step.changed.len(), step.removed), (0, vec![first.key.expect("a name")]));

    let request = v1::WatchRequest { namespace: "a b".into(), ..Default::default() };
    fields(&plane.discovery().watch(request).await.expect_err("not a name"));
}

#[tokio::test]
async fn a_watch_that_lags_gets_everything_again() {
    let plane = Plane::start().await;
    let mut watch =
        plane.discovery().watch(v1::WatchRequest::default()).await.expect("a stream").into_inner();
    assert!(watch.message().await.expect("a step").expect("the stream goes on").initial);
    // More than the connection and the registry keep for one who does not read.
    let mut spec = crate::harness::spec("users", 9001);
    spec.metadata.insert("padding".into(), "x".repeat(4_000));
    for count in 0..6_000 {
        spec.description = count.to_string();
        let request = v1::RegisterRequest { instance: Some(spec.clone()), ..Default::default() };
        plane.registry().register(request).await.expect("a good registration");
    }
    let mut again = false;
    loop {
        let step = watch.message().await.expect("a step").expect("the stream goes on");
        again |= step.initial;
        if step.changed.iter().any(|one| one.spec.as_ref().is_some_and(|spec| spec.description == "5999")) {
            break;
        }
    }
    assert!(again, "nothing was missed silently");
}
