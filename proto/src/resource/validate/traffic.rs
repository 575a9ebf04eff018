//! Rules of BackendTrafficPolicies: ranges, lengths of time, and fields that contradict each other.
//!
//! Where a field's default is one of the two that contradict each other, the finding says so.
//!
//! Deliberately absent: what is accepted and has no effect (`check::traffic`).

use std::{fmt, time::Duration};

use super::{Rules, policy, route::MAX_ATTEMPTS, text};
use crate::resource::{
    duration::GatewayDuration,
    finding::FieldPath,
    traffic::{
        AdaptiveConcurrency, BackendTrafficPolicy, BalancerType, CircuitBreaker, HashKey, HealthCheck,
        LoadBalancer, OutlierDetection, Probe, TrafficRetry, TrafficTimeouts,
    },
};

/// An end of a range of times, with how it is written.
#[derive(Clone, Copy)]
struct Bound(Duration, &'static str);

const ZERO: Bound = Bound(Duration::ZERO, "0s");
const MILLISECOND: Bound = Bound(Duration::from_millis(1), "1ms");
/// The shortest time from one check, or comparison, of an instance to its next.
const SHORTEST_INTERVAL: Bound = Bound(Duration::from_millis(10), "10ms");
const HOUR: Bound = Bound(Duration::from_secs(3600), "1h");
const DAY: Bound = Bound(Duration::from_secs(24 * 3600), "24h");

const MAX_HASH_KEYS: usize = 8;
const MAX_STATUSES: usize = 32;
const MAX_THRESHOLD: u32 = 1000;
const MAX_INSTANCES: u32 = 100_000;
/// Of hundredths and thousandths that may be more than the whole.
const MAX_FACTOR: u32 = 100_000;
/// Of whatever is counted in one proxy.
const MAX_COUNT: u32 = 1_000_000;

/// A BackendTrafficPolicy.
pub(super) fn policy(rules: &mut Rules, path: &FieldPath, policy: &BackendTrafficPolicy) {
    policy::targets(rules, path, &policy.target_refs);
    if let Some(balancer) = &policy.load_balancer {
        load_balancer(rules, &path.key("loadBalancer"), balancer);
    }
    if let Some(check) = &policy.health_check {
        health_check(rules, &path.key("healthCheck"), check);
    }
    if let Some(detection) = &policy.outlier_detection {
        outlier_detection(rules, &path.key("outlierDetection"), detection);
    }
    number(rules, &path.key("panicThreshold"), policy.panic_threshold, 0, 100);
    if let Some(again) = &policy.retry {
        retry(rules, &path.key("retry"), again);
    }
    if let Some(breaker) = &policy.circuit_breaker {
        circuit_breaker(rules, &path.key("circuitBreaker"), breaker);
    }
    if let Some(limits) = &policy.timeouts {
        timeouts(rules, &path.key("timeouts"), limits);
    }
    if let Some(hedging) = &policy.hedging {
        length(rules, &path.keys("hedging.delay"), Some(&hedging.delay), MILLISECOND, HOUR);
    }
    if let Some(limit) = &policy.adaptive_concurrency {
        adaptive_concurrency(rules, &path.key("adaptiveConcurrency"), limit);
    }
}

fn load_balancer(rules: &mut Rules, at: &FieldPath, balancer: &LoadBalancer) {
    let list = at.key("hash");
    if balancer.r#type.is_some_and(BalancerType::is_keyed) && balancer.hash.is_empty() {
        let kind = balancer.r#type.map_or("", BalancerType::name);
        let reason = format!("is required for type {kind}, for example [{{header: x-user}}]");
        rules.refuse(&list, reason);
    }
    rules.count(&list, balancer.hash.len(), 0, MAX_HASH_KEYS);
    rules.unique(balancer.hash.iter().enumerate().map(|(index, key)| (list.index(index), folded(key))));
    for (index, key) in balancer.hash.iter().enumerate() {
        let at = list.index(index);
        match key {
            HashKey::Header(name) => rules.text(&at.key("header"), name, text::header_name),
            HashKey::Cookie(name) => rules.text(&at.key("cookie"), name, text::header_name),
            HashKey::QueryParam(name) => rules.text(&at.key("queryParam"), name, text::query_value),
            HashKey::ClientAddress => {}
        }
    }
    if let Some(percent) = balancer.bounded_load
        && !(101..=MAX_FACTOR).contains(&percent)
    {
        let reason = format!("must be 101 to {MAX_FACTOR}: percent of the average of all instances");
        rules.refuse_value(&at.key("boundedLoad"), percent, reason);
    }
    length(rules, &at.key("slowStart"), balancer.slow_start.as_ref(), MILLISECOND, DAY);
    if let Some(zone) = &balancer.zone_aware {
        number(rules, &at.keys("zoneAware.minimumInstances"), zone.minimum_instances, 1, MAX_INSTANCES);
    }
}

/// A key with its header's name in lower case: names of header fields are equal in any case.
fn folded(key: &HashKey) -> HashKey {
    match key {
        HashKey::Header(name) => HashKey::Header(name.to_ascii_lowercase()),
        other => other.clone(),
    }
}

fn health_check(rules: &mut Rules, at: &FieldPath, check: &HealthCheck) {
    match &check.probe {
        Probe::Http(http) => {
            let at = at.key("http");
            rules.text(&at.key("path"), &http.path, text::request_target);
            if let Some(hostname) = &http.hostname {
                rules.text(&at.key("hostname"), hostname, text::precise_hostname);
            }
            let list = at.key("expectedStatuses");
            rules.count(&list, http.expected_statuses.len(), 0, MAX_STATUSES);
            codes(rules, &list, &http.expected_statuses, 200, 599);
        }
        Probe::Grpc(grpc) => {
            let fits = grpc.service.len() <= 1024 && grpc.service.bytes().all(|byte| byte.is_ascii_graphic());
            if !fits {
                let reason = "must be at most 1024 visible ASCII characters without blanks, for example \"shop.v1.Users\"";
                rules.refuse_value(&at.keys("grpc.service"), &grpc.service, reason);
            }
        }
        Probe::Tcp => {}
    }
    length(rules, &at.key("interval"), check.interval.as_ref(), SHORTEST_INTERVAL, DAY);
    length(rules, &at.key("timeout"), check.timeout.as_ref(), MILLISECOND, HOUR);
    if let Some(timeout) = &check.timeout
        && timeout.get() > check.interval()
    {
        let interval = shown(check.interval.as_ref(), "5s");
        let reason = format!("must not be longer than the interval, {interval}");
        rules.refuse_value(&at.key("timeout"), timeout, reason);
    }
    number(rules, &at.key("unhealthyThreshold"), check.unhealthy_threshold, 1, MAX_THRESHOLD);
    number(rules, &at.key("healthyThreshold"), check.healthy_threshold, 1, MAX_THRESHOLD);
}

fn outlier_detection(rules: &mut Rules, at: &FieldPath, detection: &OutlierDetection) {
    number(rules, &at.key("consecutiveErrors"), detection.consecutive_errors, 0, MAX_THRESHOLD);
    length(rules, &at.key("interval"), detection.interval.as_ref(), SHORTEST_INTERVAL, DAY);
    let (base, most) = (detection.base_ejection_time.as_ref(), detection.max_ejection_time.as_ref());
    length(rules, &at.key("baseEjectionTime"), base, MILLISECOND, DAY);
    length(rules, &at.key("maxEjectionTime"), most, MILLISECOND, DAY);
    let shortest = base.map_or(OutlierDetection::BASE_EJECTION_TIME, GatewayDuration::get);
    let longest = most.map_or(OutlierDetection::MAX_EJECTION_TIME, GatewayDuration::get);
    if let Some(most) = most.filter(|_| longest < shortest) {
        let reason = format!("must not be shorter than baseEjectionTime, {}", shown(base, "1s"));
        rules.refuse_value(&at.key("maxEjectionTime"), most, reason);
    } else if let Some(base) = base.filter(|_| longest < shortest) {
        let reason = format!("must not be longer than maxEjectionTime, {}", shown(most, "30s"));
        rules.refuse_value(&at.key("baseEjectionTime"), base, reason);
    }
    number(rules, &at.key("maxEjectionPercent"), detection.max_ejection_percent, 0, 100);
    number(rules, &at.key("successRateStdevFactor"), detection.success_rate_stdev_factor, 1, MAX_FACTOR);
    if let Some(percent) = detection.latency_percent_of_median
        && !(101..=MAX_FACTOR).contains(&percent)
    {
        let reason = format!("must be 101 to {MAX_FACTOR}: percent of the median instance's latency");
        rules.refuse_value(&at.key("latencyPercentOfMedian"), percent, reason);
    }
    number(rules, &at.key("minimumRequests"), detection.minimum_requests, 1, MAX_COUNT);
}

fn retry(rules: &mut Rules, at: &FieldPath, again: &TrafficRetry) {
    number(rules, &at.key("attempts"), again.attempts, 0, MAX_ATTEMPTS);
    codes(rules, &at.key("codes"), &again.codes, 400, 599);
    length(rules, &at.key("backoff"), again.backoff.as_ref(), MILLISECOND, HOUR);
    length(rules, &at.key("maxBackoff"), again.max_backoff.as_ref(), MILLISECOND, HOUR);
    if let (Some(shortest), Some(longest)) = (&again.backoff, &again.max_backoff)
        && longest.get() < shortest.get()
    {
        let reason = format!("must not be shorter than backoff, {shortest}");
        rules.refuse_value(&at.key("maxBackoff"), longest, reason);
    }
    if let Some(budget) = &again.budget {
        let at = at.key("budget");
        number(rules, &at.key("percent"), budget.percent, 0, 100);
        number(rules, &at.key("minimumPerSecond"), budget.minimum_per_second, 0, MAX_COUNT);
    }
}

fn circuit_breaker(rules: &mut Rules, at: &FieldPath, breaker: &CircuitBreaker) {
    let limits = [
        ("maxConnections", breaker.max_connections),
        ("maxPendingRequests", breaker.max_pending_requests),
        ("maxRequests", breaker.max_requests),
        ("maxRetries", breaker.max_retries),
        ("maxRequestsPerInstance", breaker.max_requests_per_instance),
    ];
    for (name, limit) in limits {
        if let Some(limit) = limit
            && !(1..=MAX_COUNT).contains(&limit)
        {
            let reason = format!("must be 1 to {MAX_COUNT}; without the field there is no limit");
            rules.refuse_value(&at.key(name), limit, reason);
        }
    }
    number(rules, &at.key("failurePercent"), breaker.failure_percent, 1, 100);
    length(rules, &at.key("window"), breaker.window.as_ref(), SHORTEST_INTERVAL, HOUR);
    number(rules, &at.key("minimumRequests"), breaker.minimum_requests, 1, MAX_COUNT);
    length(rules, &at.key("openTime"), breaker.open_time.as_ref(), MILLISECOND, DAY);
}

fn timeouts(rules: &mut Rules, at: &FieldPath, limits: &TrafficTimeouts) {
    let all = [
        ("connect", &limits.connect),
        ("request", &limits.request),
        ("perTry", &limits.per_try),
        ("idle", &limits.idle),
    ];
    for (name, limit) in all {
        length(rules, &at.key(name), limit.as_ref(), ZERO, DAY);
    }
    if let (Some(request), Some(per_try)) = (&limits.request, &limits.per_try)
        && !request.is_zero()
        && per_try.get() > request.get()
    {
        let reason = format!("must not be longer than the request timeout, {request}");
        rules.refuse_value(&at.key("perTry"), per_try, reason);
    }
}

fn adaptive_concurrency(rules: &mut Rules, at: &FieldPath, limit: &AdaptiveConcurrency) {
    number(rules, &at.key("minimum"), limit.minimum, 1, MAX_COUNT);
    number(rules, &at.key("maximum"), limit.maximum, 1, MAX_COUNT);
    let least = limit.minimum.unwrap_or(AdaptiveConcurrency::MINIMUM);
    let most = limit.maximum.unwrap_or(AdaptiveConcurrency::MAXIMUM);
    if let Some(maximum) = limit.maximum.filter(|_| most < least) {
        let reason = format!("must not be lower than minimum, {}", shown(limit.minimum, "3"));
        rules.refuse_value(&at.key("maximum"), maximum, reason);
    } else if let Some(minimum) = limit.minimum.filter(|_| most < least) {
        let reason = format!("must not be higher than maximum, {}", shown(limit.maximum, "1000"));
        rules.refuse_value(&at.key("minimum"), minimum, reason);
    }
}

/// What stands in a document, or the default that counts there.
fn shown(written: Option<impl fmt::Display>, default: &str) -> String {
    written.map_or_else(|| format!("{default} by default"), |written| written.to_string())
}

fn number(rules: &mut Rules, field: &FieldPath, value: Option<u32>, least: u32, most: u32) {
    if let Some(value) = value {
        rules.range(field, value, least, most);
    }
}

fn codes(rules: &mut Rules, list: &FieldPath, codes: &[u16], least: u32, most: u32) {
    rules.unique(codes.iter().enumerate().map(|(index, code)| (list.index(index), code)));
    for (index, code) in codes.iter().enumerate() {
        rules.range(&list.index(index), u32::from(*code), least, most);
    }
}

/// A length of time must lie in a range.
fn length(rules: &mut Rules, field: &FieldPath, value: Option<&GatewayDuration>, least: Bound, most: Bound) {
    if let Some(value) = value
        && !(least.0..=most.0).contains(&value.get())
    {
        rules.refuse_value(field, value, format!("must be {} to {}", least.1, most.1));
    }
}
