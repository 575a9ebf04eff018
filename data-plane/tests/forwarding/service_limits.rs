//! What a service's policy says of connections, of pauses, and of how much may be under way at once.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use waypost_proto::{
    time::wire_duration,
    v1::{CircuitBreaker, TrafficEntry, TrafficTimeouts},
};
use waypost_proxy::serve::ServeConfig;

use crate::{
    policy::{GET, OK, SHORT, send, told, with_config, with_policy},
    support::{Client, Instance, Proxy, soon},
};

fn connect(limit: Duration) -> TrafficEntry {
    let limits = TrafficTimeouts { connect: Some(wire_duration(limit)), ..TrafficTimeouts::default() };
    TrafficEntry { timeouts: Some(limits), ..TrafficEntry::default() }
}

fn idle(limit: Duration) -> TrafficEntry {
    let limits = TrafficTimeouts { idle: Some(wire_duration(limit)), ..TrafficTimeouts::default() };
    TrafficEntry { timeouts: Some(limits), ..TrafficEntry::default() }
}

/// Somebody who neither takes connections nor refuses them, as his queue is full.
struct Deaf {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Deaf {
    async fn listen() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let _listener = socket.listen(1).expect("it listens");
        let address = _listener.local_addr().expect("bound");
        let mut _queued = Vec::new();
        while let Ok(connected) = timeout(SHORT, TcpStream::connect(address)).await {
            _queued.push(connected.expect("the queue takes it"));
            assert!(_queued.len() < 100, "a queue for one is full at last");
        }
        Self { address, _listener, _queued }
    }
}

#[tokio::test]
async fn a_connection_has_the_time_that_the_policy_gives_it() {
    let deaf = Deaf::listen().await;
    let mut hasty = ServeConfig::default();
    hasty.timeouts.connect = SHORT;
    let mut patient = ServeConfig::default();
    patient.timeouts.connect = Duration::from_secs(600);
    // The one that waits for ever begins first: it has waited longer than the proxy's own limit when the others are told.
    let forever = with_config(hasty.clone(), &[deaf.address], connect(Duration::ZERO));
    let mut waiting = forever.client().await;
    waiting.send(GET).await;
    forever.until_in_flight(deaf.address, 1).await;
    let refused = (503, Some("upstream_connect".to_owned()));
    let by_policy = send(&with_config(patient, &[deaf.address], connect(SHORT)), GET).await;
    assert_eq!(told(&by_policy), refused);
    let said = by_policy.text();
    assert!(said.contains("200ms (timeouts.connect of the service's policy)"), "{said}");
    let by_itself = send(&Proxy::new(hasty, &[deaf.address]), GET).await;
    assert_eq!(told(&by_itself), refused);
    assert!(by_itself.text().contains("200ms (--connect-timeout of the proxy)"), "{}", by_itself.text());
    drop(deaf);
    let at_last = waiting.response().await;
    assert_eq!(told(&at_last), refused);
    assert!(!at_last.text().contains("connected after"), "{}", at_last.text());
}

/// An instance that sends half of its answer, and the rest when it is told to.
async fn halting() -> (Instance, CancellationToken) {
    let released = CancellationToken::new();
    let release = released.clone();
    let instance = Instance::start(move |mut wire, _| {
        let release = release.clone();
        async move {
            wire.request().await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await;
            tokio::select! {
                () = release.cancelled() => wire.send("k").await,
                _ = wire.fill() => {}
            }
        }
    })
    .await;
    (instance, released)
}

async fn begin(proxy: &Proxy) -> Client {
    let mut client = proxy.client().await;
    client.send("GET /api/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    client
}

#[tokio::test]
async fn an_answer_may_pause_for_as_long_as_the_policy_says() {
    let (instance, released) = halting().await;
    let mut hasty = ServeConfig::default();
    hasty.timeouts.stream_idle = SHORT;
    let forever = with_config(hasty, &[instance.address], idle(Duration::ZERO));
    let mut first = begin(&forever).await;
    // Begun later, and over before: so the first one has paused for longer than the proxy's own limit.
    let limited = with_config(ServeConfig::default(), &[instance.address], idle(SHORT));
    let rest = begin(&limited).await.rest().await;
    assert!(rest.is_err() || rest.as_ref().is_ok_and(|rest| rest == b"o"), "it breaks off: {rest:?}");
    limited.until_in_flight(instance.address, 0).await;
    released.cancel();
    assert_eq!(first.rest().await.expect("it goes on to the end"), b"ok");
}

fn limited(circuit_breaker: CircuitBreaker) -> TrafficEntry {
    TrafficEntry { circuit_breaker: Some(circuit_breaker), ..TrafficEntry::default() }
}

fn overloaded() -> (u16, Option<String>) {
    (503, Some("overloaded".to_owned()))
}

/// An instance that answers each request when it is told to.
struct Held {
    instance: Instance,
    arrived: mpsc::UnboundedReceiver<()>,
    released: CancellationToken,
}

impl Held {
    async fn start() -> Self {
        let released = CancellationToken::new();
        let (asked, arrived) = mpsc::unbounded_channel();
        let release = released.clone();
        let instance = Instance::start(move |mut wire, _| {
            let (asked, release) = (asked.clone(), release.clone());
            async move {
                while wire.request().await.is_some() {
                    asked.send(()).expect("the test waits");
                    release.cancelled().await;
                    wire.send(OK).await;
                }
            }
        })
        .await;
        Self { instance, arrived, released }
    }

    async fn arrival(&mut self) {
        soon("a request", self.arrived.recv()).await.expect("it arrives");
    }
}

async fn ask(proxy: &Proxy) -> Client {
    let mut client = proxy.client().await;
    client.send(GET).await;
    client
}

#[tokio::test]
async fn an_instance_that_is_full_is_passed_by() {
    let mut held = Held::start().await;
    let quick = Instance::answering(OK).await;
    let most = CircuitBreaker { max_requests_per_instance: 1, ..CircuitBreaker::default() };
    let proxy = with_policy(&[&held.instance, &quick], limited(most));
    // In turn, until the first one has its request.
    let mut slow = None;
    while slow.is_none() {
        let mut client = ask(&proxy).await;
        tokio::select! {
            () = held.arrival() => slow = Some(client),
            answer = client.response() => assert_eq!(answer.status, 200),
        }
    }
    for _ in 0..6 {
        assert_eq!(send(&proxy, GET).await.status, 200, "the other one takes it");
    }
    held.released.cancel();
    assert_eq!(slow.expect("it was sent").response().await.status, 200);
}

#[tokio::test]
async fn where_all_instances_are_full_it_is_said_so() {
    let (mut one, mut other) = (Held::start().await, Held::start().await);
    let most = CircuitBreaker { max_requests_per_instance: 1, ..CircuitBreaker::default() };
    let proxy = with_policy(&[&one.instance, &other.instance], limited(most));
    let mut clients = [ask(&proxy).await, ask(&proxy).await];
    one.arrival().await;
    other.arrival().await;
    let answer = send(&proxy, GET).await;
    assert_eq!(told(&answer), overloaded());
    assert!(answer.text().contains("circuitBreaker.maxRequestsPerInstance"), "{}", answer.text());
    one.released.cancel();
    other.released.cancel();
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(send(&proxy, GET).await.status, 200, "there is room again");
}
