//! The data directory's file, read: from a copy in memory, so that not even a repair touches the file itself.
//!
//! Deliberately absent: damage that can be read past. What was acknowledged is all there, or an operator decides.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    sync::Arc,
    time::Duration,
};

use prost::Message;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableError,
    backends::InMemoryBackend,
};
use waypost_proto::resource::ResourceKey;

use super::{
    super::{
        Commit, Now, PastEvent, Record, Resource,
        codec::{Malformed, Stored, commit_from_stored},
        record::EmptyService,
    },
    contents::Contents,
    file::{ABOUT, COMMITS, EMPTY_SERVICES, EVENTS, FORMAT, INSTANCES, Kept, LEASES, RESOURCES},
};

/// Why a file is not understood.
pub(super) struct Unreadable(pub(super) String);

impl<E: Into<redb::Error>> From<E> for Unreadable {
    fn from(error: E) -> Self {
        Self(error.into().to_string())
    }
}

/// Names the entry that is not understood.
fn at<'a>(table: &'a str, key: &'a dyn Display) -> impl Fn(Malformed) -> Unreadable + 'a {
    move |reason| Unreadable(format!("{table}, {key}: {reason}"))
}

/// What a file's bytes stand for.
pub(super) fn read(bytes: &[u8], now: Now) -> Result<Kept, Unreadable> {
    let backend = InMemoryBackend::new();
    backend.set_len(bytes.len() as u64)?;
    backend.write(0, bytes)?;
    let mut database = Database::builder().create_with_backend(backend)?;
    if !database.check_integrity()? {
        return Err(Unreadable("it is damaged".to_owned()));
    }
    let transaction = database.begin_read()?;
    let about = transaction.open_table(ABOUT)?;
    let told = |what: &str| -> Result<String, Unreadable> {
        let value = about.get(what)?.ok_or_else(|| Unreadable(format!("about, {what}: it is missing")))?;
        Ok(value.value().to_owned())
    };
    let format = told("format")?;
    if format != FORMAT {
        return Err(Unreadable(format!(
            "it has format {format:?} and this version of Waypost reads {FORMAT:?} only"
        )));
    }
    let revision = told("revision")?;
    let revision = revision.parse().map_err(|_| Unreadable(format!("about, revision: {revision:?}")))?;
    let mut contents = Contents { revision, complete: told("complete")? == "true", ..Contents::default() };
    for entry in transaction.open_table(INSTANCES)?.iter()? {
        let (key, bytes) = entry?;
        let record = Record::decode(bytes.value()).map_err(at("instances", &key.value()))?;
        contents.records.insert(record.key().clone(), Arc::new(record));
    }
    for entry in transaction.open_table(EMPTY_SERVICES)?.iter()? {
        let (key, bytes) = entry?;
        let empty = EmptyService::decode(bytes.value()).map_err(at("empty_services", &key.value()))?;
        contents.empty_services.insert(empty.key.clone(), Arc::new(empty));
    }
    contents.resources = resources(&transaction)?;
    let mut leases = Vec::new();
    for entry in transaction.open_table(LEASES)?.iter()? {
        let (key, lease) = entry?;
        let (epoch, ttl) = lease.value();
        let key = key.value().parse().map_err(|_| Unreadable(format!("leases, {}: no key", key.value())))?;
        leases.push((key, epoch, Duration::from_millis(ttl)));
    }
    let (log, past) = read_past(&transaction, revision, now)?;
    Ok(Kept { history: told("history")?.into(), contents, leases, log, past })
}

/// The resources; a file of an older version has no table for them.
fn resources(transaction: &ReadTransaction) -> Result<BTreeMap<ResourceKey, Arc<Resource>>, Unreadable> {
    let table = match transaction.open_table(RESOURCES) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        opened => opened?,
    };
    let mut resources = BTreeMap::new();
    for entry in table.iter()? {
        let (key, bytes) = entry?;
        let resource = Resource::decode(bytes.value()).map_err(at("resources", &key.value()))?;
        resources.insert(resource.key.clone(), Arc::new(resource));
    }
    Ok(resources)
}

type Past = (VecDeque<Arc<Commit>>, VecDeque<Arc<PastEvent>>);

/// The commits up to a revision, and the events that are older than these.
fn read_past(transaction: &ReadTransaction, revision: u64, now: Now) -> Result<Past, Unreadable> {
    let mut log = VecDeque::new();
    for entry in transaction.open_table(COMMITS)?.iter()? {
        let (revision, bytes) = entry?;
        let wire = Message::decode(bytes.value()).map_err(Malformed::from);
        let commit = wire.and_then(|wire| commit_from_stored(wire, now.monotonic));
        log.push_back(Arc::new(commit.map_err(at("commits", &revision.value()))?));
    }
    let first = revision + 1 - (log.len() as u64).min(revision);
    if !log.iter().map(|commit| commit.revision).eq(first..=revision) && !log.is_empty() {
        return Err(Unreadable(format!("commits: they are not those up to revision {revision}")));
    }
    let mut past = VecDeque::new();
    for entry in transaction.open_table(EVENTS)?.range(..first)? {
        let (revision, bytes) = entry?;
        past.push_back(Arc::new(PastEvent::decode(bytes.value()).map_err(at("events", &revision.value()))?));
    }
    Ok((log, past))
}
