//! What a service's policy says of retries, of time, and of how much may be sent to it.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use waypost_proto::{
    time::wire_duration,
    v1::{CircuitBreaker, DeclaredEntry, TrafficEntry, TrafficRetry, TrafficTimeouts, declared_entry::Kind},
};
use waypost_proxy::{
    serve::ServeConfig,
    table::{Limited, ServiceStanding},
};

use crate::support::{Client, Instance, Proxy, Response, api, until};

pub(crate) const SHORT: Duration = Duration::from_millis(200);
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const GET: &str = "GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n";
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
pub(crate) const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

pub(crate) fn policy(entry: TrafficEntry) -> Vec<DeclaredEntry> {
    let entry = TrafficEntry { service: Some(api().to_wire()), ..entry };
    vec![DeclaredEntry { id: "traffic/default/api".into(), kind: Some(Kind::Traffic(entry)) }]
}

pub(crate) fn with_policy(instances: &[&Instance], entry: TrafficEntry) -> Proxy {
    let addresses: Vec<_> = instances.iter().map(|instance| instance.address).collect();
    with_config(ServeConfig::default(), &addresses, entry)
}

pub(crate) fn with_config(config: ServeConfig, addresses: &[SocketAddr], entry: TrafficEntry) -> Proxy {
    let mut proxy = Proxy::new(config, addresses);
    proxy.declare(policy(entry));
    proxy
}

pub(crate) fn told(response: &Response) -> (u16, Option<String>) {
    (response.status, response.reason())
}

pub(crate) async fn ask(proxy: &Proxy) -> Client {
    let mut client = proxy.client().await;
    client.send(GET).await;
    client
}

pub(crate) async fn send(proxy: &Proxy, request: &str) -> Response {
    let mut client = proxy.client().await;
    client.send(request).await;
    client.response().await
}

pub(crate) fn retry(attempts: u32, codes: &[u32]) -> TrafficRetry {
    TrafficRetry { attempts: Some(attempts), codes: codes.to_vec(), ..TrafficRetry::default() }
}

#[tokio::test]
async fn answers_with_the_codes_of_the_policy_are_tried_again() {
    let (instance, seen) = Instance::in_turn(&[UNAVAILABLE, UNAVAILABLE, OK]).await;
    let retries = TrafficEntry { retry: Some(retry(2, &[503])), ..TrafficEntry::default() };
    let proxy = with_policy(&[&instance], retries);
    assert_eq!(send(&proxy, GET).await.status, 200, "the one instance is asked three times");
    assert_eq!(seen.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_instance_that_closes_is_not_asked_again_before_the_others() {
    for _ in 0..8 {
        let closing = Instance::start(|mut wire, _| async move { drop(wire.request().await) }).await;
        let (busy, _) = Instance::in_turn(&[UNAVAILABLE, OK]).await;
        let retries = TrafficEntry { retry: Some(retry(2, &[503])), ..TrafficEntry::default() };
        let proxy = with_policy(&[&closing, &busy], retries);
        assert_eq!(send(&proxy, GET).await.status, 200, "it was asked twice, first or last");
    }
}

#[tokio::test]
async fn a_post_is_not_sent_twice_whatever_the_policy_says() {
    let (instance, seen) = Instance::in_turn(&[UNAVAILABLE, OK]).await;
    let retries = TrafficEntry { retry: Some(retry(2, &[503])), ..TrafficEntry::default() };
    let proxy = with_policy(&[&instance], retries);
    let post = "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(send(&proxy, post).await.status, 503);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_said_so() {
    let (instance, _) = Instance::in_turn(&[""]).await;
    let none = TrafficRetry {
        budget_percent: Some(0),
        budget_minimum_per_second: Some(0),
        ..TrafficRetry::default()
    };
    let (other, _) = Instance::in_turn(&[""]).await;
    let proxy =
        with_policy(&[&instance, &other], TrafficEntry { retry: Some(none), ..TrafficEntry::default() });
    let answer = send(&proxy, GET).await;
    assert_eq!(told(&answer), (502, Some("upstream_closed".to_owned())));
    assert!(answer.text().contains("retry budget"), "{}", answer.text());
}

#[tokio::test]
async fn requests_and_tries_have_the_time_that_the_policy_gives_them() {
    let silent = || Instance::start(|mut wire, _| async move { while wire.request().await.is_some() {} });
    let instance = silent().await;
    for (request, per_try) in [(SHORT, Duration::ZERO), (LONG, SHORT), (SHORT, LONG)] {
        let limits = TrafficTimeouts {
            request: Some(wire_duration(request)),
            per_try: Some(wire_duration(per_try)),
            ..TrafficTimeouts::default()
        };
        let proxy =
            with_policy(&[&instance], TrafficEntry { timeouts: Some(limits), ..TrafficEntry::default() });
        let begun = Instant::now();
        let answer = timeout(LONG / 2, send(&proxy, GET)).await.expect("before all longer limits");
        assert_eq!(told(&answer), (504, Some("upstream_timeout".to_owned())));
        assert!(begun.elapsed() >= SHORT, "not before its time: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_try_that_takes_too_long_goes_elsewhere() {
    let silent = Instance::start(|mut wire, _| async move { while wire.request().await.is_some() {} }).await;
    let (well, _) = Instance::in_turn(&[OK]).await;
    // In which the other one answers on a busy machine, too.
    let limits = TrafficTimeouts { per_try: Some(wire_duration(SHORT * 5)), ..TrafficTimeouts::default() };
    let entry =
        TrafficEntry { timeouts: Some(limits), retry: Some(retry(1, &[])), ..TrafficEntry::default() };
    let proxy = with_policy(&[&silent, &well], entry);
    for _ in 0..3 {
        assert_eq!(send(&proxy, GET).await.status, 200);
    }
}

#[tokio::test]
async fn what_a_policy_allows_is_shown_with_what_is_used_of_it() {
    let instance =
        Instance::start(|mut wire, _| async move { while wire.request().await.is_some() {} }).await;
    let limits = CircuitBreaker { max_requests: 7, max_connections: 5, ..CircuitBreaker::default() };
    let budget = TrafficRetry {
        budget_percent: Some(0),
        budget_minimum_per_second: Some(2),
        ..TrafficRetry::default()
    };
    let entry =
        TrafficEntry { circuit_breaker: Some(limits), retry: Some(budget), ..TrafficEntry::default() };
    let proxy = with_policy(&[&instance], entry);
    let mut client = proxy.client().await;
    client.send(GET).await;
    let limit = |limit, used, most| Limited { limit, used, most };
    let used = [limit("maxRequests", 1, 7), limit("maxConnections", 1, 5)];
    let shown = || ServiceStanding::of(proxy.table().service(&api()).expect("it is there"));
    until("a request and its connection", || shown().limits == used).await;
    let shown = shown();
    assert_eq!(
        (shown.retries_left, shown.breaker),
        (20, None),
        "ten seconds' worth, and no breaker is declared"
    );
}
