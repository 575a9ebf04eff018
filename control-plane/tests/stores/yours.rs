//! Any store at all: `WAYPOST_STORE_UNDER_TEST=plugin://127.0.0.1:7430 cargo test -p waypost-control-plane --test stores
//! -- 'your store'`.
//!
//! Each test needs an empty store, and there is one: they take turns and empty it before they begin. A store that holds
//! what no test has put there is left alone.

use std::{sync::Arc, time::Duration};

use libtest_mimic::Trial;
use tokio::sync::Mutex;
use waypost_control_plane::store::{
    Mutation, Now, Store, StoreOptions,
    conformance::{Fixture, Time, emptied, event},
    open,
};
use waypost_proto::v1::EventKind;

use crate::{Histories, Open, Opened, every_promise, history, trial};

const NAME: &str = "your store";
/// The URL of a store.
const URL: &str = "WAYPOST_STORE_UNDER_TEST";
/// The shortest lease that stores with coarse clocks keep to.
const TTL: Duration = Duration::from_secs(2);

pub(crate) fn trials() -> Vec<Trial> {
    let Ok(url) = std::env::var(URL) else { return Vec::new() };
    let turn = Arc::new(Mutex::new(()));
    let store: Open = Arc::new(move || {
        let (url, turn) = (url.clone(), turn.clone());
        Box::pin(async move {
            let turn = turn.lock_owned().await;
            let store = open(&url, &StoreOptions::default()).await.expect("a good URL");
            empty(&*store).await;
            Opened { fixture: Fixture::new(store, Time::Real { ttl: TTL }), _holds: Box::new(turn) }
        })
    });
    let mut trials = every_promise(NAME, &store, Histories { count: 4, steps: 60 });
    trials.push(trial(NAME, "a history of concurrent operations is linearizable", async move || {
        let opened = store().await;
        history::hold_under(vec![opened.fixture.store.clone(), opened.fixture.store.clone()], async {}).await;
    }));
    trials
}

async fn empty(store: &dyn Store) {
    let loaded = store.load().await.expect("it loads");
    let foreign = loaded.records.iter().find(|record| &*record.client != "test");
    assert!(
        foreign.is_none(),
        "{URL} must name a store for tests; this one holds {}",
        foreign.expect("it is some").key()
    );
    let now = Now::read();
    for record in loaded.records {
        let remove = Mutation::Remove {
            key: record.key().clone(),
            expected: record.revision,
            lapsed: false,
            emptied: emptied(&record, now),
            event: event(&record, EventKind::Deregistered),
        };
        store.commit(remove, now).await.expect("it removes");
    }
    for left in store.load().await.expect("it loads").empty_services {
        let forget = Mutation::Forget { service: left.key.clone(), expected: left.revision };
        store.commit(forget, now).await.expect("it forgets");
    }
}
