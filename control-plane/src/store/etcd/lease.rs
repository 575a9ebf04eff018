//! Leases: an etcd lease for each instance, which deletes the key that says that the instance is alive.
//!
//! ```text
//!             Grant                      etcd's clock               Remove
//!   nothing ────────▶ granted, alive ──────────────────▶ granted ──────────▶ nothing
//!                        ▲   ▲  ▲ beat │                  │   │
//!                        │   │  └──────┘   a late beat    │   │ Hold
//!                        │   └────────────────────────────┘   ▼
//!                        └───── a beat ───────── granted, alive by the hold's lease
//! ```
//!
//! What stays of a lapsed lease (`granted`) says whose it was, so that a late beat can grant it again and that
//! an instance without a lease never lapses. etcd counts in whole seconds, rounded up, and grants no lease
//! shorter than one and a half election timeouts (2 s as it comes).
//!
//! Deliberately absent: decisions about what has lapsed.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::{
    Client, Error, GetOptions, KeyValue, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use waypost_proto::name::{InstanceKey, ServiceKey};

use super::{
    Shared,
    commit::{is_absent, is_at},
    keys::{Alive, BEATING, Granted, HELD},
    load, revision_of,
};
use crate::store::{LeaseStatus, Record, Renewal, StoreError};

/// How many questions of one operation are under way at once.
const AT_ONCE: usize = 32;
/// How long to wait for a key that is about to vanish.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Grants an etcd lease of this length, in whole seconds.
pub(super) async fn grant(shared: &Shared, length: Duration) -> Result<i64, StoreError> {
    let seconds = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
    // An id of our own choice, so that asking twice grants once.
    let id = fastrand::i64(1..i64::MAX);
    let grant = |mut client: Client| async move {
        let options = LeaseGrantOptions::new().with_id(id);
        match client.lease_grant(seconds, Some(options)).await {
            Err(Error::GRpcStatus(status)) if status.message().contains("lease already exists") => Ok(()),
            granted => granted.map(drop),
        }
    };
    shared.connection.call(grant).await?;
    Ok(id)
}

/// Renews the etcd lease that an instance lives by, where that is as long as the record's; `None`: it needs another one.
/// A renewal is no write of etcd, a new lease is one, and the end of the old one another.
pub(super) async fn keep(shared: &Shared, record: &Record) -> Result<Option<i64>, StoreError> {
    let Some(lease) = shared.mirror.kept(record.key(), record.ttl) else { return Ok(None) };
    let sent = Instant::now();
    if shared.lanes.renew(&shared.connection, &[lease]).await? != [true] {
        return Ok(None);
    }
    shared.mirror.renewed(record.key(), lease, sent);
    Ok(Some(lease))
}

/// Ends an etcd lease that nothing hangs on any more; if that fails it ends by itself.
pub(super) fn revoke_later(shared: &Arc<Shared>, lease: Option<i64>) {
    let Some(lease) = lease.filter(|lease| *lease != 0) else { return };
    let shared = shared.clone();
    tokio::spawn(async move {
        // One that has ended already is no failure.
        let _ = shared.connection.call(|mut client| async move { client.lease_revoke(lease).await }).await;
    });
}

/// Reads which etcd lease keeps a key.
pub(super) fn name(alive: &str) -> TxnOp {
    TxnOp::get(alive, Some(GetOptions::new().with_keys_only()))
}

/// The etcd lease that [`name`], one of a transaction's operations, has read.
pub(super) fn named(answer: &TxnResponse, operation: usize) -> Option<i64> {
    match answer.op_responses().get(operation) {
        Some(TxnOpResponse::Get(found)) => found.kvs().first().map(KeyValue::lease),
        _ => None,
    }
}

/// Lets an instance live as long as an etcd lease.
pub(super) fn put_alive(alive: &str, value: &str, lease: i64) -> TxnOp {
    TxnOp::put(alive, value, Some(PutOptions::new().with_lease(lease)))
}

/// Renews leases, named by key and epoch.
pub(super) async fn renew(
    shared: &Arc<Shared>,
    beats: &[(InstanceKey, u64)],
) -> Result<Vec<Renewal>, StoreError> {
    let sent = Instant::now();
    let known: Vec<Option<i64>> =
        beats.iter().map(|(key, epoch)| shared.mirror.beaten(key, *epoch)).collect();
    let leases: Vec<i64> = known.iter().copied().flatten().collect();
    let mut lives = shared.lanes.renew(&shared.connection, &leases).await?.into_iter();
    let mut renewals = vec![Renewal::Renewed; beats.len()];
    let mut unsure = Vec::new();
    for (at, ((key, epoch), lease)) in beats.iter().zip(known).enumerate() {
        match lease.filter(|_| lives.next().unwrap_or_default()) {
            Some(lease) => shared.mirror.renewed(key, lease, sent),
            None => unsure.push((at, key.clone(), *epoch)),
        }
    }
    let ask =
        |(at, key, epoch)| async move { Ok::<_, StoreError>((at, renew_slowly(shared, &key, epoch).await?)) };
    let answers = stream::iter(unsure).map(ask).buffer_unordered(AT_ONCE);
    let answers: Vec<(usize, Renewal)> = answers.try_collect().await?;
    for (at, renewal) in answers {
        renewals[at] = renewal;
    }
    Ok(renewals)
}

/// Renews a lease of which the mirror does not know enough, by what etcd says.
async fn renew_slowly(shared: &Arc<Shared>, key: &InstanceKey, epoch: u64) -> Result<Renewal, StoreError> {
    loop {
        let (granted, alive) = read(shared, key).await?;
        let Some((granted, terms)) = granted else { return Ok(Renewal::Unknown) };
        if terms.epoch != epoch {
            return Ok(Renewal::of(epoch, terms.epoch));
        }
        if let Some((_, Alive { lease, held: false })) = alive {
            if shared.lanes.renew(&shared.connection, &[lease]).await? == [true] {
                return Ok(Renewal::Renewed);
            }
            // It lapses at this moment: its key is about to vanish.
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        let lease = grant(shared, terms.ttl).await?;
        let key_alive = shared.keys.alive(key);
        let unchanged = [
            is_at(shared.keys.granted(key), Some(granted)),
            alive.map_or_else(|| is_absent(&*key_alive), |(revision, _)| is_at(&*key_alive, Some(revision))),
        ];
        let revive = Txn::new().when(unchanged).and_then([put_alive(&key_alive, BEATING, lease)]);
        let make = |mut client: Client| {
            let revive = revive.clone();
            async move { client.txn(revive).await }
        };
        let answer = shared.connection.call(make).await?;
        if answer.succeeded() {
            shared.mirror.wrote(revision_of(answer.header()));
            revoke_later(shared, alive.map(|(_, alive)| alive.lease));
            return Ok(Renewal::Renewed);
        }
        // Another beat was quicker, or our own, whose answer was lost: then its key has our lease.
        if read(shared, key).await?.1.is_none_or(|(_, alive)| alive.lease != lease) {
            revoke_later(shared, Some(lease));
        }
    }
}

type At<T> = Option<(u64, T)>;

/// A lease's two keys as etcd has them now, each with its revision.
async fn read(shared: &Shared, key: &InstanceKey) -> Result<(At<Granted>, At<Alive>), StoreError> {
    let (granted, alive) = (shared.keys.granted(key), shared.keys.alive(key));
    let get = |mut client: Client| {
        let both = [TxnOp::get(&*granted, None), TxnOp::get(&*alive, None)];
        async move { client.txn(Txn::new().and_then(both)).await }
    };
    let found = shared.connection.call(get).await?.op_responses();
    let entry = |at: usize| match found.get(at) {
        Some(TxnOpResponse::Get(found)) => found.kvs().first(),
        _ => None,
    };
    let terms =
        entry(0).map(|entry| Ok::<_, StoreError>((load::changed(entry), terms(entry)?))).transpose()?;
    Ok((terms, entry(1).map(|entry| (load::changed(entry), living(entry)))))
}

fn terms(entry: &KeyValue) -> Result<Granted, StoreError> {
    Granted::decode(entry.value()).ok_or_else(|| StoreError::Malformed {
        entry: String::from_utf8_lossy(entry.key()).into_owned(),
        reason: "it is not EPOCH MICROSECONDS".to_owned(),
    })
}

fn living(entry: &KeyValue) -> Alive {
    Alive { lease: entry.lease(), held: entry.value() == HELD.as_bytes() }
}

/// How all leases of a service stand. What this process has renewed lately it knows; about the others etcd is
/// asked, lease by lease.
pub(super) async fn leases(shared: &Shared, service: &ServiceKey) -> Result<Vec<LeaseStatus>, StoreError> {
    let granted_folder = shared.keys.granted_of(service);
    let (granted, at) = load::range(shared, &granted_folder, None).await?;
    let alive_folder = shared.keys.alive_of(service);
    let (alive, _) = load::range(shared, &alive_folder, Some(at)).await?;
    let id =
        |entry: &KeyValue, folder: &str| String::from_utf8_lossy(&entry.key()[folder.len()..]).into_owned();
    let alive: HashMap<String, i64> =
        alive.iter().map(|entry| (id(entry, &alive_folder), entry.lease())).collect();
    let mut standing = Vec::with_capacity(granted.len());
    for entry in &granted {
        let id = id(entry, &granted_folder);
        let key = InstanceKey::new(service.clone(), &id).map_err(|violation| StoreError::Malformed {
            entry: String::from_utf8_lossy(entry.key()).into_owned(),
            reason: violation.to_string(),
        })?;
        let Granted { epoch, ttl } = terms(entry)?;
        standing.push((LeaseStatus { key, epoch, ttl, remaining: Duration::ZERO }, alive.get(&id).copied()));
    }
    let ask = |(status, lease): (LeaseStatus, Option<i64>)| async move {
        let Some(lease) = lease else { return Ok(status) };
        Ok(LeaseStatus { remaining: remaining(shared, &status.key, lease, status.ttl).await?, ..status })
    };
    stream::iter(standing).map(ask).buffered(AT_ONCE).try_collect().await
}

async fn remaining(
    shared: &Shared,
    key: &InstanceKey,
    lease: i64,
    ttl: Duration,
) -> Result<Duration, StoreError> {
    let known = shared.mirror.remaining(key, lease, Instant::now());
    if known > ttl / 2 {
        return Ok(known);
    }
    let ask = |mut client: Client| async move { client.lease_time_to_live(lease, None).await };
    // It lives for less than a second more than the whole seconds that are told; one that is gone has -1.
    let seconds = shared.connection.call(ask).await?.ttl();
    let told = u64::try_from(seconds).map(|seconds| Duration::from_millis(seconds * 1000 + 1));
    Ok(told.unwrap_or_default())
}
