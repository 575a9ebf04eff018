//! What the memory store holds, as a plain function of the mutations that it is given.
//!
//! Deliberately absent: leases, of which it asks how they stand and says what becomes of them; and time.

use std::{collections::BTreeMap, fmt::Display, sync::Arc, time::Duration};

use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    resource::ResourceKey,
};

use super::super::{
    Commit, Declare, EmptyService, Event, LeaseChange, Mutation, Record, Resource, StoreError, Written,
    leases::Standing, record::first_key,
};

/// Instances, services and resources at one revision.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) revision: u64,
    pub(super) complete: bool,
    pub(super) records: BTreeMap<InstanceKey, Arc<Record>>,
    pub(super) empty_services: BTreeMap<ServiceKey, Arc<EmptyService>>,
    pub(super) resources: BTreeMap<ResourceKey, Arc<Resource>>,
}

/// What becomes of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LeaseEffect {
    Grant { key: InstanceKey, epoch: u64, ttl: Duration },
    Hold { key: InstanceKey, length: Duration },
    Revoke { key: InstanceKey },
}

impl LeaseEffect {
    /// The lease, and how it stands afterwards.
    pub(super) fn outcome(&self) -> (&InstanceKey, Standing) {
        match self {
            Self::Grant { key, .. } | Self::Hold { key, .. } => (key, Standing::Alive),
            Self::Revoke { key } => (key, Standing::Absent),
        }
    }
}

/// A mutation that was made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) written: Written,
    pub(super) event: Option<Event>,
    pub(super) lease: Option<LeaseEffect>,
}

impl Contents {
    /// Makes a mutation under the next revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the entry is not as expected; nothing has changed then.
    pub(super) fn make(
        &mut self,
        mutation: Mutation,
        standing: impl Fn(&InstanceKey) -> Standing,
    ) -> Result<Made, StoreError> {
        let made = match mutation {
            Mutation::Put { record, expected, lease, event } => {
                let (written, lease) = self.put(record, expected, lease, standing)?;
                Made { written, event, lease }
            }
            Mutation::Remove { key, expected, lapsed, emptied, event } => {
                if lapsed && standing(&key) == Standing::Alive {
                    return Err(self.conflict(&key));
                }
                let written = self.remove(&key, expected, emptied)?;
                Made { written, event: Some(event), lease: Some(LeaseEffect::Revoke { key }) }
            }
            Mutation::Forget { service, expected } => {
                Made { written: self.forget(service, expected)?, event: None, lease: None }
            }
            Mutation::Complete => {
                self.complete = true;
                Made { written: Written::Completed, event: None, lease: None }
            }
            Mutation::Declare(resources) => {
                Made { written: self.declare(resources)?, event: None, lease: None }
            }
        };
        self.revision += 1;
        Ok(made)
    }

    /// Takes over a commit that was made elsewhere.
    pub(super) fn take(&mut self, commit: &Commit) {
        self.revision = commit.revision;
        match &commit.written {
            Written::Put(record) => {
                self.empty_services.remove(record.key().service());
                self.records.insert(record.key().clone(), record.clone());
            }
            Written::Removed { key, emptied } => {
                self.records.remove(key);
                if let Some(emptied) = emptied {
                    self.empty_services.insert(key.service().clone(), emptied.clone());
                }
            }
            Written::Forgotten(service) => {
                self.empty_services.remove(service);
            }
            Written::Completed => self.complete = true,
            Written::Declared(resources) => self.keep(resources),
        }
    }

    fn declare(&mut self, resources: Vec<Declare>) -> Result<Written, StoreError> {
        for Declare { resource, expected } in &resources {
            if self.resources.get(&resource.key).map(|held| held.revision) != *expected {
                return Err(self.conflict(&resource.key));
            }
        }
        let revision = self.revision + 1;
        let dated = |declare: Declare| Arc::new(Resource { revision, ..declare.resource });
        let resources: Vec<Arc<Resource>> = resources.into_iter().map(dated).collect();
        self.keep(&resources);
        Ok(Written::Declared(resources))
    }

    fn keep(&mut self, resources: &[Arc<Resource>]) {
        self.resources.extend(resources.iter().map(|resource| (resource.key.clone(), resource.clone())));
    }

    fn conflict(&self, entry: &dyn Display) -> StoreError {
        StoreError::Conflict { entry: entry.to_string(), revision: self.revision }
    }

    fn check(&self, key: &InstanceKey, expected: Option<u64>) -> Result<(), StoreError> {
        let held = self.records.get(key).map(|record| record.revision);
        if held == expected { Ok(()) } else { Err(self.conflict(key)) }
    }

    fn put(
        &mut self,
        mut record: Record,
        expected: Option<u64>,
        lease: LeaseChange,
        standing: impl Fn(&InstanceKey) -> Standing,
    ) -> Result<(Written, Option<LeaseEffect>), StoreError> {
        let key = record.key().clone();
        self.check(&key, expected)?;
        let effect = match lease {
            LeaseChange::Grant => {
                Some(LeaseEffect::Grant { key: key.clone(), epoch: record.epoch, ttl: record.ttl })
            }
            LeaseChange::Keep => None,
            LeaseChange::Hold(length) => {
                if standing(&key) != Standing::Lapsed {
                    return Err(self.conflict(&key));
                }
                Some(LeaseEffect::Hold { key: key.clone(), length })
            }
        };
        record.revision = self.revision + 1;
        let record = Arc::new(record);
        self.empty_services.remove(key.service());
        self.records.insert(key, record.clone());
        Ok((Written::Put(record), effect))
    }

    fn remove(
        &mut self,
        key: &InstanceKey,
        expected: u64,
        mut emptied: EmptyService,
    ) -> Result<Written, StoreError> {
        self.check(key, Some(expected))?;
        self.records.remove(key);
        let first = first_key(key.service());
        let last = self.records.range(first..).next().is_none_or(|(next, _)| next.service() != key.service());
        let emptied = last.then(|| {
            emptied.revision = self.revision + 1;
            let emptied = Arc::new(emptied);
            self.empty_services.insert(key.service().clone(), emptied.clone());
            emptied
        });
        Ok(Written::Removed { key: key.clone(), emptied })
    }

    fn forget(&mut self, service: ServiceKey, expected: u64) -> Result<Written, StoreError> {
        if self.empty_services.get(&service).map(|empty| empty.revision) != Some(expected) {
            return Err(self.conflict(&service));
        }
        self.empty_services.remove(&service);
        Ok(Written::Forgotten(service))
    }
}
