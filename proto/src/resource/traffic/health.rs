//! Who is well: what proxies ask instances, and what they conclude from their answers.
//!
//! Deliberately absent: what is done with it (`panicThreshold` beside it, and the balancers).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::resource::duration::GatewayDuration;

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(1);

/// Requests of the proxy's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenHealthCheck", into = "WrittenHealthCheck")]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From one check of an instance to its next; absent means 5 s.
    pub interval: Option<GatewayDuration>,
    /// How long an answer may take; absent means 1 s, or the interval where that is shorter.
    pub timeout: Option<GatewayDuration>,
    /// So many failures in a row make an instance ill; absent means 3.
    pub unhealthy_threshold: Option<u32>,
    /// So many successes in a row make it well again; absent means 1.
    pub healthy_threshold: Option<u32>,
}

impl HealthCheck {
    /// From one check of an instance to its next.
    pub fn interval(&self) -> Duration {
        self.interval.as_ref().map_or(INTERVAL, GatewayDuration::get)
    }

    /// How long an answer may take; never longer than the interval where that alone was said.
    pub fn timeout(&self) -> Duration {
        self.timeout.as_ref().map_or_else(|| TIMEOUT.min(self.interval()), GatewayDuration::get)
    }
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// An HTTP request.
    Http(HttpProbe),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcProbe),
    /// A connection that is accepted.
    Tcp,
}

/// An HTTP request that should succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// The path, with its query.
    pub path: String,
    /// The host to ask for; absent means the instance's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Status codes that are good; none means 200 to 299.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected_statuses: Vec<u16>,
}

/// A gRPC health check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcProbe {
    /// The service to ask about; empty means the server.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
}

/// A connection that is accepted.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpProbe {}

/// A health check as it is written.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenHealthCheck {
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<HttpProbe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<GrpcProbe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<TcpProbe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<GatewayDuration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<GatewayDuration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unhealthy_threshold: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthy_threshold: Option<u32>,
}

impl TryFrom<WrittenHealthCheck> for HealthCheck {
    type Error = &'static str;

    fn try_from(written: WrittenHealthCheck) -> Result<Self, &'static str> {
        let probe = match (written.http, written.grpc, written.tcp) {
            (Some(http), None, None) => Probe::Http(http),
            (None, Some(grpc), None) => Probe::Grpc(grpc),
            (None, None, Some(TcpProbe {})) => Probe::Tcp,
            _ => {
                return Err(
                    "needs exactly one of http, grpc and tcp, for example \"http: {path: /healthz}\"",
                );
            }
        };
        let WrittenHealthCheck { interval, timeout, unhealthy_threshold, healthy_threshold, .. } = written;
        Ok(Self { probe, interval, timeout, unhealthy_threshold, healthy_threshold })
    }
}

impl From<HealthCheck> for WrittenHealthCheck {
    fn from(check: HealthCheck) -> Self {
        let HealthCheck { probe, interval, timeout, unhealthy_threshold, healthy_threshold } = check;
        let written = Self { interval, timeout, unhealthy_threshold, healthy_threshold, ..Self::default() };
        match probe {
            Probe::Http(http) => Self { http: Some(http), ..written },
            Probe::Grpc(grpc) => Self { grpc: Some(grpc), ..written },
            Probe::Tcp => Self { tcp: Some(TcpProbe {}), ..written },
        }
    }
}

/// Who is passed over because of how it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierDetection {
    /// So many failures in a row; absent means 5 answers of 500 to 599, 0 means that these do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_errors: Option<u32>,
    /// How often success rates and latencies are compared; absent means 10 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<GatewayDuration>,
    /// For how long an instance is passed over, doubling each time; absent means 1 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<GatewayDuration>,
    /// At most so long; absent means 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejection_time: Option<GatewayDuration>,
    /// Of 100 instances, at most so many are passed over for success rate or latency; absent means 10, at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejection_percent: Option<u32>,
    /// A success rate lower than the average by so many thousandths of the standard deviation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_rate_stdev_factor: Option<u32>,
    /// A mean latency higher than so many hundredths of the median instance's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_percent_of_median: Option<u32>,
    /// Instances with fewer requests in an interval are not compared; absent means 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_requests: Option<u32>,
}

impl OutlierDetection {
    /// What `base_ejection_time` is where it is absent.
    pub const BASE_EJECTION_TIME: Duration = Duration::from_secs(1);
    /// What `max_ejection_time` is where it is absent.
    pub const MAX_EJECTION_TIME: Duration = Duration::from_secs(30);
}
