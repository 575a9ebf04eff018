//! A snapshot: all that a proxy needs at one revision, as a value that cannot dangle.
//!
//! The control plane builds it from changes and cuts chunks and deltas from it; a proxy rebuilds it from
//! those. Both use the same code, so that what the one sends is what the other checks. A snapshot is never
//! changed in place: [`Snapshot::apply`] makes the next one, which shares all that did not change, or fails
//! and leaves the old one as it was.
//!
//! The digest is the wrapping sum of the entries' hashes: it does not depend on order, and a delta updates
//! it in proportion to the delta.
//!
//! Deliberately absent: matching and balancing (the data plane compiles its table from a snapshot), and
//! where a change came from.

mod change;
mod edit;
mod error;

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use imbl::HashMap;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use self::edit::Edit;
pub use self::{
    change::{Change, Touched},
    error::SnapshotError,
};
use crate::{
    instance::Endpoint,
    name::{InstanceKey, ServiceKey},
    route::Route,
    time,
    v1::{
        DeclaredEntry, Delta, Entries, HashedDeclared, HashedInstance, HashedRoute, HashedService, Position,
        Removals, ServiceEntry, SnapshotChunk,
    },
};

/// A value with its part of the digest.
#[derive(Clone, Debug)]
struct Hashed<T> {
    hash: u64,
    value: Arc<T>,
}

#[derive(Clone, Debug)]
struct ServiceSlot {
    hash: u64,
    /// How many instances and routes refer to it.
    references: u32,
}

/// All that a proxy needs at one revision. A clone is cheap and shares everything.
#[derive(Clone, Debug)]
pub struct Snapshot {
    history: Arc<str>,
    revision: u64,
    digest: u64,
    settled: bool,
    services: HashMap<ServiceKey, ServiceSlot>,
    instances: HashMap<InstanceKey, Hashed<Endpoint>>,
    routes: HashMap<Arc<str>, Hashed<Route>>,
    declared: HashMap<Arc<str>, Hashed<DeclaredEntry>>,
}

impl Snapshot {
    /// The empty snapshot at the beginning of a history.
    pub fn empty(history: &str) -> Self {
        Self {
            history: Arc::from(history),
            revision: 0,
            digest: 0,
            settled: false,
            services: HashMap::new(),
            instances: HashMap::new(),
            routes: HashMap::new(),
            declared: HashMap::new(),
        }
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        Position { history: self.history.to_string(), revision: self.revision, digest: self.digest }
    }

    /// The history that it belongs to.
    pub fn history(&self) -> &str {
        &self.history
    }

    /// The revision that it stands for.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The wrapping sum of the hashes of its entries.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether what is missing is known to be gone (see `SnapshotChunk.settled`).
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// Its services, in no order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// Its instances, in no order.
    pub fn instances(&self) -> impl ExactSizeIterator<Item = &Arc<Endpoint>> {
        self.instances.values().map(|hashed| &hashed.value)
    }

    /// Its routes, in no order.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Arc<Route>> {
        self.routes.values().map(|hashed| &hashed.value)
    }

    /// Its declared routing, in no order.
    pub fn declared(&self) -> impl ExactSizeIterator<Item = &Arc<DeclaredEntry>> {
        self.declared.values().map(|hashed| &hashed.value)
    }

    /// Whether it has a service.
    pub fn has_service(&self, key: &ServiceKey) -> bool {
        self.services.contains_key(key)
    }

    /// An instance.
    pub fn instance(&self, key: &InstanceKey) -> Option<&Arc<Endpoint>> {
        self.instances.get(key).map(|hashed| &hashed.value)
    }

    /// A route, by its id.
    pub fn route(&self, id: &str) -> Option<&Arc<Route>> {
        self.routes.get(id).map(|hashed| &hashed.value)
    }

    /// An entry of declared routing, by its id.
    pub fn declared_entry(&self, id: &str) -> Option<&Arc<DeclaredEntry>> {
        self.declared.get(id).map(|hashed| &hashed.value)
    }

    /// The snapshot after a change in checked types, at `revision`. What the change touches comes back with it.
    ///
    /// # Errors
    /// [`SnapshotError::Dangling`] where an entry would refer to a service that is not there.
    pub fn change(
        &self,
        change: Change,
        revision: u64,
        settled: bool,
    ) -> Result<(Self, Touched), SnapshotError> {
        let mut edit = Edit::of(self);
        for key in change.services {
            edit.put_service(key.clone(), hash(&ServiceEntry { key: Some(key.to_wire()) }));
        }
        change.removed_instances.iter().for_each(|key| edit.remove_instance(key));
        change.removed_routes.iter().for_each(|id| edit.remove_route(id));
        for endpoint in change.instances {
            let hash = hash(&endpoint.to_wire());
            edit.put_instance(endpoint, hash)?;
        }
        for route in change.routes {
            let hash = hash(&route.to_wire());
            edit.put_route(route, hash)?;
        }
        change.removed_declared.iter().for_each(|id| edit.remove_declared(id));
        for entry in change.declared {
            let hash = hash(&entry);
            edit.put_declared(entry, hash);
        }
        for key in &change.removed_services {
            edit.remove_service(key)?;
        }
        let Edit { mut next, touched } = edit;
        next.revision = revision;
        next.settled = settled;
        Ok((next, touched))
    }

    /// The snapshot after a delta. What the delta touches comes back with it.
    ///
    /// # Errors
    /// The delta builds on something else, its contents are malformed, or the digest differs after it.
    pub fn apply(&self, delta: &Delta) -> Result<(Self, Touched), SnapshotError> {
        let position = delta.position.clone().unwrap_or_default();
        if position.history != *self.history {
            return Err(SnapshotError::History { held: self.history.to_string(), got: position.history });
        }
        if delta.from_revision != self.revision {
            return Err(SnapshotError::Gap { held: self.revision, from: delta.from_revision });
        }
        let mut edit = Edit::of(self);
        edit.take(delta.entries.as_ref(), delta.removals.as_ref())?;
        edit.finish(&position, delta.settled)
    }

    /// The snapshot that chunks make up.
    ///
    /// # Errors
    /// A chunk is missing, an entry is malformed or dangles, or the digest differs.
    pub fn from_chunks(chunks: &[SnapshotChunk]) -> Result<Self, SnapshotError> {
        let last = chunks.last().ok_or(SnapshotError::Chunk { expected: 0, got: 0 })?;
        let position = last.position.clone().unwrap_or_default();
        let mut edit = Edit::of(&Self::empty(&position.history));
        for (expected, chunk) in (0_u32..).zip(chunks) {
            let is_last = expected as usize + 1 == chunks.len();
            if chunk.index != expected || chunk.position != last.position || chunk.last != is_last {
                return Err(SnapshotError::Chunk { expected, got: chunk.index });
            }
            edit.take(chunk.entries.as_ref(), None)?;
        }
        edit.finish(&position, last.settled).map(|(snapshot, _)| snapshot)
    }

    /// Cuts the snapshot into chunks of at most `most` entries; at least one, services first. Each is made
    /// when it is asked for.
    pub fn chunks(&self, most: usize) -> impl Iterator<Item = SnapshotChunk> + '_ {
        let total = self.services.len() + self.instances.len() + self.routes.len() + self.declared.len();
        let most = most.max(1);
        let count = total.div_ceil(most).max(1);
        let mut services = self.services.keys().filter_map(|key| self.hashed_service(key));
        let mut instances = self.instances.values().map(hashed_instance);
        let mut routes = self.routes.values().map(hashed_route);
        let mut declared = self.declared.values().map(hashed_declared);
        (0..count).map(move |index| {
            let mut entries = Entries::default();
            entries.services.extend(services.by_ref().take(most));
            let room = most - entries.services.len();
            entries.instances.extend(instances.by_ref().take(room));
            let room = room - entries.instances.len();
            entries.routes.extend(routes.by_ref().take(room));
            entries.declared.extend(declared.by_ref().take(room - entries.routes.len()));
            SnapshotChunk {
                position: Some(self.position()),
                index: u32::try_from(index).unwrap_or(u32::MAX),
                last: index + 1 == count,
                entries: Some(entries),
                settled: self.settled,
            }
        })
    }

    /// All chunks at once.
    pub fn to_chunks(&self, most: usize) -> Vec<SnapshotChunk> {
        self.chunks(most).collect()
    }

    /// The delta from an earlier revision to this one, where `touched` is all that changed between.
    pub fn delta(&self, from_revision: u64, touched: &Touched, committed_at: SystemTime) -> Delta {
        let mut entries = Entries::default();
        let mut removals = Removals::default();
        for key in &touched.services {
            match self.hashed_service(key) {
                Some(service) => entries.services.push(service),
                None => removals.services.push(key.to_wire()),
            }
        }
        for key in &touched.instances {
            match self.instances.get(key) {
                Some(hashed) => entries.instances.push(hashed_instance(hashed)),
                None => removals.instances.push(key.to_wire()),
            }
        }
        for id in &touched.routes {
            match self.routes.get(id) {
                Some(hashed) => entries.routes.push(hashed_route(hashed)),
                None => removals.routes.push(id.to_string()),
            }
        }
        for id in &touched.declared {
            match self.declared.get(id) {
                Some(hashed) => entries.declared.push(hashed_declared(hashed)),
                None => removals.declared.push(id.to_string()),
            }
        }
        Delta {
            from_revision,
            position: Some(self.position()),
            entries: Some(entries),
            removals: Some(removals),
            settled: self.settled,
            committed_at: Some(time::timestamp(committed_at)),
        }
    }

    /// The part of the snapshot that belongs to some namespaces; all of it where none is named. Declared
    /// routing belongs to the namespace of its resource: a proxy is not sent the keys of others.
    #[must_use]
    pub fn scoped(&self, namespaces: &BTreeSet<String>) -> Self {
        if namespaces.is_empty() {
            return self.clone();
        }
        let mut edit = Edit::of(self);
        let outside = |key: &ServiceKey| !namespaces.contains(key.namespace());
        self.instances.keys().filter(|key| outside(key.service())).for_each(|key| edit.remove_instance(key));
        let routes = self.routes.values().filter(|route| outside(&route.value.service));
        routes.for_each(|route| edit.remove_route(&route.value.id));
        let declared = self.declared.keys().filter(|id| !namespaces.contains(declared_namespace(id)));
        declared.for_each(|id| edit.remove_declared(id));
        for key in self.services.keys().filter(|key| outside(key)) {
            edit.next.digest = edit.next.digest.wrapping_sub(self.services[key].hash);
            edit.next.services.remove(key);
        }
        edit.next
    }

    /// This snapshot with all of `known` that is missing in it. Position, digest and `settled` stay as they
    /// are: they speak of what the control plane sent, and not of what was carried over.
    #[must_use]
    pub fn carrying_over(&self, known: &Self) -> Self {
        let mut edit = Edit::of(self);
        for (key, slot) in known.services.iter().filter(|(key, _)| !self.services.contains_key(*key)) {
            edit.put_service(key.clone(), slot.hash);
        }
        for (key, hashed) in known.instances.iter().filter(|(key, _)| !self.instances.contains_key(*key)) {
            edit.insert_instance(key.clone(), hashed.clone());
        }
        for (id, hashed) in known.routes.iter().filter(|(id, _)| !self.routes.contains_key(*id)) {
            edit.insert_route(id.clone(), hashed.clone());
        }
        for (id, hashed) in known.declared.iter().filter(|(id, _)| !self.declared.contains_key(*id)) {
            edit.next.declared.insert(id.clone(), hashed.clone());
        }
        edit.next.digest = self.digest;
        edit.next
    }

    /// This snapshot without entries that a delta names as gone. Services stay while something refers to them.
    #[must_use]
    pub fn without(&self, gone: &Touched) -> Self {
        let mut edit = Edit::of(self);
        gone.instances.iter().for_each(|key| edit.remove_instance(key));
        gone.routes.iter().for_each(|id| edit.remove_route(id));
        gone.declared.iter().for_each(|id| edit.remove_declared(id));
        for key in &gone.services {
            if edit.next.services.get(key).is_some_and(|slot| slot.references == 0) {
                edit.next.services.remove(key);
            }
        }
        edit.next
    }

    fn hashed_service(&self, key: &ServiceKey) -> Option<HashedService> {
        let slot = self.services.get(key)?;
        Some(HashedService { hash: slot.hash, entry: Some(ServiceEntry { key: Some(key.to_wire()) }) })
    }
}

/// The namespace in the id of an entry of declared routing, `<kind>/<namespace>/…`.
pub fn declared_namespace(id: &str) -> &str {
    id.split('/').nth(1).unwrap_or_default()
}

fn hash(entry: &impl Message) -> u64 {
    xxh3_64(&entry.encode_to_vec())
}

fn hashed_instance(hashed: &Hashed<Endpoint>) -> HashedInstance {
    HashedInstance { hash: hashed.hash, entry: Some(hashed.value.to_wire()) }
}

fn hashed_route(hashed: &Hashed<Route>) -> HashedRoute {
    HashedRoute { hash: hashed.hash, entry: Some(hashed.value.to_wire()) }
}

fn hashed_declared(hashed: &Hashed<DeclaredEntry>) -> HashedDeclared {
    HashedDeclared { hash: hashed.hash, entry: Some(DeclaredEntry::clone(&hashed.value)) }
}

#[cfg(test)]
mod tests;
