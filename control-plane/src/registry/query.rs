//! The questions of the API, answered from a view.
//!
//! A question costs in proportion to its answer and to the names it has to look through, never a copy of
//! the registry.
//!
//! Deliberately absent: paging; an answer is as long as what it is asked for.

use std::{collections::BTreeSet, sync::Arc};

use waypost_proto::{
    error::{Error, ErrorCode, Violation},
    instance::Endpoint,
    name::ServiceKey,
    time,
    v1::{self, InstanceState},
};

use super::{
    missing,
    reserved::is_reserved,
    view::{Summary, View},
};
use crate::{
    compile::Election,
    store::{PastEvent, Record},
};

const DEFAULT_EVENTS: u32 = 100;
const MAX_EVENTS: u32 = 10_000;

impl View {
    /// All services, summed up.
    ///
    /// # Errors
    /// The namespace is not a name.
    pub fn list_services(
        &self,
        request: &v1::ListServicesRequest,
    ) -> Result<v1::ListServicesResponse, Error> {
        let matching = self.services_matching(&request.namespace, "")?;
        let services = matching.into_iter().map(|(key, summary)| self.sum_up(key, summary)).collect();
        Ok(v1::ListServicesResponse { services, revision: self.revision })
    }

    /// One service with its instances.
    ///
    /// # Errors
    /// There is no such service; the error names the nearest.
    pub fn get_service(&self, request: &v1::GetServiceRequest) -> Result<v1::GetServiceResponse, Error> {
        let key = ServiceKey::from_wire(request.key.as_ref())?;
        let summary = self.services.get(&key).ok_or_else(|| missing::service(self, &key))?;
        Ok(v1::GetServiceResponse {
            service: Some(self.sum_up(&key, summary)),
            instances: self.records_of(&key).map(|record| record.to_wire()).collect(),
            revision: self.revision,
        })
    }

    /// Instances that match.
    ///
    /// # Errors
    /// A field of the request breaks its rule.
    pub fn list_instances(
        &self,
        request: &v1::ListInstancesRequest,
    ) -> Result<v1::ListInstancesResponse, Error> {
        let state = InstanceState::try_from(request.state).map_err(|_| {
            Violation::new("state", request.state, "must be UP, DOWN, DRAINING, SUSPECT or not given")
        })?;
        let matches = |record: &&Arc<Record>| {
            (request.version.is_empty() || *record.spec.version == *request.version)
                && has_tags(&record.spec.tags, &request.tags)
                && (state == InstanceState::Unspecified || record.state() == state)
        };
        let services = self.services_matching(&request.namespace, &request.service)?;
        let records = services.into_iter().flat_map(|(key, _)| self.records_of(key));
        let instances = records.filter(matches).map(|record| record.to_wire()).collect();
        Ok(v1::ListInstancesResponse { instances, revision: self.revision })
    }

    /// Routes with their claims and conflicts.
    ///
    /// # Errors
    /// The namespace is not a name.
    pub fn list_routes(&self, request: &v1::ListRoutesRequest) -> Result<v1::ListRoutesResponse, Error> {
        check_names(&request.namespace, "")?;
        let inside = |election: &&Arc<Election>| {
            request.namespace.is_empty() || election.route.service.namespace() == request.namespace
        };
        let route = |election: &Arc<Election>| v1::Route {
            entry: Some(election.route.to_wire()),
            claimed_at: Some(time::timestamp(election.claimed_at)),
            shadowed: election.shadowed.iter().map(|lost| lost.service.to_wire()).collect(),
        };
        let mut routes: Vec<v1::Route> = self.routes.values().filter(inside).map(route).collect();
        routes.sort_by_cached_key(|route| {
            let entry = route.entry.clone().unwrap_or_default();
            (entry.path, entry.method, entry.r#match)
        });
        let declared = self.gateway.routes(&request.namespace).cloned().collect();
        Ok(v1::ListRoutesResponse { routes, declared, revision: self.revision })
    }

    /// The instances of a service that take traffic: those of the caller's zone first, then by id.
    ///
    /// # Errors
    /// There is no such service, none of its instances matches, or none of those that do takes traffic.
    pub fn resolve(&self, request: &v1::ResolveRequest) -> Result<v1::ResolveResponse, Error> {
        let key = ServiceKey::from_wire(request.key.as_ref())?;
        let summary = self.services.get(&key).ok_or_else(|| missing::service(self, &key))?;
        let is_any = request.version.is_empty() && request.tags.is_empty();
        let matches = |endpoint: &Endpoint| {
            (request.version.is_empty() || *endpoint.version == *request.version)
                && has_tags(&endpoint.tags, &request.tags)
        };
        let mut known = self.records_of(&key).map(|record| record.endpoint()).filter(matches).peekable();
        if !is_any && known.peek().is_none() {
            return Err(missing::kind(&key));
        }
        let endpoints = known.filter(Endpoint::takes_traffic);
        let elsewhere = |endpoint: &Endpoint| !request.zone.is_empty() && *endpoint.zone != *request.zone;
        let (mut near, far): (Vec<Endpoint>, Vec<Endpoint>) =
            endpoints.partition(|endpoint| !elsewhere(endpoint));
        near.extend(far);
        if near.is_empty() {
            let [up, down, draining, suspect] = summary.counts;
            return Err(Error::new(
                ErrorCode::Unavailable,
                format!(
                    "no instance of service {key} that matches takes traffic ({up} up, {down} down, {draining} \
                     draining, {suspect} suspect in all): try again when one is up"
                ),
            ));
        }
        let instances = near.iter().map(Endpoint::to_wire).collect();
        Ok(v1::ResolveResponse { instances, revision: self.revision })
    }

    /// The newest events that match, oldest first.
    ///
    /// # Errors
    /// A field of the request breaks its rule.
    pub fn list_events(&self, request: &v1::ListEventsRequest) -> Result<v1::ListEventsResponse, Error> {
        check_names(&request.namespace, &request.service)?;
        if request.limit > MAX_EVENTS {
            return Err(Violation::new("limit", request.limit, "must be at most 10000").into());
        }
        let limit = if request.limit == 0 { DEFAULT_EVENTS } else { request.limit };
        let since = request.since.as_ref().map(time::system_time);
        let matches = |past: &&Arc<PastEvent>| {
            let key = &past.event.instance;
            inside(&request.namespace, key.service())
                && (request.service.is_empty() || key.service().name() == request.service)
                && (request.instance.is_empty() || key.id() == request.instance)
                && since.is_none_or(|since| past.at >= since)
        };
        let newer = self.events.iter().rev().take_while(|past| past.revision > request.after_revision);
        let mut events: Vec<v1::Event> =
            newer.filter(matches).take(limit as usize).map(|past| past.to_wire()).collect();
        events.reverse();
        let oldest_revision = self.events.front().map_or(self.revision, |past| past.revision);
        Ok(v1::ListEventsResponse { events, oldest_revision, revision: self.revision })
    }

    /// Services by namespace and name, each of which may be empty for all.
    fn services_matching(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<(&ServiceKey, &Arc<Summary>)>, Error> {
        check_names(namespace, name)?;
        if !namespace.is_empty() && !name.is_empty() {
            let key = ServiceKey::new(namespace, name)?;
            return Ok(self.services.get_key_value(&key).into_iter().collect());
        }
        let matches = |key: &ServiceKey| inside(namespace, key) && (name.is_empty() || key.name() == name);
        Ok(self.services.iter().filter(|(key, _)| matches(key)).collect())
    }

    fn sum_up(&self, key: &ServiceKey, summary: &Summary) -> v1::Service {
        let [up, down, draining, suspect] = summary.counts;
        let mut versions = BTreeSet::new();
        let mut tags = BTreeSet::new();
        let mut newest: Option<&Record> = None;
        for record in self.records_of(key) {
            if !record.spec.version.is_empty() {
                versions.insert(record.spec.version.clone());
            }
            tags.extend(record.spec.tags.iter().cloned());
            if newest.is_none_or(|newest| newest.registered_at < record.registered_at) {
                newest = Some(record);
            }
        }
        v1::Service {
            key: Some(key.to_wire()),
            description: newest.map(|record| record.spec.description.clone()).unwrap_or_default(),
            up,
            down,
            draining,
            suspect,
            versions: versions.iter().map(ToString::to_string).collect(),
            tags: tags.iter().map(ToString::to_string).collect(),
            since: Some(time::timestamp(summary.since)),
            conflicts: self.lost_by(key).map(|(_, lost)| lost.to_wire(key)).collect(),
        }
    }
}

/// Whether a service is in a namespace; where none is named, in any but the reserved one.
pub fn inside(namespace: &str, service: &ServiceKey) -> bool {
    if namespace.is_empty() { !is_reserved(service) } else { service.namespace() == namespace }
}

/// Checks names that select; an empty one selects all.
fn check_names(namespace: &str, service: &str) -> Result<(), Violation> {
    let service = if service.is_empty() { "any" } else { service };
    ServiceKey::new(namespace, service).map(|_| ())
}

fn has_tags(tags: &[Arc<str>], wanted: &[String]) -> bool {
    wanted.iter().all(|wanted| tags.iter().any(|tag| **tag == **wanted))
}
