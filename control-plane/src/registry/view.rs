//! What the registry holds at one revision.
//!
//! A view is made of persistent maps: the next one shares all that did not change, so that making one costs
//! as much as the change, and asking one takes no lock.
//!
//! Deliberately absent: the questions of the API (see `query`), and how a view comes about (see `state`).

use std::{sync::Arc, time::SystemTime};

use imbl::{OrdMap, OrdSet, Vector};
use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    resource::ResourceKey,
    v1::{self, InstanceState},
};

use super::{declared::Held, reserved::control_planes};
use crate::{
    compile::Election,
    gateway::Shown,
    store::{EmptyService, PastEvent, Record, first_key},
};

/// A service, as far as it is kept up with each change.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    /// When its first instance was registered.
    pub(super) since: SystemTime,
    /// Its instances by state: up, down, draining, suspect.
    pub(super) counts: [u32; 4],
    /// What is kept of it while it has no instance.
    pub(super) empty: Option<Arc<EmptyService>>,
}

impl Summary {
    pub(super) fn count(&mut self, state: InstanceState) -> &mut u32 {
        match state {
            InstanceState::Up | InstanceState::Unspecified => &mut self.counts[0],
            InstanceState::Down => &mut self.counts[1],
            InstanceState::Draining => &mut self.counts[2],
            InstanceState::Suspect => &mut self.counts[3],
        }
    }
}

/// A claim that lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LostClaim {
    /// Who has the route.
    pub(super) election: Arc<Election>,
    /// When the claim that lost was first made.
    pub(super) claimed_at: SystemTime,
}

/// What the registry holds at one revision. It never changes and shares what did not change with the next;
/// only the times of the last heartbeats go on.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) history: Arc<str>,
    pub(super) revision: u64,
    pub(super) head: u64,
    pub(super) settled: bool,
    pub(super) instances: OrdMap<InstanceKey, Arc<Record>>,
    /// Those that beat while proxies see them fail.
    pub(super) failing: OrdSet<InstanceKey>,
    pub(super) services: OrdMap<ServiceKey, Arc<Summary>>,
    /// By id.
    pub(super) routes: OrdMap<Arc<str>, Arc<Election>>,
    /// By loser and route.
    pub(super) lost: OrdMap<(ServiceKey, Arc<str>), LostClaim>,
    /// Oldest first.
    pub(super) events: Vector<Arc<PastEvent>>,
    /// What is declared, and what was.
    pub(super) resources: OrdMap<ResourceKey, Held>,
    /// What it comes to.
    pub(super) gateway: Shown,
}

impl View {
    pub(super) fn empty(history: Arc<str>) -> Self {
        Self {
            history,
            revision: 0,
            head: 0,
            settled: false,
            instances: OrdMap::new(),
            failing: OrdSet::new(),
            services: OrdMap::new(),
            routes: OrdMap::new(),
            lost: OrdMap::new(),
            events: Vector::new(),
            resources: OrdMap::new(),
            gateway: Shown::default(),
        }
    }

    /// The revision that it stands for.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision of the newest change that mattered to proxies: what a proxy that is up to date holds.
    /// By a view of at least revision `r`, a change of revision `r` has reached every proxy that has applied
    /// `min(r, head)`.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Whether what is missing is known to be gone.
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// Names the life of the revisions.
    pub fn history(&self) -> &str {
        &self.history
    }

    /// How many services there are, with or without instances.
    pub fn service_count(&self) -> usize {
        self.services.len() - usize::from(self.services.contains_key(&control_planes()))
    }

    /// How many instances there are.
    pub fn instance_count(&self) -> usize {
        self.instances.len() - self.records_of(&control_planes()).count()
    }

    /// How many routes are in force.
    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// The claims that lost, sorted by service and route.
    pub fn conflicts(&self) -> Vec<v1::Conflict> {
        self.lost.iter().map(|((loser, _), lost)| lost.to_wire(loser)).collect()
    }

    /// An instance, if it is there.
    pub fn instance(&self, key: &InstanceKey) -> Option<v1::Instance> {
        self.instances.get(key).map(|record| record.to_wire())
    }

    /// Whether there is such an instance.
    pub fn has_instance(&self, key: &InstanceKey) -> bool {
        self.instances.contains_key(key)
    }

    pub(super) fn record(&self, key: &InstanceKey) -> Option<&Arc<Record>> {
        self.instances.get(key)
    }

    /// The instances of a service, sorted by id.
    pub(super) fn records_of<'a>(&'a self, service: &'a ServiceKey) -> impl Iterator<Item = &'a Arc<Record>> {
        let from = self.instances.range(first_key(service)..);
        from.take_while(move |(key, _)| key.service() == service).map(|(_, record)| record)
    }

    /// The claims of a service that lost, sorted by route.
    pub(super) fn lost_by<'a>(
        &'a self,
        service: &'a ServiceKey,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a LostClaim)> {
        let from = self.lost.range((service.clone(), Arc::from(""))..);
        from.take_while(move |((loser, _), _)| loser == service).map(|((_, route), lost)| (route, lost))
    }

    /// When a service first claimed a route, if it does.
    pub(super) fn claimed_at(&self, service: &ServiceKey, route: &str) -> Option<SystemTime> {
        let election = self.routes.get(route)?;
        if election.route.service == *service {
            return Some(election.claimed_at);
        }
        self.lost.get(&(service.clone(), Arc::from(route))).map(|lost| lost.claimed_at)
    }
}

impl LostClaim {
    pub(super) fn to_wire(&self, loser: &ServiceKey) -> v1::Conflict {
        self.election.conflict(loser)
    }
}
