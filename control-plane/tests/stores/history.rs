//! Histories of concurrent operations, recorded while the store is faulted, and a checker that says whether they are
//! what a linearizable register per key allows (Herlihy and Wing, "Linearizability", 1990).
//!
//! Every write is a compare-and-set and every acknowledged write has a revision, so that the order need not be
//! searched for: the store's watch tells it, and the checker holds each operation against it. An operation whose
//! outcome is unknown (the store was gone) may have happened once, at any time after it began, or not at all.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_util::StreamExt;
use waypost_control_plane::store::{
    LeaseChange, Mutation, Now, Record, Store, StoreError, Written,
    conformance::{emptied, event, record},
};
use waypost_proto::{name::InstanceKey, v1::EventKind};

const KEYS: [&str; 3] = ["users/a", "users/b", "orders/a"];
/// How long a client thinks, so that the watch remembers the whole history.
const THINK: Duration = Duration::from_millis(2);
/// How long a client waits after the store has failed it.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the store may take to work again after its last fault.
const RECOVERY: Duration = Duration::from_secs(30);

/// What an operation was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Put a record under this epoch, in place of the one of this revision.
    Put { epoch: u64, expected: Option<u64> },
    /// Remove the record of this revision.
    Remove { expected: u64 },
    /// Read the revision of the key's record.
    Read,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is committed as this revision.
    Done(u64),
    /// The key was not as expected.
    Conflict,
    /// The key's record had this revision.
    Found(Option<u64>),
    /// Nobody knows.
    Unknown,
}

/// One operation, between two ticks of a clock that all clients share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    key: usize,
    action: Action,
    outcome: Outcome,
    began: u64,
    ended: u64,
}

/// A change of a key, as the watch tells it: what is there from this revision on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    revision: u64,
    /// The epoch; `None`: removed.
    epoch: Option<u64>,
}

/// Lets clients work on the same keys through `stores` (each a connection of its own to the same store) until
/// `faults` is over, and checks what they have seen.
///
/// # Panics
/// A promise is broken.
pub(crate) async fn hold_under(stores: Vec<Arc<dyn Store>>, faults: impl Future<Output = ()>) {
    let observer = stores[0].clone();
    let start = observer.load().await.expect("the store loads").revision;
    let (over, clock) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..stores.len() * 2)
        .map(|number| {
            let client = Client {
                store: stores[number % stores.len()].clone(),
                clock: clock.clone(),
                rng: Rng::with_seed(number as u64),
                epoch: (number as u64 + 1) * 1_000_000,
                operations: Vec::new(),
            };
            tokio::spawn(client.work(over.clone()))
        })
        .collect();
    faults.await;
    // Some time without faults, so that the end of the history is not all unknown.
    tokio::time::sleep(Duration::from_secs(1)).await;
    over.store(true, Ordering::Release);
    let mut operations = Vec::new();
    for client in clients {
        operations.extend(client.await.expect("a client works to the end"));
    }
    let changes = changes_since(&*observer, start).await;
    let known = operations.iter().filter(|operation| operation.outcome != Outcome::Unknown).count();
    assert!(known > 100, "only {known} of {} operations have an outcome", operations.len());
    let broken = check(&operations, &changes);
    assert!(broken.is_empty(), "of {} operations: {broken:#?}", operations.len());
}

struct Client {
    store: Arc<dyn Store>,
    clock: Arc<AtomicU64>,
    rng: Rng,
    epoch: u64,
    operations: Vec<Operation>,
}

impl Client {
    async fn work(mut self, over: Arc<AtomicBool>) -> Vec<Operation> {
        let mut known = [None; KEYS.len()];
        while !over.load(Ordering::Acquire) {
            tokio::time::sleep(THINK).await;
            let key = self.rng.usize(0..KEYS.len());
            self.epoch += 1;
            let action = match (self.rng.u8(0..8), known[key]) {
                (0..2, _) => Action::Read,
                (2..4, Some(expected)) => Action::Remove { expected },
                (_, expected) => Action::Put { epoch: self.epoch, expected },
            };
            let outcome = self.take(key, action).await;
            match (action, outcome) {
                (Action::Put { .. }, Outcome::Done(revision)) => known[key] = Some(revision),
                (Action::Remove { .. }, Outcome::Done(_)) => known[key] = None,
                (_, Outcome::Found(revision)) => known[key] = revision,
                (_, Outcome::Unknown) => tokio::time::sleep(PAUSE).await,
                // Whoever lost looks before it tries again.
                _ => {
                    if let Outcome::Found(revision) = self.take(key, Action::Read).await {
                        known[key] = revision;
                    }
                }
            }
        }
        self.operations
    }

    async fn take(&mut self, key: usize, action: Action) -> Outcome {
        let began = self.clock.fetch_add(1, Ordering::AcqRel);
        let outcome = self.outcome(key, action).await;
        let ended = self.clock.fetch_add(1, Ordering::AcqRel);
        self.operations.push(Operation { key, action, outcome, began, ended });
        outcome
    }

    async fn outcome(&self, key: usize, action: Action) -> Outcome {
        let now = Now::read();
        let mutation = match action {
            Action::Read => {
                let Ok(loaded) = self.store.load().await else { return Outcome::Unknown };
                let wanted: InstanceKey = KEYS[key].parse().expect("a good key");
                let held = loaded.records.iter().find(|record| *record.key() == wanted);
                return Outcome::Found(held.map(|record| record.revision));
            }
            Action::Put { epoch, expected } => {
                let record = record(KEYS[key], epoch, now);
                let record = Record { ttl: Duration::from_secs(3600), ..record };
                let event = Some(event(&record, EventKind::Registered));
                Mutation::Put { record, expected, lease: LeaseChange::Grant, event }
            }
            Action::Remove { expected } => {
                let record = record(KEYS[key], 0, now);
                let event = event(&record, EventKind::Deregistered);
                let (key, emptied) = (record.key().clone(), emptied(&record, now));
                Mutation::Remove { key, expected, lapsed: false, emptied, event }
            }
        };
        match self.store.commit(mutation, now).await {
            Ok(revision) => Outcome::Done(revision),
            Err(StoreError::Conflict { .. }) => Outcome::Conflict,
            Err(_) => Outcome::Unknown,
        }
    }
}

/// All changes of the keys after a revision, by key, as the watch tells them.
async fn changes_since(store: &dyn Store, start: u64) -> Vec<Vec<Change>> {
    let read = async {
        let newest = loop {
            match store.load().await {
                Ok(loaded) => break loaded.revision,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        let mut changes = vec![Vec::new(); KEYS.len()];
        let mut after = start;
        while after < newest {
            let Ok(mut watch) = store.watch(after).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            while let Some(Ok(commit)) = watch.next().await {
                let (key, epoch) = match &commit.written {
                    Written::Put(record) => (record.key().to_string(), Some(record.epoch)),
                    Written::Removed { key, .. } => (key.to_string(), None),
                    _ => (String::new(), None),
                };
                if let Some(at) = KEYS.iter().position(|known| key.ends_with(known)) {
                    changes[at].push(Change { revision: commit.revision, epoch });
                }
                after = commit.revision;
                if after >= newest {
                    break;
                }
            }
        }
        changes
    };
    tokio::time::timeout(RECOVERY, read).await.expect("the store works again, and its watch tells all")
}

/// What a history breaks; nothing where it is linearizable.
fn check(operations: &[Operation], changes: &[Vec<Change>]) -> Vec<String> {
    let mut broken = Vec::new();
    for (key, changes) in changes.iter().enumerate() {
        let of_key: Vec<&Operation> = operations.iter().filter(|operation| operation.key == key).collect();
        if !changes.is_sorted_by(|earlier, later| earlier.revision < later.revision) {
            broken.push(format!("{}: the watch is not in order: {changes:?}", KEYS[key]));
        }
        check_writes(KEYS[key], &of_key, changes, &mut broken);
        check_real_time(KEYS[key], &of_key, changes, &mut broken);
    }
    broken
}

/// Every acknowledged write is in the watch as it was made, every change was asked for, and none was made twice.
fn check_writes(key: &str, operations: &[&Operation], changes: &[Change], broken: &mut Vec<String>) {
    let before = |at: usize| at.checked_sub(1).map(|at| changes[at]).filter(|change| change.epoch.is_some());
    let mut by_epoch: BTreeMap<u64, u64> = BTreeMap::new();
    for change in changes {
        if let Some(epoch) = change.epoch
            && let Some(twice) = by_epoch.insert(epoch, change.revision)
        {
            broken.push(format!("{key}: {change:?} was made before, as revision {twice}"));
        }
    }
    for operation in operations {
        let Outcome::Done(revision) = operation.outcome else { continue };
        let Ok(at) = changes.binary_search_by_key(&revision, |change| change.revision) else {
            broken.push(format!("{key}: lost: {operation:?}"));
            continue;
        };
        let (epoch, expected) = match operation.action {
            Action::Put { epoch, expected } => (Some(epoch), expected),
            Action::Remove { expected } => (None, Some(expected)),
            Action::Read => continue,
        };
        let replaced = before(at).map(|change| change.revision);
        if changes[at].epoch != epoch || replaced != expected {
            broken.push(format!("{key}: {operation:?} became {:?} in place of {replaced:?}", changes[at]));
        }
    }
    for change in changes.iter() {
        let asked = |operation: &&&Operation| match (operation.action, operation.outcome) {
            (_, Outcome::Done(revision)) => revision == change.revision,
            (Action::Put { epoch, .. }, Outcome::Unknown) => change.epoch == Some(epoch),
            (Action::Remove { .. }, Outcome::Unknown) => change.epoch.is_none(),
            _ => false,
        };
        if operations.iter().find(asked).is_none() {
            broken.push(format!("{key}: nobody asked for {change:?}"));
        }
    }
}

/// What ended before something began is seen by it; what began later is not.
fn check_real_time(key: &str, operations: &[&Operation], changes: &[Change], broken: &mut Vec<String>) {
    // When each change was certainly there, and when it was certainly not yet: by who made it.
    let span = |change: &Change| {
        let made = operations.iter().find(|operation| operation.outcome == Outcome::Done(change.revision));
        made.map_or((0, u64::MAX), |operation| (operation.began, operation.ended))
    };
    let spans: Vec<(u64, u64)> = changes.iter().map(span).collect();
    for operation in operations {
        // The last change that was certainly made before it began, and the first one certainly made after it ended.
        let earliest = spans.iter().rposition(|(_, ended)| *ended < operation.began).map_or(0, |at| at + 1);
        let latest = spans.iter().position(|(began, _)| *began > operation.ended).unwrap_or(changes.len());
        // What the key can have held at some moment of the operation: after `at` changes.
        let held =
            |at: usize| at.checked_sub(1).map(|at| &changes[at]).filter(|change| change.epoch.is_some());
        let mut moments = (earliest..=latest).map(|at| held(at).map(|change| change.revision));
        let explained = match (operation.action, operation.outcome) {
            (_, Outcome::Found(revision)) => moments.any(|held| held == revision),
            (_, Outcome::Done(revision)) => {
                let at = changes.iter().position(|change| change.revision == revision);
                at.is_none_or(|at| (earliest..latest).contains(&at))
            }
            (Action::Put { expected, .. }, Outcome::Conflict) => moments.any(|held| held != expected),
            (Action::Remove { expected }, Outcome::Conflict) => moments.any(|held| held != Some(expected)),
            _ => true,
        };
        if !explained {
            broken.push(format!("{key}: no moment explains {operation:?}"));
        }
    }
}

/// The checker finds what it is there to find.
pub(crate) fn the_checker_notices_what_is_wrong() {
    let operation = |action, outcome, began, ended| Operation { key: 0, action, outcome, began, ended };
    let put = |epoch, expected| Action::Put { epoch, expected };
    let change = |revision, epoch| Change { revision, epoch };
    let good = vec![
        operation(put(1, None), Outcome::Done(5), 0, 1),
        operation(put(2, Some(5)), Outcome::Unknown, 2, 3),
        operation(Action::Read, Outcome::Found(Some(7)), 4, 5),
        operation(put(3, Some(5)), Outcome::Conflict, 4, 6),
        operation(Action::Remove { expected: 7 }, Outcome::Done(9), 7, 8),
        operation(Action::Read, Outcome::Found(None), 9, 10),
    ];
    let watched = vec![change(5, Some(1)), change(7, Some(2)), change(9, None)];
    let checked = |operations: &[Operation], watched: &[Change]| {
        check(operations, &[watched.to_vec(), Vec::new(), Vec::new()]).join("\n")
    };
    assert_eq!(checked(&good, &watched), "");
    let spoilt = |at: usize, outcome| {
        let mut operations = good.clone();
        operations[at].outcome = outcome;
        checked(&operations, &watched)
    };
    assert!(checked(&good, &watched[1..]).contains("lost"), "an acknowledged write is not in the watch");
    assert!(spoilt(1, Outcome::Conflict).contains("nobody asked for"), "a false conflict was applied");
    assert!(spoilt(2, Outcome::Found(Some(1))).contains("no moment explains"), "a read of what never was");
    assert!(spoilt(5, Outcome::Found(Some(7))).contains("no moment explains"), "a stale read");
    let lonely = [operation(put(1, None), Outcome::Conflict, 0, 1)];
    assert!(checked(&lonely, &[]).contains("no moment explains"), "nothing was there to conflict with");
    let twice = [watched[0], watched[1], change(8, Some(2)), watched[2]];
    assert!(checked(&good, &twice).contains("was made before"), "a write was applied twice");
    let late = [watched[0], change(7, Some(2)), change(6, Some(4)), watched[2]];
    assert!(checked(&good, &late).contains("not in order"), "the watch went back");
}
