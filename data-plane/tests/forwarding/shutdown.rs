//! Stopping: nothing that was begun is lost before the deadline, and what is cut is counted.

use std::time::Duration;

use tokio::{net::TcpStream, sync::watch};
use waypost_proxy::serve::ServeConfig;

use crate::support::{Instance, Proxy, soon, until};

/// An instance that answers when it is told to.
pub(crate) async fn held() -> (Instance, watch::Sender<bool>) {
    let (release, released) = watch::channel(false);
    let instance = Instance::start(move |mut wire, _| {
        let mut released = released.clone();
        async move {
            while wire.request().await.is_some() {
                let _ = released.wait_for(|released| *released).await;
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (instance, release)
}

#[tokio::test]
async fn what_is_in_flight_is_answered_and_told_to_close() {
    let (instance, release) = held().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    proxy.until_in_flight(instance.address, 1).await;

    let stopped = tokio::spawn(proxy.shutdown(Duration::from_secs(60)));
    let address = proxy.address;
    until("the end of listening", || std::net::TcpStream::connect(address).is_err()).await;
    release.send_replace(true);
    let response = client.response().await;
    assert_eq!((response.status, response.field("connection").as_deref()), (200, Some("close")));
    assert_eq!(client.rest().await.expect("a clean end"), b"");
    assert!(soon("the shutdown", stopped).await.expect("no panic").is_clean());
}

#[tokio::test]
async fn idle_connections_do_not_hold_a_shutdown() {
    let instance = Instance::mirror().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.response().await;
    let report = soon("the shutdown", proxy.shutdown(Duration::from_secs(60))).await;
    assert!(report.is_clean());
    assert_eq!(client.rest().await.expect("a clean end"), b"");
}

#[tokio::test]
async fn a_request_on_a_connection_that_was_just_made_is_answered() {
    let instance = Instance::mirror().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    // Connected, as far as the kernel is concerned; whether it was accepted is a race, which must not matter.
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(proxy.client().await);
    }
    let stopped = tokio::spawn(proxy.shutdown(Duration::from_secs(60)));
    for client in &mut clients {
        client.send("GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    assert!(soon("the shutdown", stopped).await.expect("no panic").is_clean());
}

#[tokio::test]
async fn what_has_not_ended_at_the_deadline_is_cut_and_counted() {
    let (instance, _release) = held().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.client().await;
        client.send("GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
        clients.push(client);
    }
    proxy.until_in_flight(instance.address, 3).await;
    let endpoint = proxy.endpoint(instance.address);
    let report = soon("the shutdown", proxy.shutdown(Duration::from_millis(200))).await;
    assert_eq!((report.cut_requests, report.cut_upgrades), (3, 0));
    until("nothing in flight", || endpoint.in_flight() == 0).await;
    for mut client in clients {
        assert!(client.try_head().await.ok().flatten().is_none(), "no answer was made up");
    }
}

#[tokio::test]
async fn dropping_the_proxy_frees_its_port() {
    let mut proxy = Proxy::new(ServeConfig::default(), &[]);
    let address = proxy.address;
    drop(proxy.shutdown(Duration::ZERO));
    drop(proxy);
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon("a free port", refused).await;
}
