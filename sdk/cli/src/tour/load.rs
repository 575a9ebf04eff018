//! The load of the tour: a handful of keep-alive connections at a bounded rate, and a strict count.
//!
//! Any answer but a 200 with exactly the body that was asked for has failed, and so has a request without an
//! answer. Nothing is tried twice.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    dev::http::{self, Connection},
    sample::TICKS,
};

/// How many connections ask `greeter`; one more per proxy asks `clock`.
const CONNECTIONS: usize = 6;
const GREETER_RATE: f64 = 270.0;
const CLOCK_RATE: f64 = 15.0;
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const KEPT_FAILURES: usize = 5;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Greeter,
    Clock,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// How many requests were sent.
    pub(super) sent: u64,
    /// How many of them failed.
    pub(super) failed: u64,
    /// The first failures, in words.
    pub(super) failures: Vec<String>,
    /// How often each instance of `greeter` answered, and of which version it is.
    pub(super) greeters: BTreeMap<String, (String, u64)>,
    /// The longest time that an answer took.
    pub(super) slowest: Duration,
}

impl Tally {
    /// Counts one request.
    pub(super) fn count(&mut self, target: Target, answered: Result<Answered, String>, took: Duration) {
        self.sent += 1;
        self.slowest = self.slowest.max(took);
        match answered {
            Ok(answered) if target == Target::Greeter => {
                self.greeters.entry(answered.instance).or_insert((answered.version, 0)).1 += 1;
            }
            Ok(_) => {}
            Err(failure) => {
                self.failed += 1;
                if self.failures.len() < KEPT_FAILURES {
                    self.failures.push(failure);
                }
            }
        }
    }

    /// Adds another count.
    pub(super) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.failed += other.failed;
        self.slowest = self.slowest.max(other.slowest);
        let room = KEPT_FAILURES.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.into_iter().take(room));
        for (instance, (version, count)) in other.greeters {
            self.greeters.entry(instance).or_insert((version, 0)).1 += count;
        }
    }

    /// How often each version of `greeter` answered.
    pub(super) fn versions(&self) -> BTreeMap<&str, u64> {
        let mut versions = BTreeMap::new();
        for (version, count) in self.greeters.values() {
            *versions.entry(version.as_str()).or_insert(0) += count;
        }
        versions
    }
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) instance: String,
    pub(super) version: String,
}

/// A connection to a proxy that is opened when needed.
#[derive(Debug)]
pub(super) struct Client {
    proxy: SocketAddr,
    connection: Option<Connection>,
}

impl Client {
    /// A client of a proxy.
    pub(super) fn new(proxy: SocketAddr) -> Self {
        Self { proxy, connection: None }
    }

    /// Asks once. `tag` makes the path unique, so that an answer to another request is noticed.
    pub(super) async fn ask(&mut self, target: Target, tag: &str) -> Result<Answered, String> {
        let path = match target {
            Target::Greeter => format!("/greeter/{tag}"),
            Target::Clock => "/clock".to_owned(),
        };
        let exchange = async {
            // A connection that the proxy has closed between two requests is no failed request.
            let mut kept = self.connection.take();
            if let Some(connection) = &mut kept
                && !connection.is_ready().await
            {
                kept = None;
            }
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(self.proxy).await?,
            };
            let answer = connection.get(&path).await?;
            self.connection = Some(connection);
            Ok::<_, http::Error>(answer)
        };
        let answer = match tokio::time::timeout(ANSWER_LIMIT, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(format!("GET {path}: {}", chain(&error))),
            Err(_) => return Err(format!("GET {path}: no answer within {} s", ANSWER_LIMIT.as_secs())),
        };
        let text = String::from_utf8_lossy(&answer.body);
        if answer.status != ::http::StatusCode::OK {
            return Err(format!("GET {path}: {}: {}", answer.status, text.trim()));
        }
        let read = match target {
            Target::Greeter => greeting(&text, &format!("/{tag}")),
            Target::Clock => time(&text),
        };
        read.ok_or_else(|| format!("GET {path}: a wrong body: {}", text.trim()))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

fn greeting(body: &str, path: &str) -> Option<Answered> {
    let value: Value = serde_json::from_str(body).ok()?;
    (value["service"] == "greeter" && value["path"] == path).then(|| answered(&value))?
}

fn time(body: &str) -> Option<Answered> {
    let lines: Vec<Value> = body.lines().map(serde_json::from_str).collect::<Result<_, _>>().ok()?;
    let ticks: Vec<Option<u64>> = lines.iter().map(|line| line["tick"].as_u64()).collect();
    let expected: Vec<Option<u64>> = (1..=u64::from(TICKS)).map(Some).collect();
    let same =
        lines.iter().all(|line| line["service"] == "clock" && line["instance"] == lines[0]["instance"]);
    (ticks == expected && same).then(|| answered(&lines[0]))?
}

fn answered(value: &Value) -> Option<Answered> {
    let text = |name: &str| value[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    Some(Answered { instance: text("instance")?, version: text("version")? })
}

/// Load that goes on until it is told to finish.
#[derive(Debug)]
pub(super) struct Load {
    stop: CancellationToken,
    workers: JoinSet<Tally>,
}

impl Load {
    /// Starts asking through the proxies, spread over them.
    pub(super) fn start(proxies: &[SocketAddr]) -> Self {
        let stop = CancellationToken::new();
        let mut workers = JoinSet::new();
        let greeters = proxies.iter().cycle().take(CONNECTIONS.max(proxies.len()));
        let greeters: Vec<SocketAddr> = greeters.copied().collect();
        let pace = |rate: f64, workers: usize| Duration::from_secs_f64(workers as f64 / rate);
        for (number, proxy) in greeters.iter().enumerate() {
            let name = format!("load-{number}");
            workers.spawn(work(
                *proxy,
                Target::Greeter,
                pace(GREETER_RATE, greeters.len()),
                name,
                stop.clone(),
            ));
        }
        for proxy in proxies {
            let name = "clock".to_owned();
            workers.spawn(work(*proxy, Target::Clock, pace(CLOCK_RATE, proxies.len()), name, stop.clone()));
        }
        Self { stop, workers }
    }

    /// Finishes the requests that are under way, and counts.
    pub(super) async fn finish(mut self) -> Tally {
        self.stop.cancel();
        let mut tally = Tally::default();
        while let Some(worker) = self.workers.join_next().await {
            match worker {
                Ok(counted) => tally.add(counted),
                Err(error) => {
                    tally.failed += 1;
                    tally.failures.push(format!("the load itself has failed: {error}"));
                }
            }
        }
        tally
    }
}

async fn work(
    proxy: SocketAddr,
    target: Target,
    pace: Duration,
    name: String,
    stop: CancellationToken,
) -> Tally {
    let mut client = Client::new(proxy);
    let mut tally = Tally::default();
    // Not all at the same moment.
    let first = Instant::now() + pace.mul_f64(fastrand::f64());
    let mut ticks = tokio::time::interval_at(first, pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return tally,
            _ = ticks.tick() => {}
        }
        let asked = Instant::now();
        let answered = client.ask(target, &format!("{name}/{}", tally.sent)).await;
        tally.count(target, answered, asked.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_body_that_was_asked_for_counts() {
        let body = r#"{"service":"greeter","instance":"a","version":"1","path":"/x/1"}"#;
        assert_eq!(greeting(body, "/x/1"), Some(Answered { instance: "a".into(), version: "1".into() }));
        assert_eq!(greeting(body, "/x/2"), None);
        assert_eq!(greeting(&body[..20], "/x/1"), None);
        let tick = |tick: u32| {
            format!("{{\"service\":\"clock\",\"instance\":\"c\",\"version\":\"1\",\"tick\":{tick}}}\n")
        };
        let whole: String = (1..=TICKS).map(tick).collect();
        assert!(time(&whole).is_some());
        let cut: String = (1..TICKS).map(tick).collect();
        assert_eq!(time(&cut), None);
        assert_eq!(time(""), None);
    }

    #[test]
    fn failures_are_counted_and_the_first_are_kept() {
        let mut tally = Tally::default();
        for number in 0..20 {
            tally.count(Target::Greeter, Err(number.to_string()), Duration::from_millis(number));
        }
        let who = Answered { instance: "a".into(), version: "2".into() };
        tally.count(Target::Greeter, Ok(who), Duration::ZERO);
        let mut sum = tally.clone();
        sum.add(tally);
        assert_eq!((sum.sent, sum.failed, sum.failures.len()), (42, 40, KEPT_FAILURES));
        assert_eq!(sum.versions(), BTreeMap::from([("2", 2)]));
        assert_eq!(sum.slowest, Duration::from_millis(19));
    }
}
