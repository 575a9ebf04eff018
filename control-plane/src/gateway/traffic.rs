//! BackendTrafficPolicies: from manifests to what proxies do with a service's requests.
//!
//! What was left out stays out, since it is the proxies' own; only what depends on another field is filled in. The
//! service need not be there: a policy that came first is in force when the service comes, and its status says until
//! then that there is none.
//!
//! Deliberately absent: what goes before a policy (an HTTPRoute's `timeouts` and `retry`): proxies see to that.

use waypost_proto::{
    name::ServiceKey,
    resource::traffic::{
        BackendTrafficPolicy, BalancerType, CircuitBreaker, HashKey, HealthCheck, LoadBalancer,
        OutlierDetection, Probe, RequestPriority, TrafficRetry, TrafficTimeouts, ZoneAware,
    },
    time::wire_duration,
    v1::{self, DeclaredEntry, TrafficEntry, active_health_check, declared_entry, hash_key},
};

use super::{
    Made,
    condition::{ACCEPTED, Condition},
    needs::Looking,
    outcome::{Body, PolicyOutcome, TargetOutcome},
    policy,
    rule::wire,
    set::Declared,
};

/// Compiles a `BackendTrafficPolicy`.
pub(super) fn policy(looking: &mut Looking<'_>, declared: &Declared, spec: &BackendTrafficPolicy) -> Made {
    let mut entries = Vec::new();
    let mut outcomes = Vec::new();
    for target in policy::targets(looking, declared, &spec.target_refs) {
        let policy::Target { service, reference, conflict } = target;
        if conflict.is_none() {
            entries.push(entry(&service, spec));
        }
        let accepted = conflict.unwrap_or_else(|| Condition::holds(ACCEPTED, ACCEPTED));
        outcomes.push(TargetOutcome { service, reference, accepted });
    }
    let body = Body::Policy(PolicyOutcome { targets: outcomes, resolved: None });
    Made { entries, external: None, body: Some(body) }
}

fn entry(service: &ServiceKey, spec: &BackendTrafficPolicy) -> DeclaredEntry {
    let entry = TrafficEntry {
        service: Some(service.to_wire()),
        load_balancer: spec.load_balancer.as_ref().map(load_balancer),
        health_check: spec.health_check.as_ref().map(health_check),
        outlier_detection: spec.outlier_detection.as_ref().map(outlier_detection),
        panic_threshold_percent: spec.panic_threshold,
        retry: spec.retry.as_ref().map(retry),
        circuit_breaker: spec.circuit_breaker.as_ref().map(circuit_breaker),
        timeouts: spec.timeouts.as_ref().map(timeouts),
        hedging: spec.hedging.as_ref().map(|hedging| v1::Hedging { delay: wire(Some(&hedging.delay)) }),
        adaptive_concurrency: spec.adaptive_concurrency.as_ref().map(|limit| v1::AdaptiveConcurrency {
            minimum: limit.minimum.unwrap_or_default(),
            maximum: limit.maximum.unwrap_or_default(),
        }),
        priority: priority(spec.priority).into(),
    };
    let id = format!("traffic/{}/{}", service.namespace(), service.name());
    DeclaredEntry { id, kind: Some(declared_entry::Kind::Traffic(entry)) }
}

fn priority(priority: Option<RequestPriority>) -> v1::RequestPriority {
    match priority {
        None => v1::RequestPriority::Unspecified,
        Some(RequestPriority::High) => v1::RequestPriority::High,
        Some(RequestPriority::Normal) => v1::RequestPriority::Normal,
        Some(RequestPriority::Low) => v1::RequestPriority::Low,
    }
}

fn load_balancer(balancer: &LoadBalancer) -> v1::LoadBalancer {
    let kind = match balancer.r#type {
        None => v1::BalancerKind::Unspecified,
        Some(BalancerType::RoundRobin) => v1::BalancerKind::RoundRobin,
        Some(BalancerType::Random) => v1::BalancerKind::Random,
        Some(BalancerType::LeastRequest) => v1::BalancerKind::LeastRequest,
        Some(BalancerType::PeakEwma) => v1::BalancerKind::PeakEwma,
        Some(BalancerType::RingHash) => v1::BalancerKind::RingHash,
        Some(BalancerType::Maglev) => v1::BalancerKind::Maglev,
        Some(BalancerType::Prequal) => v1::BalancerKind::Prequal,
    };
    v1::LoadBalancer {
        kind: kind.into(),
        hash: balancer.hash.iter().map(hash_key).collect(),
        bounded_load_percent: balancer.bounded_load.unwrap_or_default(),
        slow_start: wire(balancer.slow_start.as_ref()),
        zone_aware: balancer.zone_aware.as_ref().map(|zone| v1::ZoneAware {
            minimum_instances: zone.minimum_instances.unwrap_or(ZoneAware::MINIMUM_INSTANCES),
        }),
    }
}

fn hash_key(key: &HashKey) -> v1::HashKey {
    let kind = match key {
        HashKey::Header(name) => hash_key::Kind::Header(name.to_ascii_lowercase()),
        HashKey::Cookie(name) => hash_key::Kind::Cookie(name.clone()),
        HashKey::QueryParam(name) => hash_key::Kind::Query(name.clone()),
        HashKey::ClientAddress => hash_key::Kind::ClientAddress(true),
    };
    v1::HashKey { kind: Some(kind) }
}

fn health_check(check: &HealthCheck) -> v1::ActiveHealthCheck {
    let kind = match &check.probe {
        Probe::Http(http) => active_health_check::Kind::Http(v1::HttpCheck {
            path: http.path.clone(),
            hostname: http.hostname.clone().unwrap_or_default(),
            expected_statuses: http.expected_statuses.iter().copied().map(u32::from).collect(),
        }),
        Probe::Grpc(grpc) => active_health_check::Kind::Grpc(v1::GrpcCheck { service: grpc.service.clone() }),
        Probe::Tcp => active_health_check::Kind::Tcp(true),
    };
    v1::ActiveHealthCheck {
        kind: Some(kind),
        interval: Some(wire_duration(check.interval())),
        timeout: Some(wire_duration(check.timeout())),
        unhealthy_threshold: check.unhealthy_threshold.unwrap_or_default(),
        healthy_threshold: check.healthy_threshold.unwrap_or_default(),
    }
}

fn outlier_detection(detection: &OutlierDetection) -> v1::OutlierDetection {
    v1::OutlierDetection {
        consecutive_errors: detection.consecutive_errors,
        interval: wire(detection.interval.as_ref()),
        base_ejection_time: wire(detection.base_ejection_time.as_ref()),
        max_ejection_time: wire(detection.max_ejection_time.as_ref()),
        max_ejection_percent: detection.max_ejection_percent,
        success_rate_stdev_factor: detection.success_rate_stdev_factor.unwrap_or_default(),
        latency_percent_of_median: detection.latency_percent_of_median.unwrap_or_default(),
        minimum_requests: detection.minimum_requests,
    }
}

fn retry(again: &TrafficRetry) -> v1::TrafficRetry {
    let budget = again.budget.as_ref();
    v1::TrafficRetry {
        attempts: again.attempts,
        codes: again.codes.iter().copied().map(u32::from).collect(),
        backoff: wire(again.backoff.as_ref()),
        max_backoff: wire(again.max_backoff.as_ref()),
        budget_percent: budget.and_then(|budget| budget.percent),
        budget_minimum_per_second: budget.and_then(|budget| budget.minimum_per_second),
    }
}

fn circuit_breaker(breaker: &CircuitBreaker) -> v1::CircuitBreaker {
    v1::CircuitBreaker {
        max_connections: breaker.max_connections.unwrap_or_default(),
        max_pending_requests: breaker.max_pending_requests.unwrap_or_default(),
        max_requests: breaker.max_requests.unwrap_or_default(),
        max_retries: breaker.max_retries.unwrap_or_default(),
        max_requests_per_instance: breaker.max_requests_per_instance.unwrap_or_default(),
        failure_percent: breaker.failure_percent.unwrap_or_default(),
        window: wire(breaker.window.as_ref()),
        minimum_requests: breaker.minimum_requests.unwrap_or_default(),
        open_time: wire(breaker.open_time.as_ref()),
    }
}

fn timeouts(limits: &TrafficTimeouts) -> v1::TrafficTimeouts {
    v1::TrafficTimeouts {
        connect: wire(limits.connect.as_ref()),
        request: wire(limits.request.as_ref()),
        per_try: wire(limits.per_try.as_ref()),
        idle: wire(limits.idle.as_ref()),
    }
}
