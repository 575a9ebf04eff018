//! HTTP/2 from clients that send what they like, frame by frame: who waits for whom on a connection.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use waypost_proto::{instance::Protocol, v1::RuleRoute};
use waypost_proxy::serve::ServeConfig;

use crate::{
    frames::{
        CANCEL, DATA, END_STREAM, FrameInstance, Frames, GOAWAY, HEADERS, INTERNAL_ERROR, PING, RST_STREAM,
    },
    http2::{Http2Instance, TestBody, client, full, text},
    routes::{proxy_with, rule, to},
    support::{Instance, Proxy, soon},
};

/// Who has not heard of a request by then is taken not to hear of it. Where that is wrong, less is tested.
const SILENCE: Duration = Duration::from_millis(300);

/// A proxy that refuses nothing, however late this machine is.
fn patient() -> ServeConfig {
    let mut config = ServeConfig::default();
    config.overload.delay = Duration::ZERO;
    config
}

/// A body of zeros of so many KiB.
fn zeros(kibibytes: usize) -> TestBody {
    let frames = (0..kibibytes / 16).map(|_| Ok(BodyFrame::data(Bytes::from_static(&[0; 16 << 10]))));
    StreamBody::new(tokio_stream::iter(frames)).boxed()
}

#[tokio::test]
async fn requests_that_waited_until_the_client_has_read_are_answered_though_nothing_else_happens() {
    let (asked, mut asks) = mpsc::unbounded_channel();
    // Nothing but a head, so that no answer waits for room and would have the connection looked at again.
    let answer = format!("HTTP/1.1 204 No Content\r\nx-large: {}\r\n\r\n", "~".repeat(48 << 10));
    let instance = Instance::start(move |mut wire, _| {
        let (asked, answer) = (asked.clone(), answer.clone());
        async move {
            while wire.request().await.is_some() {
                asked.send(()).expect("the test waits");
                wire.send(&answer).await;
            }
        }
    })
    .await;
    let proxy = Proxy::new(patient(), &[instance.address]);
    let mut client = Frames::connect(proxy.address).await;
    let mut last = 1;
    client.ask(last, "GET", "/api/", END_STREAM).await;
    while timeout(SILENCE, asks.recv()).await.is_ok() {
        last += 2;
        assert!(last < 2000, "the proxy takes requests from a client that does not read");
        client.ask(last, "GET", "/api/", END_STREAM).await;
    }
    while client.next_of(HEADERS).await.stream != last {}
    soon("the request at the instance", asks.recv()).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_the_request_and_nothing_else() {
    let (ended, mut end) = mpsc::unbounded_channel();
    let instance = Instance::start(move |mut wire, number| {
        let ended = ended.clone();
        async move {
            let head = wire.head().await;
            assert!(head.starts_with("POST"), "{head}");
            wire.exactly(8).await;
            if number == 0 {
                wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nno chunk\r\n")
                    .await;
                let _ = wire.rest().await;
                ended.send(()).expect("the test waits");
            } else {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let proxy = Proxy::new(patient(), &[instance.address]);
    let mut client = Frames::connect(proxy.address).await;
    client.ask(1, "POST", "/api/", 0).await;
    client.send(DATA, 0, 1, b"abc").await;
    let reset = client.next_of(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number()), (1, INTERNAL_ERROR));
    // Its body would go on for ever.
    soon("the end at the instance", end.recv()).await.expect("the instance is there");
    proxy.until_in_flight(instance.address, 0).await;
    // What was on its way meanwhile is no fault, and others are answered.
    client.send(DATA, 0, 1, b"late").await;
    client.ask(3, "POST", "/api/", 0).await;
    client.send(DATA, END_STREAM, 3, b"abc").await;
    assert_eq!(client.next_of(DATA).await.payload, b"ok");
}

/// How a client gives up a request.
#[derive(Clone, Copy, Debug)]
enum GivenUp {
    TakenBack,
    /// The connection breaks a rule.
    Failed,
    Gone,
}

#[tokio::test]
async fn a_body_that_outlives_its_answer_ends_where_the_client_gives_it_up() {
    for how in [GivenUp::TakenBack, GivenUp::Failed, GivenUp::Gone] {
        let (told, mut tell) = mpsc::unbounded_channel();
        let instance = FrameInstance::start(move |mut frames, _| {
            let told = told.clone();
            async move {
                let stream = frames.next_of(DATA).await.stream;
                frames.answer(stream, "enough").await;
                told.send(frames.next_of(RST_STREAM).await.number()).expect("the test waits");
                frames.finish().await;
            }
        })
        .await;
        let proxy = Proxy::speaking(Protocol::Http2, patient(), &[instance.address]);
        let mut client = Frames::connect(proxy.address).await;
        client.ask(1, "POST", "/api/", 0).await;
        client.send(DATA, 0, 1, b"abc").await;
        let answer = client.next_of(DATA).await;
        assert_eq!(answer.payload, b"enough");
        if !answer.ends_stream() {
            assert!(client.next_of(DATA).await.ends_stream());
        }
        match how {
            GivenUp::TakenBack => client.reset(1, CANCEL).await,
            GivenUp::Failed => {
                client.send(PING, 0, 1, &[0; 8]).await;
                client.next_of(GOAWAY).await;
            }
            GivenUp::Gone => drop(client),
        }
        assert_eq!(soon("a reset", tell.recv()).await, Some(CANCEL), "{how:?}");
    }
}

#[tokio::test]
async fn uploads_that_nobody_reads_do_not_stop_another_on_the_same_connection() {
    const STALLED: usize = 12;
    /// What a stream to an instance may carry at first.
    const WINDOW: u32 = 65_535;
    let (told, mut tell) = mpsc::unbounded_channel();
    let stalled = FrameInstance::start(move |mut frames, _| {
        let told = told.clone();
        async move {
            while let Some(frame) = frames.next().await {
                match frame.kind {
                    // As much of each, and no more of any.
                    HEADERS => frames.widen(0, WINDOW).await,
                    DATA => told.send(frame.payload.len()).expect("the test waits"),
                    _ => {}
                }
            }
        }
    })
    .await;
    let other = Http2Instance::start(|request: Request<Incoming>| async move {
        let length = request.into_body().collect().await.expect("a whole body").to_bytes().len();
        Response::new(full(length.to_string()))
    })
    .await;
    let route = RuleRoute {
        rules: vec![rule("/stalled", to("stalled", 1)), rule("/other", to("other", 1))],
        ..RuleRoute::default()
    };
    let instances = [("stalled", "", stalled.address), ("other", "", other.address)];
    let proxy = proxy_with(patient(), &instances, Protocol::Http2, route);
    let client = client(proxy.address).await;
    let post = |path: &str, body| Request::post(format!("http://a{path}")).body(body).expect("a request");
    let mut pending = JoinSet::new();
    for _ in 0..STALLED {
        let (mut client, request) = (client.clone(), post("/stalled", zeros(8 << 10)));
        pending.spawn(async move { client.send_request(request).await.map(|answer| answer.status()) });
    }
    let mut taken = 0;
    while taken < STALLED * WINDOW as usize {
        taken += soon("what the instance takes", tell.recv()).await.expect("the instance is there");
    }
    for _ in 0..3 {
        let request = post("/other", zeros(8 << 10));
        let answer = soon("an answer", client.clone().send_request(request)).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(text(answer).await, (8 << 20).to_string());
    }
    assert!(pending.try_join_next().is_none(), "the others wait still");
}
