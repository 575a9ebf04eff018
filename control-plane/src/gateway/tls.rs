//! TLS material: what listeners show and demand, and how services are spoken to.
//!
//! What is missing or not permitted is never replaced by something weaker: a listener without a good certificate, or
//! without any of the authorities that it demands, is not served; a service whose policy names authorities that are not
//! there gets an entry that names them all the same, so that proxies refuse to connect rather than speak in the clear.
//!
//! Deliberately absent: whether a certificate is still valid (proxies see to that as they show it).

use waypost_proto::{
    name::ServiceKey,
    resource::{
        Kind, ResourceKey, Spec,
        backend::{AuthoritiesRef, CertificateRef},
        gateway::{FrontendValidation, FrontendValidationMode, Gateway, Listener},
        key::GATEWAY_GROUP,
        material::{CA_CERTIFICATES, TLS_CERTIFICATE, TLS_KEY},
        policy::{BackendTlsPolicy, SubjectAltName},
    },
    v1::{AuthoritiesEntry, BackendTlsEntry, CertificateEntry, DeclaredEntry, declared_entry},
};

use super::{
    Made,
    condition::{ACCEPTED, Condition, INSECURE, RESOLVED_REFS},
    needs::Looking,
    outcome::{Body, PolicyOutcome, TargetOutcome},
    policy,
    set::{self, Declared},
};

/// What an HTTPS listener needs.
#[derive(Default)]
pub(super) struct Frontend {
    /// Ids of certificates.
    pub(super) certificates: Vec<String>,
    /// Ids of authorities.
    pub(super) authorities: Vec<String>,
    pub(super) may_be_anonymous: bool,
    pub(super) minimum_version: String,
    /// The entries that these ids name.
    pub(super) entries: Vec<DeclaredEntry>,
    /// Whether the listener can be served with it.
    pub(super) safe: bool,
    /// Whether there is an authority, if clients' certificates are asked for.
    pub(super) authorized: bool,
    /// The first reference that does not work.
    pub(super) problem: Option<Condition>,
}

/// Why a reference does not work.
struct Unusable {
    reason: &'static str,
    message: String,
}

/// What is said of a Gateway that lets clients in without a good certificate: by default, at a port, or at a listener.
pub(super) fn insecure(gateway: &Gateway) -> Option<Condition> {
    let is = |rule: Option<&FrontendValidation>| {
        rule.is_some_and(|rule| rule.mode == FrontendValidationMode::AllowInsecureFallback)
    };
    let mut places = Vec::new();
    if let Some(frontend) = gateway.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) {
        places.extend(is(frontend.default.validation.as_ref()).then(|| "by default".to_owned()));
        let ports = frontend.per_port.iter().filter(|entry| is(entry.tls.validation.as_ref()));
        places.extend(ports.map(|entry| format!("at port {}", entry.port)));
    }
    let own =
        |listener: &&Listener| is(listener.tls.as_ref().and_then(|tls| tls.frontend_validation.as_ref()));
    places.extend(
        gateway.listeners.iter().filter(own).map(|listener| format!("at listener {}", listener.name)),
    );
    if places.is_empty() {
        return None;
    }
    let message = format!(
        "clients are let in without a good certificate (AllowInsecureFallback): {}",
        places.join(", ")
    );
    Some(Condition::holds(INSECURE, "ConfigurationChanged").saying(message))
}

/// What an HTTPS listener of a Gateway needs.
pub(super) fn frontend(
    looking: &mut Looking<'_>,
    key: &ResourceKey,
    gateway: &Gateway,
    listener: &Listener,
) -> Frontend {
    let mut frontend = Frontend { safe: true, authorized: true, ..Frontend::default() };
    let Some(tls) = &listener.tls else {
        let message = "an HTTPS listener needs tls.certificateRefs";
        frontend.problem = Some(Condition::fails(RESOLVED_REFS, "InvalidCertificateRef", message));
        frontend.safe = false;
        return frontend;
    };
    for reference in &tls.certificate_refs {
        match certificate(looking, key, reference) {
            Ok(entry) => {
                frontend.certificates.push(entry.id.clone());
                frontend.entries.push(entry);
            }
            Err(why) => frontend.note(why),
        }
    }
    frontend.safe = !frontend.certificates.is_empty();
    if let Some(validation) = gateway.frontend_validation(listener) {
        frontend.may_be_anonymous = validation.mode == FrontendValidationMode::AllowInsecureFallback;
        for reference in &validation.ca_certificate_refs {
            match authorities(looking, Kind::Gateway, key.namespace(), reference) {
                Ok(entry) => {
                    frontend.authorities.push(entry.id.clone());
                    frontend.entries.push(entry);
                }
                Err(why) => frontend.note(why),
            }
        }
        frontend.authorized = !frontend.authorities.is_empty();
        frontend.safe &= frontend.authorized;
    }
    frontend.minimum_version = listener.minimum_tls_version().unwrap_or_default().to_owned();
    frontend
}

impl Frontend {
    fn note(&mut self, why: Unusable) {
        self.problem.get_or_insert_with(|| Condition::fails(RESOLVED_REFS, why.reason, why.message));
    }
}

fn certificate(
    looking: &mut Looking<'_>,
    gateway: &ResourceKey,
    reference: &CertificateRef,
) -> Result<DeclaredEntry, Unusable> {
    let bad = |message: String| Unusable { reason: "InvalidCertificateRef", message };
    let namespace = reference.namespace.as_deref().unwrap_or(gateway.namespace());
    let name = reference.name.as_str();
    if (reference.group.as_str(), reference.kind.as_str()) != ("", "Secret") {
        return Err(bad(format!("certificateRefs: {} {name} is no Secret", reference.kind)));
    }
    let from = (Kind::Gateway, gateway.namespace());
    let found = refer(looking, from, (Kind::Secret, namespace, name))?;
    let Some(Spec::Secret(secret)) = found else {
        return Err(bad(format!("certificateRefs: there is no Secret {namespace}/{name}")));
    };
    let (Some(chain), Some(key)) = (secret.data.get(TLS_CERTIFICATE), secret.data.get(TLS_KEY)) else {
        return Err(bad(format!("certificateRefs: Secret {namespace}/{name} has no tls.crt and tls.key")));
    };
    let entry = CertificateEntry { chain: chain.clone(), key: key.clone() };
    let id = format!("certificate/{namespace}/{name}");
    Ok(DeclaredEntry { id, kind: Some(declared_entry::Kind::Certificate(entry)) })
}

/// The authorities of a ConfigMap or Secret, for a resource of a kind in a namespace.
fn authorities(
    looking: &mut Looking<'_>,
    kind: Kind,
    from: &str,
    reference: &AuthoritiesRef,
) -> Result<DeclaredEntry, Unusable> {
    let namespace = reference.namespace.as_deref().unwrap_or(from);
    let name = reference.name.as_str();
    let to = match (reference.group.as_str(), reference.kind.as_str()) {
        ("", "ConfigMap") => Kind::ConfigMap,
        ("", "Secret") => Kind::Secret,
        (_, other) => {
            let message = format!("caCertificateRefs: {other} {name} is neither a ConfigMap nor a Secret");
            return Err(Unusable { reason: "InvalidCACertificateKind", message });
        }
    };
    let bad = |what: &str| Unusable {
        reason: "InvalidCACertificateRef",
        message: format!("caCertificateRefs: {what} {to} {namespace}/{name}"),
    };
    let certificates = match refer(looking, (kind, from), (to, namespace, name))? {
        Some(Spec::ConfigMap(map)) => map.data.get(CA_CERTIFICATES).map(|text| text.clone().into_bytes()),
        Some(Spec::Secret(secret)) => secret.data.get(CA_CERTIFICATES).cloned(),
        _ => return Err(bad("there is no")),
    };
    let certificates = certificates.ok_or_else(|| bad("there is no ca.crt in"))?;
    let id = authorities_id(from, reference);
    Ok(DeclaredEntry { id, kind: Some(declared_entry::Kind::Authorities(AuthoritiesEntry { certificates })) })
}

/// The id of the authorities that something in a namespace refers to.
fn authorities_id(from: &str, reference: &AuthoritiesRef) -> String {
    let namespace = reference.namespace.as_deref().unwrap_or(from);
    // A Secret and a ConfigMap may have the same name.
    let apart = if reference.kind == "Secret" { "secret/" } else { "" };
    format!("authorities/{namespace}/{apart}{}", reference.name)
}

/// What a reference leads to, if that is there.
fn refer<'a>(
    looking: &mut Looking<'a>,
    (from_kind, from): (Kind, &str),
    (kind, namespace, name): (Kind, &str, &str),
) -> Result<Option<&'a Spec>, Unusable> {
    let permitted = set::permitted(
        looking,
        (GATEWAY_GROUP, from_kind.name(), from),
        (kind.group(), kind.name(), namespace, name),
    );
    if permitted {
        let key = ResourceKey::new(kind, namespace, name).ok();
        return Ok(key.and_then(|key| looking.find(key)).map(|declared| declared.manifest.spec()));
    }
    let message = format!(
        "no ReferenceGrant in namespace {namespace} lets a {from_kind} of namespace {from} refer to {kind} {name}"
    );
    Err(Unusable { reason: "RefNotPermitted", message })
}

/// Compiles a `BackendTLSPolicy`.
pub(super) fn policy(looking: &mut Looking<'_>, declared: &Declared, spec: &BackendTlsPolicy) -> Made {
    let key = declared.key();
    let mut entries = Vec::new();
    let mut ids = Vec::new();
    let mut problem = None;
    for reference in &spec.validation.ca_certificate_refs {
        ids.push(authorities_id(key.namespace(), reference));
        match authorities(looking, Kind::BackendTlsPolicy, key.namespace(), reference) {
            Ok(entry) => entries.push(entry),
            Err(why) => problem = problem.or(Some(why)),
        }
    }
    let usable = ids.is_empty() || !entries.is_empty();
    let resolved = match problem {
        None => Condition::holds(RESOLVED_REFS, RESOLVED_REFS),
        Some(why) => Condition::fails(RESOLVED_REFS, why.reason, why.message),
    };
    let mut outcomes = Vec::new();
    for target in policy::targets(looking, declared, &spec.target_refs) {
        let policy::Target { service, reference, conflict } = target;
        if conflict.is_none() {
            entries.push(backend_tls(&service, spec, ids.clone()));
        }
        let accepted = match (conflict, usable) {
            (Some(conflict), _) => conflict,
            (None, false) => {
                let message = "none of the authorities can be used, so proxies do not connect to the service";
                Condition::fails(ACCEPTED, "NoValidCACertificate", message)
            }
            (None, true) => Condition::holds(ACCEPTED, ACCEPTED),
        };
        outcomes.push(TargetOutcome { service, reference, accepted });
    }
    let body = Body::Policy(PolicyOutcome { targets: outcomes, resolved: Some(resolved) });
    Made { entries, external: None, body: Some(body) }
}

fn backend_tls(service: &ServiceKey, spec: &BackendTlsPolicy, authorities: Vec<String>) -> DeclaredEntry {
    let names = spec.validation.subject_alt_names.iter().map(SubjectAltName::as_str);
    let entry = BackendTlsEntry {
        service: Some(service.to_wire()),
        hostname: spec.validation.hostname.clone(),
        subject_alt_names: names.map(str::to_owned).collect(),
        authorities,
    };
    let id = format!("backendtls/{}/{}", service.namespace(), service.name());
    DeclaredEntry { id, kind: Some(declared_entry::Kind::BackendTls(entry)) }
}
