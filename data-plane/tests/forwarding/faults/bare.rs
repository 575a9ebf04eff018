//! Answers of which only the head comes at first: the client gets them all the same, and where nothing follows a request
//! that is sent again is the one that the client has sent.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use waypost_proto::{
    instance::Protocol,
    time::wire_duration,
    v1::{AdaptiveConcurrency, BalancerKind, CircuitBreaker, LoadBalancer, TrafficEntry, TrafficTimeouts},
};
use waypost_proxy::{serve::ServeConfig, table::ServiceStanding};

use super::{Got, Speaks, ask, calm, frames::*};
use crate::{
    policy::{LONG, SHORT, told, with_config},
    support::{Instance, Proxy, Wire, api, field, soon, until},
};

const ASKED: &str = "GET /api/7?x=1 HTTP/1.1\r\nhost: a\r\nx-mine: 1\r\n\r\n";
const BARE: &str = "HTTP/1.1 200 OK\r\nx-theirs: 1\r\nx-mine: 2\r\ncontent-length: 4\r\n\r\n";

/// A proxy that holds heads back for so long.
fn holding(time: Duration) -> ServeConfig {
    let mut config = calm();
    config.timeouts.head_hold = time;
    config
}

/// An instance that ends its first answer after the head, and says then what it was asked.
async fn bare_first() -> Instance {
    Instance::start(|mut wire, number| async move {
        let Some((head, _)) = wire.request().await else { return };
        if number == 0 {
            wire.send(BARE).await;
        } else {
            wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len())).await;
        }
    })
    .await
}

#[tokio::test]
async fn what_is_sent_after_a_bare_head_is_the_same_request() {
    let instance = bare_first().await;
    let proxy = Proxy::new(calm(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send(ASKED).await;
    let response = soon("an answer", client.response()).await;
    assert_eq!((response.status, response.field("x-theirs"), response.field("x-mine")), (200, None, None));
    let seen = response.text();
    assert!(seen.starts_with("GET /7?x=1 HTTP/1.1\r\n"), "{seen}");
    assert_eq!((field(&seen, "x-mine").as_deref(), field(&seen, "x-theirs")), (Some("1"), None), "{seen}");
    assert_eq!(field(&seen, "host").as_deref(), Some("a"), "{seen}");
    assert!(proxy.endpoint(instance.address).cooling_down().is_zero(), "it takes connections, and answers");
}

#[tokio::test]
async fn it_breaks_off_where_no_try_is_left_or_heads_are_not_held_back() {
    let mut only_once = calm();
    only_once.retries = 0;
    for config in [only_once, holding(Duration::ZERO)] {
        let instance = bare_first().await;
        let proxy = Proxy::new(config, &[instance.address]);
        let got = soon("an end", ask(proxy.address, Speaks::Http1, "GET", 7)).await;
        assert_eq!((got, instance.accepted()), (Got::BrokenOff, 1));
    }
}

#[tokio::test]
async fn an_answer_that_ends_after_its_head_is_a_failure_of_its_instance() {
    let instance = Instance::start(|mut wire, _| async move {
        if wire.request().await.is_some() {
            wire.send(BARE).await;
        }
    })
    .await;
    let breaker = CircuitBreaker {
        failure_percent: 100,
        minimum_requests: 2,
        window: Some(wire_duration(LONG)),
        open_time: Some(wire_duration(LONG)),
        ..CircuitBreaker::default()
    };
    let entry = TrafficEntry { circuit_breaker: Some(breaker), ..TrafficEntry::default() };
    let proxy = with_config(calm(), &[instance.address], entry);
    let response = soon("an answer", proxy.get("/api/")).await;
    assert_eq!(told(&response), (502, Some("upstream_closed".to_owned())), "{}", response.text());
    assert!(response.text().contains("between its head and its body"), "{}", response.text());
    let standing = ServiceStanding::of(proxy.table().service(&api()).expect("it is there"));
    assert!(standing.breaker.as_ref().is_some_and(|breaker| breaker.contains("open")), "{standing:?}");
}

/// An instance that sends heads and never a body, and says when it has sent one.
async fn heads_alone() -> (Instance, Arc<Notify>) {
    let has_sent = Arc::<Notify>::default();
    let shared = Arc::clone(&has_sent);
    let instance = Instance::start(move |mut wire: Wire, _| {
        let has_sent = Arc::clone(&shared);
        async move {
            if wire.try_head().await.is_ok_and(|head| head.is_some()) {
                wire.send(BARE).await;
                has_sent.notify_one();
                let _ = wire.rest().await;
            }
        }
    })
    .await;
    (instance, has_sent)
}

#[tokio::test]
async fn a_head_that_is_held_back_has_come_for_whoever_measures_it() {
    let (instance, has_sent) = heads_alone().await;
    let load_balancer = LoadBalancer { kind: BalancerKind::PeakEwma.into(), ..LoadBalancer::default() };
    let entry = TrafficEntry {
        load_balancer: Some(load_balancer),
        adaptive_concurrency: Some(AdaptiveConcurrency { minimum: 1, maximum: 1 }),
        ..TrafficEntry::default()
    };
    let proxy = with_config(holding(LONG), &[instance.address], entry);
    let mut clients = Vec::new();
    for count in 1..=3 {
        let mut client = proxy.client().await;
        client.send(ASKED).await;
        clients.push(client);
        soon("a turn", has_sent.notified()).await;
        let service = Arc::clone(proxy.table().service(&api()).expect("it is there"));
        until("its turn is over", || service.concurrency() == Some((1, 0))).await;
        proxy.until_in_flight(instance.address, count).await;
    }
    assert!(proxy.endpoint(instance.address).latency().is_some());
}

#[tokio::test]
async fn a_head_is_not_passed_on_when_the_time_for_its_body_is_over() {
    let (instance, _) = heads_alone().await;
    let timeouts = TrafficTimeouts { request: Some(wire_duration(SHORT)), ..TrafficTimeouts::default() };
    let entry = TrafficEntry { timeouts: Some(timeouts), ..TrafficEntry::default() };
    let proxy = with_config(holding(LONG), &[instance.address], entry);
    let response = soon("an answer", proxy.get("/api/")).await;
    assert_eq!(told(&response), (504, Some("upstream_timeout".to_owned())), "{}", response.text());
}

/// Asks an instance that sends a body only once its client has the head.
async fn gets_the_head_first(proxy: &Proxy, has_head: &Notify) {
    let mut client = proxy.client().await;
    client.send(ASKED).await;
    let head = soon("the head", client.head()).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    has_head.notify_one();
    assert_eq!(soon("the body", client.exactly(4)).await, b"late");
}

#[tokio::test]
async fn a_head_does_not_wait_for_a_body_that_comes_late() {
    let has_head = Arc::<Notify>::default();
    let shared = Arc::clone(&has_head);
    let instance = Instance::start(move |mut wire: Wire, _| {
        let has_head = Arc::clone(&shared);
        async move {
            while wire.request().await.is_some() {
                wire.send(BARE).await;
                has_head.notified().await;
                wire.send("late").await;
            }
        }
    })
    .await;
    let proxy = Proxy::new(holding(Duration::from_millis(20)), &[instance.address]);
    for _ in 0..2 {
        gets_the_head_first(&proxy, &has_head).await;
        proxy.until_in_flight(instance.address, 0).await;
    }
    assert_eq!(instance.accepted(), 1, "the connection is kept");
}

#[tokio::test]
async fn neither_does_one_over_http2() {
    let has_head = Arc::<Notify>::default();
    let shared = Arc::clone(&has_head);
    let instance = Instance::start(move |wire, _| {
        let has_head = Arc::clone(&shared);
        async move {
            let Some(mut frames) = Frames::greet(wire, &[]).await else { return };
            while let Some((stream, _)) = frames.request().await {
                frames.fields(0, stream, &[(":status", "200"), ("content-length", "4")]).await;
                // A part of no length is none.
                frames.send(DATA, 0, stream, b"").await;
                has_head.notified().await;
                frames.send(DATA, 0, stream, b"la").await;
                frames.send(DATA, END_STREAM, stream, b"te").await;
            }
        }
    })
    .await;
    let config = holding(Duration::from_millis(20));
    let proxy = Proxy::speaking(Protocol::Http2, config, &[instance.address]);
    for _ in 0..2 {
        gets_the_head_first(&proxy, &has_head).await;
        proxy.until_in_flight(instance.address, 0).await;
    }
}

/// A PUT whose body has not begun when the head comes, and is then none: it must not be sent again as an empty one.
async fn breaks_its_own_body(proxy: &Proxy, has_sent: &Notify, instance: &Instance) {
    let mut client = proxy.client().await;
    client.send("PUT /api/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    soon("a bare head", has_sent.notified()).await;
    client.send("zz\r\n").await;
    let response = soon("an answer", client.response()).await;
    assert_eq!(told(&response), (400, Some("bad_request".to_owned())), "{}", response.text());
    assert_eq!(instance.accepted(), 1);
    assert!(proxy.endpoint(instance.address).cooling_down().is_zero(), "the client is to blame");
}

#[tokio::test]
async fn a_body_that_ends_early_while_the_head_is_held_back_is_not_sent_again() {
    let (instance, has_sent) = heads_alone().await;
    let proxy = Proxy::new(calm(), &[instance.address]);
    breaks_its_own_body(&proxy, &has_sent, &instance).await;
}

#[tokio::test]
async fn nor_is_one_over_http2() {
    let has_sent = Arc::<Notify>::default();
    let shared = Arc::clone(&has_sent);
    let instance = Instance::start(move |wire, _| {
        let has_sent = Arc::clone(&shared);
        async move {
            let Some(mut frames) = Frames::greet(wire, &[]).await else { return };
            let Some(stream) = frames.begun().await else { return };
            frames.fields(0, stream, &[(":status", "200"), ("content-length", "4")]).await;
            has_sent.notify_one();
            while let Some((stream, body)) = frames.request().await {
                frames.answer(stream, &body).await;
            }
        }
    })
    .await;
    let proxy = Proxy::speaking(Protocol::Http2, calm(), &[instance.address]);
    breaks_its_own_body(&proxy, &has_sent, &instance).await;
}
