//! TLS material: whether Secrets and ConfigMaps that are referred to are there and hold what is needed.

use super::{
    Member, Resources, policy,
    problem::{Cause, Problem},
    reference::{self, Named},
};
use crate::resource::{
    FieldPath, Finding, Kind, ResourceKey, Spec,
    backend::AuthoritiesRef,
    gateway::{FrontendValidation, Gateway},
    material::{CA_CERTIFICATES, Secret, TLS_SECRET},
    pem,
    policy::BackendTlsPolicy,
};

/// What a Gateway refers to.
pub(super) fn gateway<'a>(
    set: &Resources<'a>,
    member: Member<'a>,
    gateway: &'a Gateway,
    found: &mut Vec<Problem<'a>>,
) {
    let subject = member.manifest.key();
    let path = FieldPath::spec();
    for (index, listener) in gateway.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let base = || path.item("listeners", index).key("tls");
        for (place, reference) in tls.certificate_refs.iter().enumerate() {
            let at = || base().item("certificateRefs", place);
            let to = Named {
                group: &reference.group,
                kind: &reference.kind,
                namespace: reference.namespace.as_deref(),
                name: &reference.name,
            };
            certificate(set, subject, &to, &at, found);
        }
        let at = || base().key("frontendValidation");
        validation(set, subject, tls.frontend_validation.as_ref(), &at, found);
    }
    let Some(frontend) = gateway.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { return };
    let base = path.keys("tls.frontend");
    let at = || base.keys("default.validation");
    validation(set, subject, frontend.default.validation.as_ref(), &at, found);
    for (index, entry) in frontend.per_port.iter().enumerate() {
        let at = || base.item("perPort", index).keys("tls.validation");
        validation(set, subject, entry.tls.validation.as_ref(), &at, found);
    }
}

/// A BackendTLSPolicy: what it is for, whether it is the one that speaks for it, and its authorities.
pub(super) fn policy<'a>(
    set: &Resources<'a>,
    member: Member<'a>,
    policy: &'a BackendTlsPolicy,
    found: &mut Vec<Problem<'a>>,
) {
    let subject = member.manifest.key();
    policy::targets(set, member, &policy.target_refs, found);
    let at = || FieldPath::spec().key("validation");
    authorities(set, subject, &policy.validation.ca_certificate_refs, &at, found);
}

fn validation<'a>(
    set: &Resources<'a>,
    subject: &'a ResourceKey,
    rule: Option<&'a FrontendValidation>,
    at: &dyn Fn() -> FieldPath,
    found: &mut Vec<Problem<'a>>,
) {
    if let Some(rule) = rule {
        authorities(set, subject, &rule.ca_certificate_refs, at, found);
    }
}

/// A certificate with its key.
fn certificate<'a>(
    set: &Resources<'a>,
    subject: &'a ResourceKey,
    to: &Named<'_>,
    at: &dyn Fn() -> FieldPath,
    found: &mut Vec<Problem<'a>>,
) {
    let namespace = to.namespace.unwrap_or(subject.namespace());
    if !reference::permitted(set, subject, to, at, found)
        || !reference::present(set, subject, (Kind::Secret, namespace, to.name), at, found)
    {
        return;
    }
    // That a Secret of this type holds both is its own rule.
    if let Some(Secret { r#type, .. }) = secret(set, namespace, to.name).filter(|it| it.r#type != TLS_SECRET)
    {
        let finding = Finding::error(at().key("name"), format!("is a Secret of type {type}"))
            .value(to.name)
            .suggest(format!("a certificate with its key is a Secret of type {TLS_SECRET}"));
        found.push(Problem::with(subject, finding, Cause::resource(Kind::Secret, namespace, to.name)));
    }
}

fn secret<'a>(set: &Resources<'a>, namespace: &str, name: &str) -> Option<&'a Secret> {
    match set.get(Kind::Secret, namespace, name)?.manifest.spec() {
        Spec::Secret(secret) => Some(secret),
        _ => None,
    }
}

/// Certificates of authorities.
fn authorities<'a>(
    set: &Resources<'a>,
    subject: &'a ResourceKey,
    references: &'a [AuthoritiesRef],
    base: &dyn Fn() -> FieldPath,
    found: &mut Vec<Problem<'a>>,
) {
    for (index, reference) in references.iter().enumerate() {
        let at = || base().item("caCertificateRefs", index);
        let kind = if reference.kind == Kind::Secret.name() { Kind::Secret } else { Kind::ConfigMap };
        let to = Named {
            group: &reference.group,
            kind: &reference.kind,
            namespace: reference.namespace.as_deref(),
            name: &reference.name,
        };
        let namespace = to.namespace.unwrap_or(subject.namespace());
        if !reference::permitted(set, subject, &to, &at, found)
            || !reference::present(set, subject, (kind, namespace, to.name), &at, found)
        {
            continue;
        }
        let Some(spec) = set.get(kind, namespace, to.name).map(|member| member.manifest.spec()) else {
            continue;
        };
        let held = match spec {
            Spec::Secret(secret) => secret.data.get(CA_CERTIFICATES).map(Vec::as_slice),
            Spec::ConfigMap(map) => map.data.get(CA_CERTIFICATES).map(String::as_bytes),
            _ => None,
        };
        let reason = match held {
            None => format!("is a {kind} without the key {CA_CERTIFICATES:?}"),
            Some(text) if pem::certificates(text).is_none() => {
                format!("is a {kind} whose {CA_CERTIFICATES:?} holds no certificate in PEM, or a damaged one")
            }
            Some(_) => continue,
        };
        let finding = Finding::error(at().key("name"), reason).value(to.name);
        found.push(Problem::with(subject, finding, Cause::resource(kind, namespace, to.name)));
    }
}
