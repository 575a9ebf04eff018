//! BackendTrafficPolicies: what proxies get of each field, whose policy counts, and what is said of a target.

use std::time::Duration;

use waypost_proto::{
    time::wire_duration,
    v1::{
        ActiveHealthCheck, AdaptiveConcurrency, BalancerKind, CircuitBreaker, GrpcCheck, HashKey, Hedging,
        HttpCheck, LoadBalancer, OutlierDetection, RequestPriority, TrafficEntry, TrafficRetry,
        TrafficTimeouts, ZoneAware, active_health_check, declared_entry::Kind, hash_key,
    },
};

use super::{Bench, Step, said};

fn policy(name: &str, target: &str, body: &str) -> String {
    format!(
        "---\napiVersion: waypost.dev/v1\nkind: BackendTrafficPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         targetRefs: [{target}]\n{body}\n"
    )
}

const SHOP: &str = "{group: '', kind: Service, name: shop}";

fn entry(bench: &Bench, id: &str) -> TrafficEntry {
    match bench.entries().remove(id) {
        Some(Kind::Traffic(entry)) => entry,
        other => panic!("{id} is no traffic entry: {other:?}"),
    }
}

/// `status reason` of a condition of the first ancestor.
fn of(bench: &Bench, name: &str, condition: &str) -> String {
    said(&bench.status("BackendTrafficPolicy", name)["ancestors"][0]["conditions"], condition)
}

fn seconds(seconds: u64) -> Option<pbjson_types::Duration> {
    Some(wire_duration(Duration::from_secs(seconds)))
}

fn milliseconds(milliseconds: u64) -> Option<pbjson_types::Duration> {
    Some(wire_duration(Duration::from_millis(milliseconds)))
}

/// Every field with a value of its own, so that none can stand in another's place.
const EVERYTHING: &str = "
  loadBalancer:
    type: Maglev
    hash: [{header: X-User}, {cookie: User}, {queryParam: Id}, {clientAddress: true}]
    boundedLoad: 150
    slowStart: 30s
    zoneAware: {minimumInstances: 7}
  healthCheck:
    http: {path: '/healthz?deep=1', hostname: shop.example, expectedStatuses: [200, 204]}
    interval: 4s
    timeout: 2s
    unhealthyThreshold: 5
    healthyThreshold: 6
  outlierDetection:
    consecutiveErrors: 8
    interval: 9s
    baseEjectionTime: 11s
    maxEjectionTime: 12s
    maxEjectionPercent: 13
    successRateStdevFactor: 1900
    latencyPercentOfMedian: 300
    minimumRequests: 14
  panicThreshold: 15
  retry: {attempts: 16, codes: [503, 504], backoff: 17ms, maxBackoff: 18ms, budget: {percent: 19, minimumPerSecond: 20}}
  circuitBreaker:
    maxConnections: 21
    maxPendingRequests: 22
    maxRequests: 23
    maxRetries: 24
    maxRequestsPerInstance: 25
    failurePercent: 26
    window: 27s
    minimumRequests: 28
    openTime: 29s
  timeouts: {connect: 31s, request: 32s, perTry: 3s, idle: 0s}
  hedging: {delay: 34ms}
  adaptiveConcurrency: {minimum: 35, maximum: 36}
  priority: Low";

#[test]
fn every_field_arrives_at_proxies() {
    let bench = Bench::of(&policy("p", SHOP, EVERYTHING));
    let key = |kind| HashKey { kind: Some(kind) };
    let expected = TrafficEntry {
        service: Some("shop".parse::<waypost_proto::name::ServiceKey>().expect("a name").to_wire()),
        load_balancer: Some(LoadBalancer {
            kind: BalancerKind::Maglev.into(),
            hash: vec![
                key(hash_key::Kind::Header("x-user".into())),
                key(hash_key::Kind::Cookie("User".into())),
                key(hash_key::Kind::Query("Id".into())),
                key(hash_key::Kind::ClientAddress(true)),
            ],
            bounded_load_percent: 150,
            slow_start: seconds(30),
            zone_aware: Some(ZoneAware { minimum_instances: 7 }),
        }),
        health_check: Some(ActiveHealthCheck {
            kind: Some(active_health_check::Kind::Http(HttpCheck {
                path: "/healthz?deep=1".into(),
                hostname: "shop.example".into(),
                expected_statuses: vec![200, 204],
            })),
            interval: seconds(4),
            timeout: seconds(2),
            unhealthy_threshold: 5,
            healthy_threshold: 6,
        }),
        outlier_detection: Some(OutlierDetection {
            consecutive_errors: Some(8),
            interval: seconds(9),
            base_ejection_time: seconds(11),
            max_ejection_time: seconds(12),
            max_ejection_percent: Some(13),
            success_rate_stdev_factor: 1900,
            latency_percent_of_median: 300,
            minimum_requests: Some(14),
        }),
        panic_threshold_percent: Some(15),
        retry: Some(TrafficRetry {
            attempts: Some(16),
            codes: vec![503, 504],
            backoff: milliseconds(17),
            max_backoff: milliseconds(18),
            budget_percent: Some(19),
            budget_minimum_per_second: Some(20),
        }),
        circuit_breaker: Some(CircuitBreaker {
            max_connections: 21,
            max_pending_requests: 22,
            max_requests: 23,
            max_retries: 24,
            max_requests_per_instance: 25,
            failure_percent: 26,
            window: seconds(27),
            minimum_requests: 28,
            open_time: seconds(29),
        }),
        timeouts: Some(TrafficTimeouts {
            connect: seconds(31),
            request: seconds(32),
            per_try: seconds(3),
            idle: seconds(0),
        }),
        hedging: Some(Hedging { delay: milliseconds(34) }),
        adaptive_concurrency: Some(AdaptiveConcurrency { minimum: 35, maximum: 36 }),
        priority: RequestPriority::Low.into(),
    };
    assert_eq!(entry(&bench, "traffic/default/shop"), expected);
}

#[test]
fn what_is_left_out_is_the_proxies_own() {
    let bench = Bench::of(&policy("p", SHOP, "  panicThreshold: 0"));
    let bare = TrafficEntry {
        service: entry(&bench, "traffic/default/shop").service,
        panic_threshold_percent: Some(0),
        ..TrafficEntry::default()
    };
    assert_eq!(entry(&bench, "traffic/default/shop"), bare);

    let parts = "
  loadBalancer: {zoneAware: {}}
  healthCheck: {grpc: {}, interval: 300ms}
  retry: {attempts: 0}
  adaptiveConcurrency: {}";
    let bench = Bench::of(&policy("p", SHOP, parts));
    let made = entry(&bench, "traffic/default/shop");
    let balancer = made.load_balancer.expect("it is there");
    assert_eq!(balancer.kind(), BalancerKind::Unspecified);
    assert_eq!(balancer.zone_aware, Some(ZoneAware { minimum_instances: 2 }));
    let check = made.health_check.expect("it is there");
    assert_eq!(check.kind, Some(active_health_check::Kind::Grpc(GrpcCheck::default())));
    assert_eq!(check.timeout, milliseconds(300), "a check is over before the next one");
    assert_eq!(made.retry, Some(TrafficRetry { attempts: Some(0), ..TrafficRetry::default() }));
    assert_eq!(made.adaptive_concurrency, Some(AdaptiveConcurrency::default()));
}

#[test]
fn of_two_policies_for_a_service_the_older_counts_and_the_other_says_so() {
    let old = policy("z-old", SHOP, "  panicThreshold: 10");
    let young = policy(
        "a-young",
        &format!("{SHOP}, {{group: '', kind: Service, name: cart}}"),
        "  panicThreshold: 20",
    );
    let mut bench = Bench::of(&(old + &young)).register("shop");
    assert_eq!(bench.ids(), ["traffic/default/cart", "traffic/default/shop"]);
    assert_eq!(entry(&bench, "traffic/default/shop").panic_threshold_percent, Some(10));
    assert_eq!(entry(&bench, "traffic/default/cart").panic_threshold_percent, Some(20));
    assert_eq!(of(&bench, "z-old", "Accepted"), "True Accepted");
    assert_eq!(of(&bench, "z-old", "Programmed"), "True Programmed");
    assert_eq!(of(&bench, "a-young", "Accepted"), "False Conflicted");
    assert_eq!(of(&bench, "a-young", "Programmed"), "False Invalid");
    let second = &bench.status("BackendTrafficPolicy", "a-young")["ancestors"][1];
    assert_eq!(second["ancestorRef"]["name"], "cart");
    assert_eq!(said(&second["conditions"], "Accepted"), "True Accepted", "each target by itself");

    let step = bench.remove("BackendTrafficPolicy", "z-old");
    assert_eq!(step.declared.len(), 1, "what was there for the other service stays as it is");
    assert_eq!(entry(&bench, "traffic/default/shop").panic_threshold_percent, Some(20));
    assert_eq!(of(&bench, "a-young", "Accepted"), "True Accepted");
    let step = bench.remove("BackendTrafficPolicy", "a-young");
    assert_eq!(step.removed.len(), 2);
    assert_eq!(bench.ids(), [""; 0]);
}

#[test]
fn a_policy_for_tls_and_one_for_traffic_are_no_rivals() {
    let tls = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: tls}}\nspec: \
         {{targetRefs: [{SHOP}], validation: {{hostname: a.test, wellKnownCACertificates: System}}}}\n"
    );
    let mut bench = Bench::of(&(tls + &policy("p", SHOP, "  panicThreshold: 10")));
    assert_eq!(bench.ids(), ["backendtls/default/shop", "traffic/default/shop"]);
    assert_eq!(of(&bench, "p", "Accepted"), "True Accepted");
    let compiled = bench.compiler.shown().compiled();
    bench.put(&policy("p", SHOP, "  panicThreshold: 11"));
    assert_eq!(bench.compiler.shown().compiled() - compiled, 1, "the other one has not looked at it");
}

#[test]
fn a_target_that_is_not_there_is_told_and_in_force_all_the_same() {
    let mut bench = Bench::of(&policy("p", SHOP, "  panicThreshold: 10"));
    assert_eq!(of(&bench, "p", "Accepted"), "True Accepted");
    assert_eq!(of(&bench, "p", "ResolvedRefs"), "False TargetNotFound");
    assert_eq!(bench.ids(), ["traffic/default/shop"]);
    let compiled = bench.compiler.shown().compiled();
    bench = bench.register("shop");
    assert_eq!(of(&bench, "p", "ResolvedRefs"), "True ResolvedRefs");
    assert_eq!(bench.compiler.shown().compiled(), compiled, "a service that comes compiles nothing");

    let external = "{group: waypost.dev, kind: ExternalService, name: legacy}";
    bench.put(&policy("q", external, "  panicThreshold: 10"));
    assert_eq!(of(&bench, "q", "ResolvedRefs"), "False TargetNotFound");
    bench.put(
        "apiVersion: waypost.dev/v1\nkind: ExternalService\nmetadata: {name: legacy}\nspec: {addresses: ['10.0.0.1:80']}",
    );
    assert_eq!(of(&bench, "q", "ResolvedRefs"), "True ResolvedRefs");
    let status = bench.status("BackendTrafficPolicy", "q");
    assert_eq!(status["ancestors"][0]["ancestorRef"]["kind"], "ExternalService");
}

#[test]
fn the_gateways_whose_routes_lead_to_the_service_are_told() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: \
                 {rules: [{backendRefs: [{name: shop}]}]}\n";
    let bench = Bench::of(&(route.to_owned() + &policy("p", SHOP, "  panicThreshold: 10")));
    let status = bench.status("BackendTrafficPolicy", "p");
    assert_eq!(status["ancestors"][0]["ancestorRef"]["kind"], "Gateway");
    assert_eq!(status["ancestors"][0]["ancestorRef"]["name"], "waypost");
}

#[test]
fn the_same_policy_again_changes_nothing() {
    let mut bench = Bench::of(&policy("p", SHOP, EVERYTHING));
    assert_eq!(bench.put(&policy("p", SHOP, EVERYTHING)), Step::default());
}
