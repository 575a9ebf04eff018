//! What is declared, within the registry's state: it is compiled as it comes, and shown to proxies with everything else.
//!
//! An external service stands in the snapshot like a registered one. Where both have the same name, the registered one
//! is shown and the external one waits.
//!
//! Deliberately absent: what the resources come to (see `gateway`), and how they are declared (see `declare`).

use std::sync::Arc;

use waypost_proto::{
    instance::Endpoint,
    name::{InstanceKey, ServiceKey},
    resource::{Manifest, ResourceKey},
    snapshot::Change,
    v1::DeclaredEntry,
};

use super::{reserved::is_reserved, view::View};
use crate::{
    gateway::{Compiler, Declared, Shown, Step},
    store::Resource,
};

/// A resource, as the store has it and as it is understood.
#[derive(Clone, Debug)]
pub struct Held {
    /// As the store has it.
    pub resource: Arc<Resource>,
    /// What is in force; `None` where it is deleted. A manifest that another version has written may be one that is
    /// not understood here: then nothing is, and this says why.
    pub declared: Result<Option<Arc<Declared>>, Arc<str>>,
}

/// Keeps up with what is declared.
#[derive(Debug, Default)]
pub(super) struct Declarations {
    compiler: Compiler,
}

impl Held {
    fn of(resource: &Arc<Resource>) -> Self {
        Self { resource: resource.clone(), declared: understood(resource) }
    }

    /// What is in force, if it is there and understood.
    pub fn in_force(&self) -> Option<&Arc<Declared>> {
        self.declared.as_ref().ok()?.as_ref()
    }

    /// Somebody must act on a resource that is not understood.
    pub(super) fn log(&self) {
        if let Err(reason) = &self.declared {
            let (resource, generation) = (&self.resource.key, self.resource.generation);
            tracing::error!(%resource, generation, %reason, "a declared resource is not understood, nothing of it is in force");
        }
    }
}

fn understood(resource: &Resource) -> Result<Option<Arc<Declared>>, Arc<str>> {
    if resource.is_deleted() {
        return Ok(None);
    }
    let manifest = Manifest::from_json(&resource.manifest).map_err(|findings| {
        let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
        Arc::from(said.join("; "))
    })?;
    if *manifest.key() != resource.key {
        return Err(Arc::from(format!(
            "it is stored as {} and calls itself {}",
            resource.key,
            manifest.key()
        )));
    }
    Ok(Some(Arc::new(Declared {
        manifest: Arc::new(manifest),
        generation: resource.generation,
        created_at: resource.created_at,
        applied_at: resource.applied_at,
    })))
}

impl Declarations {
    /// Resources are new, changed or deleted, and some are not even remembered any more (`gone`), by a commit of this
    /// revision. Answers what that changes for proxies.
    pub(super) fn take(
        &mut self,
        view: &mut View,
        resources: &[Arc<Resource>],
        gone: &[ResourceKey],
        revision: u64,
    ) -> Change {
        let mut changes = Vec::with_capacity(resources.len() + gone.len());
        for resource in resources {
            let held = Held::of(resource);
            changes.push((resource.key.clone(), held.in_force().cloned()));
            view.resources.insert(resource.key.clone(), held);
        }
        for key in gone {
            view.resources.remove(key);
            changes.push((key.clone(), None));
        }
        let step = self.compiler.apply(changes, revision);
        view.gateway = self.compiler.shown().clone();
        change_of_step(view, step)
    }
}

impl View {
    /// What proxies would get if resources were declared like this, as the difference from what they have. It compiles
    /// all that is declared, so as not to take the compiler from those who declare in earnest; the result is the same,
    /// since compiling is a plain function of the resources.
    pub fn preview(&self, resources: &[Arc<Resource>]) -> Change {
        let mut declarations = Declarations::default();
        let in_force = self.resources().filter_map(Held::in_force);
        let all = in_force.map(|declared| (declared.key().clone(), Some(declared.clone()))).collect();
        declarations.compiler.apply(all, self.revision);
        declarations.take(&mut self.clone(), resources, &[], self.revision)
    }

    /// What all declared resources come to.
    pub fn gateway(&self) -> &Shown {
        &self.gateway
    }

    /// All resources, also those that are deleted; sorted by kind, namespace and name.
    pub fn resources(&self) -> impl Iterator<Item = &Held> {
        self.resources.values()
    }

    /// A resource, also one that is deleted.
    pub fn resource(&self, key: &ResourceKey) -> Option<&Held> {
        self.resources.get(key)
    }

    /// Whether a service is registered, with or without instances.
    pub fn is_registered(&self, service: &ServiceKey) -> bool {
        !is_reserved(service) && self.services.contains_key(service)
    }

    /// The names of a namespace's services that are registered, at most so many.
    pub fn service_names<'a>(&'a self, namespace: &str, most: usize) -> Vec<&'a str> {
        let there = self.services.keys().filter(|key| key.namespace() == namespace && !is_reserved(key));
        there.map(ServiceKey::name).take(most).collect()
    }

    /// Whether a service is registered and has instances.
    pub fn has_instances(&self, service: &ServiceKey) -> bool {
        self.records_of(service).next().is_some()
    }

    /// The external services that proxies know, with their instances.
    pub(super) fn externals(&self) -> impl Iterator<Item = (&ServiceKey, &Arc<[Endpoint]>)> {
        self.gateway.externals.iter().filter(|(service, _)| self.shows_external(service))
    }

    /// Whether proxies know a service, be it registered or external.
    pub(super) fn is_known(&self, service: &ServiceKey) -> bool {
        self.services.contains_key(service) || self.gateway.external(service).is_some()
    }

    /// An instance as proxies know it, be its service registered or external.
    pub(super) fn endpoint(&self, key: &InstanceKey) -> Option<Endpoint> {
        if let Some(record) = self.record(key) {
            return Some(record.endpoint());
        }
        if self.shows_external(key.service()) { self.gateway.external_instance(key).cloned() } else { None }
    }

    fn shows_external(&self, service: &ServiceKey) -> bool {
        !is_reserved(service) && !self.services.contains_key(service)
    }
}

/// What a step of the compiler changes in what proxies know, where `view` shows the state after it.
fn change_of_step(view: &View, step: Step) -> Change {
    let mut change = Change { removed_declared: step.removed, ..Change::default() };
    change.declared = step.declared.into_iter().map(|entry| DeclaredEntry::clone(&entry)).collect();
    for (service, before) in step.externals {
        if !view.shows_external(&service) {
            continue;
        }
        let after = view.gateway.external(&service);
        let now = after.map_or(&[][..], |endpoints| endpoints);
        change.instances.extend(now.iter().filter(|endpoint| !before.contains(endpoint)).cloned());
        let gone = before.iter().filter(|old| now.iter().all(|new| new.key != old.key));
        change.removed_instances.extend(gone.map(|endpoint| endpoint.key.clone()));
        let services = if after.is_some() { &mut change.services } else { &mut change.removed_services };
        services.push(service);
    }
    change
}

/// Lets external services make room for registered ones that have come, and take their place where these have gone.
pub(super) fn give_way(view: &View, change: &mut Change) {
    for service in &change.services {
        let external = view.gateway.external(service).map_or(&[][..], |endpoints| endpoints);
        change.removed_instances.extend(external.iter().map(|endpoint| endpoint.key.clone()));
    }
    let gone = std::mem::take(&mut change.removed_services);
    for service in gone {
        match view.gateway.external(&service) {
            Some(endpoints) => change.instances.extend(endpoints.iter().cloned()),
            None => change.removed_services.push(service),
        }
    }
}
