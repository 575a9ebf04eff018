//! Busy is not dead: an instance whose heartbeats have stopped stays while proxies see it answer, and no longer.

use std::time::Duration;

use waypost_proto::{
    load::Load as Busyness,
    v1::{EventKind, InstanceState},
};
use waypost_tests::{
    api::spec,
    cluster::Cluster,
    load::{Load, Plan},
    service::{INSTANCE_HEADER, RegisteredService, SampleService},
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

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_says_it_is_busy_gets_less_until_it_is_not() {
    let cluster = Cluster::builder().proxies(1).proxy(&["--balancer", "round-robin"]).start().await;
    let client = cluster.client();
    let busy = RegisteredService::start(&client, "shop", "busy").await;
    let calm = RegisteredService::start(&client, "shop", "calm").await;
    cluster.converged().await;
    let share_is = async |percent: u32| {
        eventually("its share changes", SOON, async || {
            let instances = cluster.api().instances("shop").await.map_err(|status| status.to_string())?;
            let found = instances.iter().find(|one| one.share_percent != 100);
            let share = found.map_or(100, |one| one.share_percent);
            holds(share == percent, || format!("{instances:?}"))
        })
        .await;
        cluster.converged().await;
    };
    let gets = async || {
        let mut count = 0;
        for _ in 0..220 {
            let answer = cluster.proxies[0].get("/shop/").await;
            count += usize::from(answer.headers[INSTANCE_HEADER] == busy.service.instance.as_str());
        }
        count
    };

    let at = |cpu: f64| Some(Busyness { cpu: Some(cpu), ..Busyness::default() });
    busy.registered.set_load(at(1.5)).expect("a good load");
    share_is(10).await;
    let count = gets().await;
    assert!((1..=60).contains(&count), "{count} of 220, and 20 are its share");
    busy.registered.set_load(at(0.2)).expect("a good load");
    share_is(100).await;
    assert_eq!(gets().await, 110, "one after the other");
    let events = cluster.api().events("shop").await.expect("events");
    let shares = events.iter().filter(|event| event.kind() == EventKind::Share);
    let reasons: Vec<&str> = shares.map(|event| &*event.reason).collect();
    assert_eq!(
        reasons,
        ["it gets 10 % of its share: it says it is busy: processors at 150 %", "it gets all of its share"]
    );
    drop(calm);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_beats_and_fails_gets_little_until_it_answers() {
    let cluster = Cluster::builder().proxies(2).start().await;
    let client = cluster.client();
    let fails = RegisteredService::start(&client, "shop", "fails").await;
    let answers = RegisteredService::start(&client, "shop", "answers").await;
    cluster.converged().await;
    fails.service.set_failing(true);
    let plans = cluster.proxies.iter().map(|proxy| Plan::new(proxy.traffic, "/shop/").per_second(100));
    let loads: Vec<Load> = plans.map(|plan| Load::http1(&plan)).collect();
    let instance = async || {
        let instances = cluster.api().instances("shop").await.map_err(|status| status.to_string())?;
        let found = instances.into_iter().find(|one| one.key.as_ref().is_some_and(|key| key.id == "fails"));
        found.ok_or_else(|| "it is gone".to_owned())
    };
    eventually("it gets little", SOON, async || {
        let one = instance().await?;
        holds(one.share_percent == 10, || format!("{one:?}"))
    })
    .await;
    let reason = instance().await.expect("it is there").reason;
    assert!(reason.contains("it beats, but") && reason.contains("none an answer"), "{reason}");
    fails.service.set_failing(false);
    eventually("it gets all of its share again", SOON, async || {
        let one = instance().await?;
        holds(one.share_percent == 100, || format!("{one:?}"))
    })
    .await;
    for load in loads {
        load.stop().await;
    }
    let events = cluster.api().events("shop").await.expect("events");
    let of_share = events.iter().filter(|event| event.kind() == EventKind::Share);
    let of_share: Vec<(&str, &str)> =
        of_share.map(|event| (event.instance.as_ref().map_or("", |key| &key.id), &*event.reason)).collect();
    let [(demoted, why), (restored, well)] = of_share[..] else { panic!("two changes: {of_share:?}") };
    let answers_again = "proxies see it answer again: it gets all of its share";
    assert_eq!((demoted, restored, well), ("fails", "fails", answers_again));
    assert!(why.starts_with("it gets 10 % of its share: it beats, but "), "{why}");
    assert!(why.contains("none an answer"), "{why}");
    drop((fails, answers));
}
