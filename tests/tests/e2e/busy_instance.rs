//! Busy is not dead: an instance whose heartbeats have stopped stays while proxies see it answer, and no longer.

use std::time::Duration;

use waypost_proto::v1::{EventKind, InstanceState};
use waypost_tests::{
    api::spec,
    cluster::Cluster,
    load::{Load, Plan},
    service::SampleService,
    wait::{eventually, holds},
};

/// Never renewed.
const LEASE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_only_fails_to_beat_is_kept_while_it_answers() {
    let cluster = Cluster::builder().proxies(2).start().await;
    let shop = SampleService::start("shop-1").await;
    cluster.api().register(&spec("shop", &shop.address), LEASE).await.expect("a lease");
    cluster.converged().await;
    let plans = cluster.proxies.iter().map(|proxy| Plan::new(proxy.traffic, "/shop/").per_second(50));
    let loads: Vec<Load> = plans.map(|plan| Load::http1(&plan)).collect();
    let instances = async || cluster.api().instances("shop").await.map_err(|status| status.to_string());

    eventually("its lease lapses and it is kept", SOON, async || {
        let instances = instances().await?;
        let kept = instances.first().is_some_and(|one| one.state() == InstanceState::Suspect);
        holds(kept, || format!("{instances:?}"))
    })
    .await;
    let kept = instances().await.expect("a list").remove(0);
    assert!(kept.reason.contains("saw it answer"), "{}", kept.reason);
    let sightings = kept.sightings.expect("the proxies say what they see");
    assert_eq!((sightings.connected, sightings.passed_over.len()), (2, 0), "{sightings:?}");
    assert!(sightings.succeeded > 0, "{sightings:?}");

    for load in &loads {
        let sent = load.so_far().sent;
        load.has_sent(sent + 50).await;
    }
    for load in loads {
        load.stop().await.assert_lossless("GETs to an instance that does not beat", 100);
    }
    drop(shop);
    let still = Load::http1(&Plan::new(cluster.traffic(), "/shop/").per_second(20));
    eventually("it answers no more and is gone", SOON, async || {
        let instances = instances().await?;
        holds(instances.is_empty(), || format!("{instances:?}"))
    })
    .await;
    still.stop().await;
    let events = cluster.api().events("shop").await.expect("events");
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind()).collect();
    assert_eq!(kinds, [EventKind::Registered, EventKind::Suspect, EventKind::Expired]);
    assert!(events[2].reason.contains("no proxy has seen an answer for"), "{}", events[2].reason);
}
