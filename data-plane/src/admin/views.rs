//! The JSON of the admin port. Revisions are numbers; digests are hexadecimal, since JSON's numbers lose them.

use std::{collections::BTreeMap, time::SystemTime};

use serde::Serialize;
use waypost_proto::{
    name::ServiceKey,
    route::{Route, RouteMatch},
    v1::Position,
};

use crate::{
    metrics::Load,
    overload::Priority,
    serve::{Listening, PortState},
    subscription::StatusView,
    table::{Edge, Member, ServiceStanding, ServiceTable, Table},
};

#[derive(Serialize)]
struct PositionBody {
    history: String,
    revision: u64,
    digest: String,
}

impl PositionBody {
    fn of(position: &Position) -> Self {
        let digest = format!("{:016x}", position.digest);
        Self { history: position.history.clone(), revision: position.revision, digest }
    }
}

/// The table as it is applied.
#[derive(Serialize)]
pub(super) struct TableBody {
    position: PositionBody,
    settled: bool,
    /// Instances that are kept until the control plane is settled.
    carried_over: usize,
    services: Vec<ServiceBody>,
    routes: Vec<RouteBody>,
}

impl TableBody {
    /// The whole table, or what concerns one service.
    pub(super) fn of(table: &Table, wanted: Option<&ServiceKey>) -> Self {
        let fits = |key: &ServiceKey| wanted.is_none_or(|wanted| wanted == key);
        let services = table.services().filter(|service| fits(service.key()));
        let mut services: Vec<_> = services.map(|service| ServiceBody::of(table, service)).collect();
        services.sort_by(|a, b| a.service.cmp(&b.service));
        let routes = table.routes().filter(|route| fits(&route.service));
        let mut routes: Vec<_> = routes.map(|route| RouteBody::of(route)).collect();
        routes.sort_by(|a, b| (&a.path, &a.method).cmp(&(&b.path, &b.method)));
        let position = PositionBody::of(table.position());
        Self { position, settled: table.settled(), carried_over: table.carried_over(), services, routes }
    }
}

#[derive(Serialize)]
struct ServiceBody {
    service: String,
    /// Who chooses among its instances.
    balancer: &'static str,
    #[serde(flatten)]
    standing: ServiceStanding,
    endpoints: Vec<EndpointBody>,
}

impl ServiceBody {
    fn of(table: &Table, service: &ServiceTable) -> Self {
        let endpoints =
            service.members().iter().map(|member| EndpointBody::of(table, service, member)).collect();
        let balancer = service.endpoints().balancer().name();
        let (service, standing) = (service.key().to_string(), ServiceStanding::of(service));
        Self { service, balancer, standing, endpoints }
    }
}

#[derive(Serialize)]
struct EndpointBody {
    id: String,
    address: String,
    epoch: u64,
    state: &'static str,
    takes_traffic: bool,
    carried_over: bool,
    protocol: &'static str,
    weight: u16,
    /// How much of the share that its weight gives it it gets, in percent: less while it is busy.
    share_percent: u8,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    zone: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    in_flight: u64,
    draining: bool,
    cooling_down_ms: u128,
    /// How it is and why, where a policy says who is passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<String>,
}

impl EndpointBody {
    fn of(table: &Table, service: &ServiceTable, member: &Member) -> Self {
        let Member { endpoint, state } = member;
        Self {
            id: endpoint.key.id().to_owned(),
            address: endpoint.address.to_string(),
            epoch: endpoint.epoch,
            state: endpoint.state.as_str_name().trim_start_matches("INSTANCE_STATE_"),
            takes_traffic: endpoint.takes_traffic(),
            carried_over: table.is_carried_over(&endpoint.key),
            protocol: endpoint.protocol.as_str_name().trim_start_matches("PROTOCOL_"),
            weight: endpoint.weight,
            share_percent: endpoint.share.as_percent(),
            version: endpoint.version.to_string(),
            zone: endpoint.zone.to_string(),
            tags: endpoint.tags.iter().map(ToString::to_string).collect(),
            in_flight: state.in_flight(),
            draining: state.is_draining(),
            cooling_down_ms: state.cooling_down().as_millis(),
            health: service.health_of(state),
        }
    }
}

#[derive(Serialize)]
struct RouteBody {
    id: String,
    #[serde(rename = "match")]
    kind: &'static str,
    method: Option<String>,
    path: String,
    strip_prefix: bool,
    service: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    versions: Vec<String>,
}

impl RouteBody {
    fn of(route: &Route) -> Self {
        let (kind, method, path, strip_prefix) = match &route.matches {
            RouteMatch::Prefix { path, strip } => ("prefix", None, path.to_string(), *strip),
            RouteMatch::Template(template) => {
                ("template", template.method().map(str::to_owned), template.path(), false)
            }
        };
        Self {
            id: route.id.to_string(),
            kind,
            method,
            path,
            strip_prefix,
            service: route.service.to_string(),
            versions: route.versions.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Where connections come in, beside the proxy's own port.
#[derive(Serialize)]
pub(super) struct ListenersBody {
    ports: Vec<PortBody>,
    problems: Vec<ProblemBody>,
}

#[derive(Serialize)]
struct PortBody {
    port: u16,
    /// `open` or `failed`.
    state: &'static str,
    /// Why it failed.
    error: Option<String>,
}

/// What is wrong with an entry; what was there before stays in place.
#[derive(Serialize)]
struct ProblemBody {
    entry: String,
    problem: String,
}

impl ListenersBody {
    pub(super) fn of(listening: &Listening, edge: Option<&Edge>) -> Self {
        let port = |(port, state)| match state {
            PortState::Open => PortBody { port, state: "open", error: None },
            PortState::Failed(error) => PortBody { port, state: "failed", error: Some(error) },
        };
        let problems = edge.into_iter().flat_map(Edge::problems);
        let problem = |(entry, problem): (&str, &str)| ProblemBody {
            entry: entry.to_owned(),
            problem: problem.to_owned(),
        };
        Self {
            ports: listening.ports().into_iter().map(port).collect(),
            problems: problems.map(problem).collect(),
        }
    }
}

/// The subscription.
#[derive(Serialize)]
pub(super) struct StatusBody {
    proxy_id: String,
    version: &'static str,
    connected_to: Option<String>,
    since: String,
    position: Option<PositionBody>,
    settled: Option<bool>,
    /// The older revisions by which `/explain` answers too, oldest first.
    kept_revisions: Vec<u64>,
    /// Whether what is served by was read from the state directory and not confirmed since.
    restored: bool,
    resyncs: u64,
    load: LoadBody,
    last_error: Option<LastError>,
}

/// How much there is to do, and what was refused for it.
#[derive(Serialize)]
struct LoadBody {
    requests_under_way: u64,
    /// How much is refused by the worker that is most behind: 0 is nothing, 4 all of low priority, 11 the most.
    shedding_level: u64,
    /// By priority.
    shed_requests: BTreeMap<&'static str, u64>,
}

impl LoadBody {
    fn of(load: Load) -> Self {
        let Load { under_way, shed, level } = load;
        let shed_requests = Priority::ALL.map(Priority::name).into_iter().zip(shed).collect();
        Self { requests_under_way: under_way, shedding_level: level, shed_requests }
    }
}

#[derive(Serialize)]
struct LastError {
    at: String,
    message: String,
}

impl StatusBody {
    pub(super) fn of(
        proxy_id: &str,
        status: &StatusView,
        settled: Option<bool>,
        kept: Vec<u64>,
        load: Load,
    ) -> Self {
        Self {
            proxy_id: proxy_id.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            connected_to: status.connected_to.clone(),
            since: rfc3339(status.since),
            position: status.position.as_ref().map(PositionBody::of),
            settled,
            kept_revisions: kept,
            restored: status.restored,
            resyncs: status.resyncs,
            load: LoadBody::of(load),
            last_error: status
                .last_error
                .as_ref()
                .map(|(at, message)| LastError { at: rfc3339(*at), message: message.clone() }),
        }
    }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
