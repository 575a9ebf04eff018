//! What every store promises, checked through the trait alone. Each store's tests run the whole suite.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt;
use waypost_proto::{name::InstanceKey, v1::EventKind};

use super::{
    Commit, LeaseChange, Mutation, Now, Record, Renewal, Store, StoreError, Written,
    samples::{ManualClock, TTL, emptied, event, later, record},
};

fn key(text: &str) -> InstanceKey {
    text.parse().expect("a good key")
}

fn put(record: Record, expected: Option<u64>) -> Mutation {
    let event = Some(event(&record, EventKind::Registered));
    Mutation::Put { record, expected, lease: LeaseChange::Grant, event }
}

fn remove(record: &Record, expected: u64, lapsed: bool, now: Now) -> Mutation {
    let event = event(record, EventKind::Deregistered);
    Mutation::Remove { key: record.key().clone(), expected, lapsed, emptied: emptied(record, now), event }
}

async fn is_conflict(store: &dyn Store, mutation: Mutation, now: Now) -> bool {
    let before = store.load().await.expect("the store loads").revision;
    let refused = matches!(store.commit(mutation, now).await, Err(StoreError::Conflict { .. }));
    refused && before == store.load().await.expect("the store loads").revision
}

async fn collect(store: &dyn Store, after: u64, count: usize) -> Vec<std::sync::Arc<Commit>> {
    let watch = store.watch(after).await.expect("the store is watched");
    watch.take(count).map(|commit| commit.expect("a commit")).collect().await
}

/// Runs the suite; `open` gives an empty store each time.
pub(super) async fn suite<S: Store>(open: impl Fn() -> S) {
    a_watch_resumes_from_every_revision(&open()).await;
    only_the_expected_record_is_replaced(&open()).await;
    the_last_instance_leaves_its_service_behind(&open()).await;
    leases_lapse_and_come_back(&open()).await;
    what_is_held_is_not_lapsed(&open()).await;
}

async fn a_watch_resumes_from_every_revision(store: &dyn Store) {
    let now = ManualClock::new().now();
    let start = store.load().await.expect("the store loads").revision;
    for (index, id) in (1..).zip(["users/a", "users/b", "orders/a"]) {
        let revision = store.commit(put(record(id, 1, now), None), now).await;
        assert_eq!(revision, Ok(start + index), "each commit makes the next revision");
    }
    for after in 0..3 {
        let commits = collect(store, start + after, 3 - after as usize).await;
        let revisions: Vec<u64> = commits.iter().map(|commit| commit.revision).collect();
        assert_eq!(revisions, (start + after + 1..=start + 3).collect::<Vec<_>>());
    }
    let mut watch = store.watch(start + 3).await.expect("the store is watched");
    store.commit(Mutation::Complete, now).await.expect("it commits");
    let commit = watch.next().await.expect("it goes on").expect("a commit");
    assert!(commit.revision == start + 4 && matches!(commit.written, Written::Completed));
    let loaded = store.load().await.expect("the store loads");
    assert!(loaded.complete && loaded.records.len() == 3);
    let by_watch: BTreeMap<InstanceKey, u64> = collect(store, start, 3)
        .await
        .iter()
        .filter_map(|commit| match &commit.written {
            Written::Put(record) => Some((record.key().clone(), record.revision)),
            _ => None,
        })
        .collect();
    let by_load = loaded.records.iter().map(|record| (record.key().clone(), record.revision)).collect();
    assert_eq!(by_watch, by_load, "watching and loading come to the same");
}

async fn only_the_expected_record_is_replaced(store: &dyn Store) {
    let now = ManualClock::new().now();
    let first = store.commit(put(record("users/a", 1, now), None), now).await.expect("it commits");
    assert!(is_conflict(store, put(record("users/a", 2, now), None), now).await);
    assert!(is_conflict(store, put(record("users/b", 2, now), Some(first)), now).await);
    let second = store.commit(put(record("users/a", 2, now), Some(first)), now).await.expect("it commits");
    let held = record("users/a", 2, now);
    assert!(is_conflict(store, put(held.clone(), Some(first)), now).await);
    assert!(is_conflict(store, remove(&held, first, false, now), now).await);
    store.commit(remove(&held, second, false, now), now).await.expect("it commits");
    assert!(is_conflict(store, remove(&held, second, false, now), now).await);
}

async fn the_last_instance_leaves_its_service_behind(store: &dyn Store) {
    let now = ManualClock::new().now();
    // "users2" sorts right behind "users" and must not be taken for it.
    let others = record("users2/a", 1, now);
    store.commit(put(others, None), now).await.expect("it commits");
    let [a, b] = ["users/a", "users/b"].map(|id| record(id, 1, now));
    let first = store.commit(put(a.clone(), None), now).await.expect("it commits");
    let second = store.commit(put(b.clone(), None), now).await.expect("it commits");
    store.commit(remove(&a, first, false, now), now).await.expect("it commits");
    assert!(store.load().await.expect("the store loads").empty_services.is_empty(), "one is left");
    let emptied_at = store.commit(remove(&b, second, false, now), now).await.expect("it commits");
    let commits = collect(store, emptied_at - 1, 1).await;
    let Written::Removed { emptied: Some(empty), .. } = &commits[0].written else {
        panic!("the watch names the emptied service: {:?}", commits[0])
    };
    let loaded = store.load().await.expect("the store loads");
    assert_eq!(loaded.empty_services.as_slice(), std::slice::from_ref(empty));
    assert_eq!((empty.key.name(), empty.revision), ("users", emptied_at));
    let service = b.key().service().clone();
    assert!(is_conflict(store, Mutation::Forget { service: service.clone(), expected: first }, now).await);
    store.commit(Mutation::Forget { service, expected: emptied_at }, now).await.expect("it commits");
    assert!(store.load().await.expect("the store loads").empty_services.is_empty());
    let again = store.commit(put(a.clone(), None), now).await.expect("it commits");
    store.commit(remove(&a, again, false, now), now).await.expect("it commits");
    store.commit(put(b, None), now).await.expect("it commits");
    assert!(store.load().await.expect("the store loads").empty_services.is_empty(), "it is filled again");
}

async fn leases_lapse_and_come_back(store: &dyn Store) {
    let start = ManualClock::new().now();
    let held = record("users/a", 2, start);
    let revision = store.commit(put(held.clone(), None), start).await.expect("it commits");
    let beats = [(key("users/a"), 2), (key("users/a"), 1), (key("users/b"), 1)];
    let renewals = store.renew(&beats, start).await;
    assert_eq!(renewals, Ok(vec![Renewal::Renewed, Renewal::Stale, Renewal::Unknown]));
    assert_eq!(store.load().await.expect("the store loads").revision, revision, "a beat makes no revision");
    assert!(is_conflict(store, remove(&held, revision, true, start), start).await, "it has not lapsed");

    let end = later(start, TTL);
    assert_eq!(store.lapsed(end).await.expect("it answers").leases, [(key("users/a"), 2)]);
    let status = store.leases(held.key().service(), end).await.expect("it answers");
    assert_eq!((status.len(), status[0].remaining), (1, Duration::ZERO));
    store.renew(&beats[..1], end).await.expect("it answers");
    assert!(store.lapsed(end).await.expect("it answers").leases.is_empty(), "a late beat still counts");
    assert!(is_conflict(store, remove(&held, revision, true, end), end).await, "it has come back");
    let end = later(end, TTL);
    store.commit(remove(&held, revision, true, end), end).await.expect("it commits");
    assert_eq!(store.renew(&beats[..1], end).await, Ok(vec![Renewal::Unknown]));
}

async fn what_is_held_is_not_lapsed(store: &dyn Store) {
    let start = ManualClock::new().now();
    let hold = |expected| {
        let held = record("users/a", 1, start);
        Mutation::Put {
            record: held,
            expected: Some(expected),
            lease: LeaseChange::Hold(TTL * 9),
            event: None,
        }
    };
    let first = store.commit(put(record("users/a", 1, start), None), start).await.expect("it commits");
    assert!(is_conflict(store, hold(first), start).await, "it has not lapsed");
    let end = later(start, TTL);
    let second = store.commit(hold(first), end).await.expect("it commits");
    assert!(store.lapsed(later(end, TTL * 8)).await.expect("it answers").leases.is_empty());
    assert_eq!(store.lapsed(later(end, TTL * 9)).await.expect("it answers").leases.len(), 1);
    store.renew(&[(key("users/a"), 1)], end).await.expect("it answers");
    let lapsed = store.lapsed(later(end, TTL)).await.expect("it answers").leases;
    assert_eq!(lapsed.len(), 1, "after a beat the usual length holds again");
    let keep = Mutation::Put {
        record: record("users/a", 1, start),
        expected: Some(second),
        lease: LeaseChange::Keep,
        event: None,
    };
    store.commit(keep, later(end, TTL)).await.expect("it commits");
    assert_eq!(store.lapsed(later(end, TTL)).await.expect("it answers").leases.len(), 1, "it stays as it is");
}
