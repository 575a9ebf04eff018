//! Histories of concurrent operations against each server while it is killed, frozen and started again.

use std::{sync::Arc, time::Duration};

use libtest_mimic::Trial;
use tokio::time::sleep;
use waypost_control_plane::store::{self, Store, StoreOptions};

use crate::{
    history,
    servers::{self, Server, consul::Consul, etcd::Etcd, redis::Redis},
    trial,
};

/// How many connections work on the same keys.
const CONNECTIONS: usize = 3;
/// How long each phase of a story is.
const PHASE: Duration = Duration::from_millis(1500);
/// Longer than the time that an operation may take.
const FROZEN: Duration = Duration::from_secs(3);

/// One history for each store whose server is installed.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut add = |name: &str, start: fn() -> (Server, String)| {
        trials.push(trial(
            name,
            "what concurrent clients see under faults is linearizable",
            async move || {
                let (server, url) = start();
                under_faults(server, &url).await;
            },
        ));
    };
    if servers::redis::missing().is_none() {
        add("redis", || {
            let redis = Redis::start(&[]);
            let url = format!("redis://127.0.0.1:{}", redis.port);
            (redis.server, url)
        });
    }
    if servers::etcd::installed() {
        add("etcd", || {
            let etcd = Etcd::start(None, &[]);
            let url = format!("etcd://127.0.0.1:{}", etcd.port);
            (etcd.server, url)
        });
    }
    if servers::consul::program().is_some() {
        add("consul", || {
            let consul = Consul::start("");
            let url = format!("consul://127.0.0.1:{}?discover=false", consul.port);
            (consul.server, url)
        });
    }
    trials
}

async fn under_faults(mut server: Server, url: &str) {
    // The checker reads the whole history from the watch.
    let options =
        StoreOptions { timeout: Duration::from_secs(1), remembered: 1_000_000, ..StoreOptions::default() };
    let mut stores: Vec<Arc<dyn Store>> = Vec::new();
    for _ in 0..CONNECTIONS {
        stores.push(store::open(url, &options).await.expect("a good URL"));
    }
    history::hold_under(stores, async {
        sleep(PHASE).await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.start_again();
        });
        sleep(PHASE).await;
        server.freeze();
        sleep(FROZEN).await;
        server.thaw();
        sleep(PHASE).await;
        tokio::task::block_in_place(|| {
            server.stop();
            server.start_again();
        });
        sleep(PHASE * 2).await;
    })
    .await;
}
