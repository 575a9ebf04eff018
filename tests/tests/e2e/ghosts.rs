//! What is late changes nothing: beats and deregistrations of an epoch that another one has replaced.

use std::time::Duration;

use tonic::Code;
use waypost_proto::v1::{BeatOutcome, EventKind};
use waypost_tests::{
    api::spec,
    cluster::Cluster,
    wait::{eventually, holds},
};

const LONG: Duration = Duration::from_secs(600);

/// The registry as far as a ghost could have touched it.
async fn contents(cluster: &Cluster) -> (u64, Vec<(u64, i32, i64)>) {
    let status = cluster.api().status().await.expect("a status");
    let instances = cluster.api().instances("users").await.expect("instances");
    let state = instances.iter().map(|instance| {
        let renewed = instance.renewed_at.as_ref().map_or(0, |time| time.seconds);
        (instance.epoch, instance.state, renewed)
    });
    (status.revision, state.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_from_before_a_registration_changes_nothing() {
    let cluster = Cluster::builder().proxies(0).start().await;
    let users = spec("users", "127.0.0.1:9001");
    let first = cluster.api().register(&users, LONG).await.expect("a lease");
    let second = cluster.api().register(&users, LONG).await.expect("a lease");
    assert!(second.epoch > first.epoch, "{} and then {}", first.epoch, second.epoch);
    let key = second.key.expect("a key");

    let before = contents(&cluster).await;
    assert_eq!(cluster.api().beat(&key, first.epoch).await.expect("a result"), BeatOutcome::Stale);
    assert_eq!(contents(&cluster).await, before);
    assert_eq!(cluster.api().beat(&key, second.epoch).await.expect("a result"), BeatOutcome::Renewed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deregistration_of_an_old_epoch_changes_nothing() {
    let cluster = Cluster::builder().proxies(0).start().await;
    let users = spec("users", "127.0.0.1:9001");
    let first = cluster.api().register(&users, LONG).await.expect("a lease");
    let second = cluster.api().register(&users, LONG).await.expect("a lease");
    let key = second.key.expect("a key");

    let before = contents(&cluster).await;
    for drain in [None, Some(Duration::from_secs(1))] {
        let refused = cluster.api().deregister(&key, first.epoch, drain).await.expect_err("an old epoch");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains(&second.epoch.to_string()), "it names the newer epoch: {refused}");
        assert_eq!(contents(&cluster).await, before);
    }
    cluster.api().deregister(&key, second.epoch, None).await.expect("its own epoch");
    assert!(cluster.api().instances("users").await.expect("instances").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_after_the_end_revives_nobody() {
    let cluster = Cluster::builder().proxies(0).start().await;
    let lease = cluster.api().register(&spec("users", "127.0.0.1:9001"), LONG).await.expect("a lease");
    let key = lease.key.expect("a key");
    cluster.api().deregister(&key, lease.epoch, None).await.expect("its own epoch");

    let before = contents(&cluster).await;
    assert_eq!(cluster.api().beat(&key, lease.epoch).await.expect("a result"), BeatOutcome::Unknown);
    assert_eq!(contents(&cluster).await, before);
    let kinds: Vec<EventKind> =
        cluster.api().events("users").await.expect("events").iter().map(|event| event.kind()).collect();
    assert_eq!(kinds, [EventKind::Registered, EventKind::Deregistered]);
}

#[tokio::test(flavor = "multi_thread")]
async fn beats_of_an_old_epoch_do_not_keep_a_lease_alive() {
    let cluster = Cluster::builder().proxies(0).start().await;
    let ttl = Duration::from_secs(1);
    // Others of the service live on, so that one that expires is no mass expiry.
    for port in 9002..9006 {
        let other = spec("users", &format!("127.0.0.1:{port}"));
        cluster.api().register(&other, LONG).await.expect("a lease");
    }
    let users = spec("users", "127.0.0.1:9001");
    let first = cluster.api().register(&users, ttl).await.expect("a lease");
    let second = cluster.api().register(&users, ttl).await.expect("a lease");
    let key = second.key.expect("a key");

    eventually("the lease runs out", Duration::from_secs(20), async || {
        let outcome = cluster.api().beat(&key, first.epoch).await.map_err(|status| status.to_string())?;
        holds(outcome == BeatOutcome::Unknown, || format!("{outcome:?}"))
    })
    .await;
    let events = cluster.api().events("users").await.expect("events");
    let last = events.last().expect("an event");
    assert_eq!((last.kind(), last.epoch), (EventKind::Expired, second.epoch));
}
