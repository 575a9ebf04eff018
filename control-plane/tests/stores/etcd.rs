//! The etcd store: with a plain server, and over TLS as a user that may do no more than the page says; and what
//! happens when servers fail.

mod access;
mod faults;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::StreamExt;
use libtest_mimic::Trial;
use waypost_control_plane::store::{
    self, Commit, LeaseChange, Mutation, Now, Record, Store, StoreError, StoreOptions, Watch,
    conformance::{self, Fixture, Time},
};
use waypost_proto::v1::EventKind;

use crate::{
    Histories, LEASE, Open, Opened, every_promise,
    servers::etcd::{Etcd, installed},
    skipped, trial,
};

/// The shortest lease that etcd grants as it comes.
const TTL: Duration = Duration::from_secs(2);
/// How long a test waits for something that is to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that several cases use, each below a prefix of its own. It starts with the first case that needs it,
/// and ends with the last.
#[derive(Default)]
struct Shared(OnceLock<Etcd>);

impl Shared {
    fn server(&self) -> &Etcd {
        self.0.get_or_init(|| Etcd::start(None, &[]))
    }

    /// An empty store.
    fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}/{}", self.server().port, prefix())
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    if !installed() {
        return vec![skipped(
            "etcd",
            "etcd-server and etcd-client are not installed: run tests/setup.sh --servers",
        )];
    }
    let shared = Arc::new(Shared::default());
    let plain = shared.clone();
    let open: Open = Arc::new(move || {
        let shared = plain.clone();
        Box::pin(async move {
            let store = open(&shared.url(), &options()).await;
            Opened { fixture: Fixture::new(store, Time::Real { ttl: LEASE }), _holds: Box::new(shared) }
        })
    });
    let mut trials = every_promise("etcd", &open, Histories { count: 10, steps: 60 });
    trials.extend(access::trials(&shared));
    trials.extend(faults::trials(&shared));
    trials
}

/// A case that uses the shared server.
fn case<R: Future<Output = ()>>(
    shared: &Arc<Shared>,
    name: &str,
    test: impl FnOnce(Arc<Shared>) -> R + Send + 'static,
) -> Trial {
    let shared = shared.clone();
    trial("etcd", name, move || test(shared))
}

/// A prefix that no other case has, below the one that the page permits.
fn prefix() -> String {
    format!("waypost/{}", fastrand::u64(..))
}

fn options() -> StoreOptions {
    StoreOptions::default()
}

/// As impatient as a test about time must be.
fn impatient() -> StoreOptions {
    StoreOptions { timeout: Duration::from_secs(3), ..options() }
}

async fn open(url: &str, options: &StoreOptions) -> Arc<dyn Store> {
    store::open(url, options).await.expect("a good URL")
}

/// A new instance with a lease of [`TTL`].
fn put(key: &str, epoch: u64) -> Mutation {
    put_with(key, epoch, LeaseChange::Grant)
}

fn put_with(key: &str, epoch: u64, lease: LeaseChange) -> Mutation {
    let record = record(key, epoch);
    let event = Some(conformance::event(&record, EventKind::Registered));
    Mutation::Put { record, expected: None, lease, event }
}

fn record(key: &str, epoch: u64) -> Record {
    Record { ttl: TTL, ..conformance::record(key, epoch, Now::read()) }
}

fn remove(key: &str, expected: u64, lapsed: bool) -> Mutation {
    let record = record(key, 1);
    let event = conformance::event(&record, EventKind::Expired);
    let emptied = conformance::emptied(&record, Now::read());
    Mutation::Remove { key: record.key().clone(), expected, lapsed, emptied, event }
}

async fn commit(store: &Arc<dyn Store>, mutation: Mutation) -> Result<u64, StoreError> {
    store.commit(mutation, Now::read()).await
}

async fn committed(store: &Arc<dyn Store>, mutation: Mutation) -> u64 {
    commit(store, mutation).await.expect("it commits")
}

/// The revisions of the next commits.
async fn revisions(watch: &mut Watch, count: usize) -> Vec<u64> {
    let next = watch.take(count).map(|commit| commit.expect("a commit").revision).collect();
    tokio::time::timeout(PATIENCE, next).await.expect("the commits come")
}

/// What a watch yields next.
async fn next(watch: &mut Watch) -> Result<Arc<Commit>, StoreError> {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await;
    next.expect("something comes").expect("it has not ended without a word")
}

/// Waits until something is so.
async fn until<R: Future<Output = bool>>(what: &str, so: impl Fn() -> R) {
    let begun = std::time::Instant::now();
    while !so().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
