//! How a service stands at this proxy: what its breaker says, and how much of what its policy allows is used. For people,
//! who want to know why a request was refused or not sent again.
//!
//! Deliberately absent: its instances, which have reports of their own, and anything that a request looks at.

use std::time::Duration;

use serde::Serialize;

use super::{ServiceTable, endpoints::now, usage::Use};

/// How a service stands. Times and counts are of the moment.
#[derive(Debug, Serialize)]
pub struct ServiceStanding {
    /// What the circuit breaker does, where one is declared: `closed`, `open for another 3.2s`, or `half-open: the next
    /// request tries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// How many requests may be sent again at this moment, by the retry budget.
    pub retries_left: u64,
    /// What is limited, where limits are declared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limited>,
}

/// A limit, and how much of it is used.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Limited {
    /// The policy's word for it, for example `maxRequests`.
    pub limit: &'static str,
    /// How many there are.
    pub used: u64,
    /// How many there may be.
    pub most: u64,
}

impl ServiceStanding {
    /// How a service stands now.
    pub fn of(service: &ServiceTable) -> Self {
        let traffic = service.traffic().map(|traffic| &**traffic);
        let limited = |limit, most: Option<u64>, used: &dyn Fn() -> u64| {
            most.map(|most| Limited { limit, used: used(), most })
        };
        let taken = |of: Use| move || service.usage().taken(of);
        let limits = [
            limited("maxRequests", traffic.and_then(|traffic| traffic.most_requests), &|| {
                service.under_way()
            }),
            limited(
                "maxConnections",
                traffic.and_then(|traffic| traffic.most_connections),
                &taken(Use::Connection),
            ),
            limited(
                "maxPendingRequests",
                traffic.and_then(|traffic| traffic.most_pending),
                &taken(Use::Pending),
            ),
            limited("maxRetries", traffic.and_then(|traffic| traffic.most_retries), &taken(Use::Retry)),
        ];
        let breaker = traffic.and_then(|traffic| traffic.trip).map(|_| described(service.open_for()));
        Self {
            breaker,
            retries_left: service.retries_left(now()),
            limits: limits.into_iter().flatten().collect(),
        }
    }
}

fn described(open_for: Option<Duration>) -> String {
    match open_for {
        None => "closed".to_owned(),
        Some(Duration::ZERO) => "half-open: the next request tries".to_owned(),
        Some(left) => format!("open for another {}", humantime::format_duration(left)),
    }
}
