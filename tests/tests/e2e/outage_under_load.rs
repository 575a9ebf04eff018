//! The control plane goes away, for good or for a while; requests do not notice.

use std::time::Duration;

use tokio::time::sleep;
use waypost_tests::{
    api::spec,
    cluster::Cluster,
    load::{Load, Plan},
    service::RegisteredService,
    wait::{eventually, holds},
};

const OUTAGE: Duration = Duration::from_secs(60);
/// Longer than every lease.
const STANDSTILL: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(30);

async fn shops(cluster: &Cluster) -> Vec<RegisteredService> {
    let client = cluster.client();
    let mut shops = Vec::new();
    for number in 0..3 {
        shops.push(RegisteredService::start(&client, "shop", &format!("shop-{number}")).await);
    }
    cluster.converged().await;
    shops
}

/// Waits until the registry holds the service as it was, and all proxies have that.
async fn healed(cluster: &Cluster, instances: usize) {
    eventually("the instances are registered and up", SOON, async || {
        let held = cluster.api().instances("shop").await.map_err(|status| status.to_string())?;
        let up = held.iter().filter(|instance| instance.state() == waypost_proto::v1::InstanceState::Up);
        let up = up.count();
        holds(up == instances, || format!("{up} of {instances}: {held:?}"))
    })
    .await;
    eventually("the registry is settled", SOON, async || {
        let status = cluster.api().status().await.map_err(|status| status.to_string())?;
        holds(status.settled, || format!("{status:?}"))
    })
    .await;
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_without_a_control_plane_costs_nothing_even_if_a_proxy_restarts_meanwhile() {
    let mut cluster = Cluster::builder().proxies(2).with_state().start().await;
    let shops = shops(&cluster).await;
    let plan = |index: usize| Plan::new(cluster.proxies[index].traffic, "/shop/").per_second(150);
    let (plan_0, plan_1) = (plan(0), plan(1));
    let (load, socket) = (Load::http1(&plan_0), Plan::new(plan_0.target, "/shop/ws").per_second(20));
    let sockets = Load::websocket(&socket);
    let before_the_restart = Load::http1(&plan_1);

    cluster.control_plane.process.kill9().await;
    sleep(super::soaked(OUTAGE) / 2).await;

    // Clients are taken off a proxy before it is stopped, and brought back when it is ready.
    before_the_restart.stop().await.assert_lossless("load on the proxy that restarts", 1000);
    let status = cluster.proxies[1].process.stop().await;
    assert!(status.success(), "the proxy ends well: {status}");
    cluster.proxies[1].start_again().await;
    cluster.proxies[1].ready().await;
    let after_the_restart = Load::http1(&plan_1);

    sleep(super::soaked(OUTAGE) / 2).await;
    cluster.control_plane.start_again().await;
    healed(&cluster, shops.len()).await;

    after_the_restart.stop().await.assert_lossless("load on the proxy that restarted", 1000);
    load.stop().await.assert_lossless("load on the other proxy", 2000);
    let sockets = sockets.stop().await;
    sockets.assert_lossless("WebSockets", 200);
    assert_eq!(sockets.reconnects, 0, "no socket was closed: {sockets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_stood_still_expires_nobody_and_sends_nothing_twice() {
    let cluster = Cluster::builder().proxies(2).start().await;
    let shops = shops(&cluster).await;
    let loads: Vec<Load> = cluster
        .proxies
        .iter()
        .map(|proxy| Load::http1(&Plan::new(proxy.traffic, "/shop/").per_second(100)))
        .collect();
    let mut before = Vec::new();
    for index in 0..cluster.proxies.len() {
        before.push(cluster.view(index).await.expect("the proxy is known").full_snapshots);
    }

    cluster.control_plane.process.freeze();
    sleep(super::soaked(STANDSTILL)).await;
    cluster.control_plane.process.thaw();
    cluster.api().register(&spec("later", "127.0.0.1:1"), SOON).await.expect("a lease");
    healed(&cluster, shops.len()).await;

    for load in loads {
        load.stop().await.assert_lossless("load during the standstill", 300);
    }
    for (index, before) in before.into_iter().enumerate() {
        let proxy = cluster.view(index).await.expect("the proxy is known");
        assert_eq!(proxy.full_snapshots, before, "the revision was still known: {proxy:?}");
    }
    let events = cluster.api().events("shop").await.expect("events");
    let gone = events.iter().filter(|event| event.kind() == waypost_proto::v1::EventKind::Expired);
    assert_eq!(gone.count(), 0, "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_starts_from_its_state_directory_alone() {
    let mut cluster = Cluster::builder().with_state().start().await;
    let shops = shops(&cluster).await;
    eventually("the proxy has stored what it serves by", SOON, async || {
        let stored = cluster.state(0);
        let last = shops.last().map(|shop| shop.service.instance.clone()).unwrap_or_default();
        holds(stored.contains(&last), || format!("{last} is not in {} bytes", stored.len()))
    })
    .await;
    cluster.control_plane.process.kill9().await;

    // Killed rather than stopped: what it stored must be whole at any time.
    cluster.proxies[0].process.kill9().await;
    cluster.proxies[0].start_again().await;
    cluster.proxies[0].ready().await;
    let load = Load::http1(&Plan::new(cluster.traffic(), "/shop/"));
    load.has_sent(100).await;
    let report = load.stop().await;
    report.assert_lossless("load without a control plane", 100);
    assert_eq!(report.by_instance.len(), shops.len(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_table_and_control_plane_is_not_ready_and_says_why() {
    let mut cluster = Cluster::builder().start().await;
    cluster.control_plane.process.kill9().await;
    cluster.proxies[0].process.kill9().await;
    cluster.proxies[0].start_again().await;

    let answer = cluster.proxies[0].get("/shop/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-waypost-reason")), (503, "no_table"));
    let ready = waypost_tests::http::get(cluster.proxies[0].admin, "/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    let alive = waypost_tests::http::get(cluster.proxies[0].admin, "/healthz").await;
    assert_eq!(alive.status, 200, "{}", alive.text());
}
