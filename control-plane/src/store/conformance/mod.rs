//! What every store promises, checked through the trait alone: for our own stores and for yours.
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use waypost_control_plane::store::{Memory, conformance::{self, Fixture, Time}};
//! # async fn run() {
//! for case in conformance::CASES {
//!     let store = Arc::new(Memory::new()); // empty, each time
//!     conformance::run(case, &Fixture::new(store, Time::Real { ttl: Duration::from_secs(2) })).await;
//! }
//! # }
//! ```
//!
//! A case panics where a promise is broken. [`model`] compares a store with a plain map under random operations.
//!
//! Deliberately absent: what only one store promises, and faults of the server; both have tests of their own.

pub mod model;
mod resources;
mod samples;

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use waypost_proto::{name::InstanceKey, v1::EventKind};

pub(crate) use self::samples::TTL;
pub use self::samples::{ManualClock, declare, emptied, event, record};
#[cfg(test)]
pub(crate) use self::samples::{spec, wire};
use super::{Commit, LeaseChange, Loaded, Mutation, Now, Record, Renewal, Store, StoreError, Written};

/// How long a lapse may go unnoticed by a store with a clock of its own: etcd rounds up to seconds, and a busy
/// machine is slow.
const LATE: Duration = Duration::from_secs(15);
/// How long a commit may take to come back by the watch.
const COMES_BACK: Duration = Duration::from_secs(10);

/// An empty store, and how time passes for it.
pub struct Fixture {
    /// The store.
    pub store: Arc<dyn Store>,
    time: Time,
}

/// How time passes.
#[derive(Clone)]
pub enum Time {
    /// As the test says; for stores that know no time but the one that they are told.
    Manual(Arc<ManualClock>),
    /// As it does. `ttl` is the lease that the tests take, the shortest that the store keeps to.
    Real {
        /// The length of the tests' leases.
        ttl: Duration,
    },
}

/// One promise.
pub struct Case {
    /// What is promised.
    pub name: &'static str,
    run: fn(&Fixture) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>,
}

/// Every promise.
pub const CASES: &[Case] = &[
    Case {
        name: "a watch resumes from every revision",
        run: |fixture| Box::pin(a_watch_resumes_from_every_revision(fixture)),
    },
    Case {
        name: "only the expected record is replaced",
        run: |fixture| Box::pin(only_the_expected_record_is_replaced(fixture)),
    },
    Case { name: "of two that race one wins", run: |fixture| Box::pin(of_two_that_race_one_wins(fixture)) },
    Case {
        name: "the last instance leaves its service behind",
        run: |fixture| Box::pin(the_last_instance_leaves_its_service_behind(fixture)),
    },
    Case { name: "leases lapse and come back", run: |fixture| Box::pin(leases_lapse_and_come_back(fixture)) },
    Case { name: "what is held is not lapsed", run: |fixture| Box::pin(what_is_held_is_not_lapsed(fixture)) },
    Case {
        name: "what has no lease never lapses",
        run: |fixture| Box::pin(what_has_no_lease_never_lapses(fixture)),
    },
    Case {
        name: "events are remembered in order",
        run: |fixture| Box::pin(events_are_remembered_in_order(fixture)),
    },
    Case {
        name: "resources are declared together or not at all",
        run: |fixture| Box::pin(resources::are_declared_together(fixture)),
    },
    Case { name: "resources fill a commit", run: |fixture| Box::pin(resources::fill_a_commit(fixture)) },
    Case { name: "it finds nothing wrong", run: |fixture| Box::pin(it_finds_nothing_wrong(fixture)) },
];

/// Checks one promise.
///
/// # Panics
/// The promise is broken.
pub async fn run(case: &Case, fixture: &Fixture) {
    (case.run)(fixture).await;
}

impl Fixture {
    /// An empty store.
    pub fn new(store: Arc<dyn Store>, time: Time) -> Self {
        Self { store, time }
    }

    fn now(&self) -> Now {
        match &self.time {
            Time::Manual(clock) => clock.now(),
            Time::Real { .. } => Now::read(),
        }
    }

    fn ttl(&self) -> Duration {
        match &self.time {
            Time::Manual(_) => TTL,
            Time::Real { ttl } => *ttl,
        }
    }

    fn record(&self, key: &str, epoch: u64) -> Record {
        Record { ttl: self.ttl(), ..record(key, epoch, self.now()) }
    }

    async fn pass(&self, length: Duration) {
        match &self.time {
            Time::Manual(clock) => {
                clock.pass(length);
            }
            Time::Real { .. } => tokio::time::sleep(length).await,
        }
    }

    /// Lets this time pass, and waits until just these leases have lapsed, which may take a real store longer.
    async fn lapses(&self, after: Duration, wanted: &[(InstanceKey, u64)]) {
        self.pass(after).await;
        let begun = std::time::Instant::now();
        loop {
            let mut lapsed = self.store.lapsed(self.now()).await.expect("it answers").leases;
            lapsed.sort();
            if lapsed == wanted {
                return;
            }
            let patient = matches!(self.time, Time::Real { .. }) && begun.elapsed() < LATE;
            assert!(patient, "lapsed {lapsed:?}, expected {wanted:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn nothing_lapsed(&self) -> bool {
        self.store.lapsed(self.now()).await.expect("it answers").leases.is_empty()
    }

    async fn commit(&self, mutation: Mutation) -> Result<u64, StoreError> {
        self.store.commit(mutation, self.now()).await
    }

    async fn committed(&self, mutation: Mutation) -> u64 {
        self.commit(mutation).await.expect("it commits")
    }

    async fn load(&self) -> Loaded {
        self.store.load().await.expect("the store loads")
    }

    async fn is_conflict(&self, mutation: Mutation) -> bool {
        let before = self.load().await;
        let refused = matches!(self.commit(mutation).await, Err(StoreError::Conflict { .. }));
        let after = self.load().await;
        refused && before.revision == after.revision && before.records.len() == after.records.len()
    }

    /// The next commits after a revision.
    async fn collect(&self, after: u64, count: usize) -> Vec<Arc<Commit>> {
        let watch = self.store.watch(after).await.expect("the store is watched");
        let commits = watch.take(count).map(|commit| commit.expect("a commit")).collect();
        tokio::time::timeout(COMES_BACK, commits).await.expect("the commits come back")
    }
}

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

async fn a_watch_resumes_from_every_revision(fixture: &Fixture) {
    let start = fixture.load().await.revision;
    let mut revisions = Vec::new();
    for id in ["users/a", "users/b", "orders/a"] {
        revisions.push(fixture.committed(put(fixture.record(id, 1), None)).await);
    }
    assert!(revisions.is_sorted_by(|earlier, later| earlier < later), "revisions grow: {revisions:?}");
    assert!(revisions[0] > start, "a commit makes a new revision");
    for (skipped, after) in std::iter::once(&start).chain(&revisions[..2]).enumerate() {
        let commits = fixture.collect(*after, 3 - skipped).await;
        let seen: Vec<u64> = commits.iter().map(|commit| commit.revision).collect();
        assert_eq!(seen, revisions[skipped..]);
    }
    let mut watch = fixture.store.watch(revisions[2]).await.expect("the store is watched");
    let completed = fixture.committed(Mutation::Complete).await;
    let next = tokio::time::timeout(COMES_BACK, watch.next()).await.expect("the commit comes back");
    let commit = next.expect("it goes on").expect("a commit");
    assert!(commit.revision == completed && matches!(commit.written, Written::Completed), "{commit:?}");
    let loaded = fixture.load().await;
    assert!(loaded.complete && loaded.records.len() == 3 && loaded.revision == completed, "{loaded:?}");
    let by_watch: BTreeMap<InstanceKey, u64> = fixture
        .collect(start, 3)
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

async fn only_the_expected_record_is_replaced(fixture: &Fixture) {
    let first = fixture.committed(put(fixture.record("users/a", 1), None)).await;
    assert!(fixture.is_conflict(put(fixture.record("users/a", 2), None)).await);
    assert!(fixture.is_conflict(put(fixture.record("users/b", 2), Some(first))).await);
    let second = fixture.committed(put(fixture.record("users/a", 2), Some(first))).await;
    let held = fixture.record("users/a", 2);
    assert!(fixture.is_conflict(put(held.clone(), Some(first))).await);
    assert!(fixture.is_conflict(remove(&held, first, false, fixture.now())).await);
    fixture.committed(remove(&held, second, false, fixture.now())).await;
    assert!(fixture.is_conflict(remove(&held, second, false, fixture.now())).await);
}

async fn of_two_that_race_one_wins(fixture: &Fixture) {
    for round in 0..10 {
        let id = format!("users/i{round}");
        let race = (0..4).map(|epoch| fixture.commit(put(fixture.record(&id, epoch + 1), None)));
        let outcomes = futures_util::future::join_all(race).await;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let lost =
            outcomes.iter().filter(|outcome| matches!(outcome, Err(StoreError::Conflict { .. }))).count();
        assert_eq!((won, lost), (1, 3), "{outcomes:?}");
    }
    let revisions: Vec<u64> = fixture.load().await.records.iter().map(|record| record.revision).collect();
    let others =
        (0..4).map(|number| fixture.commit(put(fixture.record(&format!("orders/i{number}"), 1), None)));
    let outcomes = futures_util::future::join_all(others).await;
    assert!(outcomes.iter().all(Result::is_ok), "those that do not touch do not disturb: {outcomes:?}");
    assert_eq!(revisions.len(), 10);
}

async fn the_last_instance_leaves_its_service_behind(fixture: &Fixture) {
    // "users2" sorts right behind "users" and must not be taken for it.
    fixture.committed(put(fixture.record("users2/a", 1), None)).await;
    let [a, b] = ["users/a", "users/b"].map(|id| fixture.record(id, 1));
    let first = fixture.committed(put(a.clone(), None)).await;
    let second = fixture.committed(put(b.clone(), None)).await;
    let removed = fixture.committed(remove(&a, first, false, fixture.now())).await;
    assert!(fixture.load().await.empty_services.is_empty(), "one is left");
    let emptied_at = fixture.committed(remove(&b, second, false, fixture.now())).await;
    let commits = fixture.collect(removed, 1).await;
    let Written::Removed { emptied: Some(empty), .. } = &commits[0].written else {
        panic!("the watch names the emptied service: {:?}", commits[0])
    };
    let loaded = fixture.load().await;
    assert_eq!(loaded.empty_services.as_slice(), std::slice::from_ref(empty));
    assert_eq!((empty.key.name(), empty.revision), ("users", emptied_at));
    let service = b.key().service().clone();
    assert!(fixture.is_conflict(Mutation::Forget { service: service.clone(), expected: first }).await);
    fixture.committed(Mutation::Forget { service, expected: emptied_at }).await;
    assert!(fixture.load().await.empty_services.is_empty());
    let again = fixture.committed(put(a.clone(), None)).await;
    fixture.committed(remove(&a, again, false, fixture.now())).await;
    fixture.committed(put(b, None)).await;
    assert!(fixture.load().await.empty_services.is_empty(), "it is filled again");
}

async fn leases_lapse_and_come_back(fixture: &Fixture) {
    let ttl = fixture.ttl();
    let held = fixture.record("users/a", 2);
    let revision = fixture.committed(put(held.clone(), None)).await;
    let beats = [(key("users/a"), 2), (key("users/a"), 1), (key("users/a"), 3), (key("users/b"), 1)];
    let renewals = fixture.store.renew(&beats, fixture.now()).await;
    let expected = vec![Renewal::Renewed, Renewal::Stale, Renewal::Unknown, Renewal::Unknown];
    assert_eq!(renewals, Ok(expected), "only a newer epoch makes one stale");
    assert_eq!(fixture.load().await.revision, revision, "a beat makes no revision");
    assert!(fixture.is_conflict(remove(&held, revision, true, fixture.now())).await, "it has not lapsed");

    fixture.lapses(ttl, &[(key("users/a"), 2)]).await;
    let status = fixture.store.leases(held.key().service(), fixture.now()).await.expect("it answers");
    assert_eq!((status.len(), status[0].epoch, status[0].remaining), (1, 2, Duration::ZERO));
    let renewals = fixture.store.renew(&beats[..1], fixture.now()).await;
    assert_eq!(renewals, Ok(vec![Renewal::Renewed]), "a late beat still counts");
    assert!(fixture.nothing_lapsed().await, "a late beat still counts");
    assert!(fixture.is_conflict(remove(&held, revision, true, fixture.now())).await, "it has come back");
    let status = fixture.store.leases(held.key().service(), fixture.now()).await.expect("it answers");
    assert!(status[0].ttl == ttl && !status[0].remaining.is_zero(), "{status:?}");
    fixture.lapses(ttl, &[(key("users/a"), 2)]).await;
    fixture.committed(remove(&held, revision, true, fixture.now())).await;
    assert_eq!(fixture.store.renew(&beats[..1], fixture.now()).await, Ok(vec![Renewal::Unknown]));
    assert!(fixture.nothing_lapsed().await, "what is removed has no lease");
}

async fn what_is_held_is_not_lapsed(fixture: &Fixture) {
    let ttl = fixture.ttl();
    let change = |expected, lease| Mutation::Put {
        record: fixture.record("users/a", 1),
        expected: Some(expected),
        lease,
        event: None,
    };
    let hold = |expected| change(expected, LeaseChange::Hold(ttl * 4));
    let lapsed = [(key("users/a"), 1)];
    let first = fixture.committed(put(fixture.record("users/a", 1), None)).await;
    assert!(fixture.is_conflict(hold(first)).await, "it has not lapsed");
    fixture.lapses(ttl, &lapsed).await;
    let second = fixture.committed(hold(first)).await;
    fixture.pass(ttl * 2).await;
    assert!(fixture.nothing_lapsed().await, "it is held");
    fixture.lapses(ttl * 2, &lapsed).await;
    fixture.store.renew(&lapsed, fixture.now()).await.expect("it answers");
    assert!(fixture.nothing_lapsed().await);
    fixture.lapses(ttl, &lapsed).await;
    fixture.committed(change(second, LeaseChange::Keep)).await;
    fixture.lapses(Duration::ZERO, &lapsed).await;
}

async fn what_has_no_lease_never_lapses(fixture: &Fixture) {
    let found = Record { found_in: Some("elsewhere".into()), ..fixture.record("users/a", 1) };
    let keep = Mutation::Put { record: found.clone(), expected: None, lease: LeaseChange::Keep, event: None };
    let revision = fixture.committed(keep).await;
    fixture.pass(fixture.ttl() * 2).await;
    assert!(fixture.nothing_lapsed().await);
    assert_eq!(fixture.load().await.records[0].found_in.as_deref(), Some("elsewhere"));
    fixture.committed(remove(&found, revision, false, fixture.now())).await;
}

async fn events_are_remembered_in_order(fixture: &Fixture) {
    let first = fixture.committed(put(fixture.record("users/a", 1), None)).await;
    let second = fixture.committed(put(fixture.record("users/a", 2), Some(first))).await;
    let held = fixture.record("users/a", 2);
    let third = fixture.committed(remove(&held, second, false, fixture.now())).await;
    let commits = fixture.collect(first - 1, 3).await;
    let by_watch: Vec<_> = commits.iter().map(|commit| (commit.revision, commit.event.clone())).collect();
    assert_eq!(by_watch.iter().map(|(revision, _)| *revision).collect::<Vec<_>>(), [first, second, third]);
    let events = fixture.load().await.events;
    // A store that is emptied for each test remembers what happened in those before.
    let loaded = events.iter().filter(|past| past.revision >= first);
    let by_load: Vec<_> = loaded.map(|past| (past.revision, Some(past.event.clone()))).collect();
    assert_eq!(by_watch, by_load, "watching and loading come to the same");
}

async fn it_finds_nothing_wrong(fixture: &Fixture) {
    let findings = fixture.store.examine().await.expect("it can be reached");
    assert!(!findings.is_empty() && findings.iter().all(|finding| finding.good), "{findings:?}");
    assert!(fixture.load().await.records.is_empty(), "looking leaves nothing behind");
}
