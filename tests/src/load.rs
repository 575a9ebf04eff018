//! Load with an opinion: every request is counted, every failure keeps its reason.
//!
//! A [`Load`] runs until it is stopped and then gives its [`Report`]. Connections are kept alive. A connection
//! that the peer closed before a request was written is opened anew, as every client does; anything that goes
//! wrong after that is a failure.
//!
//! Deliberately absent: retries. What a retry would hide is what the tests look for.

mod http1;
mod http2;
mod websocket;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;
use waypost_proto::reason::REASON_HEADER;

use crate::{
    service::INSTANCE_HEADER,
    wait::{eventually, holds},
};

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How many failures are kept in words.
const FAILURES_KEPT: usize = 10;

/// What a load is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The proxy.
    pub target: SocketAddr,
    /// The path of each request.
    pub path: String,
    /// How many connections.
    pub connections: u32,
    /// How many requests (or messages) a second, over all connections.
    pub per_second: u32,
}

impl Plan {
    /// A light load on a path: 4 connections, 200 requests a second.
    pub fn new(target: SocketAddr, path: &str) -> Self {
        Self { target, path: path.to_owned(), connections: 4, per_second: 200 }
    }

    /// The same at another rate.
    #[must_use]
    pub fn per_second(mut self, per_second: u32) -> Self {
        self.per_second = per_second;
        self
    }

    /// The ticks of one connection, spread so that connections do not all send at once.
    fn ticks(&self, connection: u32) -> Interval {
        let period = Duration::from_secs(1) * self.connections / self.per_second.max(1);
        let start = Instant::now() + period * connection / self.connections.max(1);
        let mut ticks = interval_at(start, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests (or messages) sent.
    pub sent: u64,
    /// Those that were answered as they should.
    pub answered: u64,
    /// Those that were not.
    pub failed: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// Answers by the instance that gave them.
    pub by_instance: BTreeMap<String, u64>,
    /// Connections that were opened after the first ones.
    pub reconnects: u64,
    /// WebSockets that ended without a close frame.
    pub cut: u64,
}

impl Report {
    /// Holds the load to its promise: at least so many were sent, and none failed, and nothing was cut.
    ///
    /// # Panics
    /// It is not so.
    #[track_caller]
    pub fn assert_lossless(&self, what: &str, at_least: u64) {
        let Self { sent, answered, failed, cut, .. } = self;
        assert!(
            *failed == 0 && *cut == 0 && sent == answered,
            "{what}: {failed} failed and {cut} cut of {sent}: {:#?}",
            self.failures
        );
        assert!(*sent >= at_least, "{what}: only {sent} requests were sent, which proves nothing");
    }
}

/// A running load.
pub struct Load {
    stop: CancellationToken,
    connections: JoinSet<()>,
    counters: Counters,
}

impl Load {
    /// GETs over HTTP/1.1 with keep-alive, one at a time on each connection.
    pub fn http1(plan: &Plan) -> Self {
        Self::start(plan, http1::connection)
    }

    /// GETs over cleartext HTTP/2, several at a time on each connection.
    pub fn http2(plan: &Plan) -> Self {
        Self::start(plan, http2::connection)
    }

    /// Messages over WebSockets that stay open, each of which must be echoed. A client whose peer closes with
    /// a close frame opens the next socket and sends the message there.
    pub fn websocket(plan: &Plan) -> Self {
        Self::start(plan, websocket::connection)
    }

    fn start<F>(plan: &Plan, connection: impl Fn(Worker) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, counters) = (CancellationToken::new(), Counters::default());
        let mut connections = JoinSet::new();
        for number in 0..plan.connections {
            let ticks = plan.ticks(number);
            let (plan, counters, stop) = (plan.clone(), counters.clone(), stop.clone());
            connections.spawn(connection(Worker { plan, counters, stop, ticks, connected: false }));
        }
        Self { stop, connections, counters }
    }

    /// What came of it so far.
    pub fn so_far(&self) -> Report {
        self.counters.0.lock().clone()
    }

    /// Waits until it has sent so many requests: what takes less time than that has not been under load.
    ///
    /// # Panics
    /// It does not send.
    pub async fn has_sent(&self, requests: u64) {
        eventually("the load is sent", Duration::from_secs(60), async || {
            let sent = self.so_far().sent;
            holds(sent >= requests, || format!("{sent} of {requests}"))
        })
        .await;
    }

    /// Sends no more, waits for the last answers and reports.
    pub async fn stop(mut self) -> Report {
        self.stop.cancel();
        while let Some(ended) = self.connections.join_next().await {
            ended.expect("a connection of the load does not panic");
        }
        self.so_far()
    }

    /// Runs for a time and reports.
    pub async fn run_for(self, period: Duration) -> Report {
        tokio::time::sleep(period).await;
        self.stop().await
    }
}

#[derive(Clone, Default)]
struct Counters(Arc<Mutex<Report>>);

/// One connection's share of a load.
struct Worker {
    plan: Plan,
    counters: Counters,
    stop: CancellationToken,
    ticks: Interval,
    connected: bool,
}

impl Worker {
    /// Waits until the next request is due; false when the load has been stopped.
    async fn due(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            _ = self.ticks.tick() => true,
        }
    }

    fn sent(&self) {
        self.counters.0.lock().sent += 1;
    }

    /// Counts a connection that has been opened.
    fn opened(&mut self) {
        if self.connected {
            self.counters.0.lock().reconnects += 1;
        }
        self.connected = true;
    }

    fn cut(&self) {
        self.counters.0.lock().cut += 1;
    }

    fn answered(&self, instance: &str) {
        let mut report = self.counters.0.lock();
        report.answered += 1;
        *report.by_instance.entry(instance.to_owned()).or_default() += 1;
    }

    fn failed(&self, reason: &str) {
        let mut report = self.counters.0.lock();
        report.failed += 1;
        if report.failures.len() < FAILURES_KEPT {
            let nth = report.sent;
            report
                .failures
                .push(format!("request {nth} to {}{}: {reason}", self.plan.target, self.plan.path));
        }
    }

    /// Counts an answer whose body has been read, or why it is none.
    fn judge(&self, outcome: Result<(StatusCode, HeaderMap), String>) {
        let text = |headers: &HeaderMap, name: &str| {
            headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        match outcome {
            Ok((StatusCode::OK, headers)) => match text(&headers, INSTANCE_HEADER) {
                Some(instance) => self.answered(&instance),
                None => self.failed("200 from something that is no sample service"),
            },
            Ok((status, headers)) => {
                let reason = text(&headers, REASON_HEADER).unwrap_or_else(|| "no reason given".into());
                self.failed(&format!("{status}, {reason}"));
            }
            Err(error) => self.failed(&error),
        }
    }
}
