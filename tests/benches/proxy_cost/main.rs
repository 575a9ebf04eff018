//! What a proxied request costs: processor time of Waypost's proxy, nginx, HAProxy and Envoy, in one run.
//!
//! Six workloads, with 1,000 services in Waypost's table. Each proxy has one thread, bound to one core; client and
//! upstream share another one. The proxies take turns, round by round, so that what the machine does meanwhile hits
//! all of them; the medians are compared. `WAYPOST_BENCH_WORKLOADS=http1,tls` chooses among the workloads, and
//! `WAYPOST_BENCH_BEFORE=FILE` has another version of the proxy take turns with this one. What is to be told apart by a few
//! percent takes more rounds (`WAYPOST_BENCH_ROUNDS=40`), and is compared round by round.

mod clients;
mod peers;
mod upstream;
mod waypost;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use waypost_tests::measure::{cpu_time, find, median, pin, print_ratios, say};

use self::{
    clients::Clients,
    peers::{Peer, Site},
    upstream::Upstream,
};

const ROUND: Duration = Duration::from_secs(4);
const SERVICES: u32 = 1_000;
const TARGET: f64 = 1.2;
/// What a policy may cost, and what another version may not have cost less by.
const REGRESSION: f64 = 1.05;
const PROXY_CORE: usize = 0;
const OTHER_CORE: usize = 1;

/// What is asked for, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Workload {
    /// HTTP/1.1 with keep-alive, 1 KB.
    Http1,
    /// The same from an upstream that writes head and body apart, as nginx does with sendfile(2).
    Apart,
    /// HTTP/2 over cleartext from the client, HTTP/1.1 to the upstream, 1 KB.
    H2c,
    /// HTTP/1.1 over TLS from the client, cleartext to the upstream, 1 KB; at Waypost by a declared route.
    Tls,
    /// Unary gRPC, 64 bytes each way.
    Grpc,
    /// HTTP/1.1 with keep-alive, 256 KB.
    Large,
}

impl Workload {
    const ALL: [Self; 6] = [Self::Http1, Self::Apart, Self::H2c, Self::Tls, Self::Grpc, Self::Large];

    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Apart => "apart",
            Self::H2c => "h2c",
            Self::Tls => "tls",
            Self::Grpc => "grpc",
            Self::Large => "large",
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1 keep-alive, 1 KB",
            Self::Apart => "HTTP/1.1 keep-alive, 1 KB, head and body written apart",
            Self::H2c => "HTTP/2 cleartext to HTTP/1.1, 1 KB",
            Self::Tls => "HTTP/1.1 over TLS to cleartext, 1 KB, a declared route",
            Self::Grpc => "unary gRPC, 64 bytes",
            Self::Large => "HTTP/1.1 keep-alive, 256 KB",
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let workloads = match chosen() {
        Ok(workloads) => workloads,
        Err(unknown) => {
            let known = Workload::ALL.map(Workload::name).join(", ");
            return say(format!("proxy cost: {unknown:?} is no workload; there are {known}"));
        }
    };
    let Some(clients) = Clients::find(OTHER_CORE) else {
        return say("proxy cost: skipped: wrk (the client) is not installed; run tests/setup.sh --bench");
    };
    let Some(nginx) = find("nginx") else {
        return say("proxy cost: skipped: nginx (the upstream) is not installed; run tests/setup.sh --bench");
    };
    let site = Site::new();
    let upstream = Upstream::start(&nginx, &site).await;
    upstream.pids().for_each(|pid| pin(pid, OTHER_CORE));
    let waypost = waypost::Waypost::start(&site, &upstream).await;
    pin(waypost.control_plane(), OTHER_CORE);
    let before = match std::env::var("WAYPOST_BENCH_BEFORE") {
        Ok(file) => Some(waypost::Waypost::start_before(Path::new(&file), &site, &upstream).await),
        Err(_) => None,
    };
    before.iter().for_each(|before| pin(before.control_plane(), OTHER_CORE));
    let servers = peers::start(&nginx, &site, &upstream).await;
    let mut all = waypost.peers();
    all.extend(before.iter().flat_map(waypost::Waypost::peers));
    all.extend(servers.iter().map(peers::Server::peer));
    // nginx works in a child.
    all.iter().flat_map(|peer| with_children(peer.pid)).for_each(|pid| pin(pid, PROXY_CORE));
    let rounds = match std::env::var("WAYPOST_BENCH_ROUNDS").map(|text| text.parse()) {
        Err(_) => 5,
        Ok(Ok(rounds @ 1..)) => rounds,
        Ok(_) => return say("proxy cost: WAYPOST_BENCH_ROUNDS is no number of rounds from 1"),
    };
    for workload in workloads {
        if clients.can(workload) {
            run(&clients, workload, &all, rounds);
        } else {
            say(format!("{}: skipped: h2load is not installed; run tests/setup.sh --bench", workload.name()));
        }
    }
}

/// The workloads that are asked for; `Err`: one that is not known.
fn chosen() -> Result<Vec<Workload>, String> {
    let Ok(names) = std::env::var("WAYPOST_BENCH_WORKLOADS") else { return Ok(Workload::ALL.to_vec()) };
    let find = |name: &str| Workload::ALL.into_iter().find(|workload| workload.name() == name);
    names.split(',').map(|name| find(name.trim()).ok_or_else(|| name.to_owned())).collect()
}

fn run(clients: &Clients, workload: Workload, peers: &[Peer], rounds: usize) {
    let peers: Vec<(&Peer, String)> =
        peers.iter().filter_map(|peer| Some((peer, peer.url(workload)?))).collect();
    let mut costs = BTreeMap::<&'static str, Vec<f64>>::new();
    let mut rates = BTreeMap::<&'static str, Vec<f64>>::new();
    for (peer, url) in &peers {
        // To warm up: connections, caches, the branch predictor.
        measure(clients, workload, peer, url, Duration::from_secs(1));
    }
    for _ in 0..rounds {
        for (peer, url) in &peers {
            let (cost, rate) = measure(clients, workload, peer, url, ROUND);
            costs.entry(peer.name).or_default().push(cost);
            rates.entry(peer.name).or_default().push(rate);
        }
    }
    let medians = |all: &BTreeMap<&'static str, Vec<f64>>| -> BTreeMap<&'static str, f64> {
        all.iter().map(|(name, values)| (*name, median(values))).collect()
    };
    let told = workload.told();
    say(format!(
        "processor time per proxied request: {told}, {SERVICES} services, medians of {rounds} rounds"
    ));
    // Round by round: what slows the machine down for a while slows both.
    let compared = |one: &str, other: &str| {
        let pairs = costs.get(one)?.iter().zip(costs.get(other)?);
        Some(median(&pairs.map(|(one, other)| one / other).collect::<Vec<f64>>()))
    };
    for (name, ratio) in [
        (peers::POLICIES, compared(peers::POLICIES, peers::WAYPOST)),
        (peers::BEFORE, compared(peers::WAYPOST, peers::BEFORE)),
    ] {
        let Some(ratio) = ratio else { continue };
        let outcome = if ratio <= REGRESSION { "met" } else { "MISSED" };
        say(format!("  target: {name}: no more than {REGRESSION} x: {outcome} ({ratio:.3})"));
    }
    let costs = medians(&costs);
    let others = costs.iter().filter(|(name, _)| !name.starts_with(peers::WAYPOST));
    let Some((best, least)) = others.min_by(|one, other| one.1.total_cmp(other.1)) else {
        return print_ratios("µs", &costs, peers::WAYPOST);
    };
    print_ratios("µs", &costs, best);
    say("requests a second with one thread");
    print_ratios("/s", &medians(&rates), best);
    let ratio = costs[peers::WAYPOST] / least;
    let outcome = if ratio <= TARGET { "met" } else { "MISSED" };
    say(format!("  target: cost <= {TARGET} x {best}, the best peer: {outcome} ({ratio:.2})"));
}

/// Microseconds of processor time per request, and requests a second.
fn measure(clients: &Clients, workload: Workload, peer: &Peer, url: &str, period: Duration) -> (f64, f64) {
    let pids = with_children(peer.pid);
    let used = || pids.iter().map(|pid| cpu_time(*pid)).sum::<Duration>();
    let before = used();
    let sent = clients.send(workload, url, period);
    let took = used() - before;
    assert!(
        sent.requests > 0 && sent.failures == 0,
        "{}: {} failures: {}",
        peer.name,
        sent.failures,
        sent.text
    );
    let requests = sent.requests as f64;
    (took.as_secs_f64() * 1e6 / requests, requests / period.as_secs_f64())
}

/// A process and its children: nginx works in those.
fn with_children(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    [pid].into_iter().chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
}
