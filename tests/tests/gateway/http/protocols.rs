//! What is spoken with clients and with backends.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{client_async, tungstenite::Message};
use waypost_tests::gateway::{Ask, Scene, http_route};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Extended "HTTPRouteBackendProtocolH2C"
        "a backend that speaks h2c is spoken to in HTTP/2 over cleartext" h2c),
    case!(Extended "HTTPRouteBackendProtocolWebSocket" "WebSocket connections are passed on" websocket),
    case!(Core "HTTPRouteProtocols" "clients may speak HTTP/1.1 and HTTP/2, whatever the backend speaks" clients),
    case!(Core "HTTPRouteProtocols" "bodies are streamed both ways" bodies),
    case!(Core "HTTPRouteProtocols"
        "paths are normalised once: what is matched is what the backend gets" normalised),
];

async fn h2c(scene: &Scene) {
    scene.apply(&http_route("shop", "rules: [{backendRefs: [{name: h2c}]}]")).await;
    let answer = scene.get("a.example", "/x", &[]).await;
    assert_eq!(answer.who(), "h2c");
    assert_eq!(answer.json()["version"], "HTTP/2.0");
    assert_eq!(answer.host(), "a.example");
}

async fn websocket(scene: &Scene) {
    let rule = "{matches: [{path: {value: /ws}}], backendRefs: [{name: two}]}";
    scene.apply(&http_route("shop", &format!("hostnames: [a.example]\nrules: [{rule}]"))).await;
    let stream = TcpStream::connect(scene.address(None)).await.expect("a connection");
    let (mut socket, answer) = client_async("ws://a.example/ws", stream).await.expect("a WebSocket");
    assert_eq!(answer.headers()["x-instance"], "two");
    socket.send(Message::text("hello")).await.expect("sent");
    let echo = socket.next().await.expect("an echo").expect("a message");
    assert_eq!(echo.to_text().expect("text"), "hello");
    socket.close(None).await.expect("closed");
}

async fn clients(scene: &Scene) {
    let rules = "
- {matches: [{path: {value: /new}}], backendRefs: [{name: h2c}]}
- {backendRefs: [{name: one}]}";
    scene.apply(&http_route("shop", &format!("hostnames: [a.example]\nrules:{rules}"))).await;
    for (path, version) in [("/", "HTTP/1.1"), ("/new", "HTTP/2.0")] {
        for ask in [Ask::get("a.example", path), Ask::get("a.example", path).http2()] {
            let answer = scene.send(&ask).await;
            assert_eq!(answer.json()["version"], version, "{ask:?}");
            assert_eq!(answer.host(), "a.example", "{ask:?}");
        }
    }
}

async fn bodies(scene: &Scene) {
    let rules = "
- {matches: [{path: {value: /echo}, headers: [{name: x-to, value: h2c}]}], backendRefs: [{name: h2c}]}
- {backendRefs: [{name: one}]}";
    scene.apply(&http_route("shop", &format!("rules:{rules}"))).await;
    let body: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    for to in ["h2c", "one"] {
        for ask in [Ask::get("a.example", "/echo"), Ask::get("a.example", "/echo").http2()] {
            let answer = scene.send(&ask.method("POST").header("x-to", to).body(&body)).await;
            assert_eq!(answer.status, 200);
            assert!(answer.body == body, "{to}: {} bytes", answer.body.len());
        }
    }
}

async fn normalised(scene: &Scene) {
    let rules = "
- {matches: [{path: {value: /admin}}], backendRefs: [{name: two}]}
- {backendRefs: [{name: one}]}";
    scene.apply(&http_route("shop", &format!("rules:{rules}"))).await;
    let answer = scene.get("a.example", "/%61dmin/x", &[]).await;
    assert_eq!((answer.who(), answer.path()), ("two".into(), "/admin/x".into()));
    for path in ["/x/../admin", "/x/%2e%2e/admin", "/admin%00", "/x\\..\\admin"] {
        let raw = format!("GET {path} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n");
        let answer = waypost_tests::http::raw(scene.address(None), raw.as_bytes()).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }
    // An encoded slash is no separator.
    let answer = scene.get("a.example", "/admin%2Fx", &[]).await;
    assert_eq!((answer.who(), answer.path()), ("one".into(), "/admin%2Fx".into()));
}
