//! Rules of what routes and Gateways rely on: grants, policies, external services, TLS material.

use super::{Rules, gateway::authorities, kind_of, text};
use crate::{
    address::Address,
    name::ServiceKey,
    resource::{
        backend::BackendKind,
        finding::FieldPath,
        key::{ResourceKey, is_label},
        material::{CA_CERTIFICATES, ConfigMap, Secret, TLS_CERTIFICATE, TLS_KEY, TLS_SECRET},
        pem,
        policy::{BackendTlsPolicy, ExternalService, PolicyTarget, ReferenceGrant, SubjectAltName},
    },
};

const MAX_GRANTS: usize = 16;
const MAX_TARGETS: usize = 16;
const MAX_ALT_NAMES: usize = 5;
const MAX_ADDRESSES: usize = 256;

/// A ReferenceGrant.
pub(super) fn grant(rules: &mut Rules, path: &FieldPath, grant: &ReferenceGrant) {
    rules.count(&path.key("from"), grant.from.len(), 1, MAX_GRANTS);
    rules.count(&path.key("to"), grant.to.len(), 1, MAX_GRANTS);
    for (index, from) in grant.from.iter().enumerate() {
        let at = path.item("from", index);
        if !is_label(&from.namespace) {
            let reason = "must be a namespace: lower-case letters, digits and '-'";
            rules.refuse_value(&at.key("namespace"), &from.namespace, reason);
        }
        if from.kind.is_empty() {
            rules.refuse(&at.key("kind"), "must not be empty");
        }
    }
    for (index, to) in grant.to.iter().enumerate() {
        let at = path.item("to", index);
        if to.kind.is_empty() {
            rules.refuse(&at.key("kind"), "must not be empty");
        }
        if to.name.as_ref().is_some_and(String::is_empty) {
            rules.refuse(&at.key("name"), "must not be empty; without it, all of the kind are meant");
        }
    }
}

/// A BackendTLSPolicy.
pub(super) fn backend_tls(rules: &mut Rules, path: &FieldPath, policy: &BackendTlsPolicy) {
    targets(rules, path, &policy.target_refs);
    let validation = &policy.validation;
    let at = path.key("validation");
    let list = at.key("caCertificateRefs");
    authorities(rules, &list, &validation.ca_certificate_refs, 0);
    for (index, reference) in validation.ca_certificate_refs.iter().enumerate() {
        if reference.namespace.is_some() {
            let reason = "a BackendTLSPolicy refers to its own namespace only";
            rules.refuse(&list.index(index).key("namespace"), reason);
        }
    }
    if validation.ca_certificate_refs.is_empty() == validation.well_known_ca_certificates.is_none() {
        rules.refuse(&at, "needs either caCertificateRefs or wellKnownCACertificates");
    }
    rules.text(&at.key("hostname"), &validation.hostname, text::precise_hostname);
    let list = at.key("subjectAltNames");
    rules.count(&list, validation.subject_alt_names.len(), 0, MAX_ALT_NAMES);
    for (index, name) in validation.subject_alt_names.iter().enumerate() {
        let at = list.index(index);
        match name {
            SubjectAltName::Hostname(name) => rules.text(&at.key("hostname"), name, text::hostname),
            SubjectAltName::Uri(uri) => {
                let fits =
                    uri.len() <= 253 && uri.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some());
                if !fits {
                    let reason = "must be a URI with a scheme, for example \"spiffe://example.com/users\"";
                    rules.refuse_value(&at.key("uri"), uri, reason);
                }
            }
        }
    }
}

/// What a policy is for.
pub(super) fn targets(rules: &mut Rules, path: &FieldPath, targets: &[PolicyTarget]) {
    let list = path.key("targetRefs");
    rules.count(&list, targets.len(), 1, MAX_TARGETS);
    let targets = targets.iter().enumerate();
    rules.unique(
        targets
            .clone()
            .map(|(index, target)| (list.index(index), (&target.group, &target.kind, &target.name))),
    );
    for (index, target) in targets {
        let at = list.index(index);
        match target.backend_kind() {
            None => {
                let found = kind_of(&target.group, &target.kind);
                let reason = "must be Service, with an empty group, or waypost.dev/ExternalService";
                rules.refuse_value(&at.key("kind"), found, reason);
            }
            Some(BackendKind::Service) => {
                if let Err(violation) = ServiceKey::new("", &target.name) {
                    rules.refuse_value(&at.key("name"), &target.name, violation.rule);
                }
            }
            Some(BackendKind::ExternalService) => rules.resource_name(&at.key("name"), &target.name),
        }
    }
}

/// An ExternalService.
pub(super) fn external_service(
    rules: &mut Rules,
    path: &FieldPath,
    key: &ResourceKey,
    service: &ExternalService,
) {
    if let Err(violation) = ServiceKey::new(key.namespace(), key.name()) {
        let at = FieldPath::root().keys("metadata.name");
        rules.refuse_value(&at, violation.value, violation.rule);
    }
    let list = path.key("addresses");
    rules.count(&list, service.addresses.len(), 1, MAX_ADDRESSES);
    let addresses = service.addresses.iter().enumerate();
    rules.unique(addresses.clone().map(|(index, address)| (list.index(index), address)));
    for (index, address) in addresses {
        if let Err(violation) = address.parse::<Address>() {
            rules.refuse_value(&list.index(index), address, violation.rule);
        }
    }
}

/// A Secret. No finding shows what it holds.
pub(super) fn secret(rules: &mut Rules, secret: &Secret) {
    let data = FieldPath::root().key("data");
    for key in secret.data.keys() {
        data_key(rules, &data, key);
    }
    if secret.r#type != TLS_SECRET {
        return;
    }
    match secret.data.get(TLS_CERTIFICATE) {
        None => rules.refuse(&data.key(TLS_CERTIFICATE), "is required in a Secret of type kubernetes.io/tls"),
        Some(bytes) if pem::certificates(bytes).is_none() => {
            rules.refuse(&data.key(TLS_CERTIFICATE), "holds no certificate in PEM, or a damaged one");
        }
        Some(_) => {}
    }
    match secret.data.get(TLS_KEY) {
        None => rules.refuse(&data.key(TLS_KEY), "is required in a Secret of type kubernetes.io/tls"),
        Some(bytes) if !pem::is_private_key(bytes) => {
            rules.refuse(
                &data.key(TLS_KEY),
                "holds no private key in PEM (PKCS#8, PKCS#1 or SEC1), or a damaged one",
            );
        }
        Some(_) => {}
    }
}

/// A ConfigMap.
pub(super) fn config_map(rules: &mut Rules, map: &ConfigMap) {
    let data = FieldPath::root().key("data");
    for key in map.data.keys() {
        data_key(rules, &data, key);
    }
    if let Some(text) = map.data.get(CA_CERTIFICATES)
        && pem::certificates(text.as_bytes()).is_none()
    {
        rules.refuse(&data.key(CA_CERTIFICATES), "holds no certificate in PEM, or a damaged one");
    }
}

fn data_key(rules: &mut Rules, data: &FieldPath, key: &str) {
    let fits = (1..=253).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !fits {
        rules.refuse_value(&data.key(key), key, "must be 1 to 253 letters, digits, '-', '_' or '.'");
    }
}
