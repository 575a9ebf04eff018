//! What health checks cost those that are checked: a fleet of proxies and many endpoints.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::net::TcpListener;
use waypost_proto::{
    time::wire_duration,
    v1::{ActiveHealthCheck, TrafficEntry, active_health_check::Kind},
};
use waypost_proxy::serve::ServeConfig;

use crate::{
    policy::policy,
    support::{Proxy, until},
};

const PROXIES: usize = 20;
const ENDPOINTS: usize = 1_000;
const INTERVAL: Duration = Duration::from_secs(5);

/// Listens, and counts the connections of each.
async fn endpoints() -> (Vec<SocketAddr>, Arc<Vec<AtomicUsize>>) {
    let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..ENDPOINTS).map(|_| AtomicUsize::new(0)).collect());
    let mut addresses = Vec::new();
    for at in 0..ENDPOINTS {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        addresses.push(listener.local_addr().expect("an address"));
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counts[at].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    (addresses, counts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the load is stated, for those who ask for the output")]
async fn a_thousand_endpoints_behind_twenty_proxies_get_one_check_in_an_interval_from_each() {
    let (addresses, counts) = endpoints().await;
    let check = ActiveHealthCheck {
        kind: Some(Kind::Tcp(true)),
        interval: Some(wire_duration(INTERVAL)),
        timeout: Some(wire_duration(INTERVAL)),
        unhealthy_threshold: 3,
        healthy_threshold: 1,
    };
    let entry = TrafficEntry { health_check: Some(check), ..TrafficEntry::default() };
    let began = Instant::now();
    let proxies: Vec<Proxy> = (0..PROXIES)
        .map(|_| {
            let mut proxy = Proxy::new(ServeConfig::default(), &addresses);
            proxy.declare(policy(entry.clone()));
            proxy
        })
        .collect();
    let checks = || counts.iter().map(|count| count.load(Ordering::Relaxed));
    until("as many checks of each endpoint as there are proxies", || checks().all(|count| count >= PROXIES))
        .await;
    // Before the time is read: what is counted has begun by then.
    let most = checks().max().unwrap_or_default();
    let total: usize = checks().sum();
    let passed = began.elapsed();
    // The first anywhere in the first interval, the others nine tenths of an interval apart at least.
    let rounds = 1.0 + passed.as_secs_f64() / (0.9 * INTERVAL.as_secs_f64());
    let bound = PROXIES * rounds.floor() as usize;
    println!(
        "{total} checks of {ENDPOINTS} endpoints by {PROXIES} proxies in {passed:.1?}: {:.0} a second, {most} of one \
         endpoint at most, and {bound} is the bound",
        total as f64 / passed.as_secs_f64()
    );
    assert!(most <= bound, "{most} checks of one endpoint in {passed:?}, and {bound} is the bound");
    drop(proxies);
}
