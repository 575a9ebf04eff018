//! Bytes that are no protocol at all, on every port.

use std::net::SocketAddr;

use waypost_tests::{
    cluster::Cluster,
    http::{get, raw},
    service::RegisteredService,
};

fn garbage() -> Vec<Vec<u8>> {
    let request = |head: &str| format!("{head}\r\n\r\n").into_bytes();
    let mut noise = vec![0; 4096];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    vec![
        vec![0; 100],
        noise.clone(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        request("GET / HTTP/9.9\r\nhost: a"),
        request("GET /shop/ HTTP/1.1"),
        request("GET /shop/ HTTP/1.1\r\nhost: a\r\nhost: b"),
        request("GET /shop/\0 HTTP/1.1\r\nhost: a"),
        request("GET /shop/ HTTP/1.1\r\nhost: a\r\nbad header: x"),
        request("GET /shop/ HTTP/1.1\r\nhost: a\r\n folded: x"),
        request("POST /shop/ HTTP/1.1\r\nhost: a\r\ncontent-length: -5"),
        request("POST /shop/ HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6"),
        request("POST /shop/ HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999"),
        request("POST /shop/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nZZ"),
        request("POST /shop/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity"),
        request(&format!("GET /{} HTTP/1.1\r\nhost: a", "a".repeat(1 << 20))),
        request(&format!("GET /shop/ HTTP/1.1\r\nhost: a\r\nx: {}", "a".repeat(1 << 20))),
        request(&format!("GET /shop/ HTTP/1.1\r\nhost: a{}", "\r\nx: y".repeat(2000))),
        [preface.clone(), noise].concat(),
        [preface.clone(), b"\xff\xff\xff\x00\x00\x00\x00\x00\x00".to_vec()].concat(),
        [preface, b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00".to_vec()].concat(),
    ]
}

fn is_rejection(answer: &[u8]) -> bool {
    // Closed without a word, an HTTP/1.1 client error, or an HTTP/2 frame (settings, then go away).
    answer.is_empty()
        || answer.starts_with(b"HTTP/1.1 4")
        || answer.starts_with(b"HTTP/1.1 5")
        || answer[0] == 0
}

async fn pelt(name: &str, address: SocketAddr) {
    for (number, bytes) in garbage().into_iter().enumerate() {
        let answer =
            raw(address, &bytes).await.unwrap_or_else(|error| panic!("{name}, garbage {number}: {error}"));
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
        assert!(is_rejection(&answer), "{name}, garbage {number} was answered: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_any_port_harms_nobody() {
    let mut cluster = Cluster::builder().start().await;
    let shop = RegisteredService::start(&cluster.client(), "shop", "shop-1").await;
    cluster.converged().await;
    let (traffic, admin) = (cluster.traffic(), cluster.proxies[0].admin);
    let (grpc, http) = (cluster.control_plane.grpc, cluster.control_plane.http);

    tokio::join!(pelt("traffic", traffic), pelt("admin", admin), pelt("gRPC", grpc), pelt("HTTP", http));

    assert!(cluster.proxies[0].process.is_running(), "the proxy lives");
    assert!(cluster.control_plane.process.is_running(), "the control plane lives");
    assert_eq!(get(traffic, "/shop/").await.header("x-instance"), shop.service.instance);
    for address in [admin, http] {
        assert_eq!(get(address, "/healthz").await.status, 200);
    }
    cluster.converged().await;
    for log in [&cluster.proxies[0].process.log, &cluster.control_plane.process.log] {
        let panics: Vec<String> = log.lines().into_iter().filter(|line| line.contains("panicked")).collect();
        assert!(panics.is_empty(), "{panics:?}");
    }
}
