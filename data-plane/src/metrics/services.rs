//! How each service stands at this proxy, as gauges with the label `service`: found out when they are asked for.
//!
//! There is one of each for a service, and of some one for each of a handful of states, so that their number is bounded by
//! the services of the table. What belongs to a policy is there only where the policy has it.
//!
//! Deliberately absent: endpoints one by one, which come and go and would leave a trail of names; the admin port's `/table`
//! and `/explain` tell of them.

use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};
use waypost_proto::v1::InstanceState;

use super::exposition::{family, float, label};
use crate::{
    health::{Condition, Heed},
    table::{Member, ServiceTable, Stance, Table},
};

/// How an endpoint takes requests here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndpointStatus {
    Ready,
    CoolingDown,
    Ejected,
    Ill,
    Draining,
    Down,
    NoWeight,
}

impl EndpointStatus {
    const ALL: [Self; 7] = [
        Self::Ready,
        Self::CoolingDown,
        Self::Ejected,
        Self::Ill,
        Self::Draining,
        Self::Down,
        Self::NoWeight,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::CoolingDown => "cooling_down",
            Self::Ejected => "ejected",
            Self::Ill => "ill",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::NoWeight => "no_weight",
        }
    }

    /// What the control plane says comes before what is seen here.
    fn of(service: &ServiceTable, Member { endpoint, state }: &Member) -> Self {
        match endpoint.state {
            InstanceState::Draining => return Self::Draining,
            InstanceState::Down | InstanceState::Unspecified => return Self::Down,
            InstanceState::Up | InstanceState::Suspect if endpoint.weight == 0 => return Self::NoWeight,
            InstanceState::Up | InstanceState::Suspect => {}
        }
        match service.condition_of(state) {
            Condition::Well => Self::Ready,
            Condition::CoolingDown => Self::CoolingDown,
            Condition::Ejected(_) => Self::Ejected,
            Condition::Ill => Self::Ill,
        }
    }
}

/// The gauges of all services of a table.
pub(super) fn families(table: &Table) -> Vec<MetricFamily> {
    let mut services: Vec<_> = table.services().collect();
    services.sort_by(|a, b| a.key().cmp(b.key()));
    let of_each = |name: &str, help: &str, found: &dyn Fn(&ServiceTable) -> Vec<Metric>| {
        let metrics = services.iter().flat_map(|service| found(service)).collect();
        family(name, help, MetricType::GAUGE, metrics)
    };
    let mut families = vec![
        of_each(
            "waypost_service_endpoints",
            "Instances of a service, by how they take requests here.",
            &endpoints,
        ),
        of_each(
            "waypost_service_panic",
            "1 while so few endpoints of a service are well that all take requests.",
            &|service| single(service, panic(service)),
        ),
        of_each(
            "waypost_breaker_state",
            "1 for the state in which a service's circuit breaker is.",
            &breaker,
        ),
        of_each("waypost_upstream_active_requests", "Requests in flight to a service.", &|service| {
            single(service, Some(service.under_way()))
        }),
        of_each(
            "waypost_retry_budget_remaining",
            "Requests to a service that may be sent again now, by its retry budget.",
            &|service| single(service, Some(service.retries_left())),
        ),
        of_each(
            "waypost_concurrency_limit",
            "Requests that may wait for a service's answers now, where that follows how long these take.",
            &|service| single(service, service.concurrency().map(|(limit, _)| limit.into())),
        ),
    ];
    families.retain(|family| !family.get_metric().is_empty());
    families
}

fn endpoints(service: &ServiceTable) -> Vec<Metric> {
    let mut counts = [0; EndpointStatus::ALL.len()];
    for member in service.members() {
        counts[EndpointStatus::of(service, member) as usize] += 1;
    }
    let of = |status: EndpointStatus| gauge(service, Some(status.name()), counts[status as usize]);
    EndpointStatus::ALL.map(of).into()
}

/// Whether it panics, where it may.
fn panic(service: &ServiceTable) -> Option<u64> {
    let heed = service.traffic()?.health.heed();
    (heed != Heed::default()).then(|| service.panics().is_some().into())
}

fn breaker(service: &ServiceTable) -> Vec<Metric> {
    let Some(stance) = service.breaker() else { return Vec::new() };
    Stance::NAMES.map(|name| gauge(service, Some(name), (stance.name() == name).into())).into()
}

fn single(service: &ServiceTable, value: Option<u64>) -> Vec<Metric> {
    value.map(|value| gauge(service, None, value)).into_iter().collect()
}

fn gauge(service: &ServiceTable, state: Option<&str>, value: u64) -> Metric {
    let mut labels: Vec<LabelPair> = vec![label("service", &service.key().to_string())];
    labels.extend(state.map(|state| label("state", state)));
    let mut gauge = Gauge::default();
    gauge.set_value(float(value));
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}
