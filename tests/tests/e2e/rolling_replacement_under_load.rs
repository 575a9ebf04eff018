//! Every instance of a service is replaced, twenty times, and no client notices.

use std::time::Duration;

use waypost_tests::{
    cluster::Cluster,
    load::{Load, Plan},
    service::RegisteredService,
};

const ROUNDS: u32 = 20;
const INSTANCES: usize = 3;
const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn replacing_every_instance_loses_no_request_and_cuts_no_websocket() {
    let cluster = Cluster::builder().proxies(2).start().await;
    let client = cluster.client();
    let mut instances = Vec::new();
    for number in 0..INSTANCES {
        instances.push(RegisteredService::start(&client, "shop", &format!("round-0-{number}")).await);
    }
    cluster.converged().await;

    let (first, second) = (cluster.proxies[0].traffic, cluster.proxies[1].traffic);
    let loads = [
        ("HTTP/1.1", Load::http1(&Plan::new(first, "/shop/").per_second(150))),
        ("HTTP/2", Load::http2(&Plan::new(second, "/shop/").per_second(150))),
        // Slow requests are always in flight when an instance starts to drain, and it stops when it has.
        ("slow requests", Load::http1(&Plan::new(second, "/shop/slow?ms=100").per_second(30))),
        ("WebSocket", Load::websocket(&Plan::new(first, "/shop/ws").per_second(100))),
    ];
    let rounds = ROUNDS * super::soaked(Duration::from_secs(1)).as_secs().try_into().unwrap_or(1);
    for round in 1..=rounds {
        for (number, instance) in instances.iter_mut().enumerate() {
            let name = format!("round-{round}-{number}");
            let next = RegisteredService::start(&client, "shop", &name).await;
            let outcome = std::mem::replace(instance, next).retire(DEADLINE).await;
            assert!(outcome.is_complete(), "{name} could take over: {outcome:?}");
        }
    }
    for (what, load) in loads {
        let report = load.stop().await;
        report.assert_lossless(what, u64::from(rounds));
        // Each round lives long enough to be seen by somebody, and the last one is seen by all.
        assert!(report.by_instance.len() > INSTANCES, "{what}: answered by {:?}", report.by_instance);
    }
    let left = cluster.api().instances("shop").await.expect("instances");
    assert_eq!(left.len(), INSTANCES, "the replaced ones are gone");
}
