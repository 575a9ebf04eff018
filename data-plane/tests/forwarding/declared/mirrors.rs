//! Copies of requests: who gets what, and that clients do not notice.

use std::net::SocketAddr;

use tokio::sync::mpsc;
use waypost_proto::v1::{HeaderChange, HeaderField, Mirror, RouteBackend, RouteRule, route_filter::Kind};

use crate::{
    routes::{filter, proxy, rule, to},
    support::{Instance, Proxy, field, soon, until},
};

/// How many copies one worker has under way at most.
const MOST_UNDER_WAY: usize = 128;

fn mirror(name: &str) -> Mirror {
    Mirror { backend: Some(to(name, 1)), numerator: 1, denominator: 1 }
}

/// A proxy whose requests go to the instance of `a`, with copies as the mirrors say.
fn mirroring(a: &Instance, shadow: SocketAddr, mirrors: Vec<Mirror>) -> Proxy {
    let filters = mirrors.into_iter().map(|mirror| filter(Kind::Mirror(mirror))).collect();
    let rule = RouteRule { filters, ..rule("/", to("a", 1)) };
    proxy(&[("a", "", a.address), ("shadow", "", shadow)], rule)
}

/// An instance that tells of the requests that it gets, and answers each with a body of its own.
async fn telling() -> (Instance, mpsc::UnboundedReceiver<(String, Vec<u8>)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let instance = Instance::start(move |mut wire, _| {
        let tell = tell.clone();
        async move {
            while let Some(request) = wire.request().await {
                let _ = tell.send(request);
                wire.send("HTTP/1.1 418 No\r\ncontent-length: 6\r\n\r\nshadow").await;
            }
        }
    })
    .await;
    (instance, told)
}

/// An instance that takes connections, and never reads or says anything.
async fn silent() -> Instance {
    Instance::start(|wire, _| async move {
        std::future::pending::<()>().await;
        drop(wire);
    })
    .await
}

async fn until_counted(proxy: &Proxy, outcome: &str, count: usize) {
    let line = format!("waypost_mirrored_requests_total{{outcome=\"{outcome}\"}} {count}");
    until(&line, || proxy.metrics.render().lines().any(|found| found == line)).await;
}

#[tokio::test]
async fn a_mirror_gets_what_the_instance_gets_and_its_answer_is_thrown_away() {
    let (a, (shadow, mut told)) = (Instance::mirror().await, telling().await);
    let proxy = mirroring(&a, shadow.address, vec![mirror("shadow")]);
    let mut client = proxy.client().await;
    for request in [
        "POST /b?c HTTP/1.1\r\nhost: shop.example\r\nx-a: 1\r\ncontent-length: 4\r\n\r\nbody",
        "POST /b?c HTTP/1.1\r\nhost: shop.example\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        "GET /b?c HTTP/1.1\r\nhost: shop.example\r\n\r\n",
    ] {
        client.send(request).await;
        let response = client.response().await;
        let (head, body) = soon("the copy comes", told.recv()).await.expect("the mirror is there");
        assert_eq!(response.status, 200);
        assert_eq!(response.text(), format!("{head}{}", String::from_utf8_lossy(&body)));
        assert_eq!(field(&head, "host").as_deref(), Some("shop.example"));
    }
    until_counted(&proxy, "answered", 3).await;
    assert_eq!(shadow.accepted(), 1, "its connection is used again");
}

#[tokio::test]
async fn a_copy_has_the_changes_that_the_rule_makes() {
    let (a, (shadow, mut told)) = (Instance::mirror().await, telling().await);
    let set = vec![HeaderField { name: "x-set".to_owned(), value: "1".to_owned() }];
    let change = HeaderChange { set, ..HeaderChange::default() };
    let filters = [Kind::RequestHeaders(change), Kind::Mirror(mirror("shadow"))].map(filter).to_vec();
    let backend = RouteBackend { filters, ..to("a", 1) };
    let proxy = proxy(&[("a", "", a.address), ("shadow", "", shadow.address)], rule("/", backend));
    assert_eq!(proxy.get("/").await.status, 200);
    let (head, _) = soon("the copy comes", told.recv()).await.expect("the mirror is there");
    assert_eq!(field(&head, "x-set").as_deref(), Some("1"));
}

#[tokio::test]
async fn several_mirrors_get_a_copy_each_and_a_share_of_nothing_gets_none() {
    let (a, (shadow, mut told)) = (Instance::mirror().await, telling().await);
    let none = Mirror { numerator: 0, denominator: 100, ..mirror("shadow") };
    let proxy = mirroring(&a, shadow.address, vec![mirror("shadow"), none, mirror("shadow")]);
    for _ in 0..10 {
        assert_eq!(proxy.get("/").await.status, 200);
    }
    until_counted(&proxy, "answered", 20).await;
    let mut count = 0;
    while told.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 20);
}

#[tokio::test]
async fn a_copy_survives_that_the_only_instance_of_a_mirror_closes_a_used_connection() {
    let a = Instance::mirror().await;
    let shadow = Instance::start(|mut wire, _| async move {
        if wire.request().await.is_some() {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            wire.request().await;
        }
    })
    .await;
    let proxy = mirroring(&a, shadow.address, vec![mirror("shadow")]);
    for count in 1..4 {
        assert_eq!(proxy.get("/").await.status, 200);
        until_counted(&proxy, "answered", count).await;
    }
}

#[tokio::test]
async fn clients_do_not_notice_a_mirror_that_is_not_there() {
    let a = Instance::mirror().await;
    let invalid = RouteBackend { invalid: "no grant".to_owned(), ..RouteBackend::default() };
    let invalid = Mirror { backend: Some(invalid), ..mirror("shadow") };
    let nobody = crate::support::nobody().await;
    let proxy = mirroring(&a, nobody, vec![mirror("unknown"), invalid, mirror("shadow")]);
    assert_eq!(proxy.get("/").await.status, 200);
    until_counted(&proxy, "failed", 3).await;
}

#[tokio::test]
async fn a_mirror_that_takes_nothing_holds_up_neither_clients_nor_more_than_a_bounded_part_of_a_body() {
    let (a, shadow) = (Instance::mirror().await, silent().await);
    let proxy = mirroring(&a, shadow.address, vec![mirror("shadow")]);
    let mut client = proxy.client().await;
    // More than what the kernel's buffers and the proxy hold together.
    let body = vec![b'x'; 32 << 20];
    client.send(&format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len())).await;
    client.send_bytes(&body).await;
    let response = soon("the answer comes", client.response()).await;
    assert!(response.body.ends_with(&body));
    until_counted(&proxy, "failed", 1).await;
}

#[tokio::test]
async fn copies_beyond_a_bound_are_not_made() {
    let (a, shadow) = (Instance::mirror().await, silent().await);
    let proxy = mirroring(&a, shadow.address, vec![mirror("shadow")]);
    let mut client = proxy.client().await;
    for _ in 0..MOST_UNDER_WAY + 10 {
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.response().await.status, 200);
    }
    until_counted(&proxy, "dropped", 10).await;
    until("the copies are sent", || shadow.accepted() == MOST_UNDER_WAY).await;
}

#[tokio::test]
async fn a_copy_ends_where_the_client_s_body_breaks_off() {
    let (a, (shadow, mut told)) = (Instance::mirror().await, telling().await);
    let proxy = mirroring(&a, shadow.address, vec![mirror("shadow")]);
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n").await;
    until("the copy is under way", || shadow.accepted() == 1).await;
    drop(client);
    until_counted(&proxy, "failed", 1).await;
    assert!(told.try_recv().is_err(), "it was no whole request");
}
