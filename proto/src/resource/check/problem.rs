//! A problem of a resource, and who else may have brought it about.

use crate::resource::{Finding, Kind, ResourceKey};

/// Something that is wrong or odd with a resource because of others.
pub(super) struct Problem<'a> {
    /// Whose problem it is.
    pub(super) subject: &'a ResourceKey,
    /// What is the matter.
    pub(super) finding: Finding,
    /// Who beside the subject may have brought it about.
    pub(super) cause: Cause,
    /// Whether something is not there.
    pub(super) absent: bool,
}

/// Who may have brought a problem about.
pub(super) enum Cause {
    /// Nobody else.
    Own,
    /// A resource, whether it is there or not.
    Resource(Kind, String, String),
    /// A ReferenceGrant of a namespace.
    Grants(String),
}

impl Cause {
    pub(super) fn resource(kind: Kind, namespace: &str, name: &str) -> Self {
        Self::Resource(kind, namespace.to_owned(), name.to_owned())
    }

    pub(super) fn of(key: &ResourceKey) -> Self {
        Self::resource(key.kind(), key.namespace(), key.name())
    }

    /// Whether this is such a resource.
    pub(super) fn is(&self, key: &ResourceKey) -> bool {
        match self {
            Self::Own => false,
            Self::Resource(kind, namespace, name) => {
                key.kind() == *kind && key.namespace() == namespace && key.name() == name
            }
            Self::Grants(namespace) => key.kind() == Kind::ReferenceGrant && key.namespace() == namespace,
        }
    }
}

impl<'a> Problem<'a> {
    /// One that others may have brought about by being as they are.
    pub(super) fn with(subject: &'a ResourceKey, finding: Finding, cause: Cause) -> Self {
        Self { subject, finding, cause, absent: false }
    }

    /// One of the resource alone.
    pub(super) fn own(subject: &'a ResourceKey, finding: Finding) -> Self {
        Self::with(subject, finding, Cause::Own)
    }

    /// Something is not there.
    pub(super) fn absent(subject: &'a ResourceKey, finding: Finding, cause: Cause) -> Self {
        Self { absent: true, ..Self::with(subject, finding, cause) }
    }
}
