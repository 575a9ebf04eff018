//! A delta that is lost, repeated, swapped or false is noticed by the proxy and healed.

use std::{net::SocketAddr, time::Duration};

use waypost_proto::v1;
use waypost_tests::{
    api::spec,
    cluster::Cluster,
    load::{Load, Plan},
    middleman::{Fault, Middleman},
    relay::Relay,
    service::RegisteredService,
    wait::{eventually, holds},
};

const LEASE: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(20);

/// A cluster with a service and one proxy, which reaches the control plane `through` something.
async fn cluster_through(address: SocketAddr, mut cluster: Cluster) -> (Cluster, RegisteredService) {
    cluster.add_proxy(address, &[]).await;
    cluster.proxies[0].ready().await;
    let shop = RegisteredService::start(&cluster.client(), "shop", "shop-1").await;
    cluster.converged().await;
    (cluster, shop)
}

/// Makes changes that no control plane merges, because each is seen to be sent before the next is made.
async fn make_changes(cluster: &Cluster, label: &str, count: u16) {
    for number in 0..count {
        let change = spec(&format!("other-{label}-{number}"), &format!("127.0.0.1:{}", 1 + number));
        let revision = cluster.api().register(&change, LEASE).await.expect("a lease").revision;
        eventually("the change is sent", SOON, async || {
            let sent = cluster.view(0).await?.sent_revision;
            holds(sent >= revision, || format!("{sent} of {revision}"))
        })
        .await;
    }
}

/// Injects a fault under load, makes the changes that it hits, and gives the proxy before and after.
async fn inject(fault: Fault) -> (v1::Proxy, v1::Proxy) {
    let cluster = Cluster::builder().proxies(0).start().await;
    let middleman = Middleman::start(cluster.control_plane.grpc).await;
    let (cluster, _shop) = cluster_through(middleman.address(), cluster).await;
    let load = Load::http1(&Plan::new(cluster.traffic(), "/shop/").per_second(100));
    let before = cluster.view(0).await.expect("the proxy is known");

    load.has_sent(20).await;
    middleman.order(fault);
    make_changes(&cluster, "fault", 3).await;
    assert_eq!(middleman.pending(), 0, "the fault hit a delta");
    cluster.converged().await;

    let after = cluster.view(0).await.expect("the proxy is known");
    make_changes(&cluster, "later", 2).await;
    cluster.converged().await;
    load.has_sent(50).await;
    load.stop().await.assert_lossless("load during the fault", 50);
    (before, after)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_delta_is_noticed_and_healed() {
    let (before, after) = inject(Fault::Lose).await;
    assert!(after.full_snapshots > before.full_snapshots, "{before:?} and then {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_deltas_are_noticed_and_healed() {
    let (before, after) = inject(Fault::Swap).await;
    assert!(after.full_snapshots > before.full_snapshots, "{before:?} and then {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_delta_changes_nothing() {
    inject(Fault::Repeat).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_delta_is_noticed_by_its_digest_and_counted() {
    let (before, after) = inject(Fault::Empty).await;
    assert!(after.full_snapshots > before.full_snapshots, "{before:?} and then {after:?}");
    assert!(after.resyncs > before.resyncs, "{before:?} and then {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_a_proxy_resumes_from_its_revision() {
    let cluster = Cluster::builder().proxies(0).start().await;
    let relay = Relay::start(cluster.control_plane.grpc).await;
    let (cluster, _shop) = cluster_through(relay.address(), cluster).await;
    let before = cluster.view(0).await.expect("the proxy is known");
    let load = Load::http1(&Plan::new(cluster.traffic(), "/shop/").per_second(100));

    load.has_sent(20).await;
    relay.cut();
    eventually("the control plane notices", SOON, async || {
        let view = cluster.view(0).await?;
        holds(!view.connected, || format!("{view:?}"))
    })
    .await;
    for number in 0..20 {
        let change = spec(&format!("other-{number}"), "127.0.0.1:1");
        cluster.api().register(&change, LEASE).await.expect("a lease");
    }
    relay.heal();
    cluster.converged().await;

    let after = cluster.view(0).await.expect("the proxy is known");
    assert_eq!(after.full_snapshots, before.full_snapshots, "the difference was enough: {after:?}");
    load.has_sent(50).await;
    load.stop().await.assert_lossless("load during the cut", 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_went_silent_is_given_up_and_opened_anew() {
    let cluster = Cluster::builder().proxies(0).start().await;
    let relay = Relay::start(cluster.control_plane.grpc).await;
    let (cluster, _shop) = cluster_through(relay.address(), cluster).await;

    // Packets are lost from now on, and nobody is told. The control plane must not wait for this proxy for
    // ever: a drain would.
    relay.freeze();
    eventually("the control plane gives the silent proxy up", Duration::from_secs(60), async || {
        let view = cluster.view(0).await?;
        holds(!view.connected, || format!("{view:?}"))
    })
    .await;
    relay.heal();
    make_changes_after(&cluster).await;
}

async fn make_changes_after(cluster: &Cluster) {
    cluster.api().register(&spec("later", "127.0.0.1:1"), LEASE).await.expect("a lease");
    cluster.converged().await;
}
