//! BackendTrafficPolicy: how proxies share requests among a service's instances, and what they do about those that fail.
//!
//! Every part may be left out; then proxies do as they would without a policy. What of it goes together is in
//! `validate::traffic`, what of it would have no effect in `check::traffic`, and the page of all fields is `TRAFFIC.md`.
//!
//! Deliberately absent: defaults that are the proxies' own. They are not filled in, so that what is stored is what was
//! said.

mod health;

use serde::{Deserialize, Serialize};

pub use self::health::{GrpcProbe, HealthCheck, HttpProbe, OutlierDetection, Probe};
use super::{duration::GatewayDuration, policy::PolicyTarget};

/// How services are treated: `waypost.dev/v1`, attached directly (GEP-713).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTrafficPolicy {
    /// Which services; at least one.
    pub target_refs: Vec<PolicyTarget>,
    /// Which instance takes a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Requests of the proxy's own that find out who is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Who is passed over because of how it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Of 100 instances, how many must be well for the rest to be passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<u32>,
    /// What is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<TrafficRetry>,
    /// How much may be under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How long things may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TrafficTimeouts>,
    /// A second request where the first takes long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedging: Option<Hedging>,
    /// A limit of requests under way that follows how long answers take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// Whose requests a proxy that has too much to do refuses first; absent means `Normal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<RequestPriority>,
}

/// Whose requests a proxy that has too much to do refuses first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RequestPriority {
    /// Refused last.
    High,
    /// Refused when it does not suffice to refuse those of low priority.
    Normal,
    /// Refused first.
    Low,
}

/// Which instance takes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancer {
    /// How; absent means the proxy's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<BalancerType>,
    /// What the key is made of, for [`BalancerType::is_keyed`]: the first of these that the request has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hash: Vec<HashKey>,
    /// The most that an instance takes, in hundredths of the average of requests under way (arXiv 1608.01350).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounded_load: Option<u32>,
    /// How long a new instance's share grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<GatewayDuration>,
    /// Prefer instances of the proxy's own zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_aware: Option<ZoneAware>,
}

/// How instances are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BalancerType {
    /// One after the other.
    RoundRobin,
    /// By lot.
    Random,
    /// Of two drawn by lot, the one with fewer requests under way.
    LeastRequest,
    /// Of two drawn by lot, the one that is expected to answer sooner.
    PeakEwma,
    /// By a key on a ring.
    RingHash,
    /// By a key in a table (NSDI 2016).
    Maglev,
    /// By what probes say of load and latency (arXiv 2312.10172).
    Prequal,
}

impl BalancerType {
    /// Whether a key of the request decides.
    pub const fn is_keyed(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }

    /// As manifests have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "RoundRobin",
            Self::Random => "Random",
            Self::LeastRequest => "LeastRequest",
            Self::PeakEwma => "PeakEwma",
            Self::RingHash => "RingHash",
            Self::Maglev => "Maglev",
            Self::Prequal => "Prequal",
        }
    }
}

/// A part of a request that makes a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "WrittenHashKey", into = "WrittenHashKey")]
pub enum HashKey {
    /// A header field.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A query parameter.
    QueryParam(String),
    /// The client's address.
    ClientAddress,
}

/// A key as it is written.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenHashKey {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_param: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_address: Option<bool>,
}

impl TryFrom<WrittenHashKey> for HashKey {
    type Error = &'static str;

    fn try_from(written: WrittenHashKey) -> Result<Self, &'static str> {
        let WrittenHashKey { header, cookie, query_param, client_address } = written;
        match (header, cookie, query_param, client_address) {
            (Some(name), None, None, None) => Ok(Self::Header(name)),
            (None, Some(name), None, None) => Ok(Self::Cookie(name)),
            (None, None, Some(name), None) => Ok(Self::QueryParam(name)),
            (None, None, None, Some(true)) => Ok(Self::ClientAddress),
            (None, None, None, Some(false)) => {
                Err("clientAddress can only be true; leave the element out instead")
            }
            _ => Err("needs exactly one of header, cookie, queryParam and clientAddress"),
        }
    }
}

impl From<HashKey> for WrittenHashKey {
    fn from(key: HashKey) -> Self {
        let mut written = Self::default();
        match key {
            HashKey::Header(name) => written.header = Some(name),
            HashKey::Cookie(name) => written.cookie = Some(name),
            HashKey::QueryParam(name) => written.query_param = Some(name),
            HashKey::ClientAddress => written.client_address = Some(true),
        }
        written
    }
}

/// Preference for one's own zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ZoneAware {
    /// Spread over all zones where the own one has fewer instances that are well; absent means 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_instances: Option<u32>,
}

impl ZoneAware {
    /// What `minimum_instances` is where it is absent: one alone would take the whole zone's requests.
    pub const MINIMUM_INSTANCES: u32 = 2;
}

/// What is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficRetry {
    /// The most tries after the first; absent means as many as there are instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Answers with these status codes are tried again where the request may be sent twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u16>,
    /// The shortest pause before a try; it doubles, with jitter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<GatewayDuration>,
    /// The longest pause; absent means ten times the shortest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_backoff: Option<GatewayDuration>,
    /// How many retries there may be in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

/// How many retries there may be in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// Of 100 requests to the service, so many may be sent again; absent means 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// So many a second are free of the budget; absent means 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_per_second: Option<u32>,
}

impl RetryBudget {
    /// Whether it lets nothing be sent again.
    pub fn is_none(&self) -> bool {
        self.percent == Some(0) && self.minimum_per_second == Some(0)
    }
}

/// How much may be under way at once from one proxy to a service; absent means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending_requests: Option<u32>,
    /// Requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Requests to one instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_instance: Option<u32>,
    /// Opens where so many of 100 requests failed in a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_percent: Option<u32>,
    /// The window; absent means 10 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<GatewayDuration>,
    /// Fewer requests in a window say nothing; absent means 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_requests: Option<u32>,
    /// How long it stays open before one request tries; absent means 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_time: Option<GatewayDuration>,
}

/// How long things may take; absent means the proxy's own limit, zero means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficTimeouts {
    /// Until a connection is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<GatewayDuration>,
    /// From the request's head to the answer's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<GatewayDuration>,
    /// Each try, from its begin to the answer's head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try: Option<GatewayDuration>,
    /// Between two pieces of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<GatewayDuration>,
}

/// A second request where the first takes long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hedging {
    /// After so long without an answer's head.
    pub delay: GatewayDuration,
}

/// A limit of requests under way that follows how long answers take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdaptiveConcurrency {
    /// Never lower; absent means 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<u32>,
    /// Never higher; absent means 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum: Option<u32>,
}

impl AdaptiveConcurrency {
    /// What `minimum` is where it is absent.
    pub const MINIMUM: u32 = 3;
    /// What `maximum` is where it is absent.
    pub const MAXIMUM: u32 = 1000;
}

#[cfg(test)]
mod tests;
