//! Reading all that is there, as of one revision.
//!
//! Folders are read page by page, all pages as of the same revision; where that is compacted away in the
//! meantime, reading begins anew.
//!
//! Deliberately absent: leases; the mirror has them.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};

use super::{
    Shared,
    follow::LARGEST_MESSAGE,
    keys::{behind, end_of},
    number, revision_of,
};
use crate::store::{
    EmptyService, Loaded, PastEvent, Record, Resource, StoreError,
    codec::{Malformed, Stored},
};

/// How many entries the first page of a folder has.
const FIRST_PAGE: usize = 2000;
/// How large the following pages are to be, bytes, by what the entries before them had, and the most entries. For every
/// page etcd counts all the keys behind it, while writers wait; so the fewer pages, the better.
const PAGE_BYTES: usize = 8 << 20;
const LARGEST_PAGE: usize = 50_000;
/// How often reading begins anew, at most.
const ATTEMPTS: usize = 5;

/// All that a folder holds, and the revision of which it was read. `at`: read it as of that one.
///
/// # Errors
/// [`StoreError::Compacted`] where that revision is gone; or etcd does not answer.
pub(super) async fn range(
    shared: &Shared,
    folder: &str,
    at: Option<u64>,
) -> Result<(Vec<KeyValue>, u64), StoreError> {
    let end = end_of(folder);
    let (mut entries, mut at, mut from, mut limit) = (Vec::new(), at, folder.to_owned(), FIRST_PAGE);
    loop {
        let options = GetOptions::new().with_range(end.as_str()).with_limit(limit as i64);
        let options = at.into_iter().fold(options, |options, at| options.with_revision(number(at)));
        let read = |client: etcd_client::Client| {
            let (from, options) = (from.clone(), options.clone());
            async move {
                client.kv_client().max_decoding_message_size(LARGEST_MESSAGE).get(from, Some(options)).await
            }
        };
        let mut page = shared.connection.call(read).await?;
        let revision = *at.get_or_insert(revision_of(page.header()));
        let more = page.more();
        let bytes: usize = page.kvs().iter().map(|entry| entry.key().len() + entry.value().len()).sum();
        let each = bytes / page.kvs().len().max(1);
        limit = (PAGE_BYTES / each.max(1)).clamp(1, LARGEST_PAGE);
        entries.append(&mut page.take_kvs());
        match entries.last() {
            Some(last) if more => from = behind(&String::from_utf8_lossy(last.key())),
            _ => return Ok((entries, revision)),
        }
    }
}

/// All that the store holds.
///
/// # Errors
/// etcd does not answer, or holds what cannot be read.
pub(super) async fn load(shared: &Shared) -> Result<Loaded, StoreError> {
    for _ in 0..ATTEMPTS {
        match load_once(shared).await {
            Ok(Some(loaded)) => {
                *shared.history.lock() = Some(loaded.history.clone());
                return Ok(loaded);
            }
            Ok(None) => begin_history(shared).await?,
            Err(StoreError::Compacted { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let reason = "what is being read is compacted or removed, again and again";
    Err(StoreError::Unavailable(reason.to_owned()))
}

/// Gives this data a name where it has none.
async fn begin_history(shared: &Shared) -> Result<(), StoreError> {
    let key = shared.keys.history();
    let name = uuid::Uuid::new_v4().to_string();
    let begin = |mut client: etcd_client::Client| {
        let none = Compare::version(key.as_str(), CompareOp::Equal, 0);
        let put = TxnOp::put(key.as_str(), name.as_str(), None);
        async move { client.txn(Txn::new().when([none]).and_then([put])).await }
    };
    shared.connection.call(begin).await.map(drop)
}

/// All of it; `None` if it has no name yet.
async fn load_once(shared: &Shared) -> Result<Option<Loaded>, StoreError> {
    let keys = &shared.keys;
    let (entries, at) = range(shared, &keys.data(), None).await?;
    let (events, _) = range(shared, &keys.events(), Some(at)).await?;
    let [head, history, complete] = [keys.head(), keys.history(), keys.complete()];
    let (instances, empty, resources) = (keys.instances(), keys.empty_services(), keys.resources());
    let mut loaded = Loaded {
        history: Arc::from(""),
        revision: 0,
        complete: false,
        records: Vec::with_capacity(entries.len()),
        empty_services: Vec::new(),
        resources: Vec::new(),
        events: past(shared, events)?,
    };
    for entry in &entries {
        let (key, revision) = (entry.key(), changed(entry));
        if key.starts_with(instances.as_bytes()) {
            let record = read::<Record>(entry)?;
            loaded.records.push(Arc::new(Record { revision, ..record }));
        } else if key.starts_with(empty.as_bytes()) {
            let service = read::<EmptyService>(entry)?;
            loaded.empty_services.push(Arc::new(EmptyService { revision, ..service }));
        } else if key.starts_with(resources.as_bytes()) {
            let resource = read::<Resource>(entry)?;
            loaded.resources.push(Arc::new(Resource { revision, ..resource }));
        } else if key == head.as_bytes() {
            loaded.revision = revision;
        } else if key == complete.as_bytes() {
            loaded.complete = true;
        } else if key == history.as_bytes() {
            loaded.history = String::from_utf8_lossy(entry.value()).into();
            // Before the first commit. The head sorts before the history.
            loaded.revision = if loaded.revision == 0 { revision } else { loaded.revision };
        }
    }
    Ok(Some(loaded).filter(|loaded| !loaded.history.is_empty()))
}

/// What happened lately, oldest first. An entry without a value stands for a commit that nobody asked to
/// remember.
fn past(shared: &Shared, mut entries: Vec<KeyValue>) -> Result<Vec<Arc<PastEvent>>, StoreError> {
    entries.retain(|entry| !entry.value().is_empty());
    entries.sort_by_key(KeyValue::mod_revision);
    let surplus = entries.len().saturating_sub(shared.events);
    let event =
        |entry: &KeyValue| Ok(Arc::new(PastEvent { revision: changed(entry), ..read::<PastEvent>(entry)? }));
    entries[surplus..].iter().map(event).collect()
}

fn read<T: Stored>(entry: &KeyValue) -> Result<T, StoreError> {
    T::decode(entry.value())
        .map_err(|malformed: Malformed| malformed.at(String::from_utf8_lossy(entry.key())))
}

/// The revision that last changed an entry.
pub(super) fn changed(entry: &KeyValue) -> u64 {
    u64::try_from(entry.mod_revision()).unwrap_or_default()
}
