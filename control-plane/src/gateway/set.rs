//! All resources, with the looks-up that compiling needs.
//!
//! Deliberately absent: who has looked at what (see `needs`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    sync::Arc,
    time::SystemTime,
};

use waypost_proto::{
    name::ServiceKey,
    resource::{Kind, Manifest, ResourceKey, Spec, gateway::Gateway},
};

use super::{
    condition::Observed,
    needs::{Looking, Need},
    policy,
};

/// A resource that is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// What it says.
    pub manifest: Arc<Manifest>,
    /// Counts its changes.
    pub generation: u64,
    /// When it was first declared.
    pub created_at: SystemTime,
    /// When this generation was.
    pub applied_at: SystemTime,
}

impl Declared {
    /// Its name.
    pub fn key(&self) -> &ResourceKey {
        self.manifest.key()
    }

    /// Of what its conditions speak.
    pub(super) fn observed(&self) -> Observed {
        Observed { generation: self.generation, since: self.applied_at }
    }

    /// What a Gateway says.
    pub(super) fn gateway(&self) -> Option<&Gateway> {
        match self.manifest.spec() {
            Spec::Gateway(gateway) => Some(gateway),
            _ => None,
        }
    }
}

/// All resources.
#[derive(Debug, Default)]
pub(super) struct Set {
    resources: BTreeMap<ResourceKey, Arc<Declared>>,
    /// Grants by namespace, Gateways by port, policies by their kind and the service that they are for.
    grants: HashMap<String, BTreeSet<ResourceKey>>,
    ports: HashMap<u16, BTreeSet<ResourceKey>>,
    targets: HashMap<(Kind, ServiceKey), BTreeSet<ResourceKey>>,
}

impl Set {
    pub(super) fn get(&self, key: &ResourceKey) -> Option<&Arc<Declared>> {
        self.resources.get(key)
    }

    pub(super) fn grants(&self, namespace: &str) -> impl Iterator<Item = &Arc<Declared>> + use<'_> {
        self.all(self.grants.get(namespace))
    }

    pub(super) fn at_port(&self, port: u16) -> impl Iterator<Item = &Arc<Declared>> + use<'_> {
        self.all(self.ports.get(&port))
    }

    pub(super) fn policies(
        &self,
        kind: Kind,
        service: &ServiceKey,
    ) -> impl Iterator<Item = &Arc<Declared>> + use<'_> {
        self.all(self.targets.get(&(kind, service.clone())))
    }

    fn all<'a>(
        &'a self,
        keys: Option<&'a BTreeSet<ResourceKey>>,
    ) -> impl Iterator<Item = &'a Arc<Declared>> + use<'a> {
        keys.into_iter().flatten().filter_map(|key| self.resources.get(key))
    }

    /// Puts a resource in, or takes it out; answers what of that others may have looked at.
    pub(super) fn replace(&mut self, key: &ResourceKey, after: Option<Arc<Declared>>) -> BTreeSet<Need> {
        let mut touched = BTreeSet::from([Need::Resource(key.clone())]);
        if let Some(before) = self.resources.remove(key) {
            touched.extend(self.index(&before, false));
        }
        if let Some(after) = after {
            touched.extend(self.index(&after, true));
            self.resources.insert(key.clone(), after);
        }
        touched
    }

    fn index(&mut self, declared: &Declared, add: bool) -> Vec<Need> {
        let key = declared.key();
        match declared.manifest.spec() {
            Spec::ReferenceGrant(_) => {
                let namespace = key.namespace().to_owned();
                note(&mut self.grants, namespace.clone(), key, add);
                vec![Need::Grants(namespace)]
            }
            Spec::Gateway(gateway) => {
                let ports: BTreeSet<u16> = gateway.listeners.iter().map(|listener| listener.port).collect();
                ports.iter().for_each(|port| note(&mut self.ports, *port, key, add));
                ports.into_iter().map(Need::Port).collect()
            }
            policy => {
                let (kind, services) = (key.kind(), policy::services(key, policy.targets()));
                services.iter().for_each(|one| note(&mut self.targets, (kind, one.clone()), key, add));
                services.into_iter().map(|service| Need::Target(kind, service)).collect()
            }
        }
    }
}

fn note<K: Eq + Hash>(index: &mut HashMap<K, BTreeSet<ResourceKey>>, at: K, key: &ResourceKey, add: bool) {
    if add {
        index.entry(at).or_default().insert(key.clone());
    } else if let Some(keys) = index.get_mut(&at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(&at);
        }
    }
}

/// Whether something (group, kind, namespace) may refer to something (group, kind, namespace, name): within a namespace
/// always, into another one only where a `ReferenceGrant` there allows it.
pub(super) fn permitted(
    looking: &mut Looking<'_>,
    from: (&str, &str, &str),
    (group, kind, namespace, name): (&str, &str, &str, &str),
) -> bool {
    from.2 == namespace
        || looking.grants(namespace).any(|declared| match declared.manifest.spec() {
            Spec::ReferenceGrant(grant) => grant.permits(from, (group, kind, name)),
            _ => false,
        })
}
