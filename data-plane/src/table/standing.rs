//! How a service stands at this proxy: whether too few of its instances are well, what its breaker says, and how much of
//! what its policy allows is used. For people, who want to know why a request was refused, not sent again, or sent to an
//! instance that is not well.
//!
//! Deliberately absent: its instances, which have reports of their own, and anything that a request looks at.

use serde::Serialize;

use super::{EndpointSet, ServiceTable, breaker::Stance, usage::Use};

/// How a service stands. Times and counts are of the moment.
#[derive(Debug, Serialize)]
pub struct ServiceStanding {
    /// Whether so few of its instances are well that those that are not take requests too.
    pub panic: bool,
    /// Why they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_because: Option<String>,
    /// What the circuit breaker does, where one is declared: `closed`, `open for another 3s 200ms`, `half-open: the next
    /// request tries`, or `half-open: one request tries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// How many requests may be sent again at this moment, by the retry budget.
    pub retries_left: u64,
    /// What is limited, where limits are declared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limited>,
    /// Where a limit follows how long answers take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
}

/// How many requests may wait for an answer's head now, and how many do.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Concurrency {
    /// How many may.
    pub limit: u32,
    /// How many do.
    pub under_way: u32,
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
    /// How a service stands now, with all of its instances.
    pub fn of(service: &ServiceTable) -> Self {
        Self::with(service, service.endpoints())
    }

    /// How it stands for requests to some of them.
    pub fn with(service: &ServiceTable, selected: &EndpointSet) -> Self {
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
        let panic_because = selected.panic_because();
        let concurrency = service.concurrency().map(|(limit, under_way)| Concurrency { limit, under_way });
        Self {
            panic: panic_because.is_some(),
            panic_because,
            breaker: service.breaker().map(described),
            retries_left: service.retries_left(),
            limits: limits.into_iter().flatten().collect(),
            concurrency,
        }
    }
}

fn described(stance: Stance) -> String {
    match stance {
        Stance::Closed => "closed".to_owned(),
        Stance::Open(left) => format!("open for another {}", humantime::format_duration(left)),
        Stance::HalfOpen { probing: false } => "half-open: the next request tries".to_owned(),
        Stance::HalfOpen { probing: true } => "half-open: one request tries".to_owned(),
    }
}
