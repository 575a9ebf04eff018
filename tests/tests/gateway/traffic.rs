//! BackendTrafficPolicy, a policy of Waypost's own (attached directly, GEP-713): how a service's requests are shared,
//! tried again and limited.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use waypost_sdk::Registration;
use waypost_tests::{
    gateway::{Ask, Scene, http_route, resource},
    wait::{eventually, holds},
};

use crate::case::{Case, case};

/// All cases of BackendTrafficPolicy.
pub(super) const CASES: &[&[Case]] = &[&[
    case!(Implementation "BackendTrafficPolicy"
        "`loadBalancer` chooses the instance: by a key of the request, the same key goes to the same one" keyed),
    case!(Implementation "BackendTrafficPolicy"
        "`retry` is for all requests to the service, by routes that do not say otherwise" retry),
    case!(Implementation "BackendTrafficPolicy" "a route's own `retry` goes before the policy's" route_first),
    case!(Implementation "BackendTrafficPolicy"
        "`timeouts.request` limits requests of automatic routes, too" timeouts),
    case!(Implementation "BackendTrafficPolicy"
        "`timeouts.connect` limits how long a connection may take, and the answer says so" connect),
    case!(Implementation "BackendTrafficPolicy"
        "`timeouts.idle` breaks an answer off that pauses for longer" idle),
    case!(Implementation "BackendTrafficPolicy"
        "`circuitBreaker.maxRequestsPerInstance`: where all instances are full: 503 overloaded" per_instance),
    case!(Implementation "BackendTrafficPolicy"
        "`circuitBreaker.maxRetries` leaves retries below the limit alone" retries),
    case!(Implementation "BackendTrafficPolicy"
        "`circuitBreaker.maxConnections`: who waits for one in vain: 503 overloaded" connections),
    case!(Implementation "BackendTrafficPolicy"
        "`circuitBreaker.maxPendingRequests`: beyond it nobody waits: 503 overloaded" pending),
    case!(Implementation "BackendTrafficPolicy"
        "`hedging`: an instance that takes long is not waited for where another one is quicker" hedging),
    case!(Implementation "BackendTrafficPolicy"
        "`circuitBreaker`: a service whose requests fail is left alone: 503 circuit_open" breaker),
    case!(Implementation "BackendTrafficPolicy"
        "`adaptiveConcurrency`: beyond the limit: 503 overloaded" adaptive),
    case!(Implementation "BackendTrafficPolicy"
        "`outlierDetection`: an instance that fails in a row gets no requests, and says why" ejected),
    case!(Implementation "BackendTrafficPolicy"
        "`panicThreshold`: where too few instances are well, all take requests" panic),
    case!(Implementation "BackendTrafficPolicy"
        "`healthCheck`: an instance that fails its checks gets no requests until it passes them" checked),
    case!(Implementation "BackendTrafficPolicy" "without the policy all is as it was" removed),
]];

const SOON: Duration = Duration::from_secs(20);

fn policy(service: &str, spec: &str) -> String {
    let targets = format!("targetRefs: [{{group: '', kind: Service, name: {service}}}]");
    resource("BackendTrafficPolicy", "default", "policy", &format!("{targets}\n{spec}"))
}

fn shop(rule: &str) -> String {
    http_route("shop", &format!("rules: [{{backendRefs: [{{name: one}}]{rule}}}]"))
}

/// A request to a service that fails so often before it answers.
fn flaky(key: &str, failures: u32) -> Ask {
    Ask::get("a.example", &format!("/flaky?key={key}&failures={failures}&code=503")).header("x-remember", key)
}

async fn keyed(scene: &Scene) {
    let instances = [
        scene.register("keyed", "k1", |it| it).await,
        scene.register("keyed", "k2", |it| it).await,
        scene.register("keyed", "k3", |it| it).await,
    ];
    let spec = "loadBalancer: {type: Maglev, hash: [{header: x-user}]}";
    let route = http_route("shop", "rules: [{backendRefs: [{name: keyed}]}]");
    scene.apply(&(route + &policy("keyed", spec))).await;
    let mut all = BTreeSet::new();
    for user in 0..20 {
        let mut answered = BTreeSet::new();
        for _ in 0..4 {
            let answer = scene.get("a.example", "/", &[("x-user", &format!("u{user}"))]).await;
            answered.insert(answer.who());
        }
        assert_eq!(answered.len(), 1, "u{user}: {answered:?}");
        all.extend(answered);
    }
    assert_eq!(all.len(), 3, "{all:?}");
    drop(instances);
}

async fn retry(scene: &Scene) {
    scene.apply(&(shop("") + &policy("one", "retry: {attempts: 2, codes: [503]}"))).await;
    assert_eq!(scene.send(&flaky("policy-1", 2)).await.status, 200);
    assert_eq!(scene.service("one").remembered("policy-1").len(), 3);
}

async fn route_first(scene: &Scene) {
    let policy = policy("one", "retry: {attempts: 2, codes: [503]}");
    scene.apply(&(shop(", retry: {attempts: 1, codes: [503]}") + &policy)).await;
    assert_eq!(scene.send(&flaky("policy-2", 2)).await.status, 503);
    assert_eq!(scene.service("one").remembered("policy-2").len(), 2);
}

async fn timeouts(scene: &Scene) {
    scene.apply(&policy("one", "timeouts: {request: 3s}")).await;
    assert_eq!(scene.who("any.example", "/one/slow?ms=10000").await, "504 upstream_timeout");
    assert_eq!(scene.who("any.example", "/one/slow?ms=1").await, "one");
}

/// Somebody who neither takes connections nor refuses them, as his queue is full.
struct Deaf {
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Deaf {
    async fn listen() -> (Self, SocketAddr) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let listener = socket.listen(1).expect("it listens");
        let address = listener.local_addr().expect("bound");
        let mut queued = Vec::new();
        while let Ok(connected) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queued.push(connected.expect("the queue takes it"));
            assert!(queued.len() < 100, "a queue for one is full at last");
        }
        (Self { _listener: listener, _queued: queued }, address)
    }
}

async fn connect(scene: &Scene) {
    let (deaf, address) = Deaf::listen().await;
    let instance = |_| Registration::new("deaf", address.to_string()).id("deaf");
    let registered = scene.register("deaf", "unused", instance).await;
    scene.apply(&policy("deaf", "timeouts: {connect: 100ms}")).await;
    let answer = scene.get("any.example", "/deaf/", &[]).await;
    assert_eq!(answer.who(), "503 upstream_connect");
    let said = answer.text();
    assert!(said.contains("100ms (timeouts.connect of the service's policy)"), "{said}");
    drop((registered, deaf));
}

async fn idle(scene: &Scene) {
    scene.apply(&policy("one", "timeouts: {idle: 3s}")).await;
    assert_eq!(scene.who("any.example", "/one/stream?chunks=3&ms=1").await, "one");
    let ask = Ask::get("any.example", "/one/stream?chunks=1&ms=60000");
    let answer = scene.connect(&ask).await.send(&ask).await;
    assert!(answer.is_err(), "it breaks off: {answer:?}");
}

/// Whether somebody is told that the service is overloaded while it answers a request slowly; with what is said.
async fn overloaded(scene: &Scene, word: &str, spec: &str, beside: usize) -> String {
    scene.apply(&policy("one", spec)).await;
    let slow = Ask::get("any.example", "/one/slow?ms=6000").header("x-remember", word);
    let slow = scene.send(&slow);
    let refused = async {
        eventually("the slow request arrives", SOON, async || {
            holds(!scene.service("one").remembered(word).is_empty(), || "it has not".to_owned())
        })
        .await;
        eventually("somebody is refused", SOON, async || {
            let asked = (0..beside).map(|_| scene.get("any.example", "/one/slow?ms=1", &[]));
            let answers = futures_util::future::join_all(asked).await;
            let found = answers.iter().find(|answer| answer.who() == "503 overloaded");
            found.map(|answer| answer.text()).ok_or("all are answered")
        })
        .await
    };
    let (slow, refused) = tokio::join!(slow, refused);
    assert_eq!(slow.who(), "one");
    refused
}

async fn per_instance(scene: &Scene) {
    let said = overloaded(scene, "per-instance", "circuitBreaker: {maxRequestsPerInstance: 1}", 1).await;
    assert!(said.contains("circuitBreaker.maxRequestsPerInstance"), "{said}");
}

async fn connections(scene: &Scene) {
    // Idle connections of other workers make room at their next sweep, a quarter of a second from now.
    let spec = "circuitBreaker: {maxConnections: 1}\ntimeouts: {connect: 1s}";
    let said = overloaded(scene, "connections", spec, 1).await;
    assert!(said.contains("circuitBreaker.maxConnections"), "{said}");
}

async fn pending(scene: &Scene) {
    let spec = "circuitBreaker: {maxConnections: 1, maxPendingRequests: 1}\ntimeouts: {connect: 20s}";
    let said = overloaded(scene, "pending", spec, 2).await;
    assert!(said.contains("circuitBreaker.maxPendingRequests"), "{said}");
}

async fn retries(scene: &Scene) {
    let spec = "retry: {attempts: 2, codes: [503]}\ncircuitBreaker: {maxRetries: 1}";
    scene.apply(&(shop("") + &policy("one", spec))).await;
    assert_eq!(scene.send(&flaky("max-retries", 2)).await.status, 200, "one after the other");
}

async fn hedging(scene: &Scene) {
    let (deaf, address) = Deaf::listen().await;
    let well = scene.register("pair", "p1", |it| it).await;
    let instance = |_| Registration::new("pair", address.to_string()).id("p2");
    let registered = scene.register("pair", "unused", instance).await;
    scene.apply(&policy("pair", "hedging: {delay: 20ms}\ntimeouts: {connect: 0s}")).await;
    // Two instances are drawn by lot, and the deaf one has nothing under way either.
    eventually("a second request has won", SOON, async || {
        let who = scene.who("any.example", "/pair/").await;
        assert_eq!(who, "p1");
        let metrics = scene.admin("/metrics").await.text();
        holds(!metrics.contains("waypost_hedges_won_total 0"), || metrics.clone())
    })
    .await;
    drop((registered, well, deaf));
}

async fn breaker(scene: &Scene) {
    let spec = "circuitBreaker: {failurePercent: 50, minimumRequests: 3, openTime: 1h, window: 1h}";
    scene.apply(&(shop("") + &policy("one", spec))).await;
    for _ in 0..3 {
        assert_eq!(scene.send(&flaky("breaker", 9)).await.status, 503);
    }
    assert_eq!(scene.who("a.example", "/").await, "503 circuit_open");
    assert_eq!(scene.service("one").remembered("breaker").len(), 3);
}

async fn adaptive(scene: &Scene) {
    scene.apply(&(shop("") + &policy("one", "adaptiveConcurrency: {minimum: 1, maximum: 1}"))).await;
    // Whichever comes second comes while the first one waits.
    let slow = || scene.who("a.example", "/slow?ms=6000");
    let mut both = <[String; 2]>::from(tokio::join!(slow(), slow()));
    both.sort();
    assert_eq!(both, ["503 overloaded", "one"]);
    assert_eq!(scene.who("a.example", "/").await, "one", "there is room again");
    let table = scene.admin("/table?service=one").await.text();
    assert!(table.contains("\"concurrency\":{\"limit\":1,\"under_way\":0}"), "{table}");
}

const EJECTS: &str = "outlierDetection: {consecutiveErrors: 3, baseEjectionTime: 1h, maxEjectionTime: 1h}";

async fn ejected(scene: &Scene) {
    scene.apply(&(shop("") + &policy("one", &format!("{EJECTS}\npanicThreshold: 0")))).await;
    for _ in 0..3 {
        assert_eq!(scene.send(&flaky("ejected", 9)).await.status, 503);
    }
    assert_eq!(scene.who("a.example", "/").await, "503 no_healthy_instance");
    assert_eq!(scene.service("one").remembered("ejected").len(), 3);
    let table = scene.admin("/table").await.text();
    assert!(table.contains("ejected: 3 errors in a row, for another"), "{table}");
}

async fn panic(scene: &Scene) {
    scene.apply(&(shop("") + &policy("one", EJECTS))).await;
    for _ in 0..4 {
        assert_eq!(scene.send(&flaky("panic", 4)).await.status, 503);
    }
    assert_eq!(scene.who("a.example", "/").await, "one");
    let metrics = scene.admin("/metrics").await.text();
    assert!(metrics.contains("waypost_services_panicking 1"), "{metrics}");
}

async fn checked(scene: &Scene) {
    let checks = |path: &str| {
        let check =
            format!("healthCheck: {{http: {{path: \"{path}\"}}, interval: 10ms, unhealthyThreshold: 1}}");
        shop("") + &policy("one", &format!("{check}\npanicThreshold: 0"))
    };
    scene.apply(&checks("/status?code=503")).await;
    let becomes = async |wanted: &str| {
        eventually("its checks count", SOON, async || {
            let who = scene.who("a.example", "/").await;
            holds(who == wanted, || who.clone())
        })
        .await;
    };
    becomes("503 no_healthy_instance").await;
    // A check that has no answer within its 10 ms says that meanwhile.
    eventually("the table says why", SOON, async || {
        let table = scene.admin("/table").await.text();
        holds(table.contains("ill: GET /status?code=503 answered 503"), || table.clone())
    })
    .await;
    scene.apply(&checks("/status?code=200")).await;
    becomes("one").await;
}

async fn removed(scene: &Scene) {
    let spec = "circuitBreaker: {failurePercent: 50, minimumRequests: 3, openTime: 1h, window: 1h}";
    scene.apply(&(shop("") + &policy("one", spec))).await;
    for _ in 0..3 {
        assert_eq!(scene.send(&flaky("removed", 9)).await.status, 503);
    }
    assert_eq!(scene.who("a.example", "/").await, "503 circuit_open");
    scene.delete("BackendTrafficPolicy", "default", "policy").await;
    assert_eq!(scene.who("a.example", "/").await, "one");
}
