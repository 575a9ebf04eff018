//! The drain barrier: an instance is gone only when nothing is in flight to it, or its deadline has passed.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use waypost_proto::{
    time::wire_duration,
    v1::{DrainRequest, InstanceState},
};
use waypost_tests::{
    cluster::Cluster,
    http::get,
    service::RegisteredService,
    wait::{eventually, holds, throughout},
};

/// What a drain may take; far more than it needs.
const DEADLINE: Duration = Duration::from_secs(30);

async fn socket(cluster: &Cluster, path: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(cluster.traffic()).await.expect("the proxy listens");
    let uri = format!("ws://{}{path}", cluster.traffic());
    client_async(uri, stream).await.expect("an upgrade").0
}

async fn echo(socket: &mut WebSocketStream<TcpStream>) -> Result<(), String> {
    socket.send(Message::text("still here")).await.map_err(|error| format!("write: {error}"))?;
    match socket.next().await {
        Some(Ok(Message::Text(text))) if text.as_str() == "still here" => Ok(()),
        other => Err(format!("read: {other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_not_cut_before_the_drain_deadline() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.client();
    let shop = RegisteredService::start(&client, "shop", "shop-1").await;
    cluster.converged().await;
    let mut socket = socket(&cluster, "/shop/ws").await;
    echo(&mut socket).await.expect("an echo");

    let deadline = Duration::from_secs(8);
    let begin = Instant::now();
    let outcome = {
        let drain = shop.registered.drain(deadline);
        let alive = throughout("the socket echoes while its instance drains", deadline / 4, async || {
            echo(&mut socket).await
        });
        tokio::join!(drain, alive).0
    };
    assert!(begin.elapsed() >= deadline, "the answer came after {:?}", begin.elapsed());
    assert!(!outcome.is_complete(), "a socket is open: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_the_request_in_flight_and_no_longer() {
    let cluster = Cluster::builder().proxies(2).start().await;
    let client = cluster.client();
    let shop = RegisteredService::start(&client, "shop", "shop-1").await;
    cluster.converged().await;

    let slow = tokio::spawn(get(cluster.traffic(), "/shop/slow?ms=5000"));
    let metrics = cluster.proxies[0].admin;
    eventually("the request is in flight", Duration::from_secs(10), async || {
        let answer = get(metrics, "/metrics").await;
        let in_flight = answer.text().lines().any(|line| {
            line.contains("active_requests") && !line.starts_with('#') && !line.trim_end().ends_with(" 0")
        });
        holds(in_flight, || answer.text())
    })
    .await;
    // A control plane that has just started waits five seconds for proxies of the one before it.
    let outcome =
        tokio::time::timeout(DEADLINE / 2, shop.retire(DEADLINE)).await.expect("it ends long before");
    assert!(outcome.is_complete(), "{outcome:?}");
    let answer = slow.await.expect("the request ends");
    assert_eq!(answer.status, 200, "what was in flight was answered: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_instance_gets_no_request_until_the_drain_is_cancelled() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.client();
    let one = RegisteredService::start(&client, "shop", "one").await;
    let _other = RegisteredService::start(&client, "shop", "other").await;
    cluster.converged().await;

    let mut request = DrainRequest {
        key: Some(one.registered.key().to_wire()),
        wait: true,
        deadline: Some(wire_duration(Duration::from_secs(10))),
        reason: "maintenance".into(),
        client: "test".into(),
        ..Default::default()
    };
    let drained = cluster.api().operations().drain(request.clone()).await.expect("a drain").into_inner();
    assert!(drained.drain.expect("an outcome").complete);
    for _ in 0..20 {
        assert_eq!(cluster.proxies[0].get("/shop/").await.header("x-instance"), "other");
    }
    let instances = cluster.api().instances("shop").await.expect("instances");
    assert!(instances.iter().any(|instance| instance.state() == InstanceState::Draining), "{instances:?}");

    (request.cancel, request.wait) = (true, false);
    cluster.api().operations().drain(request).await.expect("the drain ends");
    eventually("it is in rotation again", Duration::from_secs(5), async || {
        let answer = cluster.proxies[0].get("/shop/").await;
        holds(answer.header("x-instance") == "one", || answer.text())
    })
    .await;
}

/// Wrappers such as `timeout` signal the process and then its group.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_told_twice_at_once_to_stop_finishes_what_is_in_flight() {
    let mut cluster = Cluster::builder().start().await;
    let client = cluster.client();
    let _shop = RegisteredService::start(&client, "shop", "shop-1").await;
    cluster.converged().await;
    let slow = tokio::spawn(get(cluster.traffic(), "/shop/slow?ms=5000"));
    eventually("the request is in flight", Duration::from_secs(10), async || {
        let proxy = get(cluster.proxies[0].admin, "/metrics").await.text();
        let line =
            proxy.lines().find(|line| line.starts_with("http_server_active_requests")).unwrap_or_default();
        holds(line.ends_with(" 1"), || line.to_owned())
    })
    .await;
    cluster.proxies[0].process.signal(Signal::SIGTERM);
    cluster.proxies[0].process.signal(Signal::SIGTERM);
    let status = cluster.proxies[0].process.ended().await;
    let answer = slow.await.expect("the request ends");
    assert!(status.success() && answer.status == 200, "{status} {}", answer.status);
}
