//! The next snapshot in the making: every put and removal keeps the digest and the references right.

use std::sync::Arc;

use super::{Hashed, ServiceSlot, Snapshot, SnapshotError, Touched};
use crate::{
    instance::Endpoint,
    name::{InstanceKey, ServiceKey},
    route::Route,
    v1::{DeclaredEntry, Entries, Position, Removals},
};

/// A snapshot in the making.
pub(super) struct Edit {
    pub(super) next: Snapshot,
    pub(super) touched: Touched,
}

impl Edit {
    pub(super) fn of(base: &Snapshot) -> Self {
        Self { next: base.clone(), touched: Touched::default() }
    }

    pub(super) fn take(
        &mut self,
        entries: Option<&Entries>,
        removals: Option<&Removals>,
    ) -> Result<(), SnapshotError> {
        if let Some(entries) = entries {
            for hashed in &entries.services {
                let key = hashed.entry.as_ref().and_then(|entry| entry.key.as_ref());
                self.put_service(ServiceKey::from_wire(key)?, hashed.hash);
            }
        }
        if let Some(removals) = removals {
            for key in &removals.instances {
                self.remove_instance(&InstanceKey::from_wire(Some(key))?);
            }
            removals.routes.iter().for_each(|id| self.remove_route(id));
            removals.declared.iter().for_each(|id| self.remove_declared(id));
        }
        if let Some(entries) = entries {
            for hashed in &entries.instances {
                let entry = hashed.entry.clone().unwrap_or_default();
                self.put_instance(Endpoint::from_wire(&entry)?, hashed.hash)?;
            }
            for hashed in &entries.routes {
                let entry = hashed.entry.clone().unwrap_or_default();
                self.put_route(Route::from_wire(&entry)?, hashed.hash)?;
            }
            for hashed in &entries.declared {
                self.put_declared(hashed.entry.clone().unwrap_or_default(), hashed.hash);
            }
        }
        if let Some(removals) = removals {
            for key in &removals.services {
                self.remove_service(&ServiceKey::from_wire(Some(key))?)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(
        mut self,
        position: &Position,
        settled: bool,
    ) -> Result<(Snapshot, Touched), SnapshotError> {
        if self.next.digest != position.digest {
            let (revision, expected, got) = (position.revision, position.digest, self.next.digest);
            return Err(SnapshotError::Digest { revision, expected, got });
        }
        self.next.revision = position.revision;
        self.next.settled = settled;
        Ok((self.next, self.touched))
    }

    fn exchange(&mut self, old: Option<u64>, new: Option<u64>) {
        let digest = self.next.digest.wrapping_sub(old.unwrap_or(0));
        self.next.digest = digest.wrapping_add(new.unwrap_or(0));
    }

    fn refer(&mut self, service: &ServiceKey, entry: &dyn std::fmt::Display) -> Result<(), SnapshotError> {
        let slot = self
            .next
            .services
            .get_mut(service)
            .ok_or_else(|| SnapshotError::Dangling { entry: entry.to_string(), service: service.clone() })?;
        slot.references += 1;
        Ok(())
    }

    fn release(&mut self, service: &ServiceKey) {
        if let Some(slot) = self.next.services.get_mut(service) {
            slot.references -= 1;
        }
    }

    pub(super) fn put_service(&mut self, key: ServiceKey, hash: u64) {
        let old = self.next.services.get(&key).cloned();
        let references = old.as_ref().map_or(0, |slot| slot.references);
        self.exchange(old.map(|slot| slot.hash), Some(hash));
        self.next.services.insert(key.clone(), ServiceSlot { hash, references });
        self.touched.services.insert(key);
    }

    pub(super) fn remove_service(&mut self, key: &ServiceKey) -> Result<(), SnapshotError> {
        match self.next.services.get(key).cloned() {
            None => {}
            Some(slot) if slot.references == 0 => {
                self.next.services.remove(key);
                self.exchange(Some(slot.hash), None);
            }
            Some(slot) => {
                let entry = format!("{} entries of a removed service", slot.references);
                return Err(SnapshotError::Dangling { entry, service: key.clone() });
            }
        }
        self.touched.services.insert(key.clone());
        Ok(())
    }

    pub(super) fn put_instance(&mut self, endpoint: Endpoint, hash: u64) -> Result<(), SnapshotError> {
        let key = endpoint.key.clone();
        self.remove_instance(&key);
        self.refer(key.service(), &format_args!("instance {key}"))?;
        self.exchange(None, Some(hash));
        self.next.instances.insert(key, Hashed { hash, value: Arc::new(endpoint) });
        Ok(())
    }

    pub(super) fn insert_instance(&mut self, key: InstanceKey, hashed: Hashed<Endpoint>) {
        if self.refer(key.service(), &key).is_ok() {
            self.next.instances.insert(key, hashed);
        }
    }

    pub(super) fn remove_instance(&mut self, key: &InstanceKey) {
        if let Some(old) = self.next.instances.remove(key) {
            self.release(key.service());
            self.exchange(Some(old.hash), None);
        }
        self.touched.instances.insert(key.clone());
    }

    pub(super) fn put_route(&mut self, route: Route, hash: u64) -> Result<(), SnapshotError> {
        let id = route.id.clone();
        self.remove_route(&id);
        self.refer(&route.service, &format_args!("route {id:?}"))?;
        self.exchange(None, Some(hash));
        self.next.routes.insert(id, Hashed { hash, value: Arc::new(route) });
        Ok(())
    }

    pub(super) fn insert_route(&mut self, id: Arc<str>, hashed: Hashed<Route>) {
        if self.refer(&hashed.value.service, &id).is_ok() {
            self.next.routes.insert(id, hashed);
        }
    }

    pub(super) fn remove_route(&mut self, id: &str) {
        if let Some(old) = self.next.routes.remove(id) {
            self.release(&old.value.service);
            self.exchange(Some(old.hash), None);
        }
        self.touched.routes.insert(Arc::from(id));
    }

    pub(super) fn put_declared(&mut self, entry: DeclaredEntry, hash: u64) {
        let id: Arc<str> = Arc::from(entry.id.as_str());
        self.remove_declared(&id);
        self.exchange(None, Some(hash));
        self.next.declared.insert(id, Hashed { hash, value: Arc::new(entry) });
    }

    pub(super) fn remove_declared(&mut self, id: &str) {
        if let Some(old) = self.next.declared.remove(id) {
            self.exchange(Some(old.hash), None);
        }
        self.touched.declared.insert(Arc::from(id));
    }
}
