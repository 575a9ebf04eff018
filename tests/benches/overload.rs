//! Three times as many requests as a service can answer, for half a minute: what is answered in time, by a proxy without
//! a policy, with `adaptiveConcurrency`, and by a proxy that is at its own bound and goes by priorities.
//!
//! The service works on so many requests at a time and queues the rest without end, as most do; nor does it notice that
//! a client has gone. Its work is waiting, so that the machine's speed matters little. Requests come at a steady rate,
//! whatever becomes of those before. What takes longer than a second is in vain: its client has gone.
//!
//! `WAYPOST_BENCH_SECONDS` makes it shorter; names of cases (`cargo bench --bench overload -- adaptive`) leave the
//! others out.

use std::{
    convert::Infallible,
    env,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use waypost_tests::{
    api::spec,
    cluster::Cluster,
    measure::{resident, say},
};

const SECONDS: u64 = 30;
/// How many requests the service works on at a time, and for how long on each.
const WORKERS: usize = 10;
const WORK: Duration = Duration::from_millis(40);
const OVERLOAD: f64 = 3.0;
const CALM: f64 = 0.5;
/// Requests a second to the service that matters.
const VITAL: f64 = 50.0;
/// How long a client waits.
const DEADLINE: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(3600);
/// How often requests are sent.
const BEAT: Duration = Duration::from_millis(5);
/// What recovery is looked for in, and for how long.
const SLICE: Duration = Duration::from_millis(250);
const SLICES: u32 = 40;

const LEAST_GOODPUT: f64 = 0.9;
const LEAST_VITAL: f64 = 0.999;
const MOST_MEMORY: u64 = 32 << 20;
const RECOVERED_WITHIN: Duration = Duration::from_secs(2);

struct Case {
    name: &'static str,
    what: &'static str,
    proxy: &'static [&'static str],
    policies: &'static str,
    /// Whether anything is promised.
    protects: bool,
}

const CASES: [Case; 3] = [
    Case { name: "without", what: "no policy", proxy: &[], policies: "", protects: false },
    Case {
        name: "adaptive",
        what: "adaptiveConcurrency: {}",
        proxy: &[],
        policies: "---
apiVersion: waypost.dev/v1
kind: BackendTrafficPolicy
metadata: {name: bulk}
spec: {targetRefs: [{group: '', kind: Service, name: bulk}], adaptiveConcurrency: {}}
",
        protects: true,
    },
    Case {
        name: "priority",
        what: "no limit of the service's, --max-requests 100, the service is Low and the other one High",
        proxy: &["--max-requests", "100"],
        policies: "---
apiVersion: waypost.dev/v1
kind: BackendTrafficPolicy
metadata: {name: bulk}
spec: {targetRefs: [{group: '', kind: Service, name: bulk}], priority: Low}
---
apiVersion: waypost.dev/v1
kind: BackendTrafficPolicy
metadata: {name: vital}
spec: {targetRefs: [{group: '', kind: Service, name: vital}], priority: High}
",
        protects: true,
    },
];

#[tokio::main]
async fn main() {
    let asked = env::var("WAYPOST_BENCH_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let seconds = Duration::from_secs(asked.unwrap_or(SECONDS));
    let named: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let capacity = capacity().await;
    say(format!(
        "overload: a service that answers {capacity:.0} requests a second gets {OVERLOAD} x as many for {seconds:?}"
    ));
    for case in CASES.iter().filter(|case| named.is_empty() || named.iter().any(|name| name == case.name)) {
        measure(case, capacity, seconds).await;
    }
}

/// What the service can do by itself, requests a second.
async fn capacity() -> f64 {
    let service = serve(WORKERS, WORK).await;
    let begun = Instant::now();
    let client = Arc::new(Sender::new(service, "/"));
    let mut clients = JoinSet::new();
    for _ in 0..WORKERS * 2 {
        let client = Arc::clone(&client);
        clients.spawn(async move {
            while begun.elapsed() < Duration::from_secs(3) {
                client.send().await;
            }
        });
    }
    while clients.join_next().await.is_some() {}
    client.tally().good as f64 / begun.elapsed().as_secs_f64()
}

async fn measure(case: &Case, capacity: f64, seconds: Duration) {
    let (bulk, vital) = (serve(WORKERS, WORK).await, serve(1000, Duration::from_millis(1)).await);
    let cluster = Cluster::builder().proxy(case.proxy).start().await;
    for (service, address) in [("bulk", bulk), ("vital", vital)] {
        cluster.api().register(&spec(service, &address), LEASE).await.expect("a lease");
    }
    if !case.policies.is_empty() {
        cluster.api().apply(case.policies).await.expect("good policies");
    }
    cluster.converged().await;
    let (traffic, pid) = (cluster.traffic(), cluster.proxies[0].process.id());
    let bulk = Arc::new(Sender::new(traffic, "/bulk"));
    let vital = Arc::new(Sender::new(traffic, "/vital"));

    drive(&bulk, capacity * CALM, Duration::from_secs(3)).await;
    let memory = resident(pid);
    let calm = bulk.take();
    let most = tokio::spawn(most_resident(pid, seconds));
    let others = tokio::spawn({
        let vital = Arc::clone(&vital);
        async move { drive(&vital, VITAL, seconds).await }
    });
    let last = send(&bulk, capacity * OVERLOAD, seconds).await;
    let recovered = recovery(&bulk, capacity * CALM).await;
    last.join_all().await;
    let overload = bulk.tally();
    others.await.expect("it is driven");
    let grown = most.await.expect("it is looked at").saturating_sub(memory);

    say(format!("{}: {}", case.name, case.what));
    say(format!("  before, at {CALM} x its capacity: {calm}"));
    say(format!("  at {OVERLOAD} x its capacity:     {overload}"));
    let goodput = overload.good as f64 / seconds.as_secs_f64() / capacity;
    let passed = vital.tally().share();
    let line = |what: String, target: String, met: bool| {
        let verdict = if met { "met" } else { "MISSED" };
        let verdict = if case.protects { format!("   target: {target}: {verdict}") } else { String::new() };
        say(format!("  {what}{verdict}"));
    };
    line(
        format!("answered in time: {goodput:.3} x the capacity"),
        format!("at least {LEAST_GOODPUT}"),
        goodput >= LEAST_GOODPUT,
    );
    line(
        format!("requests to the other service that pass: {passed:.4}"),
        format!("at least {LEAST_VITAL}"),
        passed >= LEAST_VITAL,
    );
    line(
        format!("memory of the proxy grows by {} MiB", grown >> 20),
        format!("at most {} MiB", MOST_MEMORY >> 20),
        grown <= MOST_MEMORY,
    );
    line(
        format!(
            "all is answered again {}",
            recovered.map_or("never".to_owned(), |after| format!("after {after:.2?}"))
        ),
        format!("within {RECOVERED_WITHIN:?}"),
        recovered.is_some_and(|after| after <= RECOVERED_WITHIN),
    );
}

/// How long after the overload the first slice of time begins from which on all requests are answered in time.
async fn recovery(sender: &Sender, rate: f64) -> Option<Duration> {
    let (ended, mut slices) = (Instant::now(), Vec::new());
    for _ in 0..SLICES {
        let (client, uri) = (sender.client.clone(), sender.uri.clone());
        let slice = Arc::new(Sender { client, uri, ..Sender::default() });
        let begun = ended.elapsed();
        let last = send(&slice, rate, SLICE).await;
        slices.push((begun, slice, last));
    }
    let mut well_since = None;
    for (begun, slice, last) in slices {
        last.join_all().await;
        let is_well = slice.tally().share() >= 1.0;
        well_since = if is_well { well_since.or(Some(begun)) } else { None };
    }
    well_since
}

async fn most_resident(pid: i32, seconds: Duration) -> u64 {
    let (begun, mut most) = (Instant::now(), 0);
    while begun.elapsed() < seconds {
        most = most.max(resident(pid));
        sleep(Duration::from_millis(250)).await;
    }
    most
}

/// Sends so many requests a second, and waits for the last ones.
async fn drive(sender: &Arc<Sender>, rate: f64, length: Duration) {
    send(sender, rate, length).await.join_all().await;
}

/// Sends so many requests a second, whatever becomes of them; gives those that are not over.
async fn send(sender: &Arc<Sender>, rate: f64, length: Duration) -> JoinSet<()> {
    let (begun, mut sent) = (Instant::now(), 0_u64);
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut requests = JoinSet::new();
    while begun.elapsed() < length {
        beats.tick().await;
        let due = (begun.elapsed().min(length).as_secs_f64() * rate) as u64;
        for _ in sent..due {
            let sender = Arc::clone(sender);
            requests.spawn(async move { sender.send().await });
        }
        sent = due;
        while requests.try_join_next().is_some() {}
    }
    requests
}

/// Requests for one path, and what became of them.
struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: http::Uri,
    good: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
}

impl Default for Sender {
    fn default() -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let zero = AtomicU64::default;
        let (good, refused, late, failed, micros) = (zero(), zero(), zero(), zero(), zero());
        Self { client, uri: http::Uri::default(), good, refused, late, failed, micros }
    }
}

impl Sender {
    fn new(target: SocketAddr, path: &str) -> Self {
        let uri = format!("http://{target}{path}").parse().expect("an address makes a URI");
        Self { uri, ..Self::default() }
    }

    async fn send(&self) {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = self.uri.clone();
        let begun = Instant::now();
        let exchange = async {
            let answer = self.client.request(request).await.ok()?;
            let status = answer.status();
            answer.into_body().collect().await.ok()?;
            Some(status)
        };
        let counter = match timeout(DEADLINE, exchange).await {
            Ok(Some(StatusCode::OK)) => &self.good,
            Ok(Some(StatusCode::SERVICE_UNAVAILABLE)) => &self.refused,
            Ok(_) => &self.failed,
            Err(_) => &self.late,
        };
        if std::ptr::eq(counter, &raw const self.good) {
            let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.micros.fetch_add(micros, Ordering::Relaxed);
        }
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (good, refused) = (read(&self.good), read(&self.refused));
        let (late, failed) = (read(&self.late), read(&self.failed));
        Tally { good, refused, late, failed, took: Duration::from_micros(read(&self.micros) / good.max(1)) }
    }

    /// What became of the requests so far; the next ones are counted from nothing.
    fn take(&self) -> Tally {
        let tally = self.tally();
        for counter in [&self.good, &self.refused, &self.late, &self.failed, &self.micros] {
            counter.store(0, Ordering::Relaxed);
        }
        tally
    }
}

/// What became of requests.
#[derive(Clone, Copy, Debug)]
struct Tally {
    good: u64,
    refused: u64,
    late: u64,
    failed: u64,
    /// What the good ones took, on average.
    took: Duration,
}

impl Tally {
    /// The part that was answered in time.
    fn share(&self) -> f64 {
        let all = self.good + self.refused + self.late + self.failed;
        self.good as f64 / all.max(1) as f64
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { good, refused, late, failed, took } = self;
        write!(
            formatter,
            "{good} answered in {took:.1?} on average, {refused} refused, {late} in vain, {failed} failed"
        )
    }
}

/// A service that works on so many requests at a time.
async fn serve(workers: usize, work: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let permits = Arc::new(Semaphore::new(workers));
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let permits = Arc::clone(&permits);
            let service = service_fn(move |_: Request<Incoming>| answer(Arc::clone(&permits), work));
            // A connection that ends with an error is the client's affair.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn answer(permits: Arc<Semaphore>, work: Duration) -> Result<Response<Full<Bytes>>, Infallible> {
    // A task of its own, which goes on when the client has gone.
    let worked = tokio::spawn(async move {
        let permit = permits.acquire().await;
        sleep(work).await;
        drop(permit);
    });
    // It ends well or with the runtime.
    let _ = worked.await;
    Ok(Response::new(Full::new(Bytes::from_static(b"ok"))))
}
