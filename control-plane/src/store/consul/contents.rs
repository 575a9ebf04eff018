//! What the registry holds at one revision, and what a mutation makes of it: plain functions, no I/O.
//!
//! Every process keeps this in step with Consul and decides upon it: a commit is made for one revision, and Consul
//! takes it only if that is still the newest one. So nothing but the head need be compared, and any number of
//! mutations fit into one transaction.

use std::{sync::Arc, time::Duration};

use imbl::OrdMap;
use prost::Message;
use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    resource::ResourceKey,
};

use super::{
    api::Operation,
    layout::{Entry, Layout, LogEntry},
};
use crate::store::{
    Commit, Declare, EmptyService, LeaseChange, Mutation, Now, Record, Resource, StoreError, Written,
    codec::{Malformed, Stored, commit_from_stored, commit_to_stored},
    record::first_key,
};

/// All that is registered. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) revision: u64,
    pub(super) complete: bool,
    pub(super) records: OrdMap<InstanceKey, Kept>,
    pub(super) empty: OrdMap<ServiceKey, Arc<EmptyService>>,
    pub(super) resources: OrdMap<ResourceKey, Arc<Resource>>,
}

/// An instance.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) record: Arc<Record>,
    /// Whether it has a lease.
    pub(super) leased: bool,
    /// For how long its lapsed lease is held.
    pub(super) hold: Option<Duration>,
}

/// One commit, with what it does to the lease.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Chosen by who commits it.
    pub(super) id: u64,
    pub(super) commit: Arc<Commit>,
    pub(super) lease: LeaseChange,
}

impl Step {
    /// As the log has it.
    pub(super) fn to_entry(&self) -> LogEntry {
        let hold_millis = match self.lease {
            LeaseChange::Hold(length) => Some(millis(length)),
            _ => None,
        };
        LogEntry {
            id: self.id,
            commit: Some(commit_to_stored(&self.commit)),
            grant: self.lease == LeaseChange::Grant,
            hold_millis,
        }
    }

    /// Reads what the log has.
    pub(super) fn from_entry(entry: LogEntry, now: Now) -> Result<Self, Malformed> {
        let lease = match entry.hold_millis {
            Some(length) => LeaseChange::Hold(Duration::from_millis(length)),
            None if entry.grant => LeaseChange::Grant,
            None => LeaseChange::Keep,
        };
        let commit = commit_from_stored(entry.commit.unwrap_or_default(), now.monotonic)?;
        Ok(Self { id: entry.id, commit: Arc::new(commit), lease })
    }
}

impl Kept {
    /// Reads what is stored of an instance.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let entry = Entry::decode(bytes)?;
        Ok(Self {
            record: Arc::new(Record::from_stored(entry.instance.unwrap_or_default())?),
            leased: entry.leased,
            hold: entry.hold_millis.map(Duration::from_millis),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let instance = Some(self.record.to_stored());
        Entry { instance, leased: self.leased, hold_millis: self.hold.map(millis) }.encode_to_vec()
    }
}

impl Contents {
    /// Makes a mutation the next revision: what it is for those who watch, and for Consul. Nothing has changed where
    /// it answers an error.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]
    pub(super) fn commit(
        &mut self,
        mutation: Mutation,
        id: u64,
        at: Now,
        layout: &Layout,
    ) -> Result<(Step, Vec<Operation>), StoreError> {
        let revision = self.revision + 1;
        let (written, lease, event) = match mutation {
            Mutation::Put { mut record, expected, lease, event } => {
                self.check(record.key(), expected)?;
                record.revision = revision;
                (Written::Put(Arc::new(record)), lease, event)
            }
            Mutation::Remove { key, expected, emptied, event, .. } => {
                self.check(&key, Some(expected))?;
                let emptied = self.is_last(&key).then(|| Arc::new(EmptyService { revision, ..emptied }));
                (Written::Removed { key, emptied }, LeaseChange::Keep, Some(event))
            }
            Mutation::Forget { service, expected } => {
                if self.empty.get(&service).map(|empty| empty.revision) != Some(expected) {
                    return Err(self.conflict(&service));
                }
                (Written::Forgotten(service), LeaseChange::Keep, None)
            }
            Mutation::Complete => (Written::Completed, LeaseChange::Keep, None),
            Mutation::Declare(all) => {
                let held = |key| self.resources.get(key).map(|held| held.revision);
                if let Some(other) = all.iter().find(|one| held(&one.resource.key) != one.expected) {
                    return Err(self.conflict(&other.resource.key));
                }
                let dated = |declare: Declare| Arc::new(Resource { revision, ..declare.resource });
                let resources = all.into_iter().map(dated).collect();
                (Written::Declared(resources), LeaseChange::Keep, None)
            }
        };
        let step = Step { id, commit: Arc::new(Commit { revision, at, written, event }), lease };
        let fills = |record: &Arc<Record>| self.empty.contains_key(record.key().service());
        let fills = matches!(&step.commit.written, Written::Put(record) if fills(record));
        self.apply(&step);
        let operations = self.operations(&step.commit.written, fills, layout);
        Ok((step, operations))
    }

    /// What must be written in Consul for what has just been applied.
    fn operations(&self, written: &Written, fills: bool, layout: &Layout) -> Vec<Operation> {
        match written {
            Written::Put(record) => {
                let key = record.key();
                let put = Operation::Set(layout.instance(key), self.records[key].encode());
                let filled = fills.then(|| Operation::Delete(layout.empty(key.service())));
                std::iter::once(put).chain(filled).collect()
            }
            Written::Removed { key, emptied } => {
                let emptied =
                    emptied.as_ref().map(|empty| Operation::Set(layout.empty(key.service()), empty.encode()));
                std::iter::once(Operation::Delete(layout.instance(key))).chain(emptied).collect()
            }
            Written::Forgotten(service) => vec![Operation::Delete(layout.empty(service))],
            Written::Completed => Vec::new(),
            Written::Declared(resources) => {
                let set = |resource: &Arc<Resource>| {
                    Operation::Set(layout.resource(&resource.key), resource.encode())
                };
                resources.iter().map(set).collect()
            }
        }
    }

    /// Takes in the next commit.
    pub(super) fn apply(&mut self, step: &Step) {
        self.revision = step.commit.revision;
        match &step.commit.written {
            Written::Put(record) => {
                let before = self.records.get(record.key());
                let (leased, hold) = match step.lease {
                    LeaseChange::Grant => (true, None),
                    LeaseChange::Hold(length) => (true, Some(length)),
                    LeaseChange::Keep => (
                        before.is_some_and(|before| before.leased),
                        before.and_then(|before| before.hold).filter(|_| record.suspect.is_some()),
                    ),
                };
                self.empty.remove(record.key().service());
                self.records.insert(record.key().clone(), Kept { record: record.clone(), leased, hold });
            }
            Written::Removed { key, emptied } => {
                self.records.remove(key);
                if let Some(empty) = emptied {
                    self.empty.insert(key.service().clone(), empty.clone());
                }
            }
            Written::Forgotten(service) => {
                self.empty.remove(service);
            }
            Written::Completed => self.complete = true,
            Written::Declared(resources) => {
                self.resources.extend(resources.iter().map(|one| (one.key.clone(), one.clone())));
            }
        }
    }

    /// The instances of a service.
    pub(super) fn of<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a Kept> {
        let all = self.records.range(first_key(service)..);
        all.take_while(move |(key, _)| key.service() == service).map(|(_, kept)| kept)
    }

    /// The lease's epoch and length; `None`: there is no lease.
    pub(super) fn lease(&self, key: &InstanceKey) -> Option<(u64, Duration)> {
        let kept = self.records.get(key).filter(|kept| kept.leased)?;
        Some((kept.record.epoch, kept.record.ttl))
    }

    /// Says that an entry is not as expected.
    pub(super) fn conflict(&self, entry: &dyn std::fmt::Display) -> StoreError {
        StoreError::Conflict { entry: entry.to_string(), revision: self.revision }
    }

    fn check(&self, key: &InstanceKey, expected: Option<u64>) -> Result<(), StoreError> {
        let held = self.records.get(key).map(|kept| kept.record.revision);
        if held == expected { Ok(()) } else { Err(self.conflict(key)) }
    }

    fn is_last(&self, key: &InstanceKey) -> bool {
        self.of(key.service()).all(|kept| kept.record.key() == key)
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
