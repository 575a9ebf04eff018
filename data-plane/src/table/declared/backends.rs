//! From a rule's backend to the endpoints that answer, and which sets of endpoints services have to keep for that.
//!
//! A backend names its service. Whether that is there is looked up for each request, so that services come and go
//! without a look at any rule.

use std::{collections::BTreeMap, sync::Arc};

use imbl::HashMap;
use waypost_proto::{
    error::Violation,
    name::ServiceKey,
    v1::{RouteBackend, RouteRule, route_filter::Kind},
};

use crate::table::{EndpointSet, ServiceTable};

/// Which of a service's endpoints: those of some versions that have one of some tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subset {
    /// The versions; empty means any.
    pub versions: Arc<[Arc<str>]>,
    /// The tags; empty means any.
    pub tags: Arc<[Arc<str>]>,
}

impl Subset {
    /// Whether it is all of them.
    pub fn is_all(&self) -> bool {
        self.versions.is_empty() && self.tags.is_empty()
    }
}

/// A reference to a service, or to a subset of it, that is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// The service.
    pub service: ServiceKey,
    /// Which of its endpoints.
    pub subset: Subset,
}

impl BackendRef {
    /// Checks a backend's reference.
    ///
    /// # Errors
    /// The service's name cannot be one.
    pub fn of(backend: &RouteBackend) -> Result<Self, Violation> {
        let sorted = |texts: &[String]| {
            let mut texts: Vec<Arc<str>> = texts.iter().map(|text| Arc::from(text.as_str())).collect();
            texts.sort_unstable();
            texts.dedup();
            Arc::from(texts)
        };
        let subset = Subset { versions: sorted(&backend.versions), tags: sorted(&backend.tags) };
        Ok(Self { service: ServiceKey::from_wire(backend.service.as_ref())?, subset })
    }
}

/// What a backend stands for at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Backend<'a> {
    /// The service.
    pub service: &'a Arc<ServiceTable>,
    /// The endpoints that take traffic.
    pub endpoints: &'a Arc<EndpointSet>,
}

/// The subsets that a rule needs: its backends' and its mirrors'.
pub(super) fn subsets_of(rule: &RouteRule) -> impl Iterator<Item = BackendRef> + '_ {
    let filters = rule.filters.iter().chain(rule.backends.iter().flat_map(|backend| &backend.filters));
    let mirrors = filters.filter_map(|filter| match &filter.kind {
        Some(Kind::Mirror(mirror)) => mirror.backend.as_ref(),
        _ => None,
    });
    let all = rule.backends.iter().chain(mirrors);
    all.filter_map(|backend| BackendRef::of(backend).ok()).filter(|backend| !backend.subset.is_all())
}

/// The subsets that services have to keep, with how many rules need each. A clone shares everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Subsets(HashMap<ServiceKey, BTreeMap<Subset, u32>>);

impl Subsets {
    /// Takes note of a need. Whether it is a new one.
    pub(super) fn add(&mut self, backend: &BackendRef) -> bool {
        let count =
            self.0.entry(backend.service.clone()).or_default().entry(backend.subset.clone()).or_default();
        *count += 1;
        *count == 1
    }

    /// Takes note of the end of a need. Whether it was the last one.
    pub(super) fn release(&mut self, backend: &BackendRef) -> bool {
        let Some(of_service) = self.0.get_mut(&backend.service) else { return false };
        let Some(count) = of_service.get_mut(&backend.subset) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        of_service.remove(&backend.subset);
        if of_service.is_empty() {
            self.0.remove(&backend.service);
        }
        true
    }

    /// Those of a service.
    pub(super) fn of(&self, service: &ServiceKey) -> impl Iterator<Item = &Subset> {
        self.0.get(service).into_iter().flat_map(BTreeMap::keys)
    }
}
