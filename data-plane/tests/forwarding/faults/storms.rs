//! Services that fail as a whole, and instances that end under load: how often requests are sent again.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::sleep,
};
use waypost_proto::{
    instance::Protocol,
    time::wire_duration,
    v1::{Hedging, TrafficEntry, TrafficRetry},
};

use super::{Counts, Got, Speaks, ask, calm, frames::*};
use crate::{
    http2::Http2Instance,
    policy::{OK, UNAVAILABLE, policy, retry},
    support::{Instance, Proxy, nobody, soon},
};

/// A policy whose budget has these, and that has requests tried again upon 503.
fn budget(percent: Option<u32>, minimum: Option<u32>) -> TrafficEntry {
    let budget =
        TrafficRetry { budget_percent: percent, budget_minimum_per_second: minimum, ..retry(3, &[503]) };
    TrafficEntry { retry: Some(budget), ..TrafficEntry::default() }
}

/// An instance that answers each request with a text, or with a reset where it is empty.
async fn failing(text: &'static str, counts: Counts) -> Instance {
    Instance::start(move |mut wire, _| {
        let counts = counts.clone();
        async move {
            while wire.request().await.is_some() {
                counts.request();
                if text.is_empty() {
                    return wire.socket.set_zero_linger().expect("a TCP socket");
                }
                if wire.try_send(text).await.is_none() {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_service_that_fails_gets_a_fifth_more_requests_than_clients_send() {
    const REQUESTS: usize = 500;
    for text in [UNAVAILABLE, ""] {
        for (percent, minimum, free) in [(Some(20), Some(0), 0), (None, None, 10)] {
            let counts = Counts::default();
            let mut instances = Vec::new();
            for _ in 0..3 {
                instances.push(failing(text, counts.clone()).await);
            }
            let addresses: Vec<SocketAddr> = instances.iter().map(|instance| instance.address).collect();
            let mut proxy = Proxy::new(calm(), &addresses);
            proxy.declare(policy(budget(percent, minimum)));
            let mut client = proxy.client().await;
            let begun = Instant::now();
            for _ in 0..REQUESTS {
                let status = client.get("a", "/api/").await.expect("an answer").status;
                assert!(matches!(status, 502 | 503), "{status}");
            }
            // What is free each second, of ten seconds before as well.
            let free = free * (begun.elapsed().as_secs() as usize + 11);
            let sent = counts.requests.load(Ordering::SeqCst);
            assert!(sent <= REQUESTS + REQUESTS / 5 + free, "{sent} for {REQUESTS}, {free} of them free");
            // What requests earn comes a tenth of a second later, when all may have been sent.
            assert!(free == 0 || sent > REQUESTS, "{sent} for {REQUESTS}: none was sent again");
        }
    }
}

/// Where nobody can be connected to, the cooldowns bound how many connections are tried.
#[tokio::test]
async fn a_service_that_is_gone_gets_no_storm_of_connections() {
    const REQUESTS: usize = 300;
    let gone = [nobody().await, nobody().await, nobody().await];
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut proxy = Proxy::speaking(protocol, calm(), &gone);
        proxy.declare(policy(budget(Some(20), Some(0))));
        let begun = Instant::now();
        for number in 0..REQUESTS {
            let got = ask(proxy.address, Speaks::Http1, "GET", number).await;
            assert!(matches!(got, Got::Whole { status: 503, .. }), "{got:?}");
        }
        // Whose cooldown is over is tried once; none lasts for less than a second.
        let probes = gone.len() * (begun.elapsed().as_secs() as usize + 2);
        let tried = counted(&proxy, "waypost_upstream_connect_failures_total");
        assert!(tried <= REQUESTS + REQUESTS / 5 + probes, "{tried} for {REQUESTS}");
    }
}

fn counted(proxy: &Proxy, name: &str) -> usize {
    let rendered = proxy.metrics.render();
    let line = rendered.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    let line = line.unwrap_or_else(|| panic!("{name} is not in\n{rendered}"));
    line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// An address at which connections are neither taken nor refused, for as long as it is held.
async fn silent() -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("bound");
    let mut held = Vec::new();
    // What the queue takes is there at once, and the next one waits.
    while let Ok(filled) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await
    {
        held.push(filled.expect("it listens"));
    }
    (address, (listener, held))
}

/// All requests are under way when the connections to one of two instances turn out to lead nowhere.
#[tokio::test]
async fn what_was_never_sent_is_sent_again_without_a_budget() {
    const REQUESTS: usize = 200;
    let (one, _held) = silent().await;
    let mut config = calm();
    config.timeouts.connect = Duration::from_secs(1);
    let http1 = Instance::mirror().await;
    let http2 = Http2Instance::mirror().await;
    for (protocol, up) in [(Protocol::Http1, http1.address), (Protocol::Http2, http2.address)] {
        for method in ["GET", "POST"] {
            let mut proxy = Proxy::speaking(protocol, config.clone(), &[one, up]);
            proxy.declare(policy(budget(Some(0), Some(0))));
            let clients = (0..REQUESTS).map(|number| ask(proxy.address, Speaks::Http1, method, number));
            for got in soon("the answers", join_all(clients)).await {
                assert!(matches!(got, Got::Whole { status: 200, .. }), "{got:?}");
            }
            assert!(counted(&proxy, "waypost_upstream_connect_failures_total") > 1, "some were under way");
            assert_eq!(counted(&proxy, "waypost_upstream_retries_refused_total"), 0);
        }
    }
}

/// An instance that refuses each stream.
async fn refusing(counts: Counts) -> Instance {
    Instance::start(move |wire, _| {
        let counts = counts.clone();
        async move {
            let Some(mut frames) = Frames::greet(wire, &[]).await else { return };
            while let Some((stream, _)) = frames.request().await {
                counts.request();
                frames.reset_stream(stream, REFUSED_STREAM).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_once_without_a_budget() {
    let counts = Counts::default();
    let [one, other, third] =
        [refusing(counts.clone()).await, refusing(counts.clone()).await, refusing(counts.clone()).await];
    let addresses = [one.address, other.address, third.address];
    let mut proxy = Proxy::speaking(Protocol::Http2, calm(), &addresses);
    proxy.declare(policy(budget(Some(0), Some(0))));
    for number in 1..=20 {
        let got = soon("an answer", ask(proxy.address, Speaks::Http1, "GET", number)).await;
        assert!(matches!(got, Got::Whole { status: 502, .. }), "{got:?}");
        assert_eq!(counts.requests.load(Ordering::SeqCst), 2 * number);
    }
}

#[tokio::test]
async fn a_post_without_a_body_that_was_refused_is_sent_again() {
    let (counts, answering) = (Counts::default(), Counts::default());
    let one = refusing(counts.clone()).await;
    let other = super::http2::instance(Vec::new(), answering.clone()).await;
    let proxy = Proxy::speaking(Protocol::Http2, calm(), &[one.address, other.address]);
    let empty = Got::Whole { status: 200, reason: None, body: String::new() };
    for _ in 0..6 {
        let got = soon("an answer", super::ask_with(proxy.address, Speaks::Http2, "POST", 1, "")).await;
        assert_eq!(got, empty);
    }
    assert!(counts.requests.load(Ordering::SeqCst) >= 1, "the other one was asked");
    assert_eq!(answering.requests.load(Ordering::SeqCst), 6, "each is answered once");
}

/// An instance that takes a while for each request.
async fn slow(counts: Counts) -> Instance {
    Instance::start(move |mut wire, _| {
        let counts = counts.clone();
        async move {
            while wire.request().await.is_some() {
                counts.request();
                sleep(Duration::from_millis(20)).await;
                if wire.try_send(OK).await.is_none() {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_service_that_is_slow_as_a_whole_gets_a_fifth_more_requests_by_hedging() {
    const CLIENTS: usize = 10;
    const EACH: usize = 60;
    let counts = Counts::default();
    let instances = [slow(counts.clone()).await, slow(counts.clone()).await];
    let mut proxy = Proxy::new(calm(), &instances.each_ref().map(|instance| instance.address));
    let hedging = Hedging { delay: Some(wire_duration(Duration::from_millis(1))) };
    proxy.declare(policy(TrafficEntry { hedging: Some(hedging), ..budget(Some(20), Some(0)) }));
    let ask = |_| async {
        let mut client = proxy.client().await;
        for _ in 0..EACH {
            assert_eq!(client.get("a", "/api/").await.expect("an answer").status, 200);
        }
    };
    join_all((0..CLIENTS).map(ask)).await;
    let (requests, sent) = (CLIENTS * EACH, counts.requests.load(Ordering::SeqCst));
    assert!(sent <= requests + requests / 5, "{sent} for {requests}");
    assert!(sent > requests, "{sent} for {requests}: none was sent twice");
}
