//! What an explanation says, as JSON has it.

use serde::Serialize;
use waypost_proto::{
    name::ServiceKey,
    v1::{RouteBackend, RouteFilter},
};

use super::{
    super::{Candidate, Hostname, Listener, Placed, RequestView},
    resolve,
};
use crate::{
    rule::cors,
    table::{EndpointSet, Member, ServiceStanding, ServiceTable, Table, Target},
};

/// Why a request goes where it goes.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The request, as it is matched.
    pub request: RequestReport,
    /// All listeners, those that were chosen first.
    pub listeners: Vec<ListenerReport>,
    /// The hostnames whose routes were looked at, in order.
    pub hostnames: Vec<String>,
    /// The matches that were looked at, in order: those whose path fits, and regular expressions.
    pub considered: Vec<Considered>,
    /// How many more were looked at.
    pub more: usize,
    /// What it came to.
    pub outcome: Outcome,
}

/// A request, as it is matched.
#[derive(Debug, Serialize)]
pub struct RequestReport {
    /// The method.
    pub method: String,
    /// The host.
    pub host: String,
    /// The path, normalised.
    pub path: String,
    /// The query.
    pub query: Option<String>,
    /// The port; 0 is the proxy's own.
    pub port: u16,
}

impl RequestReport {
    pub(super) fn of(request: &RequestView<'_>, is_own: bool) -> Self {
        Self {
            method: request.method.to_string(),
            host: request.host.to_owned(),
            path: request.path.to_owned(),
            query: request.query.map(str::to_owned),
            port: if is_own { 0 } else { request.port },
        }
    }
}

/// A listener.
#[derive(Debug, Serialize)]
pub struct ListenerReport {
    /// Its entry's id.
    pub id: String,
    /// Its port; 0 is the proxy's own.
    pub port: u16,
    /// Its hostname; `*` is any.
    pub hostname: String,
    /// Whether its routes were looked at.
    pub chosen: bool,
    /// Why they were not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

impl ListenerReport {
    pub(super) fn of(listener: &Listener, rejected: Option<String>) -> Self {
        Self {
            id: listener.id.to_string(),
            port: listener.port,
            hostname: listener.hostname.to_string(),
            chosen: rejected.is_none(),
            rejected,
        }
    }
}

/// A match that was looked at.
#[derive(Debug, Serialize)]
pub struct Considered {
    /// The route's id.
    pub route: String,
    /// The rule's place in it, from 0.
    pub rule: usize,
    /// The match's place in that, from 0.
    #[serde(rename = "match")]
    pub place: usize,
    /// What it asks for.
    pub asks: String,
    /// The hostname of the route that takes the host.
    pub hostname: Option<String>,
    /// Why it does not take the request; absent where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

impl Considered {
    pub(super) fn of(placed: &Placed, hostname: Option<&Hostname>, rejected: Option<String>) -> Self {
        let Candidate { route_id, place, .. } = &*placed.candidate;
        Self {
            route: route_id.to_string(),
            rule: place.0,
            place: place.1,
            asks: placed.candidate.to_string(),
            hostname: hostname.map(ToString::to_string),
            rejected,
        }
    }
}

/// A match that comes close.
#[derive(Debug, Serialize)]
pub struct Miss {
    /// The route's id.
    pub route: String,
    /// The rule's place in it, from 0.
    pub rule: usize,
    /// What it asks for.
    pub asks: String,
    /// The listener's id.
    pub listener: String,
    /// All that is in the way.
    pub missed: Vec<String>,
}

impl Miss {
    pub(super) fn of(candidate: &Candidate, listener: &str, missed: Vec<String>) -> Self {
        let (route, rule, asks) = (candidate.route_id.to_string(), candidate.place.0, candidate.to_string());
        Self { route, rule, asks, listener: listener.to_owned(), missed }
    }
}

/// What a request comes to.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// A rule of a declared route takes it.
    Rule(Box<RuleReport>),
    /// An automatic route takes it.
    Automatic(RouteReport),
    /// Automatic routes take its path, for these methods only: 405.
    MethodNotAllowed {
        /// The methods.
        allow: Vec<String>,
    },
    /// Nothing takes it: 404.
    NoRoute {
        /// Why.
        why: String,
        /// What comes closest, closest first.
        nearest: Vec<Miss>,
    },
}

/// A rule that takes a request.
#[derive(Debug, Serialize)]
pub struct RuleReport {
    /// The route's id.
    pub route: String,
    /// The rule's place in it, from 0.
    pub rule: usize,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What the match asks for.
    pub asks: String,
    /// The listener's id.
    pub listener: String,
    /// The part of the path that the prefix has taken.
    pub matched_prefix: String,
    /// The method that the request is a preflight for, where the rule's CORS filter answers it and no backend is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preflight: Option<String>,
    /// What is done with the request and its answer, in this order.
    pub filters: Vec<RouteFilter>,
    /// The path as backends get it.
    pub path: String,
    /// Who answers.
    pub backends: Vec<BackendReport>,
}

impl RuleReport {
    pub(super) fn of(table: &Table, placed: &Placed, taken: usize, request: &RequestView<'_>) -> Self {
        let candidate = &placed.candidate;
        let entry = &candidate.rule.entry;
        let total: u64 = entry.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let path = candidate.rule.rewritten(request.path, taken);
        let announced = cors::announced(request.method, request.headers);
        let announced = announced.filter(|_| candidate.rule.filters.cors.is_some());
        Self {
            route: candidate.route_id.to_string(),
            rule: candidate.place.0,
            name: entry.name.clone(),
            asks: candidate.to_string(),
            listener: placed.listener.id.to_string(),
            matched_prefix: request.path[..taken].to_owned(),
            preflight: announced.map(|method| String::from_utf8_lossy(method.as_bytes()).into_owned()),
            filters: entry.filters.clone(),
            path,
            backends: entry.backends.iter().map(|one| BackendReport::of(table, one, total)).collect(),
        }
    }
}

/// A backend.
#[derive(Debug, Serialize)]
pub struct BackendReport {
    /// The service.
    pub service: String,
    /// Its weight.
    pub weight: u32,
    /// Its share of the requests, from 0 to 1.
    pub share: f64,
    /// The versions of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
    /// The tags of which an instance must have one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Why its share is answered here, with 500 or 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What is done with its requests only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<RouteFilter>,
    /// Who chooses among its instances; absent where there is no such service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balancer: Option<&'static str>,
    /// How the service stands at this proxy.
    #[serde(flatten)]
    pub standing: Option<ServiceStanding>,
    /// The service's instances.
    pub endpoints: Vec<EndpointReport>,
}

impl BackendReport {
    fn of(table: &Table, backend: &RouteBackend, total: u64) -> Self {
        let found = resolve(table, backend).filter(|_| backend.invalid.is_empty());
        let name = ServiceKey::from_wire(backend.service.as_ref()).map(|key| key.to_string());
        let name = name.unwrap_or_default();
        let problem = match &found {
            _ if !backend.invalid.is_empty() => Some(backend.invalid.clone()),
            None => Some(format!("service {name:?} is not known: 500")),
            Some(found) if found.endpoints.members().is_empty() => {
                Some("no instance takes traffic: 503".to_owned())
            }
            Some(_) => None,
        };
        Self {
            service: name,
            weight: backend.weight,
            share: if total == 0 { 0.0 } else { f64::from(backend.weight) / total as f64 },
            versions: backend.versions.clone(),
            tags: backend.tags.clone(),
            problem,
            filters: backend.filters.clone(),
            balancer: found.as_ref().map(|found| found.endpoints.balancer().name()),
            standing: found.as_ref().map(|found| ServiceStanding::with(found.service, found.endpoints)),
            endpoints: found
                .map(|found| EndpointReport::all(found.service, found.endpoints))
                .unwrap_or_default(),
        }
    }
}

/// An instance of a backend or an automatic route's service.
#[derive(Debug, Serialize)]
pub struct EndpointReport {
    /// Its id.
    pub id: String,
    /// Its address.
    pub address: String,
    /// Its state, as the control plane has it.
    pub state: &'static str,
    /// Whether it can be picked: it takes traffic, and is of the versions and tags that are asked for.
    pub selected: bool,
    /// Its weight.
    pub weight: u16,
    /// How much of the share that its weight gives it it gets, in percent: less while it is busy.
    pub share_percent: u8,
    /// Requests in flight to it from this proxy.
    pub in_flight: u64,
    /// What least-request balancing compares: requests in flight for each unit of weight; less is better.
    pub score: f64,
    /// How long its answers are expected to take, in milliseconds, where the policy wants to know and it has answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// How long it is still skipped after failures, in milliseconds.
    pub cooling_down_ms: u64,
    /// How it is and why, where a policy says who is passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
}

impl EndpointReport {
    fn all(service: &ServiceTable, selected: &EndpointSet) -> Vec<Self> {
        let report = |Member { endpoint, state }: &Member| {
            let in_flight = state.in_flight();
            Self {
                id: endpoint.key.id().to_owned(),
                address: endpoint.address.to_string(),
                state: endpoint.state.as_str_name().trim_start_matches("INSTANCE_STATE_"),
                selected: selected.members().iter().any(|member| member.id() == state.id()),
                weight: endpoint.weight,
                share_percent: endpoint.share.as_percent(),
                in_flight,
                score: in_flight as f64 / f64::from(endpoint.weight.max(1)),
                latency_ms: state.latency().map(|latency| latency.as_secs_f64() * 1e3),
                cooling_down_ms: u64::try_from(state.cooling_down().as_millis()).unwrap_or(u64::MAX),
                health: service.health_of(state),
            }
        };
        service.members().iter().map(report).collect()
    }
}

/// An automatic route that takes a request.
#[derive(Debug, Serialize)]
pub struct RouteReport {
    /// Its id.
    pub route: String,
    /// The service.
    pub service: String,
    /// The path as instances get it.
    pub path: String,
    /// Who chooses among its instances.
    pub balancer: &'static str,
    /// How the service stands at this proxy.
    #[serde(flatten)]
    pub standing: ServiceStanding,
    /// The service's instances.
    pub endpoints: Vec<EndpointReport>,
}

impl RouteReport {
    pub(super) fn of(target: &Target<'_>, path: &str) -> Self {
        let rest = path.get(target.strip..).unwrap_or_default();
        let slash = if rest.starts_with('/') { "" } else { "/" };
        Self {
            route: target.route_id.to_string(),
            service: target.service.key().to_string(),
            path: format!("{slash}{rest}"),
            balancer: target.endpoints.balancer().name(),
            standing: ServiceStanding::with(target.service, target.endpoints),
            endpoints: EndpointReport::all(target.service, target.endpoints),
        }
    }
}
