//! What a failure says, and of whom: of the instance, of the client, or of nobody.
//!
//! Who is blamed is seen by who is ejected, and by whether the breaker opens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Request};
use tokio::time::sleep;
use waypost_proto::{
    instance::Protocol,
    time::wire_duration,
    v1::{
        AdaptiveConcurrency, CircuitBreaker, OutlierDetection, TrafficEntry, TrafficRetry, TrafficTimeouts,
    },
};
use waypost_proxy::{serve::ServeConfig, table::ServiceStanding};

use crate::{
    frames::{FrameInstance, INTERNAL_ERROR, RST_STREAM},
    http2::{Http2Instance, client, full},
    policy::{GET, LONG, OK, SHORT, UNAVAILABLE, policy, retry, send, told, with_policy},
    support::{Client, Instance, Proxy, Wire, api, nobody, soon, until},
};

/// Long enough for an answer on any machine, and short enough to wait for.
const ENOUGH: Duration = Duration::from_secs(1);
const POST_HALF: &str = "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\no";

/// Three failures in a row.
fn ejecting() -> OutlierDetection {
    OutlierDetection {
        consecutive_errors: Some(3),
        base_ejection_time: Some(wire_duration(LONG)),
        max_ejection_time: Some(wire_duration(LONG)),
        ..OutlierDetection::default()
    }
}

/// The first failure of all opens it.
fn tripping() -> CircuitBreaker {
    CircuitBreaker {
        failure_percent: 1,
        minimum_requests: 1,
        window: Some(wire_duration(LONG)),
        open_time: Some(wire_duration(LONG)),
        ..CircuitBreaker::default()
    }
}

fn times(request: Duration, per_try: Duration) -> TrafficTimeouts {
    TrafficTimeouts {
        request: Some(wire_duration(request)),
        per_try: Some(wire_duration(per_try)),
        ..TrafficTimeouts::default()
    }
}

fn tripping_within(limits: TrafficTimeouts) -> TrafficEntry {
    TrafficEntry { timeouts: Some(limits), circuit_breaker: Some(tripping()), ..TrafficEntry::default() }
}

fn standing(proxy: &Proxy) -> ServiceStanding {
    ServiceStanding::of(proxy.table().service(&api()).expect("it is there"))
}

fn breaker(proxy: &Proxy) -> Option<String> {
    standing(proxy).breaker
}

fn counts(proxy: &Proxy, line: &str) -> bool {
    proxy.metrics.render().lines().any(|found| found == line)
}

/// An instance that takes requests and says nothing, and how many it has taken.
async fn silent() -> (Instance, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let script = move |mut wire: Wire, _| {
        let count = Arc::clone(&count);
        async move {
            while wire.request().await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    (Instance::start(script).await, seen)
}

async fn begin(proxy: &Proxy, text: &str) -> Client {
    let mut client = proxy.client().await;
    client.send(text).await;
    client
}

#[tokio::test]
async fn an_instance_that_lets_requests_run_out_of_time_is_ejected_and_opens_the_breaker() {
    for limits in [times(SHORT, Duration::ZERO), times(SHORT, SHORT), times(LONG, SHORT)] {
        let ((silent, seen), well) = (silent().await, Instance::answering(OK).await);
        let entry = TrafficEntry { timeouts: Some(limits), ..TrafficEntry::default() };
        let ejecting = TrafficEntry { outlier_detection: Some(ejecting()), ..entry.clone() };
        let proxy = with_policy(&[&silent, &well], ejecting);
        for _ in 0..12 {
            assert!(matches!(send(&proxy, GET).await.status, 200 | 504));
        }
        assert_eq!(seen.load(Ordering::SeqCst), 3, "then it is passed over: {limits:?}");
        let proxy = with_policy(&[&silent], TrafficEntry { circuit_breaker: Some(tripping()), ..entry });
        assert_eq!(send(&proxy, GET).await.status, 504);
        assert_eq!(told(&send(&proxy, GET).await), (503, Some("circuit_open".to_owned())), "{limits:?}");
    }
}

#[tokio::test]
async fn an_instance_that_resets_every_stream_is_ejected() {
    let resetting = FrameInstance::start(|mut frames, _| async move {
        loop {
            let stream = frames.request().await;
            frames.send(RST_STREAM, 0, stream, &INTERNAL_ERROR.to_be_bytes()).await;
        }
    })
    .await;
    let well = Http2Instance::mirror().await;
    let addresses = [resetting.address, well.address];
    let mut proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &addresses);
    proxy.declare(policy(TrafficEntry { outlier_detection: Some(ejecting()), ..TrafficEntry::default() }));
    let mut reset = Vec::new();
    for _ in 0..20 {
        let answer = send(&proxy, "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await;
        if answer.status != 200 {
            reset.push(answer);
        }
    }
    assert_eq!(reset.len(), 3, "all over one connection: then it is passed over");
    assert_eq!(resetting.accepted(), 1);
    for answer in reset {
        assert_eq!(told(&answer), (502, Some("upstream_closed".to_owned())));
        assert!(answer.text().contains("was reset before it was answered"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_client_that_sends_slowly_is_not_the_instance_s_fault() {
    let instance = Instance::mirror().await;
    for limits in [times(ENOUGH, Duration::ZERO), times(LONG, ENOUGH)] {
        let proxy = with_policy(&[&instance], tripping_within(limits));
        let mut client = begin(&proxy, POST_HALF).await;
        let answer = soon("an answer", client.response()).await;
        assert_eq!(told(&answer), (504, Some("upstream_timeout".to_owned())));
        assert_eq!(breaker(&proxy).as_deref(), Some("closed"));
        assert_eq!(send(&proxy, GET).await.status, 200);
    }
}

#[tokio::test]
async fn an_instance_that_had_little_of_the_time_is_not_at_fault() {
    let (instance, _) = silent().await;
    for limits in [times(ENOUGH, Duration::ZERO), times(LONG, ENOUGH)] {
        let proxy = with_policy(&[&instance], tripping_within(limits));
        let mut client = begin(&proxy, POST_HALF).await;
        proxy.until_in_flight(instance.address, 1).await;
        sleep(ENOUGH * 3 / 4).await;
        client.send("k").await;
        assert_eq!(soon("an answer", client.response()).await.status, 504);
        assert_eq!(breaker(&proxy).as_deref(), Some("closed"), "{limits:?}");
        let whole = "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(send(&proxy, whole).await.status, 504);
        let tripped = breaker(&proxy).expect("one is declared");
        assert!(tripped.starts_with("open"), "it had all of the time: {tripped}");
    }
}

#[tokio::test]
async fn an_answer_to_be_tried_again_makes_room_for_the_try() {
    let of_service = CircuitBreaker { max_requests: 1, ..CircuitBreaker::default() };
    let of_instance = CircuitBreaker { max_requests_per_instance: 1, ..CircuitBreaker::default() };
    for limit in [of_service, of_instance] {
        let (instance, seen) = Instance::in_turn(&[UNAVAILABLE, OK]).await;
        let entry = TrafficEntry {
            retry: Some(retry(1, &[503])),
            circuit_breaker: Some(limit),
            ..TrafficEntry::default()
        };
        let proxy = with_policy(&[&instance], entry);
        assert_eq!(send(&proxy, GET).await.status, 200);
        assert_eq!(seen.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn an_instance_that_ends_each_new_connection_cools_down() {
    let going = FrameInstance::start(|mut frames, _| async move {
        frames.request().await;
        frames.go_away(0, INTERNAL_ERROR).await;
    })
    .await;
    let proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &[going.address]);
    let begun = Instant::now();
    let answer = send(&proxy, "POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await;
    assert_eq!(told(&answer), (502, Some("upstream_closed".to_owned())));
    let cools_down = !proxy.endpoint(going.address).cooling_down().is_zero();
    // It does for a second.
    assert!(cools_down || begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_request_waits_for_its_answer_from_when_its_body_was_sent() {
    let limit = AdaptiveConcurrency { minimum: 1, maximum: 1 };
    let entry = TrafficEntry { adaptive_concurrency: Some(limit), ..TrafficEntry::default() };
    let mirror = Instance::mirror().await;
    let proxy = with_policy(&[&mirror], entry.clone());
    let mut slow = begin(&proxy, POST_HALF).await;
    proxy.until_in_flight(mirror.address, 1).await;
    assert_eq!(send(&proxy, GET).await.status, 200, "a slow client takes nobody's turn");
    slow.send("k").await;
    assert_eq!(slow.response().await.status, 200);
    let (silent, _) = silent().await;
    let proxy = with_policy(&[&silent], entry);
    let shown = || proxy.table().service(&api()).expect("it is there").concurrency();
    let mut waiting = begin(&proxy, POST_HALF).await;
    proxy.until_in_flight(silent.address, 1).await;
    assert_eq!(shown(), Some((1, 0)));
    waiting.send("k").await;
    until("its turn", || shown() == Some((1, 1))).await;
    assert_eq!(told(&send(&proxy, GET).await), (503, Some("overloaded".to_owned())));
}

#[tokio::test]
async fn an_answer_that_may_not_be_tried_again_is_passed_on_as_it_is() {
    let (instance, seen) = Instance::in_turn(&[UNAVAILABLE]).await;
    let none =
        TrafficRetry { budget_percent: Some(0), budget_minimum_per_second: Some(0), ..retry(2, &[503]) };
    let broke = TrafficEntry { retry: Some(none), ..TrafficEntry::default() };
    let opening = TrafficEntry {
        retry: Some(retry(2, &[503])),
        circuit_breaker: Some(tripping()),
        ..TrafficEntry::default()
    };
    let hurried = TrafficEntry {
        retry: Some(TrafficRetry { backoff: Some(wire_duration(LONG)), ..retry(2, &[503]) }),
        timeouts: Some(times(LONG / 2, Duration::ZERO)),
        ..TrafficEntry::default()
    };
    for (entry, left) in [(broke, 0), (opening, 99), (hurried, 100)] {
        let before = seen.load(Ordering::SeqCst);
        let proxy = with_policy(&[&instance], entry);
        let begun = Instant::now();
        let answer = send(&proxy, GET).await;
        let paid = standing(&proxy).retries_left;
        // What was paid comes back with time.
        let earned = begun.elapsed() >= Duration::from_millis(100) && paid == 100;
        assert!(
            paid == left || earned,
            "what is not tried is not paid for, but where the breaker opened: {paid}, not {left}"
        );
        assert_eq!((told(&answer), answer.text()), ((503, None), "busy".to_owned()));
        assert_eq!(seen.load(Ordering::SeqCst), before + 1);
    }
}

#[tokio::test]
async fn a_try_that_nobody_is_left_for_is_not_paid_for() {
    let proxy = Proxy::new(ServeConfig::default(), &[nobody().await]);
    for _ in 0..300 {
        let answer = send(&proxy, GET).await;
        assert_eq!(told(&answer), (503, Some("upstream_connect".to_owned())));
        assert!(!answer.text().contains("budget"), "{}", answer.text());
    }
    assert!(counts(&proxy, "waypost_upstream_retries_refused_total 0"), "{}", proxy.metrics.render());
}

#[tokio::test]
async fn a_call_may_take_as_long_as_it_says() {
    let instance = Http2Instance::start(|request| async move {
        sleep(if request.uri().path().ends_with("late") { SHORT * 3 } else { LONG }).await;
        http::Response::new(full("late"))
    })
    .await;
    let mut config = ServeConfig::default();
    config.timeouts.response = SHORT;
    for (protocol, limit, expected) in [
        (Protocol::Grpc, Some("60S"), 200),
        (Protocol::Grpc, Some("1n"), 504),
        (Protocol::Grpc, None, 504),
        (Protocol::Http2, Some("60S"), 504),
    ] {
        let proxy = Proxy::speaking(protocol, config.clone(), &[instance.address]);
        let path = if expected == 200 { "late" } else { "never" };
        let mut request = Request::get(format!("http://a/api/{path}")).body(full("")).expect("a request");
        if let Some(limit) = limit {
            request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(limit));
        }
        let answer = soon("an answer", client(proxy.address).await.send_request(request)).await;
        assert_eq!(answer.expect("an answer").status(), expected, "{limit:?}");
    }
}
