//! What a resource looks at while it is compiled, noted so that it is compiled again when that changes.
//!
//! What is not there is noted as well: it may come.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use waypost_proto::{
    name::ServiceKey,
    resource::{Kind, ResourceKey},
};

use super::{
    outcome::{Body, GatewayOutcome, Outcome},
    set::{Declared, Set},
};

/// Something that a resource has looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Need {
    /// A resource, or that there is none.
    Resource(ResourceKey),
    /// What became of a resource.
    Outcome(ResourceKey),
    /// What the grants of a namespace allow.
    Grants(String),
    /// Which listeners of all Gateways have a port.
    Port(u16),
    /// Which policies of a kind are for a service.
    Target(Kind, ServiceKey),
}

/// A look at all resources, which notes what is seen.
pub(super) struct Looking<'a> {
    set: &'a Set,
    outcomes: &'a OrdMap<ResourceKey, Arc<Outcome>>,
    needs: BTreeSet<Need>,
}

impl<'a> Looking<'a> {
    pub(super) fn new(set: &'a Set, outcomes: &'a OrdMap<ResourceKey, Arc<Outcome>>) -> Self {
        Self { set, outcomes, needs: BTreeSet::new() }
    }

    pub(super) fn into_needs(self) -> BTreeSet<Need> {
        self.needs
    }

    /// The resource that is compiled.
    pub(super) fn itself(&self, key: &ResourceKey) -> Option<&'a Arc<Declared>> {
        self.set.get(key)
    }

    /// Another resource.
    pub(super) fn find(&mut self, key: ResourceKey) -> Option<&'a Arc<Declared>> {
        let found = self.set.get(&key);
        self.needs.insert(Need::Resource(key));
        found
    }

    /// What became of a Gateway.
    pub(super) fn gateway(&mut self, key: &ResourceKey) -> Option<&'a GatewayOutcome> {
        self.needs.insert(Need::Outcome(key.clone()));
        match &self.outcomes.get(key)?.body {
            Body::Gateway(gateway) => Some(gateway),
            _ => None,
        }
    }

    /// The grants of a namespace.
    pub(super) fn grants(&mut self, namespace: &str) -> impl Iterator<Item = &'a Arc<Declared>> + use<'a> {
        self.needs.insert(Need::Grants(namespace.to_owned()));
        self.set.grants(namespace)
    }

    /// The Gateways that have a listener on a port.
    pub(super) fn at_port(&mut self, port: u16) -> impl Iterator<Item = &'a Arc<Declared>> + use<'a> {
        self.needs.insert(Need::Port(port));
        self.set.at_port(port)
    }

    /// The policies of a kind that are for a service.
    pub(super) fn policies(
        &mut self,
        kind: Kind,
        service: &ServiceKey,
    ) -> impl Iterator<Item = &'a Arc<Declared>> + use<'a> {
        self.needs.insert(Need::Target(kind, service.clone()));
        self.set.policies(kind, service)
    }
}
