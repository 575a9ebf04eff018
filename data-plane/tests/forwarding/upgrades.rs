//! Connections that switch to another protocol.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use waypost_proto::v1::InstanceState;
use waypost_proxy::serve::ServeConfig;

use crate::support::{Client, Instance, Proxy, field, soon, until};

const UPGRADE: &str = "GET /api/chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-key: x\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// An instance that switches and then echoes until the client's half ends.
async fn echo() -> Instance {
    Instance::start(|mut wire, _| async move {
        let Some((head, _)) = wire.request().await else { return };
        assert_eq!(field(&head, "connection").as_deref(), Some("upgrade"));
        assert_eq!(field(&head, "upgrade").as_deref(), Some("websocket"));
        // The first bytes of the new protocol come with the 101.
        wire.send(&format!("{SWITCHED}hello")).await;
        let (mut read, mut write) = wire.socket.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.write_all(b"bye").await;
    })
    .await
}

/// A client whose connection has been switched.
async fn switched(proxy: &Proxy) -> Client {
    let mut client = proxy.client().await;
    // The client, too, sends on at once.
    client.send(&format!("{UPGRADE}early")).await;
    let response = client.response().await;
    assert_eq!(response.status, 101, "{}", response.head);
    assert_eq!(response.field("upgrade").as_deref(), Some("websocket"));
    assert_eq!(response.field("connection").map(|value| value.to_lowercase()).as_deref(), Some("upgrade"));
    assert_eq!(client.exactly(10).await, b"helloearly");
    client
}

#[tokio::test]
async fn bytes_flow_both_ways_and_either_half_can_end_first() {
    let instance = echo().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = switched(&proxy).await;
    client.send("ping").await;
    assert_eq!(client.exactly(4).await, b"ping");
    proxy.until_in_flight(instance.address, 1).await;

    client.socket.shutdown().await.expect("an open socket");
    assert_eq!(client.rest().await.expect("a clean end"), b"bye");
    proxy.until_in_flight(instance.address, 0).await;
    until("the upgrade is counted", || proxy.metrics.render().contains("upgrades_total 1")).await;
}

#[tokio::test]
async fn a_tunnel_survives_a_drain_and_a_new_table() {
    let (instance, other) = (echo().await, Instance::mirror().await);
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = switched(&proxy).await;
    proxy.set_state(instance.address, InstanceState::Draining);
    proxy.set_state(other.address, InstanceState::Up);
    assert_eq!(proxy.get("/api/").await.status, 200);
    client.send("ping").await;
    assert_eq!(client.exactly(4).await, b"ping");
    assert_eq!(proxy.endpoint(instance.address).in_flight(), 1);
    drop(client);
    proxy.until_in_flight(instance.address, 0).await;
}

#[tokio::test]
async fn a_tunnel_is_cut_at_the_shutdowns_deadline_and_counted() {
    let instance = echo().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = switched(&proxy).await;
    let stopped = tokio::spawn(proxy.shutdown(Duration::from_secs(2)));
    client.send("ping").await;
    assert_eq!(client.exactly(4).await, b"ping", "it works until the deadline");
    let report = soon("the shutdown", stopped).await.expect("no panic");
    assert_eq!((report.cut_requests, report.cut_upgrades), (0, 1));
}

#[tokio::test]
async fn a_tunnel_that_ends_lets_the_shutdown_end() {
    let instance = echo().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let client = switched(&proxy).await;
    let stopped = tokio::spawn(proxy.shutdown(Duration::from_secs(60)));
    drop(client);
    assert!(soon("the shutdown", stopped).await.expect("no panic").is_clean());
}

#[tokio::test]
async fn an_instance_may_decline() {
    let instance = Instance::answering("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    for _ in 0..2 {
        client.send(UPGRADE).await;
        let response = client.response().await;
        assert_eq!((response.status, response.text().as_str()), (403, "no"));
    }
    assert_eq!(instance.accepted(), 1, "both connections go on");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_no_answer() {
    let instance = Instance::answering(SWITCHED).await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let response = proxy.get("/api/").await;
    assert_eq!((response.status, response.reason().as_deref()), (502, Some("upstream_protocol")));
}

#[tokio::test]
async fn an_upgrade_to_http2_is_not_passed_on() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client
        .send(
            "GET /api/ HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
             http2-settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
        .await;
    let response = client.response().await;
    assert_eq!(response.status, 200);
    for gone in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(field(&response.text(), gone), None, "{gone}");
    }
}
