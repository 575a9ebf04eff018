//! A table as it would be with other declared routing: for questions, and never served by.
//!
//! It shares with the table that it is made of all that stays, and changes nothing of it.
//!
//! Deliberately absent: TLS. Who takes a request does not depend on it, and previews come without private keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waypost_proto::{
    error::Violation,
    instance::Endpoint,
    name::{InstanceKey, ServiceKey},
    v1::{DeclaredEntry, Preview},
};

use super::{
    EndpointState, Member, Table,
    declared::{DeclaredError, check},
};
use crate::balance::{Own, PolicyName};

/// Why a preview cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// An entry cannot be compiled.
    #[error("entry {id} cannot be compiled: {error}")]
    Declared {
        /// The entry.
        id: String,
        /// Why.
        error: DeclaredError,
    },
    /// An entry says nothing that this version knows.
    #[error("entry {id:?} has no name, or none of the kinds that this proxy knows")]
    Unknown {
        /// The entry.
        id: String,
    },
    /// A name or an instance is malformed.
    #[error("{0}")]
    Malformed(Violation),
}

impl From<Violation> for PreviewError {
    fn from(violation: Violation) -> Self {
        Self::Malformed(violation)
    }
}

impl Table {
    /// The table with a preview's entries in place.
    ///
    /// # Errors
    /// Names the entry that this proxy could not serve by, and why.
    pub fn with(&self, preview: &Preview) -> Result<Self, PreviewError> {
        let removals = preview.removals.clone().unwrap_or_default();
        let mut touched: BTreeMap<Arc<str>, Option<Arc<DeclaredEntry>>> =
            removals.declared.iter().map(|id| (Arc::from(id.as_str()), None)).collect();
        for entry in &preview.declared {
            let id = || entry.id.clone();
            if entry.id.is_empty() || entry.kind.is_none() {
                return Err(PreviewError::Unknown { id: id() });
            }
            check(entry).map_err(|error| PreviewError::Declared { id: id(), error })?;
            touched.insert(Arc::from(entry.id.as_str()), Some(Arc::new(entry.clone())));
        }
        let mut next = self.clone();
        next.declare(touched.iter().map(|(id, entry)| (id, entry.as_ref())));
        // A slot that is new takes the subsets that the entries above need.
        let own = Own { policy: PolicyName::default().policy(), zone: "".into() };
        for service in &preview.services {
            next.slot(&ServiceKey::from_wire(Some(service))?, &own);
        }
        let mut changed = BTreeSet::new();
        for instance in &removals.instances {
            let key = InstanceKey::from_wire(Some(instance))?;
            if let Some(service) = next.service_mut(key.service()) {
                service.remove(key.id());
                changed.insert(key.service().clone());
            }
        }
        for instance in &preview.instances {
            let endpoint = Arc::new(Endpoint::from_wire(instance)?);
            let service = endpoint.key.service().clone();
            next.slot(&service, &own);
            if let Some(table) = next.service_mut(&service) {
                let state = EndpointState::new(Arc::clone(&endpoint), Arc::default());
                table.put(Member { endpoint, state });
                changed.insert(service);
            }
        }
        for service in &changed {
            if let Some(table) = next.service_mut(service) {
                table.refresh();
            }
        }
        for service in &removals.services {
            next.remove(&ServiceKey::from_wire(Some(service))?);
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
