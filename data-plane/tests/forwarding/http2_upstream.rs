//! HTTP/2 towards instances: what they may say, and what the proxy says to them.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use waypost_proto::instance::Protocol;
use waypost_proxy::serve::ServeConfig;

use crate::{
    frames::{
        ACK, CANCEL, DATA, END_STREAM, FrameInstance, Frames, GOAWAY, HEADERS, INTERNAL_ERROR, NO_ERROR,
        PING, REFUSED_STREAM, RST_STREAM, WINDOW_UPDATE,
    },
    http2::{Http2Instance, TestBody, client, full, text},
    support::{Proxy, soon, until},
};

fn proxy(instance: &FrameInstance) -> Proxy {
    Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[instance.address])
}

fn get() -> Request<TestBody> {
    Request::get("http://shop.example/api/").body(full("")).expect("a request")
}

fn post(body: TestBody) -> Request<TestBody> {
    Request::post("http://shop.example/api/").body(body).expect("a request")
}

/// A body that goes on for as long as the sender is there.
fn open_body() -> (mpsc::UnboundedSender<Bytes>, TestBody) {
    let (sender, frames) = mpsc::unbounded_channel();
    let frames =
        UnboundedReceiverStream::new(frames).map(|bytes| Ok::<_, Infallible>(BodyFrame::data(bytes)));
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

/// A body of zeros, of so many KiB, which counts those that were taken.
fn counted_body(kibibytes: usize, taken: &Arc<AtomicUsize>) -> TestBody {
    let taken = Arc::clone(taken);
    let frames = tokio_stream::iter(0..kibibytes).map(move |_| {
        taken.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Infallible>(BodyFrame::data(Bytes::from_static(&[0; 1024])))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

/// Sends pings until so many were answered, so that what the other end had to say before has come. What comes is added up
/// where it lets more be sent on stream 1.
async fn settle(frames: &mut Frames, pings: usize) -> u64 {
    let mut widened = 0;
    for _ in 0..pings {
        frames.send(PING, 0, 0, &[7; 8]).await;
        loop {
            let frame = frames.next().await.expect("an open connection");
            match frame.kind {
                PING if frame.flags & ACK != 0 => break,
                WINDOW_UPDATE if frame.stream == 1 => widened += u64::from(frame.number()),
                _ => {}
            }
        }
    }
    widened
}

#[tokio::test]
async fn both_sides_talk_at_once() {
    let instance = Http2Instance::start(|request: Request<Incoming>| async {
        let frames = request
            .into_body()
            .into_data_stream()
            .map(|data| Ok::<_, Infallible>(BodyFrame::data(data.unwrap_or_default())));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    })
    .await;
    let proxy = Proxy::speaking(Protocol::Grpc, ServeConfig::default(), &[instance.address]);
    let mut client = client(proxy.address).await;
    let (sender, body) = open_body();
    let response = soon("a head", client.send_request(post(body))).await.expect("an answer");
    let mut echo = response.into_body();
    for round in 0..100_u8 {
        sender.send(Bytes::from(vec![round; 1000])).expect("the body is wanted");
        let mut got = 0;
        while got < 1000 {
            let frame = soon("an echo", echo.frame()).await.expect("more").expect("no error");
            let data = frame.into_data().expect("data");
            assert!(data.iter().all(|byte| *byte == round));
            got += data.len();
        }
    }
    drop(sender);
    while let Some(frame) = soon("the end", echo.frame()).await {
        assert!(frame.expect("no error").data_ref().is_some_and(Bytes::is_empty));
    }
    proxy.until_in_flight(instance.address, 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_instance_back() {
    const WHOLE: u64 = 24 << 20;
    /// The proxy's window for a stream, the client's, and what lies between.
    const MOST: u64 = 8 << 20;
    let (told, mut tell) = mpsc::unbounded_channel();
    let instance = FrameInstance::start(move |mut frames, _| {
        let told = told.clone();
        async move {
            frames.request().await;
            frames.head(1, &[], 0).await;
            let (mut sent, mut window, mut settled) = (0, 256_u64 << 10, false);
            while sent < WHOLE {
                while window >= 16384 && sent < WHOLE {
                    frames.send(DATA, 0, 1, &[0; 16384]).await;
                    (sent, window) = (sent + 16384, window - 16384);
                }
                let widened = settle(&mut frames, 20).await;
                window += widened;
                if widened == 0 && !settled {
                    settled = true;
                    told.send(sent).expect("the test waits");
                }
            }
            frames.send(DATA, END_STREAM, 1, &[]).await;
            frames.finish().await;
        }
    })
    .await;
    let proxy = proxy(&instance);
    let mut client = client(proxy.address).await;
    let response = soon("a head", client.send_request(get())).await.expect("an answer");
    let sent = soon("a pause", tell.recv()).await.expect("the instance is there");
    assert!(sent < MOST, "{sent} bytes were taken for a client that reads none");
    let mut got = 0;
    let mut body = response.into_body();
    while let Some(frame) = soon("more", body.frame()).await {
        got += frame.expect("no error").data_ref().map_or(0, |data| data.len() as u64);
    }
    assert_eq!(got, WHOLE);
}

#[tokio::test]
async fn an_instance_that_does_not_read_holds_the_client_back() {
    const WHOLE: usize = 24 << 10;
    const MOST: usize = 8 << 10;
    let (told, mut tell) = mpsc::unbounded_channel();
    let (go_on, gone_on) = tokio::sync::watch::channel(false);
    let instance = FrameInstance::start(move |mut frames, _| {
        let (told, mut gone_on) = (told.clone(), gone_on.clone());
        async move {
            let mut got = 0;
            while got < 65_535 {
                got += frames.next_of(DATA).await.payload.len();
            }
            settle(&mut frames, 100).await;
            told.send(got).expect("the test waits");
            let _ = gone_on.wait_for(|gone_on| *gone_on).await;
            frames.widen(1, 64 << 20).await;
            loop {
                let frame = frames.next_of(DATA).await;
                got += frame.payload.len();
                if frame.ends_stream() {
                    break;
                }
            }
            frames.answer(1, &got.to_string()).await;
            frames.finish().await;
        }
    })
    .await;
    let proxy = proxy(&instance);
    let mut client = client(proxy.address).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let answer = tokio::spawn(client.send_request(post(counted_body(WHOLE, &taken))));
    assert_eq!(soon("a full window", tell.recv()).await, Some(65_535), "no more than the window allows");
    let early = taken.load(Ordering::SeqCst);
    assert!(early < MOST, "{early} KiB were taken for an instance that reads none");
    go_on.send_replace(true);
    let response = soon("an answer", answer).await.expect("no panic").expect("an answer");
    assert_eq!(text(response).await, (WHOLE << 10).to_string());
}

#[tokio::test]
async fn a_stream_that_is_refused_goes_elsewhere_and_one_that_broke_only_if_it_may_be_done_twice() {
    for (code, request, status) in [
        (REFUSED_STREAM, get as fn() -> _, 200),
        (REFUSED_STREAM, || post(full("")), 200),
        (INTERNAL_ERROR, get, 200),
        (INTERNAL_ERROR, || post(full("")), 502),
        (REFUSED_STREAM, || post(full("a body that was read")), 502),
    ] {
        let instance = FrameInstance::start(move |mut frames, _| async move {
            let stream = frames.request().await;
            frames.reset(stream, code).await;
            frames.finish().await;
        })
        .await;
        let other = Http2Instance::mirror().await;
        let instances = [instance.address, other.address];
        let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &instances);
        let mut client = client(proxy.address).await;
        let mut worst = 0;
        for _ in 0..2 {
            let response = soon("an answer", client.send_request(request())).await.expect("an answer");
            worst = worst.max(response.status().as_u16());
        }
        assert_eq!(worst, status, "{code}");
        assert!(instance.accepted() > 0);
    }
}

#[tokio::test]
async fn an_answer_that_does_not_say_that_it_ends_is_broken() {
    for ending in 0..4 {
        let go_on = Arc::new(Notify::new());
        let gone_on = Arc::clone(&go_on);
        let instance = FrameInstance::start(move |mut frames, _| {
            let gone_on = Arc::clone(&gone_on);
            async move {
                let stream = frames.request().await;
                frames.head(stream, &[], 0).await;
                frames.send(DATA, 0, stream, b"abc").await;
                gone_on.notified().await;
                match ending {
                    0 => frames.reset(stream, INTERNAL_ERROR).await,
                    1 => frames.reset(stream, NO_ERROR).await,
                    2 => frames.go_away(0, NO_ERROR).await,
                    _ => {}
                }
                frames.finish().await;
            }
        })
        .await;
        let proxy = proxy(&instance);
        let mut client = client(proxy.address).await;
        let response = soon("an answer", client.send_request(get())).await.expect("an answer");
        let mut body = response.into_body();
        soon("a part", body.frame()).await.expect("more").expect("no error");
        go_on.notify_one();
        let rest = soon("an end", body.collect()).await;
        assert!(rest.is_err(), "ending {ending} is not taken for a good one");
    }
}

#[tokio::test]
async fn a_length_that_is_not_kept_breaks_the_answer() {
    let instance = FrameInstance::start(|mut frames, _| async move {
        let stream = frames.request().await;
        frames.head(stream, &[("content-length", "10")], 0).await;
        frames.send(DATA, END_STREAM, stream, b"abc").await;
        frames.finish().await;
    })
    .await;
    let proxy = proxy(&instance);
    let mut client = client(proxy.address).await;
    if let Ok(response) = soon("an answer", client.send_request(get())).await
        && response.status() == StatusCode::OK
    {
        assert!(soon("an end", response.into_body().collect()).await.is_err());
    }
}

#[tokio::test]
async fn a_client_that_goes_away_resets_the_stream_before_and_after_the_head() {
    for has_begun in [false, true] {
        let (told, mut tell) = mpsc::unbounded_channel();
        let (asked, mut ask) = mpsc::unbounded_channel();
        let instance = FrameInstance::start(move |mut frames, _| {
            let (told, asked) = (told.clone(), asked.clone());
            async move {
                // The body goes on, and so does the answer's.
                let stream = frames.next_of(HEADERS).await.stream;
                asked.send(()).expect("the test waits");
                if has_begun {
                    frames.head(stream, &[], 0).await;
                    frames.send(DATA, 0, stream, b"abc").await;
                }
                let reset = frames.next_of(RST_STREAM).await;
                told.send((reset.stream == stream, reset.number())).expect("the test waits");
                // The connection is not to blame.
                let next = frames.request().await;
                frames.answer(next, "ok").await;
                frames.finish().await;
            }
        })
        .await;
        let proxy = proxy(&instance);
        let mut client = client(proxy.address).await;
        let (sender, body) = open_body();
        sender.send(Bytes::from_static(b"a part")).expect("a body");
        if has_begun {
            let mut client = proxy.client().await;
            client.send("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\na part").await;
            client.head().await;
        } else {
            let answer = tokio::spawn(client.send_request(post(body)));
            // What has not been sent yet need not be reset.
            soon("the request", ask.recv()).await.expect("the instance is there");
            answer.abort();
        }
        let told = soon("a reset", tell.recv()).await.expect("the instance is there");
        assert_eq!(told, (true, CANCEL), "after the head: {has_begun}");
        proxy.until_in_flight(instance.address, 0).await;
        let response = soon("an answer", client.send_request(get())).await.expect("an answer");
        assert_eq!(text(response).await, "ok");
        assert_eq!(instance.accepted(), 1);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_taken_for_whole() {
    let (told, mut tell) = mpsc::unbounded_channel();
    let (asked, mut ask) = mpsc::unbounded_channel();
    let instance = FrameInstance::start(move |mut frames, _| {
        let (told, asked) = (told.clone(), asked.clone());
        async move {
            let reset = loop {
                let frame = frames.next().await.expect("a frame");
                if frame.kind == HEADERS {
                    asked.send(()).expect("the test waits");
                }
                assert!(!matches!(frame.kind, DATA | HEADERS) || !frame.ends_stream(), "{frame:?}");
                if frame.kind == RST_STREAM {
                    break frame;
                }
            };
            told.send(reset.number()).expect("the test waits");
        }
    })
    .await;
    let proxy = proxy(&instance);
    let mut client = proxy.client().await;
    client.send("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc").await;
    soon("the request", ask.recv()).await.expect("the instance is there");
    drop(client);
    assert_eq!(soon("a reset", tell.recv()).await, Some(CANCEL));
}

#[tokio::test]
async fn trailers_alone_are_an_answer() {
    let instance = FrameInstance::start(|mut frames, _| async move {
        let stream = frames.request().await;
        let fields = [("content-type", "application/grpc"), ("grpc-status", "5")];
        frames.head(stream, &fields, END_STREAM).await;
        let stream = frames.request().await;
        frames.head(stream, &fields[..1], 0).await;
        frames.trailers(stream, &fields[1..]).await;
        frames.finish().await;
    })
    .await;
    let proxy = Proxy::speaking(Protocol::Grpc, ServeConfig::default(), &[instance.address]);
    let mut client = client(proxy.address).await;
    let response = soon("an answer", client.send_request(post(full("a")))).await.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "5");
    assert_eq!(text(response).await, "");
    let response = soon("an answer", client.send_request(post(full("a")))).await.expect("an answer");
    let collected = soon("an end", response.into_body().collect()).await.expect("a whole body");
    assert_eq!(collected.trailers().expect("trailers")["grpc-status"], "5");
}

#[tokio::test]
async fn an_answer_may_come_before_the_body_was_sent() {
    let instance = FrameInstance::start(|mut frames, _| async move {
        let stream = frames.next_of(DATA).await.stream;
        frames.head(stream, &[], 0).await;
        frames.send(DATA, END_STREAM, stream, b"enough").await;
        // RFC 9113, section 8.1: the rest is not wanted.
        frames.reset(stream, NO_ERROR).await;
        let next = frames.request().await;
        frames.answer(next, "ok").await;
        frames.finish().await;
    })
    .await;
    let proxy = proxy(&instance);
    let mut client = client(proxy.address).await;
    let (sender, body) = open_body();
    sender.send(Bytes::from_static(b"a part")).expect("a body");
    let response = soon("an answer", client.send_request(post(body))).await.expect("an answer");
    assert_eq!(text(response).await, "enough");
    proxy.until_in_flight(instance.address, 0).await;
    // The client is told that the rest is not wanted.
    until("the end of the body", || sender.send(Bytes::new()).is_err()).await;
    let response = soon("an answer", client.send_request(get())).await.expect("an answer");
    assert_eq!((text(response).await, instance.accepted()), ("ok".to_owned(), 1));
}

#[tokio::test]
async fn a_body_that_waits_to_be_asked_for_passes_or_is_never_sent() {
    let instance = FrameInstance::allowing(Some(1), |mut frames, _| async move {
        let refused = frames.next_of(HEADERS).await.stream;
        frames.status(refused, "417", END_STREAM).await;
        // Its body will not come, and its stream is free for the next one.
        let reset = frames.next().await.expect("a frame");
        assert_eq!((reset.kind, reset.stream, reset.number()), (RST_STREAM, refused, CANCEL));
        let asked = frames.next_of(HEADERS).await.stream;
        frames.status(asked, "103", 0).await;
        frames.status(asked, "100", 0).await;
        assert!(frames.next_of(DATA).await.ends_stream());
        frames.answer(asked, "ok").await;
        frames.finish().await;
    })
    .await;
    let proxy = proxy(&instance);
    let request = "POST /api/ HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    let mut client = proxy.client().await;
    client.send(request).await;
    assert_eq!(client.response().await.status, 417);
    let mut client = proxy.client().await;
    client.send(request).await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.send("abc").await;
    assert_eq!(client.response().await.text(), "ok");
}

#[tokio::test]
async fn the_rest_of_a_body_goes_on_after_an_answer_that_has_ended() {
    let (told, mut tell) = mpsc::unbounded_channel();
    let instance = FrameInstance::start(move |mut frames, _| {
        let told = told.clone();
        async move {
            let stream = frames.next_of(DATA).await.stream;
            frames.answer(stream, "accepted").await;
            let mut rest = Vec::new();
            loop {
                let frame = frames.next_of(DATA).await;
                rest.extend(&frame.payload);
                if frame.ends_stream() {
                    break;
                }
            }
            told.send(rest).expect("the test waits");
            frames.finish().await;
        }
    })
    .await;
    let proxy = proxy(&instance);
    let mut client = proxy.client().await;
    client.send("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc").await;
    let response = client.response().await;
    assert_eq!(response.text(), "accepted");
    client.send("def").await;
    assert_eq!(soon("the rest", tell.recv()).await.as_deref(), Some(&b"def"[..]));
}

#[tokio::test]
async fn the_rest_of_a_body_that_nobody_takes_after_the_answer_is_given_up() {
    let (told, mut tell) = mpsc::unbounded_channel();
    let instance = FrameInstance::start(move |mut frames, _| {
        let told = told.clone();
        async move {
            let stream = frames.next_of(DATA).await.stream;
            frames.answer(stream, "accepted").await;
            // Its window is full by then, and stays so.
            told.send(frames.next_of(RST_STREAM).await.number()).expect("the test waits");
            let next = frames.request().await;
            frames.answer(next, "ok").await;
            frames.finish().await;
        }
    })
    .await;
    let mut config = ServeConfig::default();
    config.timeouts.stream_idle = Duration::from_millis(300);
    let proxy = Proxy::speaking(Protocol::Http2, config, &[instance.address]);
    let mut client = client(proxy.address).await;
    let (sender, body) = open_body();
    // More than there is room for anywhere on its way.
    sender.send(Bytes::from(vec![0; 4 << 20])).expect("a body");
    let response = soon("an answer", client.send_request(post(body))).await.expect("an answer");
    assert_eq!(text(response).await, "accepted");
    assert_eq!(soon("a reset", tell.recv()).await, Some(CANCEL));
    // The client is told that the rest is not wanted, and the connections are as good as before.
    until("the end of the body", || sender.send(Bytes::new()).is_err()).await;
    let response = soon("an answer", client.send_request(get())).await.expect("an answer");
    assert_eq!((text(response).await, instance.accepted()), ("ok".to_owned(), 1));
}

#[tokio::test]
async fn a_connection_that_goes_away_answers_what_it_has_and_gives_back_the_rest() {
    let instance = FrameInstance::start(|mut frames, number| async move {
        let first = frames.request().await;
        if number > 0 {
            frames.answer(first, "new").await;
            frames.finish().await;
            return;
        }
        let second = frames.request().await;
        assert!(second > first);
        frames.go_away(first, NO_ERROR).await;
        frames.answer(first, "old").await;
        while frames.next().await.is_some() {}
    })
    .await;
    let proxy = proxy(&instance);
    let mut client = client(proxy.address).await;
    let first = tokio::spawn(client.send_request(post(full(""))));
    proxy.until_in_flight(instance.address, 1).await;
    let second = tokio::spawn(client.send_request(get()));
    let mut bodies = Vec::new();
    for answer in [first, second] {
        let response = soon("an answer", answer).await.expect("no panic").expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        bodies.push(text(response).await);
    }
    assert_eq!(bodies, ["old", "new"]);
    assert_eq!(instance.accepted(), 2);
}

#[tokio::test]
async fn a_connection_that_goes_away_takes_no_more_requests() {
    let instance = FrameInstance::start(|mut frames, number| async move {
        let stream = frames.request().await;
        if number == 0 {
            frames.go_away(stream, NO_ERROR).await;
            frames.answer(stream, "old").await;
            // It is closed when its last answer was read, and says so.
            frames.next_of(GOAWAY).await;
        } else {
            frames.answer(stream, "new").await;
        }
        frames.finish().await;
    })
    .await;
    let proxy = proxy(&instance);
    let mut client = client(proxy.address).await;
    for expected in ["old", "new"] {
        let response = soon("an answer", client.send_request(post(full("")))).await.expect("an answer");
        assert_eq!(text(response).await, expected);
    }
}

#[tokio::test]
async fn no_more_streams_are_open_than_the_instance_allows() {
    let instance = FrameInstance::allowing(Some(1), |mut frames, _| async move {
        for number in 0..20_u32 {
            let frame = frames.next_of(HEADERS).await;
            assert_eq!(frame.stream, 2 * number + 1, "in the order in which they came");
            if !frame.ends_stream() {
                while !frames.next_of(DATA).await.ends_stream() {}
            }
            // Whatever was sent beside it is there when this is answered.
            settle_alone(&mut frames).await;
            frames.answer(frame.stream, "ok").await;
        }
        frames.finish().await;
    })
    .await;
    let proxy = proxy(&instance);
    // Settings come with the first answer at the latest.
    let client = client(proxy.address).await;
    let response = soon("an answer", client.clone().send_request(get())).await.expect("an answer");
    assert_eq!(text(response).await, "ok");
    let mut answers = tokio::task::JoinSet::new();
    for number in 0..19 {
        let mut client = client.clone();
        let request = if number % 2 == 0 { get() } else { post(full("a body")) };
        answers.spawn(async move { text(client.send_request(request).await.expect("an answer")).await });
    }
    while let Some(answer) = soon("an answer", answers.join_next()).await {
        assert_eq!(answer.expect("no panic"), "ok");
    }
    assert_eq!(instance.accepted(), 1);
}

/// Waits for a ping's answer, and no stream may begin meanwhile.
async fn settle_alone(frames: &mut Frames) {
    frames.send(PING, 0, 0, &[7; 8]).await;
    loop {
        let frame = frames.next().await.expect("an open connection");
        assert_ne!(frame.kind, HEADERS, "two streams at once");
        if frame.kind == PING && frame.flags & ACK != 0 {
            return;
        }
    }
}

#[tokio::test]
async fn requests_that_wait_for_a_stream_go_elsewhere_when_the_connection_ends() {
    let instance = FrameInstance::allowing(Some(1), |mut frames, number| async move {
        let first = frames.request().await;
        frames.answer(first, "ok").await;
        if number == 0 {
            let second = frames.request().await;
            // The rest waits by now, or comes to a connection that is over.
            frames.go_away(second, NO_ERROR).await;
            frames.answer(second, "ok").await;
        } else {
            for _ in 0..20 {
                let stream = frames.request().await;
                frames.answer(stream, "ok").await;
            }
        }
        frames.finish().await;
    })
    .await;
    let proxy = proxy(&instance);
    let client = client(proxy.address).await;
    let response = soon("an answer", client.clone().send_request(get())).await.expect("an answer");
    assert_eq!(text(response).await, "ok");
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut client = client.clone();
        answers.spawn(
            async move { client.send_request(post(full("a body"))).await.expect("an answer").status() },
        );
    }
    while let Some(status) = soon("an answer", answers.join_next()).await {
        assert_eq!(status.expect("no panic"), StatusCode::OK);
    }
    assert_eq!(instance.accepted(), 2);
}
