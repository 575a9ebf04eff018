//! Changes as the scripts take them and as the stream keeps them; names and contents as the keys hold them.
//!
//! An instance is called `NAMESPACE/SERVICE/ID` in Redis, its service `NAMESPACE/SERVICE`, so that the instances of a
//! service are one range of the sorted names. Contents are `REVISION BYTES`, the bytes a `Stored…` message without
//! its revision, which the script puts in front.
//!
//! Deliberately absent: sending and reading.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use waypost_proto::name::{InstanceKey, ServiceKey};

use super::{
    scripts::{self, Request, Source},
    settings::{Keys, Settings},
};
use crate::store::{
    Commit, Declare, EmptyService, Event, LeaseChange, Mutation, Now, PastEvent, Record, Resource,
    StoreError, Written,
    codec::{Stored, declaration_from_bytes, declaration_to_bytes},
};

/// For how long a commit can be asked about; much longer than anybody asks.
const RECEIPT: Duration = Duration::from_secs(60);

/// An entry of a stream: its id, and fields and values in turn.
pub(super) type Entry = (String, Vec<Vec<u8>>);

/// What an instance is called in Redis.
pub(super) fn name(key: &InstanceKey) -> String {
    format!("{}/{}", service_name(key.service()), key.id())
}

/// What a service is called in Redis.
pub(super) fn service_name(service: &ServiceKey) -> String {
    format!("{}/{}", service.namespace(), service.name())
}

/// The instance that is called this.
pub(super) fn key(name: &str) -> Result<InstanceKey, StoreError> {
    let (service, id) = name.rsplit_once('/').unwrap_or(("", name));
    InstanceKey::new(service_key(service)?, id).map_err(|violation| malformed(name, violation.to_string()))
}

/// The service that is called this.
pub(super) fn service_key(name: &str) -> Result<ServiceKey, StoreError> {
    let (namespace, service) = name.split_once('/').unwrap_or(("", name));
    ServiceKey::new(namespace, service).map_err(|violation| malformed(name, violation.to_string()))
}

/// The error for an entry that means nothing.
pub(super) fn malformed(entry: &str, reason: impl Into<String>) -> StoreError {
    StoreError::Malformed { entry: entry.to_owned(), reason: reason.into() }
}

/// The request that makes a change, and the name of the entry that it may be in conflict with.
pub(super) fn request(mutation: &Mutation, settings: &Settings, keys: &Keys, id: &str) -> (Request, String) {
    match mutation {
        Mutation::Put { record, expected, lease, event } => {
            let expected = expected.map(|revision| revision.to_string()).unwrap_or_default();
            let (change, length) = match lease {
                LeaseChange::Grant => ("grant", record.ttl),
                LeaseChange::Keep => ("keep", Duration::ZERO),
                LeaseChange::Hold(length) => ("hold", *length),
            };
            let record_bytes = Record { revision: 0, ..record.clone() }.encode();
            let change_of =
                Change { entry: name(record.key()), expected, value: record_bytes, event: event.as_ref() };
            let request = change_of.request(&scripts::PUT, settings, keys, id);
            let request = request.arg(change).arg(record.epoch).arg(milliseconds(length));
            (request.arg(service_name(record.key().service())), record.key().to_string())
        }
        Mutation::Remove { key, expected, lapsed, emptied, event } => {
            let value = EmptyService { revision: 0, ..emptied.clone() }.encode();
            let change =
                Change { entry: name(key), expected: expected.to_string(), value, event: Some(event) };
            let request = change.request(&scripts::REMOVE, settings, keys, id).arg(u8::from(*lapsed));
            (request.arg(service_name(key.service())), key.to_string())
        }
        Mutation::Forget { service, expected } => {
            let (entry, expected) = (service_name(service), expected.to_string());
            let change = Change { entry, expected, value: Vec::new(), event: None };
            (change.request(&scripts::FORGET, settings, keys, id), service.to_string())
        }
        Mutation::Complete => {
            let change =
                Change { entry: String::new(), expected: String::new(), value: Vec::new(), event: None };
            (change.request(&scripts::COMPLETE, settings, keys, id), "the registry".to_owned())
        }
        Mutation::Declare(all) => declare(all, settings, keys, id),
    }
}

fn declare(all: &[Declare], settings: &Settings, keys: &Keys, id: &str) -> (Request, String) {
    let names: Vec<String> = all.iter().map(|declare| declare.resource.key.to_string()).collect();
    let entry = names.join(", ");
    let value = declaration_to_bytes(all.iter().map(|declare| &declare.resource));
    let change = Change { entry: entry.clone(), expected: String::new(), value, event: None };
    let mut request = change.request(&scripts::DECLARE, settings, keys, id);
    for (declare, name) in all.iter().zip(names) {
        let expected = declare.expected.map(|revision| revision.to_string()).unwrap_or_default();
        request = request.arg(name).arg(expected).arg(declare.resource.encode());
    }
    (request, entry)
}

/// What all changes have in common.
struct Change<'a> {
    entry: String,
    expected: String,
    value: Vec<u8>,
    event: Option<&'a Event>,
}

impl Change<'_> {
    fn request(self, source: &'static Source, settings: &Settings, keys: &Keys, id: &str) -> Request {
        let past = |event: &Event| PastEvent { revision: 0, at: UNIX_EPOCH, event: event.clone() };
        let event = self.event.map(|event| past(event).encode()).unwrap_or_default();
        let receipt = keys.receipt(id);
        Request::script(source, keys.all.iter().chain([&receipt]))
            .arg(settings.remembered)
            .arg(settings.events)
            .arg(milliseconds(RECEIPT.max(settings.timeout * 10)))
            .arg(self.entry)
            .arg(self.expected)
            .arg(self.value)
            .arg(event)
    }
}

/// Whole milliseconds, rounded up: a lease is never shorter than was asked for.
pub(super) fn milliseconds(length: Duration) -> u64 {
    u64::try_from(length.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// An instance from what `instances` holds of it.
pub(super) fn record(name: &str, contents: &[u8]) -> Result<Record, StoreError> {
    let (revision, bytes) = parts(name, contents)?;
    let record = Record::decode(bytes).map_err(|error| error.at(name))?;
    Ok(Record { revision, ..record })
}

/// A service without instances from what `empty` holds of it.
pub(super) fn empty_service(name: &str, contents: &[u8]) -> Result<EmptyService, StoreError> {
    let (revision, bytes) = parts(name, contents)?;
    let empty = EmptyService::decode(bytes).map_err(|error| error.at(name))?;
    Ok(EmptyService { revision, ..empty })
}

/// A resource from what `resources` holds of it.
pub(super) fn resource(name: &str, contents: &[u8]) -> Result<Resource, StoreError> {
    let (revision, bytes) = parts(name, contents)?;
    let resource = Resource::decode(bytes).map_err(|error| error.at(name))?;
    Ok(Resource { revision, ..resource })
}

fn parts<'a>(name: &str, contents: &'a [u8]) -> Result<(u64, &'a [u8]), StoreError> {
    let at = contents.iter().position(|byte| *byte == b' ');
    let (revision, bytes) = contents.split_at(at.ok_or_else(|| malformed(name, "it has no revision"))?);
    Ok((number(name, revision)?, &bytes[1..]))
}

fn number(entry: &str, text: &[u8]) -> Result<u64, StoreError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| malformed(entry, "a number is missing"))
}

/// The revision of a stream's entry.
pub(super) fn revision(entry: &Entry) -> Result<u64, StoreError> {
    number(&entry.0, entry.0.split('-').next().unwrap_or_default().as_bytes())
}

/// The fields of a stream's entry.
struct Fields<'a>(&'a str, HashMap<&'a [u8], &'a [u8]>);

impl<'a> Fields<'a> {
    fn of(entry: &'a Entry) -> Self {
        let pairs = entry.1.chunks_exact(2).map(|pair| (pair[0].as_slice(), pair[1].as_slice()));
        Self(&entry.0, pairs.collect())
    }

    fn bytes(&self, field: &str) -> &'a [u8] {
        self.1.get(field.as_bytes()).copied().unwrap_or_default()
    }

    fn text(&self, field: &str) -> Result<&'a str, StoreError> {
        std::str::from_utf8(self.bytes(field)).map_err(|error| malformed(self.0, error.to_string()))
    }

    fn time(&self) -> Result<SystemTime, StoreError> {
        Ok(UNIX_EPOCH + Duration::from_micros(number(self.0, self.bytes("at"))?))
    }

    fn event(&self) -> Result<Option<Event>, StoreError> {
        let bytes = self.bytes("event");
        if bytes.is_empty() {
            return Ok(None);
        }
        // Its time is the entry's.
        PastEvent::decode(bytes).map(|past| Some(past.event)).map_err(|error| error.at(self.0))
    }
}

/// The history that a change belongs to.
pub(super) fn history(entry: &Entry) -> Result<&str, StoreError> {
    Fields::of(entry).text("history")
}

/// A change that was read from the stream just now.
pub(super) fn commit(entry: &Entry) -> Result<Commit, StoreError> {
    let (fields, revision) = (Fields::of(entry), revision(entry)?);
    let (subject, value) = (fields.text("entry")?, fields.bytes("value"));
    let written = match fields.text("kind")? {
        "put" => {
            let record = Record::decode(value).map_err(|error| error.at(subject))?;
            Written::Put(Arc::new(Record { revision, ..record }))
        }
        "removed" => {
            let empty = || EmptyService::decode(value).map_err(|error| error.at(subject));
            let last = !fields.bytes("last").is_empty();
            let emptied = if last { Some(Arc::new(EmptyService { revision, ..empty()? })) } else { None };
            Written::Removed { key: key(subject)?, emptied }
        }
        "forgotten" => Written::Forgotten(service_key(subject)?),
        "completed" => Written::Completed,
        "declared" => {
            let resources = declaration_from_bytes(value).map_err(|error| error.at(subject))?;
            let dated = |resource: Resource| Arc::new(Resource { revision, ..resource });
            Written::Declared(resources.into_iter().map(dated).collect())
        }
        other => return Err(malformed(&entry.0, format!("{other:?} is no kind of change"))),
    };
    let at = Now { monotonic: Instant::now(), wall: fields.time()? };
    Ok(Commit { revision, at, written, event: fields.event()? })
}

/// An event that was read from the stream of events.
pub(super) fn past_event(entry: &Entry) -> Result<PastEvent, StoreError> {
    let fields = Fields::of(entry);
    let event = fields.event()?.ok_or_else(|| malformed(&entry.0, "event is missing"))?;
    Ok(PastEvent { revision: revision(entry)?, at: fields.time()?, event })
}
