//! Policies that are attached to services (GEP-713): what they are for, and which of several of a kind counts.
//!
//! Deliberately absent: what they say (see `tls` and `traffic`).

use std::collections::BTreeSet;

use serde_json::{Value, json};
use waypost_proto::{
    name::ServiceKey,
    resource::{ResourceKey, policy::PolicyTarget},
};

use super::{
    condition::{ACCEPTED, Condition},
    needs::Looking,
    set::Declared,
};

/// A target that can be one.
pub(super) struct Target {
    pub(super) service: ServiceKey,
    /// As statuses name it.
    pub(super) reference: Value,
    /// Why another policy counts for it; `None` where this one does.
    pub(super) conflict: Option<Condition>,
}

/// The services that a policy is for.
pub(super) fn services(key: &ResourceKey, targets: &[PolicyTarget]) -> BTreeSet<ServiceKey> {
    let service = |name: &str| ServiceKey::new(key.namespace(), name).ok();
    targets.iter().filter_map(|target| service(&target.name)).collect()
}

/// The targets of a policy, in their order. Of several policies of its kind for a service the oldest counts, then the
/// first by namespace and name.
pub(super) fn targets(
    looking: &mut Looking<'_>,
    declared: &Declared,
    targets: &[PolicyTarget],
) -> Vec<Target> {
    let key = declared.key();
    let mut found = Vec::new();
    for target in targets {
        let Ok(service) = ServiceKey::new(key.namespace(), &target.name) else { continue };
        let conflict = older(looking, declared, &service).map(|older| {
            let message = format!("{}/{} says so already, and is older", older.namespace(), older.name());
            Condition::fails(ACCEPTED, "Conflicted", message)
        });
        let reference = json!({
            "group": target.group, "kind": target.kind, "namespace": key.namespace(), "name": target.name,
        });
        found.push(Target { service, reference, conflict });
    }
    found
}

/// The policy that was there first for a service, if it is another one.
fn older(looking: &mut Looking<'_>, declared: &Declared, service: &ServiceKey) -> Option<ResourceKey> {
    let age = |declared: &Declared| (declared.created_at, declared.key().clone());
    let kind = declared.key().kind();
    let first = looking.policies(kind, service).min_by_key(|other| age(other))?;
    (first.key() != declared.key()).then(|| first.key().clone())
}
