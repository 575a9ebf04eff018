//! The HTTP port over a socket.

mod openapi;
mod tapper;
mod write;

use crate::harness::{Plane, Proxy};
use serde_json::Value;

async fn json(plane: &Plane, path: &str) -> Value {
    let (status, kind, body) = plane.get(path).await;
    assert_eq!((status, kind.as_str()), (200, "application/json"), "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

async fn problem(plane: &Plane, method: &str, path: &str) -> Value {
    let (status, kind, body) = plane.http(method, path).await;
    assert_eq!(kind, "application/problem+json", "{path}: {body}");
    let problem: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(problem["status"], status);
    problem
}

#[tokio::test]
async fn the_read_side_speaks_json_with_the_names_of_the_contract() {
    let plane = Plane::start().await;
    plane.register("users", 9001).await;
    assert_eq!(json(&plane, "/v1/services").await["services"][0]["key"]["name"], "users");
    let one = json(&plane, "/v1/services/users?namespace=default").await;
    assert_eq!(one["instances"][0]["spec"]["address"], "127.0.0.1:9001");
    let found = json(&plane, "/v1/instances?service=users&state=up&namespace=default").await;
    assert_eq!(found["instances"][0]["state"], "INSTANCE_STATE_UP");
    assert!(found["instances"][0]["registered_at"].is_string(), "{found}");
    let none = json(&plane, "/v1/instances?tag=canary&tag=blue").await;
    assert!(none["instances"].as_array().is_none_or(Vec::is_empty), "{none}");
    assert_eq!(json(&plane, "/v1/routes").await["routes"][0]["entry"]["path"], "/users");
    let events = json(&plane, "/v1/events?service=users&limit=5&since=2020-01-01T00:00:00Z").await;
    assert_eq!(events["events"][0]["kind"], "EVENT_KIND_REGISTERED");
    assert_eq!(json(&plane, "/v1/status").await["instances"], 1);
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.next().await.expect("everything");
    assert_eq!(json(&plane, "/v1/proxies").await["proxies"][0]["id"], "p");
    assert!(json(&plane, "/").await["paths"]["/v1/status"].is_string());
}

#[tokio::test]
async fn bad_requests_are_problems_that_name_field_value_and_rule() {
    let plane = Plane::start().await;
    for (path, field, value) in [
        ("/v1/instances?serivce=users", "serivce", "users"),
        ("/v1/instances?state=sleepy", "state", "sleepy"),
        ("/v1/instances?namespace=a%20b", "namespace", "a b"),
        ("/v1/services?namespace=a&namespace=b", "namespace", "b"),
        ("/v1/events?since=yesterday", "since", "yesterday"),
        ("/v1/events?limit=-1", "limit", "-1"),
        ("/v1/events?limit=10001", "limit", "10001"),
        ("/v1/status?verbose=1", "verbose", "1"),
    ] {
        let problem = problem(&plane, "GET", path).await;
        assert_eq!((&problem["status"], &problem["code"]), (&400.into(), &"invalid_argument".into()));
        let violation = &problem["violations"][0];
        assert_eq!((&violation["field"], &violation["value"]), (&field.into(), &value.into()), "{path}");
        assert!(violation["rule"].as_str().is_some_and(|rule| !rule.is_empty()));
    }
    assert_eq!(problem(&plane, "GET", "/v1/services/%ff").await["violations"][0]["field"], "name");
    let slip = problem(&plane, "GET", "/v1/instances?serivce=users").await;
    assert!(
        slip["detail"].as_str().is_some_and(|detail| detail.contains("did you mean \"service\"")),
        "{slip}"
    );
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let plane = Plane::start().await;
    plane.register("users", 9001).await;
    assert_eq!(problem(&plane, "GET", "/v2/services").await["code"], "not_found");
    assert_eq!(problem(&plane, "GET", "/v1/services/user").await["code"], "not_found");
    let refused = problem(&plane, "DELETE", "/v1/services/users").await;
    assert_eq!((&refused["status"], &refused["code"]), (&405.into(), &"method_not_allowed".into()));
}

#[tokio::test]
async fn it_says_that_it_lives_and_what_it_measures() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(registered.revision).await;
    let second = plane.register("users", 9002).await;
    proxy.reach(second.revision).await;
    crate::harness::eventually("the report", || async { plane.status().await.watermark == second.revision })
        .await;
    assert_eq!(plane.get("/healthz").await.0, 200);
    assert_eq!(plane.get("/readyz").await.0, 200);
    let refused = plane.registry().register(waypost_proto::v1::RegisterRequest::default()).await;
    refused.expect_err("nothing is there");
    let (status, kind, text) = plane.get("/metrics").await;
    assert_eq!((status, kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        format!("waypost_revision {}", second.revision),
        format!("waypost_watermark_revision {}", second.revision),
        "waypost_instances{state=\"up\"} 2".into(),
        "waypost_services 1".into(),
        "waypost_proxies_connected 1".into(),
        "waypost_snapshot_frames_total{kind=\"chunk\"} 1".into(),
        "waypost_snapshot_frames_total{kind=\"delta\"} 1".into(),
        "waypost_snapshot_encodes_total{kind=\"delta\"} 1".into(),
        "waypost_commit_to_applied_seconds_count 1".into(),
        "waypost_events_total{kind=\"registered\"} 2".into(),
        "waypost_resyncs_total 0".into(),
        "rpc_server_call_duration_seconds_count{rpc_method=\"waypost.v1.Registry/Register\",rpc_response_status_code=\"INVALID_ARGUMENT\"} 1".into(),
        "rpc_server_call_duration_seconds_count{rpc_method=\"waypost.v1.Registry/Register\",rpc_response_status_code=\"OK\"} 2".into(),
        "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\",http_route=\"/healthz\"} 1".into(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}
