//! A circuit breaker between real clients and an instance: when it opens, and who tries when its time is over.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use waypost_proto::{
    time::wire_duration,
    v1::{CircuitBreaker, TrafficEntry},
};
use waypost_proxy::table::ServiceStanding;

use crate::{
    policy::{GET, LONG, OK, SHORT, UNAVAILABLE, ask, policy, send, told, with_policy},
    support::{Instance, Proxy, api, soon, until},
};

/// It opens after three failures, for so long.
fn open_for(open_time: Duration) -> TrafficEntry {
    let breaker = CircuitBreaker {
        failure_percent: 50,
        minimum_requests: 3,
        window: Some(wire_duration(LONG)),
        open_time: Some(wire_duration(open_time)),
        ..CircuitBreaker::default()
    };
    TrafficEntry { circuit_breaker: Some(breaker), ..TrafficEntry::default() }
}

fn shown(proxy: &Proxy) -> String {
    let table = proxy.table();
    let service = table.service(&api()).expect("it is there");
    ServiceStanding::of(service).breaker.expect("one is declared")
}

fn refused() -> (u16, Option<String>) {
    (503, Some("circuit_open".to_owned()))
}

/// An instance that answers each request as the test says.
pub(crate) struct Asked {
    pub(crate) instance: Instance,
    pub(crate) requests: mpsc::UnboundedReceiver<oneshot::Sender<&'static str>>,
}

impl Asked {
    pub(crate) async fn start() -> Self {
        let (asked, requests) = mpsc::unbounded_channel();
        let instance = Instance::start(move |mut wire, _| {
            let asked = asked.clone();
            async move {
                while wire.request().await.is_some() {
                    let (answer, answered) = oneshot::channel();
                    asked.send(answer).expect("the test waits");
                    let Ok(answer) = answered.await else { return };
                    if wire.try_send(answer).await.is_none() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { instance, requests }
    }

    pub(crate) async fn request(&mut self) -> oneshot::Sender<&'static str> {
        soon("a request", self.requests.recv()).await.expect("it arrives")
    }

    /// A proxy whose breaker is half-open: the next request tries, and only an answer opens or closes it from now on.
    async fn half_open(&mut self) -> Proxy {
        let mut proxy = Proxy::of_two_workers(&[self.instance.address]);
        proxy.declare(policy(open_for(Duration::from_millis(1))));
        for _ in 0..3 {
            let mut client = ask(&proxy).await;
            self.request().await.send(UNAVAILABLE).expect("it waits");
            assert_eq!(told(&client.response().await), (503, None));
        }
        until("half-open", || shown(&proxy).starts_with("half-open")).await;
        proxy.declare(policy(open_for(Duration::from_secs(3600))));
        proxy
    }
}

#[tokio::test]
async fn however_many_come_at_half_open_one_alone_is_sent_until_it_is_answered() {
    let mut asked = Asked::start().await;
    let proxy = asked.half_open().await;
    let crowd = async || {
        let mut clients = Vec::new();
        for _ in 0..40 {
            clients.push(proxy.client().await);
        }
        for client in &mut clients {
            client.send(GET).await;
        }
        clients
    };
    let (answered, mut answers) = mpsc::unbounded_channel();
    for mut client in crowd().await {
        let answered = answered.clone();
        tokio::spawn(async move { answered.send(told(&client.response().await)) });
    }
    for _ in 0..39 {
        assert_eq!(soon("an answer", answers.recv()).await, Some(refused()));
    }
    let tries = asked.request().await;
    assert_eq!(shown(&proxy), "half-open: one request tries");
    for mut client in crowd().await {
        assert_eq!(told(&client.response().await), refused(), "it is not answered yet");
    }
    assert!(asked.requests.try_recv().is_err(), "one alone was sent");
    tries.send(OK).expect("it waits");
    assert_eq!(soon("an answer", answers.recv()).await, Some((200, None)));
    assert_eq!(shown(&proxy), "closed");
    let clients = crowd().await;
    for _ in &clients {
        asked.request().await.send(OK).expect("it waits");
    }
    for mut client in clients {
        assert_eq!(client.response().await.status, 200);
    }
}

#[tokio::test]
async fn where_the_client_of_the_one_that_tries_goes_away_the_next_one_tries_at_once() {
    let mut asked = Asked::start().await;
    let proxy = asked.half_open().await;
    let client = ask(&proxy).await;
    let _unanswered = asked.request().await;
    drop(client);
    until("it is given up", || shown(&proxy) == "half-open: the next request tries").await;
    let mut client = ask(&proxy).await;
    asked.request().await.send(OK).expect("it waits");
    assert_eq!(client.response().await.status, 200);
    assert_eq!(shown(&proxy), "closed");
}

#[tokio::test]
async fn a_tripped_breaker_comes_back_by_single_requests() {
    let (instance, seen) = Instance::in_turn(&[UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, OK]).await;
    let proxy = with_policy(&[&instance], open_for(SHORT));
    let opened = Instant::now();
    for _ in 0..3 {
        assert_eq!(told(&send(&proxy, GET).await), (503, None), "the instance's own answer");
    }
    let tripped = shown(&proxy);
    assert!(tripped.starts_with("open for another") || tripped.starts_with("half-open"), "{tripped}");
    assert!(proxy.metrics.render().contains("waypost_breakers_opened_total 1"));
    let mut refused = 0;
    // The fourth failure is that of the single request that tries; the fifth request closes it.
    while seen.load(Ordering::SeqCst) < 5 {
        let answer = send(&proxy, GET).await;
        if answer.reason().as_deref() == Some("circuit_open") {
            assert!(answer.text().contains("service api"), "{}", answer.text());
            refused += 1;
        }
        assert!(opened.elapsed() < LONG, "it comes back");
        tokio::task::yield_now().await;
    }
    assert!(refused >= 2, "nothing is sent while it is open");
    // The breaker's clock has whole milliseconds.
    let least = SHORT * 2 - Duration::from_millis(2);
    assert!(opened.elapsed() >= least, "not before its time, twice: {:?}", opened.elapsed());
    for _ in 0..5 {
        assert_eq!(send(&proxy, GET).await.status, 200);
    }
    assert_eq!(shown(&proxy), "closed");
}
