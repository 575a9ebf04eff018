//! Who answers: the references of a rule to services, and whether they are permitted.
//!
//! A backend is a service that is registered (`Service`) or declared (`ExternalService`). Whether it is there now is
//! not asked: it is named, and a proxy that does not know it answers 500 for its share.
//!
//! Deliberately absent: what is done with a request on its way there (see `filter`).

use waypost_proto::{
    name::ServiceKey,
    resource::{
        Kind,
        backend::{BackendKind, BackendRef, MirrorBackend},
        key::GATEWAY_GROUP,
    },
    v1::RouteBackend,
};

use super::{
    condition::{Condition, RESOLVED_REFS},
    needs::Looking,
    set,
};

/// The routes that refer to something: what is found out about their references on the way.
pub(super) struct References<'a, 'l> {
    pub(super) looking: &'l mut Looking<'a>,
    /// The kind of the route.
    pub(super) kind: Kind,
    /// The namespace of the route.
    pub(super) namespace: &'l str,
    /// Why a reference can never work, the first one.
    pub(super) broken: Option<Condition>,
    /// The services that are named, with the first field that names each.
    pub(super) backends: Vec<(ServiceKey, String)>,
}

/// What a reference names.
struct Named<'a> {
    group: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl References<'_, '_> {
    /// A reference of a rule; its filters are not looked at.
    pub(super) fn backend(&mut self, reference: &BackendRef, field: &str) -> RouteBackend {
        let namespace = reference.namespace.as_deref().unwrap_or(self.namespace).to_owned();
        let (group, kind, name) = (&reference.group, &reference.kind, &reference.name);
        let mut backend = self.refer(&Named { group, kind, namespace: &namespace, name }, field);
        backend.weight = reference.weight;
        backend.versions.clone_from(&reference.versions);
        backend.tags.clone_from(&reference.tags);
        backend
    }

    /// The reference of a mirror.
    pub(super) fn mirror(&mut self, reference: &MirrorBackend, field: &str) -> RouteBackend {
        let namespace = reference.namespace.as_deref().unwrap_or(self.namespace).to_owned();
        let (group, kind, name) = (&reference.group, &reference.kind, &reference.name);
        let mut backend = self.refer(&Named { group, kind, namespace: &namespace, name }, field);
        backend.weight = 1;
        backend.versions.clone_from(&reference.versions);
        backend.tags.clone_from(&reference.tags);
        backend
    }

    fn refer(&mut self, named: &Named<'_>, field: &str) -> RouteBackend {
        let Named { group, kind, namespace, name } = *named;
        let mut backend = RouteBackend::default();
        if BackendKind::of(group, kind).is_none() {
            let message = format!(
                "{field}: {kind} of group {group:?} is neither Service nor waypost.dev's ExternalService"
            );
            backend.invalid = self.breaks("InvalidKind", message);
            return backend;
        }
        match ServiceKey::new(namespace, name) {
            Err(violation) => {
                backend.invalid = self.breaks("BackendNotFound", format!("{field}: {violation}"));
            }
            Ok(service) => {
                backend.service = Some(service.to_wire());
                let from = (GATEWAY_GROUP, self.kind.name(), self.namespace);
                if set::permitted(self.looking, from, (group, kind, namespace, name)) {
                    self.note(service, field);
                } else {
                    let message = format!(
                        "{field}: no ReferenceGrant in namespace {namespace} lets a {} of namespace {} refer to {kind} {name}",
                        self.kind, self.namespace
                    );
                    backend.invalid = self.breaks("RefNotPermitted", message);
                }
            }
        }
        backend
    }

    fn note(&mut self, service: ServiceKey, field: &str) {
        if self.backends.iter().all(|(known, _)| *known != service) {
            self.backends.push((service, field.to_owned()));
        }
    }

    fn breaks(&mut self, reason: &'static str, message: String) -> String {
        let invalid = format!("{reason}: {message}");
        self.broken.get_or_insert_with(|| Condition::fails(RESOLVED_REFS, reason, message));
        invalid
    }
}
