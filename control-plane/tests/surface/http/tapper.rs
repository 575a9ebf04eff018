//! Tapper's wire API, word for word as its client sends it.

use std::time::Duration;

use serde_json::{Value, json};
use waypost_proto::{time::wire_duration, v1};

use crate::harness::{Plane, eventually};

const URL: &str = "http://127.0.0.1:9001";

/// What `RegistryClient.register` sends.
fn registration(version: &str, url: &str, prefix: Option<&str>) -> String {
    json!({
        "service": {
            "name": "user-service",
            "version": version,
            "description": null,
            "prefix": prefix,
            "routes": [{ "path": "/users/{user_id}", "methods": ["GET"] }],
            "instances": [],
            "tags": ["two words"],
        },
        "instance": {
            "url": url,
            "health_endpoint": "/health",
            "last_heartbeat": "2026-11-22T01:51:48.050422Z",
            "healthy": true,
        },
    })
    .to_string()
}

async fn call(plane: &Plane, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, _, text) = plane.send(method, path, "", body).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

async fn beat(plane: &Plane) -> u16 {
    let body = json!({ "instance_url": URL }).to_string();
    call(plane, "POST", "/heartbeat/user-service", &body).await.0
}

async fn leave(plane: &Plane) -> (u16, Value) {
    let body = json!({ "name": "user-service", "instance_url": URL }).to_string();
    call(plane, "POST", "/unregister", &body).await
}

#[tokio::test]
async fn its_clients_are_answered_as_its_registry_answers() {
    let plane = Plane::start().await;
    assert_eq!(call(&plane, "GET", "/health", "").await, (200, json!({ "status": "healthy" })));
    let (status, answer) = call(&plane, "POST", "/register", &registration("1.0.0", URL, None)).await;
    assert_eq!((status, answer), (201, json!({ "status": "registered", "service": "user-service" })));
    assert_eq!(beat(&plane).await, 200);
    let (_, listed) = call(&plane, "GET", "/services", "").await;
    let (status, one) = call(&plane, "GET", "/services/user-service", "").await;
    assert_eq!((status, &listed[0]), (200, &one));
    assert_eq!(one["routes"], json!([{ "path": "/users/{user_id}", "methods": ["GET"] }]));
    assert_eq!(
        (&one["tags"][0], &one["description"], &one["prefix"]),
        (&"two words".into(), &Value::Null, &Value::Null)
    );
    assert_eq!((&one["instances"][0]["url"], &one["instances"][0]["healthy"]), (&URL.into(), &true.into()));
    assert_eq!(leave(&plane).await, (200, json!({ "status": "unregistered", "service": "user-service" })));
    assert_eq!(leave(&plane).await.0, 200, "whoever has left has left");
    assert_eq!(beat(&plane).await, 404);
    assert_eq!(call(&plane, "GET", "/services/user-service", "").await.0, 404);
}

#[tokio::test]
async fn instances_and_versions_of_one_name_stand_side_by_side() {
    let plane = Plane::start().await;
    call(&plane, "POST", "/register", &registration("1.0.0", URL, None)).await;
    call(&plane, "POST", "/register", &registration("2.0.0", "http://127.0.0.1:9002", None)).await;
    call(&plane, "POST", "/register", &registration("2.0.0", "http://127.0.0.1:9002", None)).await;
    let (_, one) = call(&plane, "GET", "/services/user-service", "").await;
    assert_eq!((&one["version"], one["instances"].as_array().map(Vec::len)), (&"2.0.0".into(), Some(2)));
    assert_eq!(one["routes"].as_array().map(Vec::len), Some(1));
    let (_, old) = call(&plane, "GET", "/v1/instances?version=1.0.0", "").await;
    assert_eq!(old["instances"][0]["spec"]["address"], "127.0.0.1:9001");
}

#[tokio::test]
async fn what_came_another_way_is_shown_and_not_touched() {
    let plane = Plane::start().await;
    plane.register("user-service", 9001).await;
    let (_, listed) = call(&plane, "GET", "/services", "").await;
    assert_eq!(listed[0]["instances"][0]["url"], URL);
    assert_eq!(beat(&plane).await, 404, "it has an epoch, which such a beat does not know");
    assert_eq!(leave(&plane).await.0, 200);
    assert_eq!(plane.status().await.instances, 1);
}

#[tokio::test]
async fn bad_input_is_unprocessable_and_named() {
    let plane = Plane::start().await;
    let good = registration("1.0.0", URL, None);
    for (path, body, field) in [
        ("/register", good.replace(",\"version\":\"1.0.0\"", ""), "service.version"),
        ("/register", good.replace("http://", "https://"), "instance.url"),
        ("/register", good.replace("user-service", "user service"), "service.name"),
        ("/register", good.replace("/users/{user_id}", "users"), "service.routes"),
        ("/register", registration("1.0.0", URL, Some("shop")), "service.prefix"),
        ("/register", "[]".to_owned(), "body"),
        ("/unregister", "{}".to_owned(), "name"),
        ("/heartbeat/a", "{}".to_owned(), "instance_url"),
        ("/heartbeat/a", r#"{"instance_url": "a:1"}"#.to_owned(), "instance_url"),
        ("/heartbeat/a%20b", json!({ "instance_url": URL }).to_string(), "name"),
    ] {
        let (status, problem) = call(&plane, "POST", path, &body).await;
        assert_eq!((status, &problem["code"]), (422, &"invalid_argument".into()), "{path} {body}");
        assert_eq!(problem["violations"][0]["field"], field, "{problem}");
    }
    assert_eq!(plane.status().await.revision, 0);
}

#[tokio::test]
async fn one_whose_lease_ran_out_comes_back_by_its_next_beat() {
    let plane = Plane::start().await;
    call(&plane, "POST", "/register", &registration("1.0.0", URL, None)).await;
    let before = call(&plane, "GET", "/services", "").await.1;
    // The same with a lease so short that a test can wait for its end.
    let found = plane.discovery().list_instances(v1::ListInstancesRequest::default()).await.expect("a list");
    let instance = found.into_inner().instances.pop().and_then(|instance| instance.spec);
    let ttl = Some(wire_duration(Duration::from_secs(1)));
    let request = v1::RegisterRequest { instance, ttl, ..Default::default() };
    plane.registry().register(request).await.expect("a good registration");
    eventually("the lease's end", || async { plane.status().await.instances == 0 }).await;
    assert_eq!(beat(&plane).await, 200);
    let after = call(&plane, "GET", "/services", "").await.1;
    assert_eq!(after[0]["routes"], before[0]["routes"]);
    assert_eq!(after[0]["instances"][0]["url"], URL);
    leave(&plane).await;
    assert_eq!(beat(&plane).await, 404, "one that has left stays gone");
}
