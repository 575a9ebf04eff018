//! One mutation as one transaction.
//!
//! The transaction compares what the mutation was planned from, and changes everything that belongs to it: the
//! record, its lease keys, the emptied service, the head and the event. Whether an instance was the last one is
//! decided by a transaction within, over the ranges of keys before and behind it. So nothing is read first, and
//! commits that do not touch each other do not disturb each other.
//!
//! Its event is named by an id of its own, and must not be there yet. So a transaction whose answer was lost is
//! simply made again: it cannot be applied twice, and where it was applied the event says so, and in which
//! revision.
//!
//! Deliberately absent: what is in a mutation, which the registry has planned.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, GetResponse, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use prost::Message;
use waypost_proto::name::{InstanceKey, ServiceKey};

use super::{
    Shared,
    connection::FULL,
    keys::{BEATING, Granted, HELD, Keys, behind, end_of},
    lease, load, number, revision_of, trim,
};
use crate::store::{
    Commit, Declare, EmptyService, Event, LeaseChange, Mutation, Now, PastEvent, Record, StoreError, Written,
    codec::{Stored, commit_to_stored},
};

/// What a commit compares and does, the head and the event aside.
struct Change {
    /// What it changes, in words.
    entry: String,
    compares: Vec<Compare>,
    operations: Vec<TxnOp>,
    /// The etcd lease that was granted for it.
    lease: Option<i64>,
    /// Whether it writes to the leases' folder, and reads the etcd lease that it replaces first.
    leases: bool,
}

/// Commits a mutation and answers its revision.
///
/// # Errors
/// [`StoreError::Conflict`] where the entry is not as expected; or etcd does not answer in time, and then the
/// mutation may come true or not.
pub(super) async fn commit(shared: &Arc<Shared>, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
    let id = uuid::Uuid::new_v4().to_string();
    let keys = &shared.keys;
    let event = match &mutation {
        Mutation::Put { event, .. } => event.clone(),
        Mutation::Remove { event, .. } => Some(event.clone()),
        Mutation::Forget { .. } | Mutation::Complete | Mutation::Declare(_) => None,
    };
    let head = |written| head(keys, written, event.clone(), now);
    let change = match mutation {
        Mutation::Put { record, expected, lease, .. } => {
            if lease == LeaseChange::Grant
                && let Some(kept) = lease::keep(shared, &record).await?
            {
                let change = put(keys, record.clone(), expected, Life::Kept(kept), head);
                match apply(shared, change, &id, event.clone(), now).await {
                    // Perhaps only the lease is another one by now.
                    Err(StoreError::Conflict { .. }) => {}
                    done => return done,
                }
            }
            let life = begin(shared, &record, lease).await?;
            put(keys, record, expected, life, head)
        }
        Mutation::Remove { key, expected, lapsed, emptied, .. } => {
            remove(keys, &key, expected, lapsed, emptied, head)
        }
        Mutation::Forget { service, expected } => Change {
            entry: service.to_string(),
            compares: vec![is_at(keys.empty_service(&service), Some(expected))],
            operations: vec![
                TxnOp::delete(keys.empty_service(&service), None),
                head(Written::Forgotten(service)),
            ],
            lease: None,
            leases: false,
        },
        Mutation::Complete => Change {
            entry: "the registry".to_owned(),
            compares: Vec::new(),
            operations: vec![TxnOp::put(keys.complete(), "", None), head(Written::Completed)],
            lease: None,
            leases: false,
        },
        Mutation::Declare(all) => declare(keys, all, head),
    };
    apply(shared, change, &id, event, now).await
}

/// What an instance lives by after a commit.
#[derive(Clone, Copy)]
enum Life {
    /// Whatever it lived by before.
    Unchanged,
    /// The etcd lease that it had, which was just renewed.
    Kept(i64),
    /// A new etcd lease.
    Granted(i64),
    /// The etcd lease of a hold.
    Held(i64),
}

/// Grants the etcd lease for a new record or a hold.
async fn begin(shared: &Shared, record: &Record, change: LeaseChange) -> Result<Life, StoreError> {
    Ok(match change {
        LeaseChange::Keep => Life::Unchanged,
        LeaseChange::Grant => Life::Granted(lease::grant(shared, record.ttl).await?),
        LeaseChange::Hold(length) => Life::Held(lease::grant(shared, length).await?),
    })
}

fn put(
    keys: &Keys,
    record: Record,
    expected: Option<u64>,
    life: Life,
    head: impl Fn(Written) -> TxnOp,
) -> Change {
    let key = record.key().clone();
    let (instance, granted, alive) = (keys.instance(&key), keys.granted(&key), keys.alive(&key));
    let terms = Granted { epoch: record.epoch, ttl: record.ttl }.encode();
    let mut compares = vec![is_at(&*instance, expected)];
    let mut operations = Vec::new();
    let lease = match life {
        Life::Unchanged | Life::Kept(_) => None,
        Life::Granted(lease) | Life::Held(lease) => Some(lease),
    };
    match life {
        Life::Unchanged => {}
        Life::Kept(lease) => {
            compares.push(Compare::lease(&*alive, CompareOp::Equal, lease));
            operations.push(TxnOp::put(granted, terms, None));
        }
        Life::Granted(lease) => {
            operations.extend([lease::name(&alive), lease::put_alive(&alive, BEATING, lease)]);
            operations.push(TxnOp::put(granted, terms, None));
        }
        Life::Held(lease) => {
            compares.extend([is_there(&*granted), is_absent(&*alive)]);
            operations.extend([lease::name(&alive), lease::put_alive(&alive, HELD, lease)]);
        }
    }
    operations.push(TxnOp::put(instance, record.encode(), None));
    operations.push(TxnOp::delete(keys.empty_service(key.service()), None));
    operations.push(head(Written::Put(Arc::new(record))));
    Change { entry: key.to_string(), compares, operations, lease, leases: !matches!(life, Life::Unchanged) }
}

fn remove(
    keys: &Keys,
    key: &InstanceKey,
    expected: u64,
    lapsed: bool,
    emptied: EmptyService,
    head: impl Fn(Written) -> TxnOp,
) -> Change {
    let (instance, alive) = (keys.instance(key), keys.alive(key));
    let mut compares = vec![is_at(&*instance, Some(expected))];
    if lapsed {
        compares.push(is_absent(&*alive));
    }
    let service = keys.empty_service(key.service());
    let stays = head(Written::Removed { key: key.clone(), emptied: None });
    let emptied = Arc::new(emptied);
    let leaves = TxnOp::put(service, emptied.encode(), None);
    let leaves = [leaves, head(Written::Removed { key: key.clone(), emptied: Some(emptied) })];
    let last = Txn::new().when(is_alone(keys, key.service(), &instance)).and_then(leaves).or_else([stays]);
    let operations = vec![
        lease::name(&alive),
        TxnOp::delete(instance, None),
        TxnOp::delete(keys.granted(key), None),
        TxnOp::delete(alive, None),
        TxnOp::txn(last),
    ];
    Change { entry: key.to_string(), compares, operations, lease: None, leases: true }
}

fn declare(keys: &Keys, all: Vec<Declare>, head: impl Fn(Written) -> TxnOp) -> Change {
    let names = all.iter().map(|declare| declare.resource.key.to_string());
    let entry = names.collect::<Vec<_>>().join(", ");
    let key = |declare: &Declare| keys.resource(&declare.resource.key);
    let compares = all.iter().map(|declare| is_at(key(declare), declare.expected)).collect();
    let put = |declare: &Declare| TxnOp::put(key(declare), declare.resource.encode(), None);
    let mut operations: Vec<TxnOp> = all.iter().map(put).collect();
    let resources = all.into_iter().map(|declare| Arc::new(declare.resource)).collect();
    operations.push(head(Written::Declared(resources)));
    Change { entry, compares, operations, lease: None, leases: false }
}

/// Makes the transaction, as often as it takes to learn what became of it.
async fn apply(
    shared: &Arc<Shared>,
    change: Change,
    id: &str,
    event: Option<Event>,
    now: Now,
) -> Result<u64, StoreError> {
    let keys = &shared.keys;
    let proof = keys.event(id);
    let mut compares = change.compares;
    compares.push(is_absent(&*proof));
    if let Some(history) = &*shared.history.lock() {
        compares.push(Compare::value(keys.history(), CompareOp::Equal, history.as_bytes()));
    }
    let past = event.map(|event| PastEvent { revision: 0, at: now.wall, event }.encode());
    let mut operations = change.operations;
    operations.push(TxnOp::put(&*proof, past.unwrap_or_default(), None));
    let only_name = || Some(GetOptions::new().with_keys_only());
    let otherwise = [
        TxnOp::get(&*proof, only_name()),
        TxnOp::get(keys.head(), only_name()),
        TxnOp::get(keys.history(), None),
    ];
    let transaction = Txn::new().when(compares).and_then(operations).or_else(otherwise);
    let attempts = AtomicU32::new(0);
    let make = |mut client: Client| {
        attempts.fetch_add(1, Ordering::Relaxed);
        let transaction = transaction.clone();
        async move { client.txn(transaction).await }
    };
    let (outcome, replaced) = match shared.connection.call(make).await {
        Ok(answer) => {
            let replaced = answer.succeeded().then(|| lease::named(&answer, 0)).flatten();
            (outcome(shared, &answer, change.entry), replaced)
        }
        Err(StoreError::Refused(why)) => {
            match refused(shared, &proof, why, attempts.into_inner() > 1).await {
                // Its lease may be needed.
                Err(unknown @ StoreError::Unavailable(_)) => return Err(unknown),
                known => (known, None),
            }
        }
        Err(error) => return Err(error),
    };
    let revision = match outcome {
        Ok(revision) => revision,
        Err(error) => {
            lease::revoke_later(shared, change.lease);
            return Err(error);
        }
    };
    if change.leases {
        shared.mirror.wrote(revision);
        lease::revoke_later(shared, replaced);
    }
    trim::count_commit(shared);
    Ok(revision)
}

fn outcome(shared: &Shared, answer: &TxnResponse, entry: String) -> Result<u64, StoreError> {
    if answer.succeeded() {
        return Ok(revision_of(answer.header()));
    }
    let found = answer.op_responses();
    let entry_at = |at: usize| match found.get(at) {
        Some(TxnOpResponse::Get(found)) => found.kvs().first(),
        _ => None,
    };
    // It was applied, and the answer lost.
    if let Some(proof) = entry_at(0) {
        return Ok(load::changed(proof));
    }
    let history = entry_at(2).map(etcd_client::KeyValue::value);
    if !shared.is_loaded(history) {
        let reason = "it has lost its data and begun a new history, which is not loaded yet";
        return Err(StoreError::Unavailable(reason.to_owned()));
    }
    // Before the first commit the registry begins where its history does.
    let newest = entry_at(1).or_else(|| entry_at(2));
    Err(StoreError::Conflict { entry, revision: newest.map(load::changed).unwrap_or_default() })
}

/// What became of a transaction that was refused, `again` after an attempt whose answer was lost.
///
/// A refusal may come with a transaction that was applied: with the one that fills the database (etcd,
/// `quotaApplierV3.Txn` applies it and answers that there is no space), and with one that the lost attempt made.
async fn refused(shared: &Shared, proof: &str, why: String, again: bool) -> Result<u64, StoreError> {
    if !again && !why.contains(FULL) {
        return Err(StoreError::Refused(why));
    }
    let get = |mut client: Client| {
        let only_name = GetOptions::new().with_keys_only();
        async move { client.get(proof, Some(only_name)).await }
    };
    match shared.connection.call(get).await.as_ref().map(GetResponse::kvs) {
        Ok([proof]) => Ok(load::changed(proof)),
        Ok(_) if !again => Err(StoreError::Refused(why)),
        // A lost attempt may still be on its way.
        Ok(_) | Err(_) => Err(StoreError::Unavailable(format!("{why}; whether it was done is not known"))),
    }
}

/// The new head: all that the commit changes. The revision is filled in by who reads it.
fn head(keys: &Keys, written: Written, event: Option<Event>, now: Now) -> TxnOp {
    let commit = Commit { revision: 0, at: now, written, event };
    TxnOp::put(keys.head(), commit_to_stored(&commit).encode_to_vec(), None)
}

/// Whether an entry was last changed by this revision, or is not there.
pub(super) fn is_at(key: impl Into<Vec<u8>>, revision: Option<u64>) -> Compare {
    // No entry has revision -1; revision 0 would stand for one that is not there.
    let known = revision.map(|revision| if revision == 0 { -1 } else { number(revision) });
    Compare::mod_revision(key, CompareOp::Equal, known.unwrap_or(0))
}

pub(super) fn is_absent(key: impl Into<Vec<u8>>) -> Compare {
    Compare::version(key, CompareOp::Equal, 0)
}

fn is_there(key: impl Into<Vec<u8>>) -> Compare {
    Compare::version(key, CompareOp::Greater, 0)
}

/// Whether a service has no other instance.
fn is_alone(keys: &Keys, service: &ServiceKey, instance: &str) -> [Compare; 2] {
    let folder = keys.instances_of(service);
    let end = end_of(&folder);
    [is_absent(folder).with_range(instance), is_absent(behind(instance)).with_range(end)]
}
