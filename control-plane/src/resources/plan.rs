//! What a declaration would do: a plain function of what there is, what is wanted and the time.
//!
//! The whole set is checked as it would be afterwards; what stands in the way refuses all of it.
//!
//! Deliberately absent: I/O. The registry makes a plan again where others were faster.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use waypost_proto::{
    error::{Error, ErrorCode},
    name::ServiceKey,
    resource::{
        FieldPath, Finding, Kind, Manifest, Parsed, ResourceKey, Severity, Spec,
        check::{Member, Resources, Services, check, place, unregistered},
        finding::refusal,
        material::TLS_KEY,
    },
    v1::{AppliedResource, ApplyOutcome, ResourceFinding},
};

use super::{missing, pair, redact};
use crate::{
    registry::{Held, View, reserved::is_reserved},
    store::{Declare, LARGEST_MANIFEST, Resource},
};

/// With how many services' names one is compared that is not there.
const COMPARED: usize = 10_000;

/// What is to be written, and what callers are told of it.
#[derive(Debug, Default)]
pub(super) struct Planned {
    /// In an order in which none needs a later one.
    pub(super) declares: Vec<Declare>,
    /// In the order of the documents.
    pub(super) resources: Vec<AppliedResource>,
    pub(super) warnings: Vec<ResourceFinding>,
}

/// What declaring documents would do.
///
/// # Errors
/// Says all that is wrong with them.
pub(super) fn apply(view: &View, parsed: &[Parsed], actor: &str, now: SystemTime) -> Result<Planned, Error> {
    let changed: BTreeSet<ResourceKey> = parsed.iter().map(|parsed| parsed.manifest.key().clone()).collect();
    let created_at = |key: &ResourceKey| {
        let held = view.resource(key).filter(|held| !held.resource.is_deleted());
        held.map_or(now, |held| held.resource.created_at)
    };
    let wanted = parsed.iter().map(|parsed| {
        let manifest = &*parsed.manifest;
        Member { manifest, created_at: created_at(manifest.key()) }
    });
    let after: Resources<'_> = others(view, &changed).chain(wanted).collect();
    let mut findings = check(&others(view, &BTreeSet::new()).collect(), &after, &changed);
    for parsed in parsed {
        findings.extend(own_findings(view, &parsed.manifest));
    }
    let names = |namespace: &str| view.service_names(namespace, COMPARED);
    let services = Services { has: &|service| view.is_registered(service), names: &names };
    findings.extend(unregistered(&after, &changed, &services));
    place(parsed, &mut findings);
    let mut planned = Planned { warnings: warnings(&findings)?, ..Planned::default() };
    for parsed in parsed {
        let manifest = &parsed.manifest;
        let held = view.resource(manifest.key());
        planned.resources.push(applied(held, manifest));
        if held.is_none_or(|held| *held.resource.manifest != *manifest.json()) {
            planned.declares.push(declare(held, manifest.key(), manifest.json(), actor, now));
        }
    }
    planned.declares.sort_by_key(|declare| rank(declare.resource.key.kind()));
    Ok(planned)
}

/// What deleting resources would do.
///
/// # Errors
/// One of them is not there, or others need it.
pub(super) fn delete(
    view: &View,
    keys: &BTreeSet<ResourceKey>,
    actor: &str,
    now: SystemTime,
) -> Result<Planned, Error> {
    let is_there = |key: &&ResourceKey| view.resource(key).is_some_and(|held| !held.resource.is_deleted());
    let absent: Vec<String> = keys.iter().filter(|key| !is_there(key)).map(missing).collect();
    if !absent.is_empty() {
        return Err(Error::new(ErrorCode::NotFound, absent.join("\n")));
    }
    let before = others(view, &BTreeSet::new()).collect();
    let findings = check(&before, &others(view, keys).collect(), keys);
    let needed = |refused: Error| Error { code: ErrorCode::FailedPrecondition, ..refused };
    let warnings = warnings(&findings).map_err(needed)?;
    let gone = |key: &ResourceKey| declare(view.resource(key), key, "", actor, now);
    let mut declares: Vec<Declare> = keys.iter().map(gone).collect();
    declares.sort_by_key(|declare| std::cmp::Reverse(rank(declare.resource.key.kind())));
    Ok(Planned { declares, resources: Vec::new(), warnings })
}

/// Whatever is in force, without some.
fn others<'a>(view: &'a View, without: &BTreeSet<ResourceKey>) -> impl Iterator<Item = Member<'a>> {
    let held = view.resources().filter(|held| !without.contains(&held.resource.key));
    held.filter_map(Held::in_force)
        .map(|declared| Member { manifest: &declared.manifest, created_at: declared.created_at })
}

/// The warnings among findings.
///
/// # Errors
/// There are errors among them.
fn warnings(findings: &[Finding]) -> Result<Vec<ResourceFinding>, Error> {
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(refusal(findings));
    }
    Ok(findings.iter().map(Finding::to_wire).collect())
}

/// What is wrong with a resource here, though its manifest is good.
fn own_findings(view: &View, manifest: &Manifest) -> Vec<Finding> {
    let key = manifest.key();
    let mut findings = Vec::new();
    let size = manifest.json().len();
    if size > LARGEST_MANIFEST {
        let reason = format!("has {size} bytes as JSON; the most that is kept is {LARGEST_MANIFEST}");
        let finding = Finding::error(FieldPath::root(), reason);
        findings.push(finding.suggest("split it into several resources"));
    }
    match manifest.spec() {
        Spec::ExternalService(_) => findings.extend(external_finding(view, key)),
        Spec::Secret(secret) => findings.extend(pair::misfit(secret).map(|reason| {
            let finding = Finding::error(FieldPath::root().key("data").key(TLS_KEY), reason);
            finding.suggest("declare the certificate and the key that were made together")
        })),
        _ => {}
    }
    findings.into_iter().map(|finding| finding.of(key)).collect()
}

/// Whether a registered service is in the way of an external one.
fn external_finding(view: &View, key: &ResourceKey) -> Option<Finding> {
    let service = ServiceKey::new(key.namespace(), key.name()).ok()?;
    let metadata = FieldPath::root().key("metadata");
    if is_reserved(&service) {
        let reason = "is reserved for Waypost's own control planes";
        return Some(Finding::error(metadata.key("namespace"), reason).value(key.namespace()));
    }
    if !view.is_registered(&service) {
        return None;
    }
    let name = metadata.key("name");
    let is_new = view.resource(key).is_none_or(|held| held.resource.is_deleted());
    Some(if is_new && view.has_instances(&service) {
        Finding::error(name, "is the name of a service that has registered instances")
            .value(key.name())
            .suggest("choose another name, or deregister them first")
    } else {
        let reason = "is the name of a registered service, which is what proxies know until it is forgotten";
        Finding::warning(name, reason).value(key.name())
    })
}

/// What becomes of a resource, for the answer.
fn applied(held: Option<&Held>, manifest: &Arc<Manifest>) -> AppliedResource {
    let key = manifest.key();
    let before = held.map_or("", |held| &held.resource.manifest);
    let generation = held.map_or(0, |held| held.resource.generation);
    let (outcome, generation) = match before {
        "" => (ApplyOutcome::Created, generation + 1),
        same if same == manifest.json() => (ApplyOutcome::Unchanged, generation),
        _ => (ApplyOutcome::Configured, generation + 1),
    };
    let (before, after) = redact::change(key, before, manifest.json());
    AppliedResource { key: Some(key.to_wire()), outcome: outcome.into(), generation, before, after }
}

fn declare(held: Option<&Held>, key: &ResourceKey, manifest: &str, actor: &str, now: SystemTime) -> Declare {
    let resource = match held {
        Some(held) => held.resource.next(manifest.into(), actor, now),
        None => Resource::first(key.clone(), manifest.into(), actor, now),
    };
    Declare { resource, expected: held.map(|held| held.resource.revision) }
}

/// Kinds with a lower rank are referred to by those with a higher one.
fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Secret | Kind::ConfigMap | Kind::ReferenceGrant | Kind::ExternalService => 0,
        Kind::BackendTlsPolicy | Kind::BackendTrafficPolicy | Kind::Gateway => 1,
        Kind::HttpRoute | Kind::GrpcRoute => 2,
    }
}

/// Puts into the last attempt's answer what the first one has done: to the last one, it was so already.
pub(super) fn across_attempts(first: &[AppliedResource], last: &mut [AppliedResource]) {
    for (first, last) in first.iter().zip(last) {
        if last.outcome() == ApplyOutcome::Unchanged && last.generation == first.generation {
            last.clone_from(first);
        }
    }
}
