//! A change to a snapshot, as it is made and as it is remembered.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    instance::Endpoint,
    name::{InstanceKey, ServiceKey},
    route::Route,
    v1::DeclaredEntry,
};

/// What a change touches: the keys of entries that are new, changed or gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services.
    pub services: BTreeSet<ServiceKey>,
    /// Instances.
    pub instances: BTreeSet<InstanceKey>,
    /// Routes, by id.
    pub routes: BTreeSet<Arc<str>>,
    /// Declared routing, by id.
    pub declared: BTreeSet<Arc<str>>,
}

impl Touched {
    /// Whether nothing is touched.
    pub fn is_empty(&self) -> bool {
        let Self { services, instances, routes, declared } = self;
        services.is_empty() && instances.is_empty() && routes.is_empty() && declared.is_empty()
    }

    /// Adds what another change touches.
    pub fn extend(&mut self, other: &Self) {
        self.services.extend(other.services.iter().cloned());
        self.instances.extend(other.instances.iter().cloned());
        self.routes.extend(other.routes.iter().cloned());
        self.declared.extend(other.declared.iter().cloned());
    }
}

/// A change to a snapshot in checked types, as the control plane makes it.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Services that are new.
    pub services: Vec<ServiceKey>,
    /// Instances that are new or changed.
    pub instances: Vec<Endpoint>,
    /// Routes that are new or changed.
    pub routes: Vec<Route>,
    /// Services that are gone.
    pub removed_services: Vec<ServiceKey>,
    /// Instances that are gone.
    pub removed_instances: Vec<InstanceKey>,
    /// Routes that are gone, by id.
    pub removed_routes: Vec<Arc<str>>,
    /// Declared routing that is new or changed.
    pub declared: Vec<DeclaredEntry>,
    /// Declared routing that is gone, by id.
    pub removed_declared: Vec<Arc<str>>,
}

impl Change {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.instances.is_empty()
            && self.routes.is_empty()
            && self.removed_services.is_empty()
            && self.removed_instances.is_empty()
            && self.removed_routes.is_empty()
            && self.declared.is_empty()
            && self.removed_declared.is_empty()
    }
}
