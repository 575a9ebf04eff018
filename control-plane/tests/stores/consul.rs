//! Consul: one server for the cases that disturb nobody, and one each for those that break it.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use libtest_mimic::Trial;
use waypost_control_plane::store::{
    self, Store, StoreOptions,
    conformance::{Fixture, Time},
};

use crate::{
    Histories, Open, Opened, every_promise,
    servers::consul::{Consul, program},
    skipped,
};

/// The lease that the tests take.
const TTL: Duration = Duration::from_secs(2);

pub(crate) fn trials() -> Vec<Trial> {
    if program().is_none() {
        return vec![skipped("consul", "consul is not installed; tests/install-consul.sh installs it")];
    }
    let open: Open = Arc::new(|| {
        Box::pin(async {
            let server = shared();
            let store = open(&fresh(&server), &StoreOptions::default()).await;
            let fixture = Fixture::new(store, Time::Real { ttl: TTL });
            Opened { fixture, _holds: Box::new(server) }
        })
    });
    every_promise("consul", &open, Histories { count: 5, steps: 40 })
}

/// The server that the cases share; it ends with the last one of them.
fn shared() -> Arc<Consul> {
    static SHARED: OnceLock<parking_lot::Mutex<std::sync::Weak<Consul>>> = OnceLock::new();
    let mut shared = SHARED.get_or_init(parking_lot::Mutex::default).lock();
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Consul::start(""));
        *shared = Arc::downgrade(&server);
        server
    })
}

/// A URL with a prefix that nobody else has.
fn fresh(server: &Consul) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("consul://127.0.0.1:{}/case-{number}", server.port)
}

async fn open(url: &str, options: &StoreOptions) -> Arc<dyn Store> {
    store::open(url, options).await.expect("a good URL")
}
