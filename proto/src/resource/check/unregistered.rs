//! Services that resources name and that nobody has registered: accepted, since they come and go, and said all the
//! same, since a slip of the pen looks just like it.
//!
//! Deliberately absent: what proxies do meanwhile, and services that are registered without instances.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    MAX_FINDINGS, Member, Resources,
    reference::{Named, each},
    route::Route,
};
use crate::{
    name::ServiceKey,
    resource::{FieldPath, Finding, Kind, ResourceKey, backend::BackendKind, key::nearest},
};

/// How many are compared with what there is, so that a large set costs no more.
const COMPARED: usize = 20;

/// What a registry knows.
pub struct Services<'a> {
    /// Whether a service is registered.
    pub has: &'a dyn Fn(&ServiceKey) -> bool,
    /// The names of a namespace's registered services.
    pub names: &'a dyn Fn(&str) -> Vec<&'a str>,
}

/// The warnings of resources that are declared and name services that are neither registered nor declared.
pub fn unregistered(
    after: &Resources<'_>,
    changed: &BTreeSet<ResourceKey>,
    services: &Services<'_>,
) -> Vec<Finding> {
    let mut names = BTreeMap::new();
    let mut findings = Vec::new();
    for member in changed.iter().filter_map(|key| after.get(key.kind(), key.namespace(), key.name())) {
        let key = member.manifest.key();
        let what = if member.manifest.spec().targets().is_empty() {
            "no request reaches it until one is"
        } else {
            "the policy has no effect until one is"
        };
        let mut told = BTreeSet::new();
        each_service(member, &mut |name, namespace, at| {
            let Ok(service) = ServiceKey::new(namespace, name) else { return };
            let external = after.get(Kind::ExternalService, namespace, name).is_some();
            if external || (services.has)(&service) || findings.len() == MAX_FINDINGS || !told.insert(service)
            {
                return;
            }
            let known = names.entry(namespace).or_insert_with(|| (services.names)(namespace));
            let near = if findings.len() < COMPARED { nearest(name, known.iter().copied()) } else { None };
            let hint = near.map_or_else(
                || "`waypost services` lists those there are".to_owned(),
                |near| format!("did you mean {near:?}?"),
            );
            let reason = format!("is no service of namespace {namespace} that is registered now: {what}");
            findings.push(Finding::warning(at().key("name"), reason).value(name).suggest(hint).of(key));
        });
    }
    findings
}

/// Takes a service's name, its namespace, and the field that names it.
type Visit<'v, 'a> = dyn FnMut(&'a str, &'a str, &dyn Fn() -> FieldPath) + 'v;

/// Each reference of a route or policy to a service.
fn each_service<'a>(member: Member<'a>, visit: &mut Visit<'_, 'a>) {
    let own = member.namespace();
    if let Some(route) = Route::of(member) {
        each(&route, &mut |to: Named<'a>, at| {
            if BackendKind::of(to.group, to.kind) == Some(BackendKind::Service) {
                visit(to.name, to.namespace.unwrap_or(own), at);
            }
        });
    }
    for (index, target) in member.manifest.spec().targets().iter().enumerate() {
        if target.backend_kind() == Some(BackendKind::Service) {
            visit(&target.name, own, &|| FieldPath::spec().item("targetRefs", index));
        }
    }
}
