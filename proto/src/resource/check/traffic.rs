//! BackendTrafficPolicies: what of them is accepted and has no effect, because of what else they say.
//!
//! Deliberately absent: what contradicts itself (`validate::traffic`), and which services are registered.

use super::{Member, Resources, policy, problem::Problem};
use crate::resource::{
    FieldPath, Finding,
    traffic::{
        BackendTrafficPolicy, BalancerType, CircuitBreaker, LoadBalancer, OutlierDetection, RetryBudget,
        TrafficRetry, TrafficTimeouts,
    },
};

/// Takes down what has no effect: where, and why.
type Note<'n> = dyn FnMut(FieldPath, String) + 'n;

/// A BackendTrafficPolicy: what it is for, and what of it has no effect.
pub(super) fn policy<'a>(
    set: &Resources<'a>,
    member: Member<'a>,
    policy: &'a BackendTrafficPolicy,
    found: &mut Vec<Problem<'a>>,
) {
    policy::targets(set, member, &policy.target_refs, found);
    let subject = member.manifest.key();
    let mut note = |at: FieldPath, why: String| {
        found.push(Problem::own(subject, Finding::warning(at, format!("has no effect: {why}"))));
    };
    idle(policy, &mut note);
}

/// What of a policy has no effect.
fn idle(policy: &BackendTrafficPolicy, note: &mut Note<'_>) {
    let path = FieldPath::spec();
    let BackendTrafficPolicy { target_refs, .. } = policy;
    if *policy
        == (BackendTrafficPolicy { target_refs: target_refs.clone(), ..BackendTrafficPolicy::default() })
    {
        note(path.clone(), "the policy says nothing but what it is for".to_owned());
    }
    if let Some(balancer) = &policy.load_balancer {
        load_balancer(balancer, &path.key("loadBalancer"), note);
    }
    if let Some(detection) = &policy.outlier_detection {
        outlier_detection(detection, &path.key("outlierDetection"), note);
    }
    if let Some(again) = &policy.retry {
        retry(again, &path.key("retry"), note);
    }
    if let Some(breaker) = &policy.circuit_breaker {
        circuit_breaker(breaker, &path.key("circuitBreaker"), note);
    }
    if let Some(limits) = &policy.timeouts {
        timeouts(limits, &path.key("timeouts"), note);
    }
    hedging(policy, &path.key("hedging"), note);
}

fn load_balancer(balancer: &LoadBalancer, at: &FieldPath, note: &mut Note<'_>) {
    if *balancer == LoadBalancer::default() {
        note(at.clone(), "it is empty".to_owned());
    }
    let keyed = balancer.r#type.is_some_and(BalancerType::is_keyed);
    let by = balancer.r#type.map_or("the proxy's own balancer", BalancerType::name);
    if !keyed && !balancer.hash.is_empty() {
        note(at.key("hash"), format!("{by} needs no key; RingHash and Maglev do"));
    }
    if !keyed && balancer.bounded_load.is_some() {
        note(at.key("boundedLoad"), format!("it bounds RingHash and Maglev, not {by}"));
    }
    if keyed && balancer.slow_start.is_some() {
        note(at.key("slowStart"), format!("with {by} the key decides which instance takes a request"));
    }
    if keyed && balancer.zone_aware.is_some() {
        note(at.key("zoneAware"), format!("with {by} the key decides which instance takes a request"));
    }
}

fn outlier_detection(detection: &OutlierDetection, at: &FieldPath, note: &mut Note<'_>) {
    if *detection == OutlierDetection::default() {
        note(at.clone(), "it is empty, and says what is so without it".to_owned());
    }
    if detection.success_rate_stdev_factor.is_some() || detection.latency_percent_of_median.is_some() {
        return;
    }
    let compared = [
        ("interval", detection.interval.is_some()),
        ("maxEjectionPercent", detection.max_ejection_percent.is_some()),
        ("minimumRequests", detection.minimum_requests.is_some()),
    ];
    for (name, _) in compared.into_iter().filter(|(_, written)| *written) {
        let why = "instances are compared only with successRateStdevFactor or latencyPercentOfMedian";
        note(at.key(name), why.to_owned());
    }
}

fn retry(again: &TrafficRetry, at: &FieldPath, note: &mut Note<'_>) {
    if *again == TrafficRetry::default() {
        note(at.clone(), "it is empty".to_owned());
    }
    if again.attempts == Some(0) {
        let others = [
            ("codes", !again.codes.is_empty()),
            ("backoff", again.backoff.is_some()),
            ("maxBackoff", again.max_backoff.is_some()),
        ];
        for (name, _) in others.into_iter().filter(|(_, written)| *written) {
            note(at.key(name), "attempts is 0, so nothing is tried again".to_owned());
        }
    } else if again.max_backoff.is_some() && again.backoff.is_none() {
        note(at.key("maxBackoff"), "without backoff there is no pause before a try".to_owned());
    }
}

fn circuit_breaker(breaker: &CircuitBreaker, at: &FieldPath, note: &mut Note<'_>) {
    if *breaker == CircuitBreaker::default() {
        note(at.clone(), "it is empty, and nothing is limited without it".to_owned());
    }
    if breaker.failure_percent.is_some() {
        return;
    }
    let opening = [
        ("window", breaker.window.is_some()),
        ("minimumRequests", breaker.minimum_requests.is_some()),
        ("openTime", breaker.open_time.is_some()),
    ];
    for (name, _) in opening.into_iter().filter(|(_, written)| *written) {
        note(at.key(name), "without failurePercent it does not open".to_owned());
    }
}

fn timeouts(limits: &TrafficTimeouts, at: &FieldPath, note: &mut Note<'_>) {
    if *limits == TrafficTimeouts::default() {
        note(at.clone(), "it is empty".to_owned());
    }
    let Some(request) = limits.request.as_ref().filter(|request| !request.is_zero()) else { return };
    for (name, limit) in [("connect", &limits.connect), ("idle", &limits.idle)] {
        if limit.as_ref().is_some_and(|limit| limit.get() > request.get()) {
            note(at.key(name), format!("the whole request may take {request}, which is shorter"));
        }
    }
}

fn hedging(policy: &BackendTrafficPolicy, at: &FieldPath, note: &mut Note<'_>) {
    let Some(hedging) = &policy.hedging else { return };
    let budget = policy.retry.as_ref().and_then(|again| again.budget.as_ref());
    if budget.is_some_and(RetryBudget::is_none) {
        note(at.clone(), "it is within the budget of retries, and that is 0".to_owned());
    }
    let request = policy.timeouts.as_ref().and_then(|limits| limits.request.as_ref());
    if let Some(request) = request.filter(|request| !request.is_zero())
        && hedging.delay.get() >= request.get()
    {
        note(at.key("delay"), format!("the whole request may take {request}, which is no longer"));
    }
}
