//! An instance is killed under load: clients see nothing, and it is gone from every table soon.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::net::TcpListener;
use waypost_tests::{
    api::spec,
    cluster::{Cluster, strings},
    load::{Load, Plan},
    process::Process,
    program::Program,
    service::RegisteredService,
    wait::{eventually, holds},
};

const LEASE: Duration = Duration::from_secs(5);
/// How much later a busy machine may come to it.
const LATE: Duration = Duration::from_secs(6);
const SOON: Duration = Duration::from_secs(20);

async fn process(cluster: &Cluster, instance: &str) -> Process {
    let control_plane = cluster.control_plane.grpc.to_string();
    let ttl = LEASE.as_secs().to_string();
    let arguments =
        ["--service", "shop", "--instance", instance, "--ttl", &ttl, "--control-plane", &control_plane];
    Process::start(Program::SampleService, &strings(&arguments)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_costs_no_get_and_leaves_every_table_with_its_lease() {
    let cluster = Cluster::builder().proxies(2).start().await;
    let mut shops = Vec::new();
    for number in 0..4 {
        shops.push(process(&cluster, &format!("shop-{number}")).await);
    }
    eventually("all are registered", SOON, async || {
        let held = cluster.api().instances("shop").await.map_err(|status| status.to_string())?.len();
        holds(held == shops.len(), || format!("{held}"))
    })
    .await;
    cluster.converged().await;
    let plans = cluster.proxies.iter().map(|proxy| Plan::new(proxy.traffic, "/shop/"));
    let loads: Vec<Load> = plans.flat_map(|plan| [Load::http1(&plan), Load::http2(&plan)]).collect();
    eventually("every instance is in use", SOON, async || {
        let reports = loads.iter().map(Load::so_far);
        let fewest = reports.map(|report| report.by_instance.len()).min().unwrap_or(0);
        holds(fewest == shops.len(), || format!("{fewest} instances have answered"))
    })
    .await;

    shops[0].kill9().await;
    let killed = Instant::now();
    eventually("it is out of every table", LEASE + LATE, async || {
        for proxy in &cluster.proxies {
            let table = waypost_tests::http::get(proxy.admin, "/table").await;
            assert!(table.status.is_success(), "{} {}", table.status, table.text());
            holds(!table.text().contains("shop-0"), || {
                format!("after {:?}: {}", killed.elapsed(), table.text())
            })?;
        }
        Ok::<_, String>(())
    })
    .await;
    for load in loads {
        load.has_sent(100).await;
        load.stop().await.assert_lossless("GETs while an instance dies", 100);
    }
    let events = cluster.api().events("shop").await.expect("events");
    assert!(
        events.iter().any(|event| event.kind() == waypost_proto::v1::EventKind::Expired),
        "the history says why: {events:?}"
    );
}

/// Takes connections and closes them at once; gives its address and how many came.
async fn slammer() -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let came = Arc::<AtomicU64>::default();
    let counter = Arc::clone(&came);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            // Closed with a reset, as the kernel does for a process that was killed.
            let _ = stream.set_zero_linger();
        }
    });
    (address, came)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_takes_no_connection_is_passed_over_at_once() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.client();
    let _one = RegisteredService::start(&client, "shop", "one").await;
    let _two = RegisteredService::start(&client, "shop", "two").await;
    let (address, came) = slammer().await;
    let lease = Duration::from_secs(600);
    cluster.api().register(&spec("shop", &address), lease).await.expect("a lease");
    cluster.converged().await;

    let load = Load::http1(&Plan::new(cluster.traffic(), "/shop/").per_second(300));
    load.has_sent(300).await;
    let report = load.stop().await;
    report.assert_lossless("GETs beside a dead instance", 300);
    let came = came.load(Ordering::Relaxed);
    assert!(came > 0, "the dead instance was tried");
    assert!(came * 10 < report.sent, "it was tried {came} times for {} requests", report.sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_instance_is_tried_even_if_it_failed() {
    let cluster = Cluster::builder().start().await;
    let lease = Duration::from_secs(600);
    let service = waypost_tests::service::SampleService::start("phoenix").await;
    let address = service.address;
    cluster.api().register(&spec("shop", &address), lease).await.expect("a lease");
    cluster.converged().await;
    drop(service);
    eventually("it cannot be connected to", SOON, async || {
        let answer = cluster.proxies[0].get("/shop/").await;
        holds(answer.header("x-waypost-reason") == "upstream_connect", || answer.text())
    })
    .await;

    let again = waypost_tests::service::SampleService::listen("phoenix", &address.to_string()).await;
    let _again = again.expect("its port is free again");
    eventually("it answers again", SOON, async || {
        let answer = cluster.proxies[0].get("/shop/").await;
        holds(answer.status == 200, || answer.text())
    })
    .await;
}
