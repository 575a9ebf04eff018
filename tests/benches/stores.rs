//! What each store costs: from a change to applied at a proxy of another control plane, beside the store's own
//! latency from a write to its watch; how long a big registry takes to load, and what it takes in memory.
//!
//! The servers write to disk before they acknowledge, so that the floor has that in it, too. `WAYPOST_BENCH_INSTANCES`
//! makes the registry smaller; names of stores (`cargo bench --bench stores -- etcd`) leave the others out.

use std::{
    env,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{MissedTickBehavior, interval, sleep},
};
use waypost_proto::{
    time,
    v1::{SubscribeResponse, subscribe_response::Kind},
};
use waypost_tests::{
    cluster::{ControlPlane, strings},
    measure::{Subscriber, big, register_all, resident, say},
    servers::{self, consul::Consul, etcd::Etcd, redis::Redis},
};

const INSTANCES: u32 = 100_000;
/// Enough for fifteen beyond the p99.
const CHANGES: u32 = 1500;
const CHANGES_A_SECOND: u32 = 50;
const FLOOR_SAMPLES: u32 = 300;
/// How long everybody gets after the load: the changes are to be those of every day.
const SETTLES: Duration = Duration::from_secs(10);
/// How much more than the floor's p99 a change may take.
const TARGET: Duration = Duration::from_millis(10);
/// How long a watcher of the floor gets until the write: longer than it needs to begin.
const WATCH_FIRST: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() {
    let asked = env::var("WAYPOST_BENCH_INSTANCES").ok().and_then(|count| count.parse().ok());
    let instances = asked.unwrap_or(INSTANCES);
    let named: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |store: &str| named.is_empty() || named.iter().any(|name| name == store);
    if wanted("redis") {
        redis(instances).await;
    }
    if wanted("etcd") {
        etcd(instances).await;
    }
    if wanted("consul") {
        consul(instances).await;
    }
}

async fn redis(instances: u32) {
    if let Some(why) = servers::redis::missing() {
        return say(format!("redis: skipped: {why}"));
    }
    let redis = Redis::start(&[]);
    let floor = Floor::redis(redis.port).await;
    measure("redis", &format!("redis://127.0.0.1:{}", redis.port), floor, instances).await;
}

async fn etcd(instances: u32) {
    if !servers::etcd::installed() {
        return say("etcd: skipped: etcd-server and etcd-client are not installed");
    }
    let etcd = Etcd::start(None, &["--quota-backend-bytes", "8000000000"]);
    let floor = Floor::etcd(etcd.port).await;
    measure("etcd", &format!("etcd://127.0.0.1:{}", etcd.port), floor, instances).await;
}

async fn consul(instances: u32) {
    if servers::consul::program().is_none() {
        return say("consul: skipped: consul is not installed");
    }
    let consul = Consul::start("");
    let url = format!("consul://127.0.0.1:{}?discover=false", consul.port);
    measure("consul", &url, Floor::consul(&consul), instances).await;
}

/// Two control planes; changes go to one, and are awaited at the other.
async fn measure(name: &str, url: &str, mut floor: Floor<'_>, instances: u32) {
    let mut empty = histogram();
    for _ in 0..FLOOR_SAMPLES {
        empty.saturating_record(floor.sample().await);
    }
    let arguments = strings(&["--store", url]);
    let first = ControlPlane::start(&arguments).await;
    let begun = Instant::now();
    register_all(&first.api, (0..instances).map(big)).await;
    let registered = begun.elapsed();

    let before = Instant::now();
    let second = ControlPlane::start(&arguments).await;
    let loaded = before.elapsed();
    let memory = resident(second.process.id());
    let mut subscriber = Subscriber::start(&second.api, "bench").await;

    sleep(SETTLES).await;

    let (mut took, mut full) = (histogram(), histogram());
    let mut ticks = interval(Duration::from_secs(1) / CHANGES_A_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0..CHANGES {
        ticks.tick().await;
        let mut instance = big(number % instances);
        instance.version = format!("2.0.{number}");
        let changed = first.api.register(&instance, Duration::from_secs(3600)).await.expect("a lease");
        while subscriber.revision() < changed.revision {
            let SubscribeResponse { kind: Some(Kind::Delta(delta)) } = subscriber.apply_next().await else {
                continue;
            };
            let committed = delta.committed_at.as_ref().map_or(SystemTime::UNIX_EPOCH, time::system_time);
            let elapsed = SystemTime::now().duration_since(committed).unwrap_or_default();
            took.saturating_record(microseconds(elapsed));
        }
        // In turns, so that whatever the store is busy with hits both.
        full.saturating_record(floor.sample().await);
    }

    let at = |all: &Histogram<u64>, quantile| Duration::from_micros(all.value_at_quantile(quantile));
    say(format!(
        "{name}: {instances} instances, at most {CHANGES_A_SECOND} changes a second, two control planes"
    ));
    let (empty, full) = (&empty, &full);
    say(format!("  the store's own write -> watch  p50 {:?}   p99 {:?}", at(full, 0.5), at(full, 0.99)));
    say(format!("  the same while it was empty     p50 {:?}   p99 {:?}", at(empty, 0.5), at(empty, 0.99)));
    say(format!("  change -> applied               p50 {:?}   p99 {:?}", at(&took, 0.5), at(&took, 0.99)));
    let verdict = match at(&took, 0.99) {
        Duration::ZERO => "NOT MEASURED: no change was seen to come after its commit",
        p99 if p99 <= at(full, 0.99) + TARGET => "met",
        _ => "MISSED",
    };
    say(format!("  target: p99 <= the floor's + {TARGET:?}: {verdict}"));
    say(format!(
        "  registered in {registered:.1?}; loaded by another control plane in {loaded:.1?}, {} MiB resident, {} B per instance",
        memory >> 20,
        memory / u64::from(instances)
    ));
}

/// A key of a store that is written and watched without Waypost.
enum Floor<'a> {
    Redis { writer: TcpStream, watcher: TcpStream },
    Etcd { client: Box<etcd_client::Client>, watch: etcd_client::WatchStream },
    Consul(&'a Consul),
}

impl<'a> Floor<'a> {
    async fn redis(port: u16) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let writer = TcpStream::connect(address).await.expect("the server listens");
        let watcher = TcpStream::connect(address).await.expect("the server listens");
        Self::Redis { writer, watcher }
    }

    async fn etcd(port: u16) -> Self {
        let mut client =
            etcd_client::Client::connect([format!("http://127.0.0.1:{port}")], None).await.expect("a client");
        let mut watch = client.watch("floor", None).await.expect("a watch");
        watch.message().await.expect("it is created");
        Self::Etcd { client: Box::new(client), watch }
    }

    fn consul(consul: &'a Consul) -> Self {
        consul.ask("PUT", "/v1/kv/floor", "", "0");
        Self::Consul(consul)
    }

    /// Microseconds from a write to its being seen.
    async fn sample(&mut self) -> u64 {
        match self {
            Self::Redis { writer, watcher } => {
                let mut answer = [0; 4096];
                watcher.write_all(b"XREAD BLOCK 5000 STREAMS floor $\r\n").await.expect("it is sent");
                sleep(WATCH_FIRST).await;
                let begun = Instant::now();
                writer.write_all(b"XADD floor * key value\r\n").await.expect("it is sent");
                let seen = watcher.read(&mut answer).await.expect("an answer");
                let took = microseconds(begun.elapsed());
                let acknowledged = writer.read(&mut answer).await.expect("an answer");
                assert!(seen > 0 && acknowledged > 0, "the server has hung up");
                took
            }
            Self::Etcd { client, watch } => {
                let begun = Instant::now();
                let put = client.put("floor", "value", None);
                let (put, seen) = tokio::join!(put, watch.message());
                let took = microseconds(begun.elapsed());
                put.expect("it is put");
                seen.expect("it is seen");
                took
            }
            Self::Consul(consul) => tokio::task::block_in_place(|| consul_sample(consul)),
        }
    }
}

fn consul_sample(consul: &Consul) -> u64 {
    let index = |body: &str| -> u64 {
        let entries: serde_json::Value = serde_json::from_str(body).expect("JSON");
        entries[0]["ModifyIndex"].as_u64().expect("an index")
    };
    let known = index(&consul.ask("GET", "/v1/kv/floor", "", "").1);
    let took = std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            consul.ask("GET", &format!("/v1/kv/floor?index={known}&wait=5s"), "", "");
            Instant::now()
        });
        std::thread::park_timeout(WATCH_FIRST);
        let begun = Instant::now();
        // Another value each time: Consul wakes nobody for the same.
        consul.ask("PUT", "/v1/kv/floor", "", &known.to_string());
        watched.join().expect("it is seen").saturating_duration_since(begun)
    });
    microseconds(took)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
