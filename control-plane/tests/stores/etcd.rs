//! The etcd store: with a plain server, and over TLS as a user that may do no more than the page says; and what
//! happens when servers fail.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use libtest_mimic::Trial;
use waypost_control_plane::store::{
    self, Store, StoreOptions,
    conformance::{Fixture, Time},
};

use crate::{
    Histories, Open, Opened, every_promise,
    servers::etcd::{Etcd, installed},
    skipped,
};

/// The shortest lease that etcd grants as it comes.
const TTL: Duration = Duration::from_secs(2);

/// A server that several cases use, each below a prefix of its own. It starts with the first case that needs it,
/// and ends with the last.
#[derive(Default)]
struct Shared(OnceLock<Etcd>);

impl Shared {
    fn server(&self) -> &Etcd {
        self.0.get_or_init(|| Etcd::start(None, &[]))
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    if !installed() {
        return vec![skipped("etcd", "etcd-server and etcd-client are not installed: run tests/setup.sh")];
    }
    let shared = Arc::new(Shared::default());
    let plain = shared.clone();
    let open: Open = Arc::new(move || {
        let shared = plain.clone();
        Box::pin(async move {
            let port = shared.server().port;
            let store = open(&format!("etcd://127.0.0.1:{port}/{}", prefix()), &options()).await;
            Opened { fixture: Fixture::new(store, Time::Real { ttl: TTL }), _holds: Box::new(shared) }
        })
    });
    every_promise("etcd", &open, Histories { count: 10, steps: 60 })
}

/// A prefix that no other case has.
fn prefix() -> String {
    format!("waypost/{}", fastrand::u64(..))
}

fn options() -> StoreOptions {
    StoreOptions { timeout: Duration::from_secs(5), ..StoreOptions::default() }
}

async fn open(url: &str, options: &StoreOptions) -> Arc<dyn Store> {
    store::open(url, options).await.expect("a good URL")
}
