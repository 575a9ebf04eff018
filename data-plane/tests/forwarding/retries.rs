//! When a request is sent again, and when it must not be.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use waypost_proxy::serve::ServeConfig;

use crate::support::{Instance, Proxy, nobody, soon, until};

/// An instance that reads each request and closes without an answer, and counts them.
async fn closing() -> (Instance, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let instance = Instance::start(move |mut wire, _| {
        let counter = Arc::clone(&counter);
        async move {
            if wire.request().await.is_some() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    (instance, seen)
}

/// How many connections could not be made.
fn refused(proxy: &Proxy) -> u64 {
    let rendered = proxy.metrics.render();
    let line = rendered.lines().find(|line| line.starts_with("waypost_upstream_connect_failures_total"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("it is counted")
}

/// Sends the same request many times, each over a connection of its own, and returns the statuses.
async fn statuses(proxy: &Proxy, request: &str, times: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        let mut client = proxy.client().await;
        client.send(request).await;
        statuses.push(client.response().await.status);
    }
    statuses
}

#[tokio::test]
async fn an_instance_that_refuses_is_passed_over_for_every_method() {
    let (up, down) = (Instance::mirror().await, nobody().await);
    for request in [
        "GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    ] {
        let proxy = Proxy::new(ServeConfig::default(), &[down, up.address]);
        let begun = Instant::now();
        assert_eq!(statuses(&proxy, request, 6).await, [200; 6]);
        // It is tried again after a second at the earliest; in its turn it would be for every second request.
        let (tried, most) = (refused(&proxy), 1 + begun.elapsed().as_secs());
        assert!((1..=most).contains(&tried), "{tried} times, at most {most}");
    }
}

#[tokio::test]
async fn no_connection_anywhere_is_said_so() {
    let (one, other) = (nobody().await, nobody().await);
    let proxy = Proxy::new(ServeConfig::default(), &[one, other]);
    let response = proxy.get("/api/").await;
    assert_eq!((response.status, response.reason().as_deref()), (503, Some("upstream_connect")));
    assert!(response.text().contains("service api"), "{}", response.text());
}

#[tokio::test]
async fn a_get_survives_an_instance_that_closes_without_an_answer() {
    let (closing, seen) = closing().await;
    let up = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[closing.address, up.address]);
    let answered = statuses(&proxy, "GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n", 6).await;
    assert_eq!(answered, [200; 6]);
    assert!(seen.load(Ordering::SeqCst) >= 1, "the closing one was asked");
}

#[tokio::test]
async fn a_post_is_not_sent_twice() {
    let (closing, seen) = closing().await;
    let (other, seen_by_other) = self::closing().await;
    let proxy = Proxy::new(ServeConfig::default(), &[closing.address, other.address]);
    let mut client = proxy.client().await;
    client.send("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await;
    let response = client.response().await;
    assert_eq!((response.status, response.reason().as_deref()), (502, Some("upstream_closed")));
    assert_eq!(seen.load(Ordering::SeqCst) + seen_by_other.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_put_whose_body_has_begun_is_not_sent_twice() {
    let (closing, seen) = closing().await;
    let (other, seen_by_other) = self::closing().await;
    let proxy = Proxy::new(ServeConfig::default(), &[closing.address, other.address]);
    let put = "PUT /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(statuses(&proxy, put, 1).await, [502]);
    assert_eq!(seen.load(Ordering::SeqCst) + seen_by_other.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn retries_are_bounded() {
    let mut instances = Vec::new();
    for _ in 0..4 {
        instances.push(closing().await);
    }
    let addresses: Vec<SocketAddr> = instances.iter().map(|(instance, _)| instance.address).collect();
    for (retries, requests) in [(0, 1), (2, 3)] {
        let config = ServeConfig { retries, ..ServeConfig::default() };
        let proxy = Proxy::new(config, &addresses);
        let total = || instances.iter().map(|(_, seen)| seen.load(Ordering::SeqCst)).sum::<usize>();
        let before = total();
        assert_eq!(proxy.get("/api/").await.status, 502);
        assert_eq!(total() - before, requests, "with {retries} retries");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_nothing() {
    // Each connection answers one request, says nothing of closing, and is then closed.
    let instance = Instance::start(|mut wire, _| async move {
        if wire.request().await.is_some() {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    for request in [
        "GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
        "GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        client.send(request).await;
        assert_eq!(client.response().await.text(), "ok");
    }
    assert!(proxy.endpoint(instance.address).cooling_down().is_zero());
}

#[tokio::test]
async fn a_get_on_a_stale_connection_gets_a_fresh_one_from_the_only_instance() {
    // The connection is closed when the second request has come: the race that a check before cannot see.
    let instance = Instance::start(|mut wire, _| async move {
        if wire.request().await.is_some() {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            wire.request().await;
        }
    })
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let get = "GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(statuses(&proxy, get, 4).await, [200; 4]);
    assert_eq!(
        statuses(&proxy, "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", 1).await,
        [502]
    );
}

#[tokio::test]
async fn a_get_survives_that_the_only_instance_closes_new_connections_too() {
    // As a server does that replaces its workers: those that end close what they have just accepted.
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let instance = Instance::start(move |mut wire, _| {
        let ends = count.fetch_add(1, Ordering::SeqCst) % 3 != 2;
        async move {
            while wire.request().await.is_some() && !ends {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
            }
        }
    })
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let get = "GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(statuses(&proxy, get, 1).await, [200]);
    assert_eq!(connections.load(Ordering::SeqCst), 3);
    let post = "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(statuses(&proxy, post, 1).await, [502], "it may have been done");
    assert_eq!(connections.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn an_instance_that_does_not_answer_in_time_is_not_asked_again() {
    let silent = || Instance::start(|mut wire, _| async move { while wire.request().await.is_some() {} });
    let (one, other) = (silent().await, silent().await);
    let mut config = ServeConfig::default();
    config.timeouts.response = Duration::from_millis(300);
    let proxy = Proxy::new(config, &[one.address, other.address]);
    let response = proxy.get("/api/").await;
    assert_eq!((response.status, response.reason().as_deref()), (504, Some("upstream_timeout")));
    until("it was asked", || one.accepted() + other.accepted() > 0).await;
    proxy.until_in_flight(one.address, 0).await;
    proxy.until_in_flight(other.address, 0).await;
    assert_eq!(one.accepted() + other.accepted(), 1);
}

#[tokio::test]
async fn the_time_for_an_answer_begins_when_the_request_has_been_sent() {
    let instance = Instance::mirror().await;
    let mut config = ServeConfig::default();
    config.timeouts.response = Duration::from_secs(1);
    let proxy = Proxy::new(config, &[instance.address]);
    let mut client = proxy.client().await;
    client.send("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\n").await;
    for _ in 0..6 {
        // Together twice as long as an answer may take.
        tokio::time::sleep(Duration::from_millis(350)).await;
        client.send("x").await;
    }
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn a_request_finds_instances_that_came_after_it_had_begun() {
    // The first instance holds the request until the table has changed, and then closes.
    let (release, released) = tokio::sync::watch::channel(false);
    let held = Instance::start(move |mut wire, _| {
        let mut released = released.clone();
        async move {
            wire.request().await;
            let _ = released.wait_for(|released| *released).await;
        }
    })
    .await;
    let fresh = Instance::mirror().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[held.address]);
    let mut client = proxy.client().await;
    client.send("GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    proxy.until_in_flight(held.address, 1).await;
    proxy.set_state(fresh.address, waypost_proto::v1::InstanceState::Up);
    release.send_replace(true);
    assert_eq!(soon("an answer", client.response()).await.status, 200);
}
