//! WebSocket over HTTP/2, with an instance that speaks HTTP/1.1.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, Request, Response};
use hyper::{body::Incoming, client::conn::http2::SendRequest, ext::Protocol as Connect, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use sha1_smol::Sha1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypost_proto::instance::Protocol;
use waypost_proxy::serve::ServeConfig;

use crate::{
    http2::{self, Http2Instance, TestBody, full, text},
    support::{Instance, Proxy, field, soon, until},
};

/// What the RFC asks of an instance that gets this head.
fn accept_of(head: &str) -> String {
    let key = field(head, "sec-websocket-key").expect("a key");
    let mut hash = Sha1::new();
    hash.update(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    STANDARD.encode(hash.digest().bytes())
}

/// An instance that answers a plain request, switches where it is asked to, and then echoes.
async fn echo() -> Instance {
    Instance::start(|mut wire, _| async move {
        while let Some((head, _)) = wire.request().await {
            if !head.contains("chat") {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                continue;
            }
            assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
            assert_eq!(field(&head, "connection").as_deref(), Some("upgrade"));
            assert_eq!(field(&head, "upgrade").as_deref(), Some("websocket"));
            assert_eq!(field(&head, "sec-websocket-version").as_deref(), Some("13"));
            assert_eq!(field(&head, "sec-websocket-protocol").as_deref(), Some("talk"));
            let accept = accept_of(&head);
            wire.send(&format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\nsec-websocket-protocol: talk\r\n\r\nhello"
            ))
            .await;
            let (mut read, mut write) = wire.socket.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.write_all(b"bye").await;
            return;
        }
    })
    .await
}

fn connect(protocol: &'static str) -> Request<TestBody> {
    let mut request = Request::new(full(""));
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "http://shop.example/api/chat?room=1".parse().expect("a target");
    request.headers_mut().insert("sec-websocket-version", "13".parse().expect("a value"));
    request.headers_mut().insert("sec-websocket-protocol", "talk".parse().expect("a value"));
    request.extensions_mut().insert(Connect::from_static(protocol));
    request
}

/// A client that knows that the proxy takes extended `CONNECT`.
async fn client(proxy: &Proxy) -> SendRequest<TestBody> {
    let mut client = http2::client(proxy.address).await;
    let request = Request::get("http://shop.example/api/").body(full("")).expect("a request");
    soon("an answer", client.send_request(request)).await.expect("an answer");
    client
}

async fn opened(client: &mut SendRequest<TestBody>) -> TokioIo<Upgraded> {
    let response = soon("an answer", client.send_request(connect("websocket"))).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "talk");
    for gone in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    TokioIo::new(hyper::upgrade::on(response).await.expect("a stream"))
}

async fn exactly(stream: &mut TokioIo<Upgraded>, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    soon("bytes", stream.read_exact(&mut bytes)).await.expect("bytes");
    bytes
}

#[tokio::test]
async fn bytes_flow_both_ways_beside_other_requests() {
    let instance = echo().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = client(&proxy).await;
    let (mut one, mut other) = (opened(&mut client).await, opened(&mut client).await);
    for stream in [&mut one, &mut other] {
        assert_eq!(exactly(stream, 5).await, b"hello");
    }
    one.write_all(b"ping").await.expect("an open stream");
    assert_eq!(exactly(&mut one, 4).await, b"ping");
    let large = vec![7; 300_000];
    let (mut read, mut write) = tokio::io::split(other);
    let sent = async {
        write.write_all(&large).await.expect("an open stream");
        write.shutdown().await.expect("an open stream");
    };
    let mut received = Vec::new();
    let (_, read) = soon("all of it", async { tokio::join!(sent, read.read_to_end(&mut received)) }).await;
    read.expect("a clean end");
    assert_eq!(received.len(), large.len() + 3, "one half ends while the other goes on");
    let request = Request::get("http://shop.example/api/").body(full("")).expect("a request");
    assert_eq!(text(client.send_request(request).await.expect("an answer")).await, "ok");
    proxy.until_in_flight(instance.address, 1).await;
    drop(one);
    proxy.until_in_flight(instance.address, 0).await;
    until("both are counted", || proxy.metrics.render().contains("upgrades_total 2")).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_streams_until_its_deadline() {
    let instance = echo().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = client(&proxy).await;
    let mut stream = opened(&mut client).await;
    let stopped = tokio::spawn(proxy.shutdown(Duration::from_secs(60)));
    assert_eq!(exactly(&mut stream, 5).await, b"hello");
    stream.write_all(b"ping").await.expect("an open stream");
    assert_eq!(exactly(&mut stream, 4).await, b"ping");
    drop((stream, client));
    assert!(soon("the shutdown", stopped).await.expect("no panic").is_clean());
}

async fn refused(client: &mut SendRequest<TestBody>, protocol: &'static str) -> Response<Incoming> {
    soon("an answer", client.send_request(connect(protocol))).await.expect("an answer")
}

#[tokio::test]
async fn an_instance_that_does_not_switch_is_told_apart() {
    let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n";
    for (answer, status, reason) in [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_owned(), 403, None),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(), 502, Some("upstream_protocol")),
        (format!("{switched}upgrade: websocket\r\n\r\n"), 502, Some("upstream_protocol")),
        (
            format!("{switched}upgrade: websocket\r\nsec-websocket-accept: AAAA\r\n\r\n"),
            502,
            Some("upstream_protocol"),
        ),
        (format!("{switched}upgrade: else\r\n\r\n"), 502, Some("upstream_protocol")),
    ] {
        let instance = Instance::start(move |mut wire, _| {
            let answer = answer.clone();
            async move {
                while let Some((head, _)) = wire.request().await {
                    let plain = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    wire.send(if head.contains("chat") { &answer } else { plain }).await;
                }
            }
        })
        .await;
        let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
        let response = refused(&mut client(&proxy).await, "websocket").await;
        assert_eq!(response.status(), status);
        let given = response
            .headers()
            .get("x-waypost-reason")
            .map(|reason| reason.to_str().expect("text").to_owned());
        assert_eq!(given.as_deref(), reason);
        assert!(!text(response).await.is_empty(), "an answer's body is passed on");
    }
}

#[tokio::test]
async fn other_protocols_and_instances_that_speak_http2_are_refused() {
    let instance = echo().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let response = refused(&mut client(&proxy).await, "connect-udp").await;
    assert_eq!(response.status(), 405);
    assert!(text(response).await.contains("websocket"));

    let instance = Http2Instance::start(|_| async { Response::new(full("ok")) }).await;
    let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
    let response = refused(&mut client(&proxy).await, "websocket").await;
    assert_eq!(response.status(), 502);
    assert!(text(response).await.contains("HTTP/1.1"));
}
