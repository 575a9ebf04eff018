//! A second request where the first takes long, for services whose policy says so.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use waypost_proto::{
    instance::Protocol,
    time::wire_duration,
    v1::{CircuitBreaker, Hedging, TrafficEntry, TrafficRetry},
};
use waypost_proxy::serve::ServeConfig;

use crate::{
    http2::Http2Instance,
    policy::{GET, LONG, OK, SHORT, UNAVAILABLE, ask, policy, send, with_policy},
    support::{Client, Instance, Proxy, field, soon, until},
};

fn hedged(delay: Duration) -> TrafficEntry {
    let hedging = Hedging { delay: Some(wire_duration(delay)) };
    TrafficEntry { hedging: Some(hedging), ..TrafficEntry::default() }
}

/// An instance that answers when it is told to, and says what comes and when its connection ends.
struct Slow {
    instance: Instance,
    arrived: mpsc::UnboundedReceiver<()>,
    answered: mpsc::UnboundedReceiver<()>,
    ended: mpsc::UnboundedReceiver<()>,
    released: CancellationToken,
}

impl Slow {
    /// Instead of an empty answer it closes.
    async fn answering(answer: &'static str) -> Self {
        let released = CancellationToken::new();
        let (asked, arrived) = mpsc::unbounded_channel();
        let (gave, answered) = mpsc::unbounded_channel();
        let (closed, ended) = mpsc::unbounded_channel();
        let release = released.clone();
        let instance = Instance::start(move |mut wire, _| {
            let (asked, gave, closed) = (asked.clone(), gave.clone(), closed.clone());
            let release = release.clone();
            async move {
                while wire.request().await.is_some() {
                    let _ = asked.send(());
                    let mut byte = [0];
                    tokio::select! {
                        () = release.cancelled() => {}
                        _ = wire.socket.peek(&mut byte) => break,
                    }
                    if answer.is_empty() {
                        break;
                    }
                    wire.send(answer).await;
                    let _ = gave.send(());
                }
                let _ = closed.send(());
            }
        })
        .await;
        Self { instance, arrived, answered, ended, released }
    }

    async fn arrival(&mut self) {
        soon("a request", self.arrived.recv()).await.expect("it arrives");
    }
}

fn counts(proxy: &Proxy, line: &str) -> bool {
    proxy.metrics.render().lines().any(|found| found == line)
}

#[tokio::test]
async fn a_request_that_takes_long_goes_to_another_instance_and_the_first_answer_counts() {
    let mut slow = Slow::answering(OK).await;
    let quick = Instance::answering(OK).await;
    // Long enough for the quick one to answer first on any machine.
    let proxy = with_policy(&[&slow.instance, &quick], hedged(Duration::from_secs(1)));
    for _ in 0..4 {
        assert_eq!(send(&proxy, GET).await.status, 200, "some begin with the slow one");
    }
    slow.arrival().await;
    let sent = 1 + std::iter::from_fn(|| slow.arrived.try_recv().ok()).count();
    for _ in 0..sent {
        soon("the loser's end", slow.ended.recv()).await.expect("its connection is closed");
    }
    proxy.until_in_flight(slow.instance.address, 0).await;
    assert!(counts(&proxy, &format!("waypost_hedges_total {sent}")), "{}", proxy.metrics.render());
    assert!(counts(&proxy, &format!("waypost_hedges_won_total {sent}")));
}

#[tokio::test]
async fn over_http2_the_loser_s_stream_is_reset() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let slow = Http2Instance::start(move |_| {
        let given_up = OnDrop(Arc::clone(&flag));
        async move {
            let _given_up = given_up;
            match pending::<Infallible>().await {}
        }
    })
    .await;
    let quick = Http2Instance::mirror().await;
    let addresses = [slow.address, quick.address];
    let mut proxy = Proxy::speaking(Protocol::Http2, ServeConfig::default(), &addresses);
    proxy.declare(policy(hedged(SHORT)));
    for _ in 0..4 {
        assert_eq!(send(&proxy, GET).await.status, 200);
    }
    until("the reset has come", || dropped.load(Ordering::SeqCst)).await;
    proxy.until_in_flight(slow.address, 0).await;
    assert!(!counts(&proxy, "waypost_hedges_won_total 0"), "{}", proxy.metrics.render());
}

struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn the_first_request_may_still_win() {
    loop {
        let (mut one, mut other) = (Slow::answering(OK).await, Slow::answering(OK).await);
        let proxy = with_policy(&[&one.instance, &other.instance], hedged(SHORT));
        let client = ask(&proxy).await;
        let (first, mut second) = tokio::select! {
            () = one.arrival() => (one, other),
            () = other.arrival() => (other, one),
        };
        // Where both are there, nobody knows which was the first.
        if second.arrived.try_recv().is_err() {
            second.arrival().await;
            return the_first_wins(&proxy, client, &first, &mut second).await;
        }
    }
}

async fn the_first_wins(proxy: &Proxy, mut client: Client, first: &Slow, second: &mut Slow) {
    first.released.cancel();
    assert_eq!(client.response().await.status, 200);
    soon("the loser's end", second.ended.recv()).await.expect("its connection is closed");
    proxy.until_in_flight(second.instance.address, 0).await;
    assert!(counts(proxy, "waypost_hedges_total 1"));
    assert!(counts(proxy, "waypost_hedges_won_total 0"));
}

#[tokio::test]
async fn a_bad_answer_does_not_win_while_the_other_may_be_good() {
    let (mut bad, mut good) = (Slow::answering(UNAVAILABLE).await, Slow::answering(OK).await);
    let proxy = with_policy(&[&bad.instance, &good.instance], hedged(SHORT));
    let mut client = ask(&proxy).await;
    bad.arrival().await;
    good.arrival().await;
    bad.released.cancel();
    soon("the bad answer", bad.answered.recv()).await.expect("it is given");
    // The one worker has read it before it takes what comes later.
    assert_eq!(proxy.get("/nothing").await.status, 404);
    good.released.cancel();
    assert_eq!(client.response().await.status, 200);
    proxy.until_in_flight(bad.instance.address, 0).await;
}

#[tokio::test]
async fn a_bad_answer_is_better_than_none() {
    let (mut closing, mut bad) = (Slow::answering("").await, Slow::answering(UNAVAILABLE).await);
    let proxy = with_policy(&[&closing.instance, &bad.instance], hedged(SHORT));
    let mut client = ask(&proxy).await;
    closing.arrival().await;
    bad.arrival().await;
    bad.released.cancel();
    soon("the bad answer", bad.answered.recv()).await.expect("it is given");
    closing.released.cancel();
    assert_eq!(client.response().await.status, 503);
}

#[tokio::test]
async fn what_is_sent_again_after_both_failed_has_the_request_s_own_fields() {
    // Who is asked first is drawn. It matters only where that is the one whose answer is none.
    loop {
        let mut unsound =
            Slow::answering("HTTP/1.1 200 OK\r\nx-bad: 1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n")
                .await;
        let (asked, mut arrived) = mpsc::unbounded_channel();
        let released = CancellationToken::new();
        let release = released.clone();
        let closing = Instance::start(move |mut wire, _| {
            let (asked, release) = (asked.clone(), release.clone());
            async move {
                let Some((head, _)) = wire.request().await else { return };
                let _ = asked.send(());
                if !release.is_cancelled() {
                    return release.cancelled().await;
                }
                wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len())).await;
            }
        })
        .await;
        let proxy = with_policy(&[&unsound.instance, &closing], hedged(SHORT));
        let mut client = proxy.client().await;
        client.send("GET /api/ HTTP/1.1\r\nhost: a\r\nauthorization: mine\r\n\r\n").await;
        let unsound_is_first = tokio::select! {
            () = unsound.arrival() => true,
            _ = arrived.recv() => false,
        };
        if !unsound_is_first {
            continue;
        }
        soon("the second request", arrived.recv()).await.expect("it arrives");
        unsound.released.cancel();
        soon("the unsound answer", unsound.answered.recv()).await.expect("it is given");
        // The one worker has read it before it takes what comes later.
        assert_eq!(proxy.get("/nothing").await.status, 404);
        released.cancel();
        let response = client.response().await;
        assert_eq!(response.status, 200);
        assert_eq!(field(&response.text(), "authorization").as_deref(), Some("mine"), "{}", response.text());
        return;
    }
}

#[tokio::test]
async fn what_may_not_be_sent_twice_is_not() {
    let (mut one, mut other) = (Slow::answering(OK).await, Slow::answering(OK).await);
    let proxy = with_policy(&[&one.instance, &other.instance], hedged(SHORT));
    let mut posting = proxy.client().await;
    posting.send("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    let mut putting = proxy.client().await;
    let (first, second) = tokio::select! {
        () = one.arrival() => (&mut one, &mut other),
        () = other.arrival() => (&mut other, &mut one),
    };
    putting.send("PUT /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\na").await;
    second.arrival().await;
    // Begun last, and sent twice before: so the others would have been by now.
    let mut getting = ask(&proxy).await;
    first.arrival().await;
    second.arrival().await;
    assert!(counts(&proxy, "waypost_hedges_total 1"), "{}", proxy.metrics.render());
    first.released.cancel();
    second.released.cancel();
    for client in [&mut posting, &mut putting, &mut getting] {
        assert_eq!(client.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_second_request_is_within_the_budget_and_the_limits() {
    let none = TrafficRetry {
        budget_percent: Some(0),
        budget_minimum_per_second: Some(0),
        ..TrafficRetry::default()
    };
    let few = CircuitBreaker { max_requests: 1, ..CircuitBreaker::default() };
    let by_budget = TrafficEntry { retry: Some(none), ..hedged(SHORT) };
    let by_limit = TrafficEntry { circuit_breaker: Some(few), ..hedged(SHORT) };
    for entry in [by_budget, by_limit] {
        let (one, other) = (Slow::answering(OK).await, Slow::answering(OK).await);
        let proxy = with_policy(&[&one.instance, &other.instance], entry);
        let mut client = ask(&proxy).await;
        until("it is refused", || counts(&proxy, "waypost_hedges_refused_total 1")).await;
        one.released.cancel();
        other.released.cancel();
        assert_eq!(client.response().await.status, 200);
        assert!(counts(&proxy, "waypost_hedges_total 0"));
    }
}

#[tokio::test]
async fn a_request_that_is_answered_in_time_is_sent_once() {
    let (one, other) = (Instance::answering(OK).await, Instance::answering(OK).await);
    let proxy = with_policy(&[&one, &other], hedged(LONG));
    for _ in 0..20 {
        assert_eq!(send(&proxy, GET).await.status, 200);
    }
    assert!(counts(&proxy, "waypost_hedges_total 0"));
    assert!(counts(&proxy, "waypost_hedges_refused_total 0"));
}
