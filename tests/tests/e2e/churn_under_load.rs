//! Registry changes under load, a hundred a second where the machine keeps up: no request fails, and all proxies end up
//! equal.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use waypost_tests::{
    api::{Api, spec},
    cluster::Cluster,
    load::{Load, Plan},
    service::{RegisteredService, SampleService},
};

const PERIOD: Duration = Duration::from_secs(30);
const CHANGES_A_SECOND: u64 = 100;
const LEASE: Duration = Duration::from_secs(3600);

/// Makes the `number`th change; every one of them is one that proxies must learn of.
async fn change(api: &Api, number: u64, spare: &SampleService) {
    let registered = match number % 10 {
        // Every tenth hits the service that is under load: an instance comes, weighs more, and goes.
        0 => {
            let mut shop = spec("shop", &spare.address);
            shop.weight = Some(1 + u32::try_from(number / 10 % 3).expect("small"));
            if number / 10 % 3 == 2 {
                let key = waypost_proto::v1::InstanceKey {
                    service: "shop".into(),
                    id: spare.address.to_string(),
                    ..Default::default()
                };
                api.deregister(&key, 0, None).await.map(|_| ())
            } else {
                api.register(&shop, LEASE).await.map(|_| ())
            }
        }
        // The others make up services that nobody asks for, 40 with 5 instances each, ever new ones.
        rest => {
            let mut other = spec(&format!("other-{}", number % 40), &format!("127.0.0.1:{}", 1 + rest));
            other.id = format!("instance-{}", number / 40 % 5);
            other.version = format!("1.0.{number}");
            other.endpoints = vec![format!("GET /other-{}/{{id}}/v{number}", number % 40)];
            api.register(&other, LEASE).await.map(|_| ())
        }
    };
    registered.unwrap_or_else(|status| panic!("change {number}: {status}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_cost_no_request_and_leave_all_proxies_equal() {
    let cluster = Cluster::builder().proxies(2).start().await;
    let client = cluster.client();
    let mut shop = Vec::new();
    for number in 0..3 {
        shop.push(RegisteredService::start(&client, "shop", &format!("shop-{number}")).await);
    }
    let spare = SampleService::start("spare").await;
    cluster.converged().await;

    let plans = cluster.proxies.iter().map(|proxy| Plan::new(proxy.traffic, "/shop/").per_second(150));
    let loads: Vec<Load> = plans.flat_map(|plan| [Load::http1(&plan), Load::http2(&plan)]).collect();
    let changes = super::soaked(PERIOD).as_secs() * CHANGES_A_SECOND;
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(CHANGES_A_SECOND).expect("small"));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..changes {
        ticks.tick().await;
        change(cluster.api(), number, &spare).await;
    }

    cluster.converged().await;
    for load in loads {
        let report = load.stop().await;
        report.assert_lossless("load during changes", 1000);
        assert!(report.by_instance.contains_key("spare"), "the spare one was in rotation: {report:?}");
    }
    for index in 0..cluster.proxies.len() {
        let proxy = cluster.view(index).await.expect("the proxy is known");
        assert_eq!((proxy.full_snapshots, proxy.resyncs), (1, 0), "deltas were enough: {proxy:?}");
    }
}
