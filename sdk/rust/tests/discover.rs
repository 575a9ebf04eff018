//! What the SDK promises to those who look things up: watches outlive connections, and a resolver keeps
//! its set while the control plane is away or does not know everything yet.

mod fake;

use std::time::Duration;

use fake::{Fake, Registry};
use futures_util::StreamExt;
use waypost_proto::{error::ErrorCode, name::ServiceKey, v1};
use waypost_sdk::{Balance, Client, Registration, Resolver, WatchEvent, WatchStream};

fn client(fake: &Fake) -> Client {
    Client::connect([fake.url()]).expect("a good address")
}

fn users() -> ServiceKey {
    ServiceKey::new("", "users").expect("a good name")
}

fn instance(port: u16) -> Registration {
    Registration::new("users", format!("127.0.0.1:{port}")).ttl(Duration::from_secs(1))
}

async fn next(events: &mut WatchStream) -> WatchEvent {
    let next = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
    next.expect("no event came").expect("the stream goes on").expect("no error")
}

async fn until_available(resolver: &Resolver, count: usize) {
    let mut available = resolver.available();
    let reached = tokio::time::timeout(Duration::from_secs(20), available.wait_for(|now| *now == count));
    reached.await.expect("it never came").expect("the resolver lives");
}

fn ports(resolver: &Resolver) -> Vec<u16> {
    resolver.endpoints().iter().map(|endpoint| endpoint.address.port()).collect()
}

#[tokio::test]
async fn a_watch_tells_what_is_there_what_changes_and_goes_on_after_a_restart() {
    let fake = Fake::start();
    let registered = client(&fake).register(instance(9001)).await.expect("registered");
    let filter = v1::WatchRequest { service: "users".into(), ..Default::default() };
    let mut events = client(&fake).watch(filter);
    let WatchEvent::Initial { instances, .. } = next(&mut events).await else { panic!("the list first") };
    assert_eq!(instances.len(), 1);
    let _second = client(&fake).register(instance(9002)).await.expect("registered");
    let WatchEvent::Changed { changed, .. } = next(&mut events).await else { panic!("a change") };
    assert_eq!(changed[0].key.as_ref().expect("a key").id, "127.0.0.1:9002");
    registered.deregister().await.expect("deregistered");
    let removed = loop {
        let WatchEvent::Changed { removed, .. } = next(&mut events).await else { panic!("a change") };
        if !removed.is_empty() {
            break removed;
        }
    };
    assert_eq!(removed[0].to_string(), "users/127.0.0.1:9001");
    let address = fake.kill();
    assert!(matches!(next(&mut events).await, WatchEvent::Interrupted(_)));
    let _fake = Fake::start_at(address, Registry::new());
    assert!(matches!(next(&mut events).await, WatchEvent::Initial { .. }));
}

#[tokio::test]
async fn a_watch_that_cannot_work_ends_with_its_error() {
    let fake = Fake::start();
    let mut events = client(&fake).watch(v1::WatchRequest { service: "a b".into(), ..Default::default() });
    let error = events.next().await.expect("an event").expect_err("a bad name");
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_resolver_follows_health_and_membership() {
    let fake = Fake::start();
    let resolver = client(&fake).resolver(&users()).start();
    assert!(resolver.pick().is_none());
    let one = client(&fake).register(instance(9001)).await.expect("registered");
    let two = client(&fake).register(instance(9002)).await.expect("registered");
    until_available(&resolver, 2).await;
    let picked = |_| resolver.pick().expect("a pick").address.port();
    let mut turns: Vec<u16> = (0..4).map(picked).collect();
    turns.sort_unstable();
    assert_eq!(turns, [9001, 9001, 9002, 9002]);
    one.set_health(false, "it fails");
    until_available(&resolver, 1).await;
    assert_eq!(ports(&resolver), [9002]);
    two.deregister().await.expect("deregistered");
    until_available(&resolver, 0).await;
}

#[tokio::test]
async fn picks_that_are_held_count() {
    let fake = Fake::start();
    let _one = client(&fake).register(instance(9001)).await.expect("registered");
    let _two = client(&fake).register(instance(9002)).await.expect("registered");
    let resolver = client(&fake).resolver(&users()).balance(Balance::LeastInFlight).start();
    until_available(&resolver, 2).await;
    let held = resolver.pick().expect("a pick");
    for _ in 0..3 {
        assert_ne!(resolver.pick().expect("a pick").key, held.key);
    }
}

#[tokio::test]
async fn a_resolver_picks_by_version_tag_and_zone() {
    let fake = Fake::start();
    let client = client(&fake);
    let one = instance(9001).version("1").tag("canary").zone("a");
    let two = instance(9002).version("2").tag("canary").zone("b");
    let registered = [client.register(one).await, client.register(two).await];
    assert!(registered.iter().all(Result::is_ok));
    let version = client.resolver(&users()).version("2").start();
    until_available(&version, 1).await;
    assert_eq!(ports(&version), [9002]);
    let zone = client.resolver(&users()).zone("a").tag("canary").start();
    until_available(&zone, 1).await;
    assert_eq!(ports(&zone), [9001]);
    let far = client.resolver(&users()).zone("c").start();
    until_available(&far, 2).await;
}

#[tokio::test]
async fn a_resolver_keeps_its_set_over_a_restart_until_the_control_plane_has_settled() {
    let fake = Fake::start();
    let resolver = client(&fake).resolver(&users()).start();
    // Registered behind the SDK's back, so that nobody registers it again.
    let request = v1::RegisterRequest { instance: Some(instance(9001).spec().clone()), ..Default::default() };
    client(&fake).registry().register(request).await.expect("registered");
    resolver.ready().await;
    let address = fake.kill();
    assert_eq!(ports(&resolver), [9001]);
    let registry = Registry::new();
    registry.with(|state| state.settled = false);
    let fake = Fake::start_at(address, registry);
    let _other = client(&fake).register(instance(9002)).await.expect("registered");
    until_available(&resolver, 2).await;
    assert_eq!(ports(&resolver), [9001, 9002], "9001 may be about to come back");
    fake.registry().with(|state| state.settled = true);
    until_available(&resolver, 1).await;
    assert_eq!(ports(&resolver), [9002]);
}

#[tokio::test]
async fn answers_that_are_errors_are_told_from_no_answer() {
    let fake = Fake::start();
    let error = client(&fake).service(&users()).await.expect_err("there is none");
    assert_eq!(error.code(), ErrorCode::NotFound);
    let request = v1::ResolveRequest { key: Some(users().to_wire()), ..Default::default() };
    let error = client(&fake).resolve(request).await.expect_err("there is none");
    assert_eq!(error.to_string(), "none of its instances takes traffic");
}

#[tokio::test]
async fn another_service_on_the_port_is_not_taken_for_a_control_plane() {
    let runtime = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = runtime.local_addr().expect("it is bound");
    let incoming = tonic::transport::server::TcpIncoming::from(runtime);
    let (_, health) = tonic_health::server::health_reporter();
    tokio::spawn(tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming));
    let client = Client::connect([address.to_string()]).expect("a good address");
    let error = client.services("").await.expect_err("it is no control plane");
    assert!(error.to_string().contains("is this its gRPC port?"), "{error}");
}
