//! How long requests of declared routes may take, and when they are tried again.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use waypost_proto::{
    time::wire_duration,
    v1::{RouteRetry, RouteRule},
};
use waypost_proxy::serve::ServeConfig;

use crate::{
    routes::{proxy, proxy_with, rule, to},
    support::{Instance, Proxy, Response},
};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(60);

/// A rule with timeouts, none where they are zero.
fn limited(request: Duration, attempt: Duration) -> RouteRule {
    RouteRule {
        request_timeout: Some(wire_duration(request)),
        backend_request_timeout: Some(wire_duration(attempt)),
        ..rule("/", to("a", 1))
    }
}

/// A rule that tries again.
fn retrying(attempts: u32, codes: &[u32]) -> RouteRule {
    let retry = RouteRetry { attempts, codes: codes.to_vec(), backoff: None };
    RouteRule { retry: Some(retry), ..rule("/", to("a", 1)) }
}

async fn silent() -> Instance {
    Instance::start(|mut wire, _| async move { while wire.request().await.is_some() {} }).await
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const UNAVAILABLE: &str =
    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\nx-from: instance\r\n\r\nbusy";

fn told(response: &Response) -> (u16, Option<String>) {
    (response.status, response.reason())
}

fn too_late() -> (u16, Option<String>) {
    (504, Some("upstream_timeout".to_owned()))
}

async fn send(proxy: &Proxy, request: &str) -> Response {
    let mut client = proxy.client().await;
    client.send(request).await;
    client.response().await
}

#[tokio::test]
async fn a_request_that_takes_longer_than_its_timeout_gets_504() {
    let instance = silent().await;
    for rule in [limited(SHORT, Duration::ZERO), limited(Duration::ZERO, SHORT), limited(SHORT, LONG)] {
        let proxy = proxy_with_rule(ServeConfig::default(), &instance, rule);
        let begun = Instant::now();
        let answer = timeout(LONG / 2, proxy.get("/")).await.expect("before all longer limits");
        assert_eq!(told(&answer), too_late());
        assert!(begun.elapsed() >= SHORT, "not before its time: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_timeout_of_zero_disables_the_proxy_s_own() {
    let released = CancellationToken::new();
    let (asked, mut arrived) = mpsc::unbounded_channel();
    let release = released.clone();
    let instance = Instance::start(move |mut wire, _| {
        let (asked, release) = (asked.clone(), release.clone());
        async move {
            wire.request().await;
            asked.send(()).expect("the test waits");
            release.cancelled().await;
            wire.send(OK).await;
        }
    })
    .await;
    let mut config = ServeConfig::default();
    config.timeouts.response = SHORT;
    let unlimited = proxy_with_rule(config.clone(), &instance, limited(Duration::ZERO, Duration::ZERO));
    let mut client = unlimited.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    arrived.recv().await.expect("it arrives");
    // Begun later, and over before: so the first one has taken longer than the proxy's own limit.
    let limited = proxy_with_rule(config, &instance, rule("/", to("a", 1)));
    assert_eq!(told(&limited.get("/").await), too_late(), "the proxy's own");
    released.cancel();
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn a_request_timeout_holds_for_the_answer_s_body_and_a_backend_s_does_not() {
    let released = CancellationToken::new();
    let release = released.clone();
    let instance = Instance::start(move |mut wire, _| {
        let release = release.clone();
        async move {
            wire.request().await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await;
            release.cancelled().await;
            wire.send("k").await;
            let _ = wire.rest().await;
        }
    })
    .await;
    let begin = async |proxy: &Proxy| {
        let mut client = proxy.client().await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        client
    };
    let by_attempt = proxy_with_rule(ServeConfig::default(), &instance, limited(LONG, SHORT));
    let mut first = begin(&by_attempt).await;
    // Begun later, and over before: so the first one's body has taken longer than its attempt may take to the head.
    let by_request = proxy_with_rule(ServeConfig::default(), &instance, limited(SHORT, Duration::ZERO));
    let rest = begin(&by_request).await.rest().await;
    assert!(rest.is_err() || rest.as_ref().is_ok_and(|rest| rest == b"o"), "it breaks off: {rest:?}");
    released.cancel();
    assert_eq!(first.rest().await.expect("it goes on to the end"), b"ok");
}

#[tokio::test]
async fn answers_with_the_codes_that_are_named_are_tried_again() {
    let (instance, given) = Instance::in_turn(&[UNAVAILABLE, UNAVAILABLE, OK]).await;
    let proxy = proxy(&[("a", "", instance.address)], retrying(2, &[503]));
    let response = send(&proxy, "GET / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\n\r\n").await;
    assert_eq!((response.text().as_str(), given.load(Ordering::SeqCst)), ("ok", 3));
    assert_eq!(instance.accepted(), 1, "connections are used again");
}

#[tokio::test]
async fn a_request_is_sent_again_with_the_fields_that_it_had() {
    let instance = Instance::start(|mut wire, _| async move {
        wire.request().await;
        wire.send(UNAVAILABLE).await;
        let (head, _) = wire.request().await.expect("it comes again");
        wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len())).await;
    })
    .await;
    let proxy = proxy(&[("a", "", instance.address)], retrying(1, &[503]));
    let response = send(&proxy, "GET /b?c HTTP/1.1\r\nhost: a\r\nx-a: 1\r\n\r\n").await;
    let text = response.text();
    assert!(
        text.starts_with("GET /b?c HTTP/1.1\r\nhost: a\r\nx-a: 1\r\n") && !text.contains("x-from"),
        "{text}"
    );
}

#[tokio::test]
async fn when_the_attempts_are_used_up_the_last_answer_counts() {
    let (instance, given) = Instance::in_turn(&[UNAVAILABLE]).await;
    for (rule, asked) in [(retrying(2, &[503]), 3), (retrying(0, &[503]), 1), (retrying(2, &[500]), 1)] {
        let proxy = proxy(&[("a", "", instance.address)], rule);
        let before = given.load(Ordering::SeqCst);
        let response = proxy.get("/").await;
        assert_eq!((response.status, response.text().as_str()), (503, "busy"));
        assert_eq!(response.field("x-from").as_deref(), Some("instance"));
        assert_eq!(given.load(Ordering::SeqCst) - before, asked);
    }
}

#[tokio::test]
async fn another_instance_is_tried_where_there_is_one() {
    let ((busy, given), (fine, _)) =
        (Instance::in_turn(&[UNAVAILABLE]).await, Instance::in_turn(&[OK]).await);
    let proxy = proxy(&[("a", "", busy.address), ("a", "", fine.address)], retrying(1, &[503]));
    for _ in 0..4 {
        assert_eq!(proxy.get("/").await.text(), "ok");
    }
    assert!(given.load(Ordering::SeqCst) >= 1, "the busy one was asked");
}

#[tokio::test]
async fn a_post_is_not_sent_twice_whatever_the_route_says() {
    let (instance, given) = Instance::in_turn(&[UNAVAILABLE, OK]).await;
    let proxy = proxy(&[("a", "", instance.address)], retrying(3, &[503]));
    let response = send(&proxy, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!((response.status, given.load(Ordering::SeqCst)), (503, 1));
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_tried_again_within_the_request_s_time() {
    let (slow, fine) = (silent().await, Instance::in_turn(&[OK]).await.0);
    let retry = retrying(1, &[]).retry;
    let rule = RouteRule { retry: retry.clone(), ..limited(LONG, SHORT * 5) };
    let proxy = proxy(&[("a", "", slow.address), ("a", "", fine.address)], rule);
    for _ in 0..3 {
        assert_eq!(proxy.get("/").await.text(), "ok");
    }
    assert!(slow.accepted() >= 1, "the slow one was asked");

    let many = RouteRule { retry: retrying(100, &[]).retry, ..limited(SHORT * 3, SHORT) };
    let proxy = proxy_with_rule(ServeConfig::default(), &slow, many);
    // A hundred attempts would take longer by far.
    let before = slow.accepted();
    assert_eq!(told(&proxy.get("/").await), too_late());
    assert!(slow.accepted() - before <= 4, "{}", slow.accepted() - before);
}

#[tokio::test]
async fn tries_are_as_far_apart_as_the_backoff_says() {
    let (instance, _) = Instance::in_turn(&[UNAVAILABLE, UNAVAILABLE, OK]).await;
    let retry = RouteRetry { attempts: 2, codes: vec![503], backoff: Some(wire_duration(SHORT)) };
    let proxy =
        proxy(&[("a", "", instance.address)], RouteRule { retry: Some(retry), ..rule("/", to("a", 1)) });
    let begun = Instant::now();
    assert_eq!(proxy.get("/").await.text(), "ok");
    assert!(begun.elapsed() >= SHORT * 3, "once and twice the backoff: {:?}", begun.elapsed());
}

fn proxy_with_rule(config: ServeConfig, instance: &Instance, rule: RouteRule) -> Proxy {
    let route = waypost_proto::v1::RuleRoute { rules: vec![rule], ..Default::default() };
    proxy_with(config, &[("a", "", instance.address)], waypost_proto::instance::Protocol::Http1, route)
}
