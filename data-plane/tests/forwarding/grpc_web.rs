//! gRPC-Web from clients, gRPC to instances.

use std::convert::Infallible;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use waypost_proto::{instance::Protocol, snapshot::Change, v1::declared_entry::Kind};
use waypost_proxy::serve::ServeConfig;

use crate::{
    http2::{self, Http2Instance, TestBody, full},
    listeners::route,
    secure::http_listener,
    support::{Proxy, nobody},
};

/// A message as it is framed.
fn message(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("short");
    [&[0][..], &length.to_be_bytes(), text.as_bytes()].concat()
}

/// An instance that speaks gRPC: it answers with what it got, in two messages, and trailers.
async fn grpc() -> Http2Instance {
    Http2Instance::start(|request| async move {
        let headers = request.headers();
        assert_eq!(headers["te"], "trailers");
        assert!(!headers.contains_key("content-length"), "the length of what text says is not known");
        let mut response = Response::new(());
        let content_type = headers["content-type"].clone();
        assert!(content_type.as_bytes().starts_with(b"application/grpc"), "{content_type:?}");
        assert!(!content_type.as_bytes().starts_with(b"application/grpc-web"), "{content_type:?}");
        response.headers_mut().insert("content-type", content_type);
        if request.uri().path() == "/fail" {
            response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
            return response.map(|()| full(""));
        }
        let got = request.into_body().collect().await.expect("a whole body").to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("grpc-message", HeaderValue::from_static("all well"));
        let frames =
            [Frame::data(got), Frame::data(Bytes::from(message("second"))), Frame::trailers(trailers)];
        response.map(|()| StreamBody::new(tokio_stream::iter(frames.map(Ok::<_, Infallible>))).boxed())
    })
    .await
}

fn expected(first: &[u8]) -> Vec<u8> {
    let trailers = b"grpc-status:0\r\ngrpc-message:all well\r\n";
    let mut expected = [first, &message("second"), &[0x80, 0, 0, 0]].concat();
    expected.push(u8::try_from(trailers.len()).expect("short"));
    expected.extend(trailers);
    expected
}

/// Reads text whose parts are padded by themselves.
fn decoded(text: &[u8]) -> Vec<u8> {
    let groups = text.chunks(4).map(|group| STANDARD.decode(group).expect("base64"));
    groups.flatten().collect()
}

fn ask(content_type: &str, path: &str, body: Vec<u8>) -> Request<TestBody> {
    let body = http_body_util::Full::new(Bytes::from(body)).boxed();
    let request = Request::post(format!("http://shop.example{path}")).header("content-type", content_type);
    request.header("x-grpc-web", "1").body(body).expect("a request")
}

#[tokio::test]
async fn browsers_reach_an_instance_that_speaks_grpc() {
    let instance = grpc().await;
    let proxy = Proxy::speaking(Protocol::Grpc, ServeConfig::default(), &[instance.address]);
    let first = message(&"x".repeat(50_000));
    // Two parts, each padded, as clients that stream send them.
    let text = [STANDARD.encode(&first[..7]), STANDARD.encode(&first[7..])].concat().into_bytes();
    for (content_type, body, is_text) in [
        ("application/grpc-web+proto", StreamedBody(first.clone()), false),
        ("application/grpc-web-text+proto", StreamedBody(text), true),
    ] {
        let mut client = http2::client(proxy.address).await;
        let response = client.send_request(body.ask(content_type)).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], content_type);
        let collected = response.into_body().collect().await.expect("a whole body");
        assert!(collected.trailers().is_none(), "browsers cannot read them");
        let answer = collected.to_bytes();
        assert_eq!(if is_text { decoded(&answer) } else { answer.to_vec() }, expected(&first));

        let mut client = proxy.client().await;
        let StreamedBody(bytes) = body;
        client
            .send(&format!(
                "POST /api/echo HTTP/1.1\r\nhost: a\r\ncontent-type: {content_type}\r\n\
                 transfer-encoding: chunked\r\n\r\n{:x}\r\n",
                bytes.len()
            ))
            .await;
        client.send_bytes(&bytes).await;
        client.send("\r\n0\r\n\r\n").await;
        let response = client.response().await;
        let answer = response.body.clone();
        assert_eq!(if is_text { decoded(&answer) } else { answer }, expected(&first), "over HTTP/1.1");
    }
}

/// A body whose length is not told.
#[derive(Clone)]
struct StreamedBody(Vec<u8>);

impl StreamedBody {
    fn ask(&self, content_type: &str) -> Request<TestBody> {
        let parts: Vec<_> =
            self.0.chunks(999).map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
        let body = StreamBody::new(tokio_stream::iter(parts)).boxed();
        ask(content_type, "/api/echo", Vec::new()).map(|_| body)
    }
}

#[tokio::test]
async fn a_grpc_route_says_so_too() {
    let instance = grpc().await;
    let mut proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
    let mut entry = route("grpc", "/", &["own"], &[]);
    if let Some(Kind::Route(route)) = &mut entry.kind {
        route.grpc = true;
    }
    proxy.declare(vec![http_listener("own", 0, ""), entry]);
    let mut client = http2::client(proxy.address).await;
    let request = StreamedBody(message("x")).ask("application/grpc-web");
    let response = client.send_request(request).await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/grpc-web");
    let answer = response.into_body().collect().await.expect("a whole body").to_bytes();
    assert_eq!(answer, expected(&message("x")));

    // The proxy's own answers are statuses that a browser can read, whatever it speaks.
    let mut client = proxy.client().await;
    proxy.change(Change {
        removed_instances: vec![proxy.endpoint(instance.address).key().clone()],
        ..Change::default()
    });
    client
        .send(
            "POST /x HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc-web\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
    let response = client.response().await;
    assert_eq!((response.status, response.field("grpc-status").as_deref()), (200, Some("14")));
    assert_eq!(response.field("content-type").as_deref(), Some("application/grpc-web+proto"));
}

#[tokio::test]
async fn a_status_without_messages_stays_in_the_fields() {
    let instance = grpc().await;
    let proxy = Proxy::speaking(Protocol::Grpc, ServeConfig::default(), &[instance.address]);
    let mut client = http2::client(proxy.address).await;
    let text = STANDARD.encode(message("x")).into_bytes();
    let response = client.send_request(ask("application/grpc-web-text", "/api/fail", text)).await;
    let response = response.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "5");
    assert_eq!(response.headers()["content-type"], "application/grpc-web-text");
    assert!(response.into_body().collect().await.expect("a whole body").to_bytes().is_empty());
}

#[tokio::test]
async fn text_that_is_none_is_the_clients_fault() {
    let instance = grpc().await;
    let proxy = Proxy::speaking(Protocol::Grpc, ServeConfig::default(), &[instance.address]);
    for body in ["!!!!", "AAA"] {
        let mut client = proxy.client().await;
        client
            .send(&format!(
                "POST /api/echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc-web-text\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        let response = client.response().await;
        assert_eq!((response.status, response.reason().as_deref()), (400, Some("bad_request")), "{body}");
    }
}

#[tokio::test]
async fn who_is_not_registered_as_grpc_gets_what_the_client_has_sent() {
    let instance = Http2Instance::mirror().await;
    let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
    let mut client = http2::client(proxy.address).await;
    let response = client.send_request(ask("application/grpc-web", "/api/echo", message("x"))).await;
    let seen = http2::text(response.expect("an answer")).await;
    assert!(seen.contains("content-type: application/grpc-web\r\n") && !seen.contains("te: "), "{seen}");
}

#[tokio::test]
async fn the_proxys_own_answers_are_statuses_too() {
    let proxy = Proxy::speaking(Protocol::Grpc, ServeConfig::default(), &[nobody().await]);
    let mut client = http2::client(proxy.address).await;
    let response = client.send_request(ask("application/grpc-web+proto", "/api/echo", message("x"))).await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["content-type"], "application/grpc-web+proto");
}
