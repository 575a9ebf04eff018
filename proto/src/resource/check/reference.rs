//! Who answers: whether what rules refer to is declared and may be referred to, and whether anything answers at all.

use super::{
    Resources,
    problem::{Cause, Problem},
    route::{Route, field},
};
use crate::resource::{
    FieldPath, Finding, Kind, ResourceKey,
    backend::{BackendKind, BackendRef, MirrorBackend},
    filter::Filter,
    key::GATEWAY_GROUP,
};

/// What a reference names.
pub(super) struct Named<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    /// `None` where it is that of the resource that refers.
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
}

impl<'a> From<&'a BackendRef> for Named<'a> {
    fn from(to: &'a BackendRef) -> Self {
        Self { group: &to.group, kind: &to.kind, namespace: to.namespace.as_deref(), name: &to.name }
    }
}

impl<'a> From<&'a MirrorBackend> for Named<'a> {
    fn from(to: &'a MirrorBackend) -> Self {
        Self { group: &to.group, kind: &to.kind, namespace: to.namespace.as_deref(), name: &to.name }
    }
}

/// The backends of a route.
pub(super) fn backends<'a>(set: &Resources<'a>, route: &Route<'a>, found: &mut Vec<Problem<'a>>) {
    each(route, &mut |to, at| backend(set, route, &to, at, found));
    for (index, rule) in route.rules().into_iter().enumerate() {
        let redirects = rule.filters.iter().any(|filter| matches!(filter, Filter::RequestRedirect(_)));
        let odd = if rule.backends.is_empty() && !redirects {
            "has no backendRefs and no redirect: its requests get 500"
        } else if !rule.backends.is_empty() && rule.backends.iter().all(|to| to.weight == 0) {
            "has backendRefs whose weights are all 0: its requests get 500"
        } else {
            continue;
        };
        found.push(Problem::own(route.key(), Finding::warning(field(index), odd)));
    }
}

/// Each reference of a route to a backend, also of a mirror, with its field.
pub(super) fn each<'a>(route: &Route<'a>, visit: &mut dyn FnMut(Named<'a>, &dyn Fn() -> FieldPath)) {
    for (index, rule) in route.rules().into_iter().enumerate() {
        mirrors(rule.filters, &|| field(index), visit);
        for (place, to) in rule.backends.iter().enumerate() {
            let at = || field(index).item("backendRefs", place);
            visit(Named::from(to), &at);
            mirrors(&to.filters, &at, visit);
        }
    }
}

fn mirrors<'a>(
    filters: &'a [Filter],
    at: &dyn Fn() -> FieldPath,
    visit: &mut dyn FnMut(Named<'a>, &dyn Fn() -> FieldPath),
) {
    for (index, filter) in filters.iter().enumerate() {
        if let Filter::RequestMirror(mirror) = filter {
            let at = || at().item("filters", index).keys("requestMirror.backendRef");
            visit(Named::from(&mirror.backend_ref), &at);
        }
    }
}

fn backend<'a>(
    set: &Resources<'a>,
    route: &Route<'a>,
    to: &Named<'_>,
    at: &dyn Fn() -> FieldPath,
    found: &mut Vec<Problem<'a>>,
) {
    if !permitted(set, route.key(), to, at, found) {
        return;
    }
    if BackendKind::of(to.group, to.kind) == Some(BackendKind::ExternalService) {
        external(set, route.key(), to, at, found);
    }
}

/// An ExternalService must be declared.
pub(super) fn external<'a>(
    set: &Resources<'a>,
    subject: &'a ResourceKey,
    to: &Named<'_>,
    at: &dyn Fn() -> FieldPath,
    found: &mut Vec<Problem<'a>>,
) {
    let namespace = to.namespace.unwrap_or(subject.namespace());
    present(set, subject, (Kind::ExternalService, namespace, to.name), at, found);
}

/// Whether a resource is there; says so if it is not.
pub(super) fn present<'a>(
    set: &Resources<'a>,
    subject: &'a ResourceKey,
    (kind, namespace, name): (Kind, &str, &str),
    at: &dyn Fn() -> FieldPath,
    found: &mut Vec<Problem<'a>>,
) -> bool {
    if set.get(kind, namespace, name).is_some() {
        return true;
    }
    let finding = Finding::error(at().key("name"), format!("is no {kind} of namespace {namespace}"))
        .value(name)
        .suggest(set.meant(kind, namespace, name));
    found.push(Problem::absent(subject, finding, Cause::resource(kind, namespace, name)));
    false
}

/// Whether a reference is within its namespace or let into another one; says so if it is not.
pub(super) fn permitted<'a>(
    set: &Resources<'a>,
    subject: &'a ResourceKey,
    to: &Named<'_>,
    at: &dyn Fn() -> FieldPath,
    found: &mut Vec<Problem<'a>>,
) -> bool {
    let Some(namespace) = to.namespace else { return true };
    let from = (GATEWAY_GROUP, subject.kind().name(), subject.namespace());
    if set.permits(from, (to.group, to.kind, namespace, to.name)) {
        return true;
    }
    let reason = format!(
        "has no ReferenceGrant that lets {}s of namespace {} refer to {} {}",
        subject.kind(),
        subject.namespace(),
        to.kind,
        to.name
    );
    let finding = Finding::error(at().key("namespace"), reason)
        .value(namespace)
        .suggest(format!("declare {}", grant(subject, to, namespace)));
    found.push(Problem::absent(subject, finding, Cause::Grants(namespace.to_owned())));
    false
}

/// The grant that is missing, as a document of one line.
fn grant(subject: &ResourceKey, to: &Named<'_>, namespace: &str) -> String {
    format!(
        "{{apiVersion: {}, kind: ReferenceGrant, metadata: {{name: from-{from}, namespace: {namespace}}}, \
         spec: {{from: [{{group: {GATEWAY_GROUP}, kind: {}, namespace: {from}}}], \
         to: [{{group: \"{}\", kind: {}, name: {}}}]}}}}",
        Kind::ReferenceGrant.api_version(),
        subject.kind(),
        to.group,
        to.kind,
        to.name,
        from = subject.namespace(),
    )
}
