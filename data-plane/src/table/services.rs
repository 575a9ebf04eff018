//! One service of a table: its instances in every state, and the sets of those that take traffic.

use std::sync::Arc;

use waypost_proto::{instance::Endpoint, name::ServiceKey};

use super::endpoints::{EndpointSet, EndpointState};
use crate::balance::Policy;

/// An instance of a service, as it is declared, with its state here.
#[derive(Clone, Debug)]
pub struct Member {
    /// What the control plane says of it.
    pub endpoint: Arc<Endpoint>,
    /// What is known of it here.
    pub state: Arc<EndpointState>,
}

/// The endpoints of some versions of a service.
#[derive(Clone, Debug)]
struct Subset {
    versions: Arc<[Arc<str>]>,
    /// How many routes select it.
    routes: u32,
    set: Arc<EndpointSet>,
}

/// A service and its instances. Values are replaced, never changed.
#[derive(Clone, Debug)]
pub struct ServiceTable {
    key: ServiceKey,
    /// Sorted by id.
    members: Vec<Member>,
    all: Arc<EndpointSet>,
    subsets: Vec<Subset>,
}

impl ServiceTable {
    pub(super) fn new(key: ServiceKey, policy: &Policy) -> Self {
        let all = Arc::new(EndpointSet::new(Vec::new(), policy()));
        Self { key, members: Vec::new(), all, subsets: Vec::new() }
    }

    /// Its name.
    pub fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// Its instances in every state, sorted by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// An instance, by its id.
    pub fn member(&self, id: &str) -> Option<&Member> {
        self.place(id).ok().map(|at| &self.members[at])
    }

    /// The endpoints that take traffic.
    pub fn endpoints(&self) -> &Arc<EndpointSet> {
        &self.all
    }

    /// The endpoints of some versions; of all where none is named.
    pub(super) fn endpoints_of(&self, versions: &[Arc<str>]) -> Option<&Arc<EndpointSet>> {
        if versions.is_empty() {
            return Some(&self.all);
        }
        self.subsets.iter().find(|subset| *subset.versions == *versions).map(|subset| &subset.set)
    }

    fn place(&self, id: &str) -> Result<usize, usize> {
        self.members.binary_search_by(|member| member.endpoint.key.id().cmp(id))
    }

    /// Puts an instance, and returns what it replaces. The sets follow with [`Self::refresh`].
    pub(super) fn put(&mut self, member: Member) -> Option<Member> {
        match self.place(member.endpoint.key.id()) {
            Ok(at) => Some(std::mem::replace(&mut self.members[at], member)),
            Err(at) => {
                self.members.insert(at, member);
                None
            }
        }
    }

    /// Removes an instance. The sets follow with [`Self::refresh`].
    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        self.place(id).ok().map(|at| self.members.remove(at))
    }

    /// Makes the sets anew from the members. The balancers go on where they were.
    pub(super) fn refresh(&mut self) {
        self.all = Arc::new(self.select(&[], &self.all));
        let sets: Vec<_> =
            self.subsets.iter().map(|subset| Arc::new(self.select(&subset.versions, &subset.set))).collect();
        self.subsets.iter_mut().zip(sets).for_each(|(subset, set)| subset.set = set);
    }

    fn select(&self, versions: &[Arc<str>], before: &EndpointSet) -> EndpointSet {
        let selected = self.members.iter().filter(|member| {
            member.endpoint.takes_traffic()
                && (versions.is_empty() || versions.contains(&member.endpoint.version))
        });
        EndpointSet::new(
            selected.map(|member| Arc::clone(&member.state)).collect(),
            before.renewed_balancer(),
        )
    }

    /// Takes note of a route that selects versions.
    pub(super) fn select_versions(&mut self, versions: &Arc<[Arc<str>]>) {
        if let Some(subset) = self.subsets.iter_mut().find(|subset| subset.versions == *versions) {
            subset.routes += 1;
        } else if !versions.is_empty() {
            let set = Arc::new(self.select(versions, &self.all));
            self.subsets.push(Subset { versions: Arc::clone(versions), routes: 1, set });
        }
    }

    /// Takes note of the end of such a route.
    pub(super) fn release_versions(&mut self, versions: &[Arc<str>]) {
        if let Some(subset) = self.subsets.iter_mut().find(|subset| *subset.versions == *versions) {
            subset.routes -= 1;
        }
        self.subsets.retain(|subset| subset.routes > 0);
    }
}
