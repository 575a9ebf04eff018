//! What is wrong, or odd, in a set of resources, where each of them by itself is good.
//!
//! [`check()`] looks at all resources as they would be after a change. What is wrong with a resource that the change
//! names is told of that one; what the change breaks elsewhere is told of the resource that breaks it, with the name of
//! who needs it. What was wrong before, and has nothing to do with the change, is not told: it must not stand in the
//! way of what is right.
//!
//! ```text
//!   resources before ─┐
//!   resources after ──┼─▶ problems after, less those of others that were there before ─▶ findings
//!   what is changed ──┘
//! ```
//!
//! Which services are registered is asked by [`unregistered()`] alone. They come and go, and a route may be there before
//! its service.

mod attach;
mod focus;
mod impossible;
mod policy;
mod port;
mod problem;
mod reach;
mod reference;
mod resources;
mod retry;
mod route;
mod tls;
mod traffic;
mod unregistered;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::SystemTime,
};

use self::{focus::Focus, problem::Problem, reach::Reach, route::Route};
pub use self::{
    resources::{Member, Resources},
    unregistered::{Services, unregistered},
};
use super::{
    Parsed, ResourceKey, Spec,
    finding::{FieldPath, Finding, Severity},
};

/// How many findings an answer has.
const MAX_FINDINGS: usize = 200;
/// How many of those who need a resource are named.
const MAX_DEPENDENTS: usize = 10;

/// What is wrong or odd after a change of the resources named in `changed`: those that are declared (also where that
/// changes nothing) and those that are deleted, which `after` lacks.
///
/// Errors come first. None of the findings has a place in a document; [`place()`] adds it.
pub fn check(before: &Resources<'_>, after: &Resources<'_>, changed: &BTreeSet<ResourceKey>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut elsewhere: Vec<(&ResourceKey, Problem<'_>)> = Vec::new();
    for problem in problems(after, &Focus::on(after, changed)) {
        if changed.contains(problem.subject) {
            findings.push(problem.finding.of(problem.subject));
        } else if let Some(culprit) = changed.iter().find(|key| problem.cause.is(key)) {
            elsewhere.push((culprit, problem));
        }
    }
    if !elsewhere.is_empty() {
        let known: HashSet<(ResourceKey, FieldPath, Severity)> = problems(before, &Focus::All)
            .into_iter()
            .map(|problem| (problem.subject.clone(), problem.finding.field, problem.finding.severity))
            .collect();
        elsewhere.retain(|(_, problem)| {
            let finding = &problem.finding;
            !known.contains(&(problem.subject.clone(), finding.field.clone(), finding.severity))
        });
        findings.extend(told_of_culprits(after, elsewhere));
    }
    ordered(findings)
}

/// What is wrong or odd among documents that may be a part of a whole: what they lack is a warning, since it may be
/// declared elsewhere. Findings have their places.
pub fn lint(parsed: &[Parsed]) -> Vec<Finding> {
    let created_at = SystemTime::UNIX_EPOCH;
    let set: Resources<'_> =
        parsed.iter().map(|parsed| Member { manifest: &parsed.manifest, created_at }).collect();
    let told = |problem: Problem<'_>| {
        let mut finding = problem.finding.of(problem.subject);
        if problem.absent {
            finding.severity = Severity::Warning;
            finding.reason.push_str(" in these documents");
        }
        finding
    };
    let mut findings = ordered(problems(&set, &Focus::All).into_iter().map(told).collect());
    place(parsed, &mut findings);
    findings
}

/// Adds to findings of resources out of documents where their fields stand.
pub fn place(parsed: &[Parsed], findings: &mut [Finding]) {
    let by_name: BTreeMap<String, &Parsed> =
        parsed.iter().map(|parsed| (parsed.manifest.key().to_string(), parsed)).collect();
    for finding in findings {
        if let Some(parsed) = by_name.get(&finding.resource) {
            parsed.place(finding);
        }
    }
}

/// All that is wrong or odd in a set, as far as it is looked at.
fn problems<'a>(set: &Resources<'a>, focus: &Focus<'_>) -> Vec<Problem<'a>> {
    let mut found = Vec::new();
    let mut reach = Reach::default();
    for member in set.iter().filter(|member| focus.has(member)) {
        match member.manifest.spec() {
            Spec::BackendTlsPolicy(policy) => tls::policy(set, member, policy, &mut found),
            Spec::BackendTrafficPolicy(policy) => traffic::policy(set, member, policy, &mut found),
            Spec::Gateway(gateway) => {
                tls::gateway(set, member, gateway, &mut found);
                port::gateway(set, member, gateway, &mut found);
            }
            Spec::HttpRoute(_) | Spec::GrpcRoute(_) => {
                let Some(route) = Route::of(member) else { continue };
                reference::backends(set, &route, &mut found);
                impossible::matches(&route, &mut found);
                retry::rules(&route, &mut found);
                let spots = attach::attach(set, &route, &mut found);
                reach.add(&route, spots);
            }
            // These are looked at where they are referred to.
            Spec::ConfigMap(_) | Spec::ExternalService(_) | Spec::ReferenceGrant(_) | Spec::Secret(_) => {}
        }
    }
    found.extend(reach.problems());
    found
}

/// What a change breaks elsewhere, told of what breaks it.
fn told_of_culprits(after: &Resources<'_>, problems: Vec<(&ResourceKey, Problem<'_>)>) -> Vec<Finding> {
    let mut of: BTreeMap<(&ResourceKey, Severity), Vec<Problem<'_>>> = BTreeMap::new();
    for (culprit, problem) in problems {
        of.entry((culprit, problem.finding.severity)).or_default().push(problem);
    }
    let mut findings = Vec::new();
    for ((culprit, severity), problems) in of {
        let gone = after.get(culprit.kind(), culprit.namespace(), culprit.name()).is_none();
        let more = problems.len().saturating_sub(MAX_DEPENDENTS);
        let told = |reason: String| {
            let finding = Finding::error(FieldPath::root(), reason).of(culprit);
            Finding { severity, ..finding }
        };
        for problem in problems.into_iter().take(MAX_DEPENDENTS) {
            let (subject, field) = (problem.subject, &problem.finding.field);
            findings.push(if gone {
                told(format!("is needed by {subject}, {field}"))
                    .suggest(format!("change or delete {subject} first, or together with it"))
            } else {
                let reason = problem.finding.sentence();
                let how = if severity == Severity::Error { "is not what" } else { "changes what" };
                told(format!("{how} {subject} needs: {field}: {reason}")).suggest(problem.finding.suggestion)
            });
        }
        if more > 0 {
            findings.push(told(format!("has {more} more of this kind")));
        }
    }
    findings
}

/// Errors first, and not too many.
fn ordered(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| finding.severity);
    findings.truncate(MAX_FINDINGS);
    findings
}

#[cfg(test)]
mod tests;
