//! HTTP/2 on either side of the proxy, and on both.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use waypost_proto::{
    instance::Protocol,
    v1::{
        HeaderChange, HeaderField, PathChange, Rewrite, RouteRetry, RouteRule, RuleRoute, path_change,
        route_filter::Kind,
    },
};
use waypost_proxy::serve::ServeConfig;

use crate::{
    routes::{filter, proxy_with, rule, to},
    support::{Instance, Proxy, field, soon, until},
};

pub(crate) type TestBody = BoxBody<Bytes, Infallible>;

pub(crate) fn full(text: impl Into<Bytes>) -> TestBody {
    Full::new(text.into()).boxed()
}

/// A body with trailers.
pub(crate) fn with_trailers(text: &'static str, name: &'static str, value: &'static str) -> TestBody {
    let mut trailers = HeaderMap::new();
    trailers.insert(name, HeaderValue::from_static(value));
    let frames = [Frame::data(Bytes::from_static(text.as_bytes())), Frame::trailers(trailers)];
    StreamBody::new(tokio_stream::iter(frames.map(Ok))).boxed()
}

/// An HTTP/2 client of the proxy.
pub(crate) async fn client(address: SocketAddr) -> SendRequest<TestBody> {
    let socket = TcpStream::connect(address).await.expect("the proxy listens");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn get(path: &str) -> Request<TestBody> {
    Request::get(format!("http://shop.example{path}")).body(full("")).expect("a request")
}

/// An instance that speaks HTTP/2 and answers by a function.
pub(crate) struct Http2Instance {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Http2Instance {
    pub(crate) async fn start<F>(
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<TestBody>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async { Ok::<_, Infallible>(answer.await) }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { address, accepted }
    }

    /// How many connections it has accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Answers with the request's fields as text, and its body and trailers back.
    pub(crate) async fn mirror() -> Self {
        Self::start(|request| async move {
            let mut text = format!("{} {}\r\n", request.method(), request.uri());
            for (name, value) in request.headers() {
                text.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
            }
            let collected = request.into_body().collect().await.expect("a whole body");
            let trailers = collected.trailers().cloned();
            let mut body = text.into_bytes();
            body.extend(collected.to_bytes());
            let mut frames = vec![Ok(Frame::data(Bytes::from(body)))];
            frames.extend(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            Response::new(StreamBody::new(tokio_stream::iter(frames)).boxed())
        })
        .await
    }
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

#[tokio::test]
async fn an_http2_client_reaches_an_http1_instance() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = client(proxy.address).await;
    let request = Request::post("http://shop.example/api/a?b=1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(full("abc"))
        .expect("a request");
    let response = soon("an answer", client.send_request(request)).await.expect("an answer");
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    let seen = text(response).await;
    assert!(seen.starts_with("POST /a?b=1 HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nabc"), "{seen}");
    for (name, value) in [
        ("host", "shop.example"),
        ("cookie", "a=1; b=2"),
        ("via", "2 waypost"),
        ("te", "trailers"),
        ("connection", "te"),
        ("x-forwarded-host", "shop.example"),
    ] {
        assert_eq!(field(&seen, name).as_deref(), Some(value), "{name}");
    }
}

#[tokio::test]
async fn an_http1_client_reaches_an_http2_instance() {
    let instance = Http2Instance::mirror().await;
    let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    for _ in 0..3 {
        client
            .send(
                "POST /api/a HTTP/1.1\r\nhost: shop.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 content-length: 3\r\n\r\nabc",
            )
            .await;
        let response = client.response().await;
        assert_eq!(response.field("via").as_deref(), Some("2 waypost"));
        let seen = response.text();
        assert!(seen.starts_with("POST http://shop.example/a\r\n") && seen.ends_with("abc"), "{seen}");
        for gone in ["connection", "upgrade", "host"] {
            assert_eq!(field(&seen, gone), None, "{gone}");
        }
    }
    assert_eq!(instance.accepted.load(Ordering::SeqCst), 1, "the connection is shared");
}

#[tokio::test]
async fn trailers_pass_from_end_to_end() {
    let instance = Http2Instance::mirror().await;
    let proxy = Proxy::speaking(Protocol::Grpc, ServeConfig::default(), &[instance.address]);
    let mut client = client(proxy.address).await;
    let request = Request::post("http://a/api/pkg.Service/Call")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(with_trailers("abc", "x-sum", "1"))
        .expect("a request");
    let response = soon("an answer", client.send_request(request)).await.expect("an answer");
    let collected = response.into_body().collect().await.expect("a whole body");
    assert_eq!(collected.trailers().expect("trailers")["x-sum"], "1");
}

#[tokio::test]
async fn trailers_of_an_http2_instance_reach_an_http1_client_that_takes_them() {
    let instance = Http2Instance::start(|_| async {
        let mut response = Response::new(with_trailers("abc", "x-sum", "1"));
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
        response
    })
    .await;
    let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("GET /api/ HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n").await;
    client.head().await;
    assert_eq!(client.chunks().await, (b"abc".to_vec(), "x-sum: 1\r\n".to_owned()));
}

#[tokio::test]
async fn many_requests_share_one_connection_to_an_instance() {
    let (release, released) = watch::channel(false);
    let instance = Http2Instance::start(move |_| {
        let mut released = released.clone();
        async move {
            let _ = released.wait_for(|released| *released).await;
            Response::new(full("ok"))
        }
    })
    .await;
    let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
    let client = client(proxy.address).await;
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut client = client.clone();
        answers.spawn(async move { client.send_request(get("/api/")).await.expect("an answer").status() });
    }
    proxy.until_in_flight(instance.address, 50).await;
    release.send_replace(true);
    while let Some(status) = soon("an answer", answers.join_next()).await {
        assert_eq!(status.expect("no panic"), StatusCode::OK);
    }
    assert_eq!(instance.accepted.load(Ordering::SeqCst), 1);
    proxy.until_in_flight(instance.address, 0).await;
}

#[tokio::test]
async fn a_stream_that_the_client_resets_ends_at_the_instance() {
    let (asked, mut ask) = mpsc::unbounded_channel();
    let (ended, mut end) = mpsc::unbounded_channel();
    let instance = Instance::start(move |mut wire, _| {
        let (asked, ended) = (asked.clone(), ended.clone());
        async move {
            wire.request().await;
            let _ = asked.send(());
            let _ = wire.rest().await;
            let _ = ended.send(());
        }
    })
    .await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = client(proxy.address).await;
    let pending = tokio::spawn(client.send_request(get("/api/")));
    soon("the request at the instance", ask.recv()).await.expect("sent");
    pending.abort();
    soon("the end at the instance", end.recv()).await.expect("sent");
    proxy.until_in_flight(instance.address, 0).await;
}

#[tokio::test]
async fn the_proxys_own_answers_are_problems_or_grpc_statuses() {
    let proxy = Proxy::new(ServeConfig::default(), &[]);
    let mut client = client(proxy.address).await;
    let response = client.send_request(get("/nowhere")).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.headers()["x-waypost-reason"], "no_route");

    let call = Request::post("http://a/api/pkg.Service/Call").header("content-type", "application/grpc");
    let response = client.send_request(call.body(full("")).expect("a request")).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK, "gRPC reads the status from the fields");
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["x-waypost-reason"], "no_healthy_instance");
    assert!(response.headers()["grpc-message"].to_str().expect("ASCII").contains("service api"));
}

#[tokio::test]
async fn an_instance_that_does_not_speak_http2_is_said_so() {
    let instance = Instance::start(|mut wire, _| async move {
        let _ = wire.fill().await;
        wire.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
    let response = proxy.get("/api/").await;
    assert!(matches!(response.status, 502 | 503), "{}", response.head);
    assert!(response.reason().is_some_and(|reason| reason.starts_with("upstream_")));
}

#[tokio::test]
async fn a_refused_connection_is_retried_over_http2_too() {
    let up = Http2Instance::mirror().await;
    let down = crate::support::nobody().await;
    let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[down, up.address]);
    let mut client = client(proxy.address).await;
    for _ in 0..4 {
        let response = soon("an answer", client.send_request(get("/api/"))).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_shutdown_answers_open_streams_and_refuses_new_ones() {
    let (release, released) = watch::channel(false);
    let instance = Instance::start(move |mut wire, _| {
        let mut released = released.clone();
        async move {
            wire.request().await;
            let _ = released.wait_for(|released| *released).await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = client(proxy.address).await;
    let pending = tokio::spawn(client.send_request(get("/api/")));
    proxy.until_in_flight(instance.address, 1).await;
    let stopped = tokio::spawn(proxy.shutdown(Duration::from_secs(60)));
    let address = proxy.address;
    until("the end of listening", || std::net::TcpStream::connect(address).is_err()).await;
    release.send_replace(true);
    let response = soon("an answer", pending).await.expect("no panic").expect("an answer");
    assert_eq!(text(response).await, "ok");
    assert!(soon("the shutdown", stopped).await.expect("no panic").is_clean());
    assert!(client.send_request(get("/api/")).await.is_err(), "the connection has ended");
}

#[tokio::test]
async fn a_large_upload_flows_through_http2_with_back_pressure() {
    let instance = Http2Instance::start(|request| async move {
        let length = request.into_body().collect().await.expect("a whole body").to_bytes().len();
        Response::new(Full::new(Bytes::from(length.to_string())).boxed())
    })
    .await;
    let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
    let mut client = client(proxy.address).await;
    let chunks = (0..200).map(|_| Ok(Frame::data(Bytes::from(vec![7; 32 * 1024]))));
    let body = StreamBody::new(tokio_stream::iter(chunks)).boxed();
    let request = Request::post("http://a/api/").body(body).expect("a request");
    let response = soon("an answer", client.send_request(request)).await.expect("an answer");
    assert_eq!(text(response).await, (200 * 32 * 1024).to_string());
}

#[tokio::test]
async fn declared_routes_change_requests_and_try_again_over_http2_too() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let instance = Http2Instance::start(move |request: Request<Incoming>| {
        let first = counter.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            let mut response = Response::new(full(""));
            if first {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            let seen = HeaderValue::try_from(request.uri().to_string()).expect("a URI");
            response.headers_mut().insert("x-seen", seen);
            let added = request.headers().get("x-set").cloned().unwrap_or(HeaderValue::from_static("none"));
            response.headers_mut().insert("x-set", added);
            response
        }
    })
    .await;
    let headers = HeaderChange {
        set: vec![HeaderField { name: "x-set".to_owned(), value: "rule".to_owned() }],
        ..HeaderChange::default()
    };
    let path = Some(PathChange { kind: Some(path_change::Kind::Prefix("/new".to_owned())) });
    let rewrite = Rewrite { hostname: "in.example".to_owned(), path };
    let rule = RouteRule {
        filters: vec![filter(Kind::RequestHeaders(headers)), filter(Kind::Rewrite(rewrite))],
        retry: Some(RouteRetry { attempts: 1, codes: vec![503], backoff: None }),
        ..rule("/old", to("a", 1))
    };
    let route = RuleRoute { rules: vec![rule], ..RuleRoute::default() };
    let proxy = proxy_with(ServeConfig::default(), &[("a", "", instance.address)], Protocol::Http2, route);
    let response = proxy.get("/old/a?b").await;
    let fields = ["x-seen", "x-set"].map(|name| response.field(name).unwrap_or_default());
    assert_eq!(response.status, 200);
    assert_eq!(fields, ["http://in.example/new/a?b", "rule"]);
    assert_eq!((asked.load(Ordering::SeqCst), instance.accepted.load(Ordering::SeqCst)), (2, 1));
}

#[tokio::test]
async fn clients_that_stop_reading_do_not_stop_others_who_share_the_connection() {
    const STOPPED: usize = 8;
    let instance = Http2Instance::start(|request| async move {
        // Many small frames, or much: what windows hold, and more.
        let (frame, count) = match request.uri().path() {
            "/small" => (Bytes::from_static(b"data: tick\n\n"), 100_000),
            "/large" => (Bytes::from(vec![b'a'; 16 << 10]), 1_000),
            _ => (Bytes::from_static(b"ok"), 1),
        };
        let frames = std::iter::repeat_n(frame, count).map(|frame| Ok(Frame::data(frame)));
        Response::new(StreamBody::new(tokio_stream::iter(frames)).boxed())
    })
    .await;
    for path in ["/api/small", "/api/large"] {
        let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
        let mut stopped = Vec::new();
        for _ in 0..STOPPED {
            let mut client = proxy.client().await;
            client.send(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            assert!(soon("its head", client.try_head()).await.expect("an answer").is_some());
            stopped.push(client);
        }
        for _ in 0..20 {
            assert_eq!(soon("somebody else's answer", proxy.get("/api/other")).await.text(), "ok", "{path}");
        }
        drop(stopped);
    }
}

#[tokio::test]
async fn a_request_without_a_host_reaches_an_http2_instance() {
    let instance = Http2Instance::mirror().await;
    let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("GET /api/x HTTP/1.0\r\n\r\n").await;
    let answer = client.response().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().starts_with("GET /x"), "{}", answer.text());
}
