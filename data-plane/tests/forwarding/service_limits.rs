//! What a service's policy says of connections, of pauses, and of how much may be under way at once.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use waypost_proto::{
    instance::Protocol,
    time::wire_duration,
    v1::{CircuitBreaker, TrafficEntry, TrafficTimeouts},
};
use waypost_proxy::serve::ServeConfig;

use crate::{
    http2::Http2Instance,
    policy::{GET, LONG, OK, SHORT, ask, policy, retry, send, told, with_config, with_policy},
    support::{Client, Instance, Proxy, free_port, soon},
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
        // Nobody else gets it when this one is gone, whom some still try to reach then.
        let port = free_port().await;
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("a socket");
        socket.bind(([127, 0, 0, 1], port).into()).expect("a free port");
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
    // It holds until the answer has begun, too.
    hasty.timeouts.stream_idle = SHORT * 10;
    let forever = with_config(hasty, &[instance.address], idle(Duration::ZERO));
    let mut first = begin(&forever).await;
    // Begun later, and over before: so the first one has paused for longer than the proxy's own limit.
    let limited = with_config(ServeConfig::default(), &[instance.address], idle(SHORT * 10));
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

#[tokio::test]
async fn no_more_requests_are_under_way_than_the_policy_allows() {
    let mut held = Held::start().await;
    let breaker = CircuitBreaker { max_requests: 2, ..CircuitBreaker::default() };
    let entry = TrafficEntry { circuit_breaker: Some(breaker), ..TrafficEntry::default() };
    let proxy = with_policy(&[&held.instance], entry);
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(ask(&proxy).await);
        held.arrival().await;
    }
    let answer = send(&proxy, GET).await;
    assert_eq!(told(&answer), (503, Some("overloaded".to_owned())));
    assert!(answer.text().contains("circuitBreaker.maxRequests"), "{}", answer.text());
    held.released.cancel();
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(send(&proxy, GET).await.status, 200, "there is room again");
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

#[tokio::test]
async fn no_more_retries_are_under_way_than_the_policy_allows() {
    let released = CancellationToken::new();
    let release = released.clone();
    let (asked, mut arrived) = mpsc::unbounded_channel();
    // It closes once for each client, and answers the retry when it is told to.
    let instance = Instance::start(move |mut wire, number| {
        let (asked, release) = (asked.clone(), release.clone());
        async move {
            wire.request().await;
            if number % 2 == 0 && !release.is_cancelled() {
                return;
            }
            asked.send(()).expect("the test waits");
            release.cancelled().await;
            wire.send(OK).await;
        }
    })
    .await;
    let most = CircuitBreaker { max_retries: 1, ..CircuitBreaker::default() };
    let entry = TrafficEntry { retry: Some(retry(1, &[])), ..limited(most) };
    let proxy = with_policy(&[&instance], entry);
    let mut first = ask(&proxy).await;
    soon("a retry", arrived.recv()).await.expect("it arrives");
    let answer = send(&proxy, GET).await;
    assert_eq!(told(&answer), (502, Some("upstream_closed".to_owned())), "the failure is answered as it is");
    assert!(answer.text().contains("circuitBreaker.maxRetries"), "{}", answer.text());
    assert!(proxy.metrics.render().contains("waypost_upstream_retries_refused_total 1"));
    released.cancel();
    assert_eq!(first.response().await.status, 200);
}

/// What a policy says that limits connections, which may take this long.
fn connections(most: u32, pending: u32, wait: Duration) -> TrafficEntry {
    let most =
        CircuitBreaker { max_connections: most, max_pending_requests: pending, ..CircuitBreaker::default() };
    TrafficEntry { circuit_breaker: Some(most), ..connect(wait) }
}

#[tokio::test]
async fn requests_wait_for_a_connection_and_take_the_one_that_is_free_again() {
    let mut held = Held::start().await;
    let proxy = with_policy(&[&held.instance], connections(1, 0, LONG));
    let mut clients = vec![ask(&proxy).await];
    held.arrival().await;
    for _ in 0..3 {
        clients.push(ask(&proxy).await);
    }
    proxy.until_in_flight(held.instance.address, 4).await;
    held.released.cancel();
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(held.instance.accepted(), 1, "it is used again, and is the only one");
}

#[tokio::test]
async fn no_more_requests_wait_for_a_connection_than_the_policy_allows() {
    let mut held = Held::start().await;
    let proxy = with_policy(&[&held.instance], connections(1, 1, LONG));
    let mut first = ask(&proxy).await;
    held.arrival().await;
    let mut second = ask(&proxy).await;
    proxy.until_in_flight(held.instance.address, 2).await;
    let answer = send(&proxy, GET).await;
    assert_eq!(told(&answer), overloaded());
    assert!(answer.text().contains("1 requests wait for a connection"), "{}", answer.text());
    assert!(answer.text().contains("circuitBreaker.maxPendingRequests"), "{}", answer.text());
    held.released.cancel();
    assert_eq!(first.response().await.status, 200);
    assert_eq!(second.response().await.status, 200);
}

#[tokio::test]
async fn a_request_that_waits_in_vain_is_told_which_limit_it_met() {
    let mut held = Held::start().await;
    let proxy = with_policy(&[&held.instance], connections(1, 0, SHORT));
    let mut first = ask(&proxy).await;
    held.arrival().await;
    let answer = send(&proxy, GET).await;
    assert_eq!(told(&answer), overloaded());
    let said = answer.text();
    assert!(said.contains("circuitBreaker.maxConnections"), "{said}");
    assert!(said.contains("200ms (timeouts.connect of the service's policy)"), "{said}");
    assert!(proxy.endpoint(held.instance.address).cooling_down().is_zero(), "the instance is not to blame");
    held.released.cancel();
    assert_eq!(first.response().await.status, 200);
}

#[tokio::test]
async fn idle_connections_make_room_for_others() {
    let (one, other) = (Instance::answering(OK).await, Instance::answering(OK).await);
    let proxy = with_policy(&[&one, &other], connections(1, 0, LONG));
    for _ in 0..6 {
        assert_eq!(send(&proxy, GET).await.status, 200);
    }
    assert!(one.accepted() > 0 && other.accepted() > 0, "in turn");

    let (one, other) = (Http2Instance::mirror().await, Http2Instance::mirror().await);
    let addresses = [one.address, other.address];
    let mut proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &addresses);
    proxy.declare(policy(connections(1, 0, LONG)));
    for _ in 0..6 {
        assert_eq!(send(&proxy, GET).await.status, 200);
    }
    assert!(one.accepted() > 0 && other.accepted() > 0, "in turn");
}

#[tokio::test]
async fn workers_share_the_connections_that_there_may_be() {
    const MOST: usize = 2;
    let (under_way, most_seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counter, seen) = (Arc::clone(&under_way), Arc::clone(&most_seen));
    let instance = Instance::start(move |mut wire, _| {
        let (counter, seen) = (Arc::clone(&counter), Arc::clone(&seen));
        async move {
            while wire.request().await.is_some() {
                seen.fetch_max(counter.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                counter.fetch_sub(1, Ordering::SeqCst);
                wire.send(OK).await;
            }
        }
    })
    .await;
    let mut proxy = Proxy::of_two_workers(&[instance.address]);
    proxy.declare(policy(connections(u32::try_from(MOST).expect("few"), 0, LONG)));
    let address = proxy.address;
    let clients = (0..8).map(|_| {
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            for _ in 0..20 {
                client.send(GET).await;
                assert_eq!(client.response().await.status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("all are answered");
    }
    assert!((1..=MOST).contains(&most_seen.load(Ordering::SeqCst)), "{most_seen:?}");
}
