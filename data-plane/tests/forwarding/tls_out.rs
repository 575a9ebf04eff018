//! TLS with instances: whom the proxy takes for one, and what becomes of requests where there is none.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use waypost_proto::instance::Protocol;
use waypost_proxy::serve::ServeConfig;

use crate::{
    secure::{Authority, accept, backend_tls},
    support::{Instance, Proxy, field, soon},
};

/// An instance that answers every request over TLS with its head and body.
async fn over_tls(acceptor: TlsAcceptor) -> Instance {
    Instance::start(move |wire, _| {
        let acceptor = acceptor.clone();
        async move {
            let Some(mut wire) = accept(&acceptor, wire).await else { return };
            while let Some((head, body)) = wire.request().await {
                let mut answer = head.into_bytes();
                answer.extend(body);
                wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len())).await;
                wire.send_bytes(&answer).await;
            }
        }
    })
    .await
}

/// An instance that answers every request over HTTP/2 and TLS with the scheme and the host that it was asked for.
async fn over_http2_and_tls(acceptor: TlsAcceptor) -> Instance {
    let service = |request: Request<Incoming>| async move {
        let uri = format!("{:?} {}", request.version(), request.uri());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(uri))))
    };
    Instance::start(move |wire, _| {
        let acceptor = acceptor.clone();
        async move {
            let Some(wire) = accept(&acceptor, wire).await else { return };
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(wire.socket), service_fn(service)).await;
        }
    })
    .await
}

/// An instance that passes on the first bytes that it gets, whatever they are, and then closes.
async fn listening() -> (Instance, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let instance = Instance::start(move |mut wire, _| {
        let sender = sender.clone();
        async move {
            let mut first = vec![0; 4096];
            let count = wire.socket.read(&mut first).await.unwrap_or(0);
            first.truncate(count);
            let _ = sender.send(first);
        }
    })
    .await;
    (instance, receiver)
}

#[tokio::test]
async fn an_instance_is_spoken_to_over_tls_and_its_connection_kept() {
    let authority = Authority::new("inside");
    let instance = over_tls(authority.server(&["shop.inside"]).acceptor(&["http/1.1"])).await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    proxy.declare(vec![authority.entry("inside"), backend_tls("shop.inside", &[], &["inside"])]);
    for _ in 0..3 {
        let response = proxy.get("/api/a").await;
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(field(&response.text(), "host").as_deref(), Some("test"), "the host is the client's");
    }
    assert_eq!(instance.accepted(), 1);
    let mut client = proxy.client().await;
    let body = "x".repeat(300_000);
    client
        .send(&format!("POST /api/b HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
        .await;
    let response = client.response().await;
    assert!(
        response.status == 200 && response.body.ends_with(body.as_bytes()),
        "a large body passes both ways"
    );
}

#[tokio::test]
async fn http2_is_agreed_on_where_the_instance_speaks_it() {
    let authority = Authority::new("inside");
    let identity = authority.server(&["shop.inside"]);
    let instance = over_http2_and_tls(identity.acceptor(&["h2"])).await;
    let mut proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
    proxy.declare(vec![authority.entry("inside"), backend_tls("shop.inside", &[], &["inside"])]);
    for _ in 0..3 {
        let response = proxy.get("/api/a").await;
        assert_eq!(response.text(), "HTTP/2.0 https://test/a");
    }
    assert_eq!(instance.accepted(), 1);
}

#[tokio::test]
async fn who_does_not_offer_the_protocol_is_not_spoken_to() {
    let authority = Authority::new("inside");
    let identity = authority.server(&["shop.inside"]);
    // The first refuses by itself, the second agrees on nothing.
    for offered in [&["http/1.1"][..], &[]] {
        let instance = over_tls(identity.acceptor(offered)).await;
        let mut proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
        proxy.declare(vec![authority.entry("inside"), backend_tls("shop.inside", &[], &["inside"])]);
        let response = proxy.get("/api/").await;
        assert_eq!((response.status, response.reason().as_deref()), (502, Some("upstream_tls")));
    }
}

#[tokio::test]
async fn a_certificate_must_be_signed_by_an_authority_and_have_the_name() {
    let (inside, others) = (Authority::new("inside"), Authority::new("others"));
    let policy = |hostname, alternatives: &[&str]| backend_tls(hostname, alternatives, &["inside"]);
    let server = |names: &[&str]| inside.server(names);
    let uri = "spiffe://inside/shop";
    let mut cases = vec![
        ("its name", server(&["shop.inside"]), policy("shop.inside", &[]), true),
        ("a wildcard", server(&["*.shop.inside"]), policy("a.shop.inside", &[]), true),
        ("another name", server(&["cart.inside"]), policy("shop.inside", &[]), false),
        ("another authority", others.server(&["shop.inside"]), policy("shop.inside", &[]), false),
        ("an alternative", server(&["b.inside"]), policy("shop.inside", &["a.inside", "b.inside"]), true),
        ("the name does not do", server(&["shop.inside"]), policy("shop.inside", &["a.inside"]), false),
        ("a URI", inside.server_with_uri(uri), policy("shop.inside", &[uri]), true),
        ("another URI", inside.server_with_uri("spiffe://inside/cart"), policy("shop.inside", &[uri]), false),
        (
            "expired",
            inside.sign(&["shop.inside"], server_usage(), (2020, 2021)),
            policy("shop.inside", &[]),
            false,
        ),
    ];
    // One that the machine does not trust, where the machine's authorities are asked for.
    cases.push(("not the machine's", server(&["shop.inside"]), backend_tls("shop.inside", &[], &[]), false));
    for (what, identity, policy, is_taken) in cases {
        let instance = over_tls(identity.acceptor(&["http/1.1"])).await;
        let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
        proxy.declare(vec![inside.entry("inside"), policy]);
        let response = proxy.get("/api/").await;
        if is_taken {
            assert_eq!(response.status, 200, "{what}: {}", response.text());
        } else {
            assert_eq!(
                (response.status, response.reason().as_deref()),
                (502, Some("upstream_tls")),
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_in_the_clear_where_tls_is_asked_for() {
    let authority = Authority::new("inside");
    for (protocol, entries) in [
        (Protocol::Http1, vec![authority.entry("inside"), backend_tls("shop.inside", &[], &["inside"])]),
        (Protocol::Http2, vec![authority.entry("inside"), backend_tls("shop.inside", &[], &["inside"])]),
    ] {
        let (instance, mut received) = listening().await;
        let mut proxy = Proxy::speaking(protocol, ServeConfig::default(), &[instance.address]);
        proxy.declare(entries);
        let response = proxy.get("/api/secret").await;
        assert_eq!((response.status, response.reason().as_deref()), (502, Some("upstream_tls")));
        let first = soon("the first bytes", received.recv()).await.expect("a connection");
        assert_eq!(first.first(), Some(&0x16), "a handshake, and nothing else: {first:?}");
        assert!(!String::from_utf8_lossy(&first).contains("secret"));
    }
    // Where the policy cannot be used there is not even a connection that says anything.
    let (instance, mut received) = listening().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    proxy.declare(vec![backend_tls("shop.inside", &[], &["nobody"])]);
    let response = proxy.get("/api/secret").await;
    assert_eq!((response.status, response.reason().as_deref()), (502, Some("upstream_tls")));
    assert!(response.text().contains("policy"), "{}", response.text());
    let first = tokio::time::timeout(Duration::from_millis(200), received.recv()).await;
    assert!(first.is_err() || first == Ok(Some(Vec::new())), "{first:?}");
}

#[tokio::test]
async fn connections_of_before_are_not_used_once_tls_is_asked_for() {
    let authority = Authority::new("inside");
    let acceptor = authority.server(&["shop.inside"]).acceptor(&["http/1.1"]);
    // The first connection is in the clear, all others over TLS.
    let instance = Instance::start(move |mut wire, number| {
        let acceptor = acceptor.clone();
        async move {
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
            if number == 0 {
                while wire.request().await.is_some() {
                    wire.send(&format!("{answer}no")).await;
                }
                return;
            }
            let Some(mut wire) = accept(&acceptor, wire).await else { return };
            while wire.request().await.is_some() {
                wire.send(&format!("{answer}ok")).await;
            }
        }
    })
    .await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    assert_eq!(proxy.get("/api/").await.text(), "no");
    proxy.declare(vec![authority.entry("inside"), backend_tls("shop.inside", &[], &["inside"])]);
    for _ in 0..3 {
        assert_eq!(proxy.get("/api/").await.text(), "ok");
    }
    assert_eq!(instance.accepted(), 2);
    // Another authority of the same name: who was trusted before is not any more.
    proxy.declare(vec![Authority::new("new").entry("inside")]);
    assert_eq!(proxy.get("/api/").await.reason().as_deref(), Some("upstream_tls"));
    proxy.declare(vec![authority.entry("inside")]);
    assert_eq!(proxy.get("/api/").await.text(), "ok");
}

fn server_usage() -> rcgen::ExtendedKeyUsagePurpose {
    rcgen::ExtendedKeyUsagePurpose::ServerAuth
}
