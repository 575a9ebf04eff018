//! What the admin port answers.

use std::time::SystemTime;

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use waypost_proto::{
    instance::{Endpoint, InstanceSpec},
    route::{Route, RouteMatch},
    snapshot::{Change, Snapshot},
    v1::{
        self, AdaptiveConcurrency, CircuitBreaker, DeclaredEntry, InstanceState, OutlierDetection,
        TrafficEntry, declared_entry::Kind,
    },
};

use super::*;
use crate::{
    balance::PolicyName,
    health::Cause,
    table::{Lengths, Table, declared},
};

fn admin() -> Admin {
    Admin {
        proxy_id: "p1".into(),
        table: SharedTable::new(),
        metrics: Arc::new(Metrics::new()),
        status: Arc::new(Status::new(SystemTime::UNIX_EPOCH)),
        listening: Listening::default(),
        shutting_down: CancellationToken::new(),
    }
}

async fn get_path(admin: &Admin, path: &str) -> (u16, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let response = admin.clone().router().oneshot(request).await.expect("it answers");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

async fn json(admin: &Admin, path: &str) -> Value {
    let (status, body) = get_path(admin, path).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

fn table() -> Arc<Table> {
    Table::of(&snapshot(), &PolicyName::default().policy())
}

fn snapshot() -> Snapshot {
    let services = ["users", "orders"].map(|name| name.parse::<ServiceKey>().expect("a good name"));
    let endpoint = |service: &ServiceKey, state| {
        let wire = v1::InstanceSpec {
            service: service.name().into(),
            address: "10.0.0.1:80".into(),
            ..Default::default()
        };
        Endpoint::of(&InstanceSpec::from_wire(&wire).expect("a good spec"), state, 3)
    };
    let route = |service: &ServiceKey| {
        let path = format!("/{}", service.name()).parse().expect("a good prefix");
        Route::new(service.clone(), RouteMatch::Prefix { path, strip: true }, Vec::new())
    };
    let change = Change {
        instances: vec![
            endpoint(&services[0], InstanceState::Up),
            endpoint(&services[1], InstanceState::Draining),
        ],
        routes: services.iter().map(route).collect(),
        services: services.to_vec(),
        ..Change::default()
    };
    Snapshot::empty("h").change(change, 7, true).expect("it is sound").0
}

#[tokio::test]
async fn it_is_ready_with_a_table_until_it_shuts_down() {
    let admin = admin();
    assert_eq!(get_path(&admin, "/healthz").await.0, 200);
    let (status, body) = get_path(&admin, "/readyz").await;
    assert!(status == 503 && body.contains("no table yet"), "{body}");
    assert_eq!(get_path(&admin, "/table").await.0, 503);
    admin.table.store(table());
    assert_eq!(get_path(&admin, "/readyz").await.0, 200);
    admin.shutting_down.cancel();
    let (status, body) = get_path(&admin, "/readyz").await;
    assert!(status == 503 && body.contains("shutting down"), "{body}");
    assert_eq!(get_path(&admin, "/healthz").await.0, 200, "it is alive still");
}

#[tokio::test]
async fn the_table_is_shown_as_it_is_applied() {
    let admin = admin();
    let table = table();
    let users = "users".parse().expect("a good name");
    let state = &table.service(&users).expect("it is there").members()[0].state;
    let _in_flight = state.begin().expect("it is up");
    admin.table.store(Arc::clone(&table));
    let shown = json(&admin, "/table").await;
    assert_eq!(shown["position"]["revision"], 7);
    assert_eq!(shown["position"]["digest"], format!("{:016x}", table.position().digest));
    assert_eq!(shown["services"][0]["service"], "orders");
    assert_eq!(shown["services"][0]["balancer"], "least-request");
    assert_eq!(shown["services"][0]["endpoints"][0]["state"], "DRAINING");
    assert_eq!(shown["services"][0]["endpoints"][0]["draining"], true);
    assert_eq!(shown["services"][1]["endpoints"][0]["in_flight"], 1);
    assert_eq!(shown["routes"].as_array().map(Vec::len), Some(2));
    let one = json(&admin, "/table?service=users").await;
    assert_eq!(
        (one["services"].as_array().map(Vec::len), one["routes"].as_array().map(Vec::len)),
        (Some(1), Some(1))
    );
    assert_eq!(one["routes"][0]["path"], "/users");
}

#[tokio::test]
async fn bad_questions_are_answered_with_the_way_out() {
    let admin = admin();
    admin.table.store(table());
    for (path, status, says) in [
        ("/tabel", 404, "/table"),
        ("/table?service=nobody", 404, "nobody"),
        ("/table?service=a%20b", 400, "must be 1 to 63"),
        ("/table?servce=users", 400, "service=NAME"),
    ] {
        let (got, body) = get_path(&admin, path).await;
        assert!(got == status && body.contains(says), "{path}: {got} {body}");
    }
}

#[tokio::test]
async fn status_and_metrics_tell_of_the_subscription() {
    let admin = admin();
    let status = json(&admin, "/status").await;
    assert_eq!((&status["proxy_id"], &status["connected_to"]), (&Value::from("p1"), &Value::Null));
    admin.table.store(table());
    let (_, metrics) = get_path(&admin, "/metrics").await;
    for line in [
        "waypost_table_revision 7",
        "waypost_table_instances 2",
        "waypost_table_routes 2",
        "waypost_resyncs_total 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

/// Two users of whom one is ejected, with a policy by which that is too many, and orders without one.
fn panicking() -> Arc<Table> {
    let users: ServiceKey = "users".parse().expect("a good name");
    let entry = TrafficEntry {
        service: Some(users.to_wire()),
        outlier_detection: Some(OutlierDetection::default()),
        panic_threshold_percent: Some(60),
        circuit_breaker: Some(CircuitBreaker {
            failure_percent: 50,
            max_requests: 7,
            ..CircuitBreaker::default()
        }),
        adaptive_concurrency: Some(AdaptiveConcurrency { minimum: 9, maximum: 9 }),
        ..TrafficEntry::default()
    };
    let kind = Some(Kind::Traffic(entry));
    let second =
        v1::InstanceSpec { service: "users".into(), address: "10.0.0.2:80".into(), ..Default::default() };
    let second = InstanceSpec::from_wire(&second).expect("a good spec");
    let change = Change {
        instances: vec![Endpoint::of(&second, InstanceState::Up, 3)],
        declared: vec![DeclaredEntry { id: "traffic/default/users".into(), kind }],
        ..Change::default()
    };
    let (snapshot, _) = snapshot().change(change, 8, true).expect("it is sound");
    let table = Table::of(&snapshot, &PolicyName::default().policy());
    let state = &table.service(&users).expect("it is there").members()[1].state;
    let lengths = Lengths { first: 1 << 40, longest: 1 << 40 };
    assert!(state.eject(Cause::ConsecutiveErrors, lengths));
    table
}

#[tokio::test]
async fn metrics_tell_of_each_service_how_it_stands() {
    let admin = admin();
    let table = panicking();
    let users = "users".parse().expect("a good name");
    let state = &table.service(&users).expect("it is there").members()[0].state;
    let _in_flight = state.begin().expect("it is up");
    admin.table.store(table);
    let (_, metrics) = get_path(&admin, "/metrics").await;
    for line in [
        "waypost_service_endpoints{service=\"users\",state=\"ready\"} 1",
        "waypost_service_endpoints{service=\"users\",state=\"ejected\"} 1",
        "waypost_service_endpoints{service=\"users\",state=\"cooling_down\"} 0",
        "waypost_service_endpoints{service=\"orders\",state=\"draining\"} 1",
        "waypost_service_endpoints{service=\"orders\",state=\"ready\"} 0",
        "waypost_service_panic{service=\"users\"} 1",
        "waypost_breaker_state{service=\"users\",state=\"closed\"} 1",
        "waypost_breaker_state{service=\"users\",state=\"open\"} 0",
        "waypost_breaker_state{service=\"users\",state=\"half_open\"} 0",
        "waypost_upstream_active_requests{service=\"users\"} 1",
        "waypost_upstream_active_requests{service=\"orders\"} 0",
        "waypost_retry_budget_remaining{service=\"orders\"} 100",
        "waypost_concurrency_limit{service=\"users\"} 9",
        "waypost_services_panicking 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    for absent in ["waypost_service_panic", "waypost_breaker_state", "waypost_concurrency_limit"] {
        let line = format!("{absent}{{service=\"orders\"");
        assert!(!metrics.contains(&line), "orders has no policy: {metrics}");
    }
}

#[tokio::test]
async fn a_panic_and_what_is_used_of_limits_is_shown_and_explained() {
    let admin = admin();
    admin.table.store(panicking());
    let explained = json(&admin, "/explain?url=/users").await["outcome"].clone();
    let shown = json(&admin, "/table?service=users").await["services"][0].clone();
    for found in [explained, shown] {
        assert_eq!(found["panic"], true);
        assert_eq!(found["panic_because"], "1 of 2 instances are well, and the policy asks for 60 %");
        assert_eq!((&found["breaker"], &found["retries_left"]), (&"closed".into(), &100.into()));
        assert_eq!(found["limits"], serde_json::json!([{ "limit": "maxRequests", "used": 0, "most": 7 }]));
        assert_eq!(found["concurrency"], serde_json::json!({ "limit": 9, "under_way": 0 }));
        assert_eq!(found["endpoints"][0]["health"], "well");
    }
    let orders = json(&admin, "/explain?url=/orders").await["outcome"].clone();
    assert_eq!((&orders["panic"], orders.get("panic_because")), (&false.into(), None));
}

#[tokio::test]
async fn it_explains_where_a_request_goes() {
    let admin = admin();
    assert_eq!(get_path(&admin, "/explain?url=/users").await.0, 503);
    admin.table.store(table());
    let found = json(&admin, "/explain?url=http://a.example:8080/users/%37?x=1").await;
    assert_eq!(found["request"]["path"], "/users/7");
    assert_eq!(found["request"]["host"], "a.example:8080");
    assert_eq!(found["outcome"]["kind"], "automatic");
    assert_eq!(found["outcome"]["service"], "users");
    assert_eq!(found["outcome"]["path"], "/7");
    assert_eq!(found["outcome"]["balancer"], "least-request");
    assert_eq!(found["outcome"]["endpoints"][0]["selected"], true);
    assert_eq!(json(&admin, "/explain?url=/nothing&method=POST").await["outcome"]["kind"], "no_route");
    for wrong in [
        "",
        "?url=/a&header=x",
        "?url=/a&header=host:a%2Fb",
        "?url=/a&header=transfer-encoding:gzip",
        "?url=/a&port=99999",
        "?url=/a&colour=red",
        "?url=/a/../b",
        "?method=GET",
    ] {
        let (status, body) = get_path(&admin, &format!("/explain{wrong}")).await;
        assert!(status == 400 && body.contains("invalid_argument"), "{wrong}: {status} {body}");
    }
}

async fn post_json(admin: &Admin, path: &str, kind: &str, body: impl Into<Body>) -> (u16, Value) {
    let request = Request::post(path).header(CONTENT_TYPE, kind).body(body.into()).expect("a request");
    let response = admin.clone().router().oneshot(request).await.expect("it answers");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

/// The table of a route for requests with a header field, at the proxy's own listener, at 80 and 443.
fn listening(field: &str, value: &str) -> Arc<Table> {
    let listener = |name: &str, port, protocol: v1::ListenerProtocol| DeclaredEntry {
        id: format!("listener/default/edge/{name}"),
        kind: Some(Kind::Listener(v1::ListenerEntry {
            name: name.to_owned(),
            port,
            protocol: protocol.into(),
            ..v1::ListenerEntry::default()
        })),
    };
    let attach = |listener: &str| v1::Attachment { listener: listener.to_owned(), hostnames: Vec::new() };
    let attachments =
        ["listener/default/edge/plain", "listener/default/edge/tls", declared::OWN_LISTENER].map(attach);
    let matches = v1::RuleMatch {
        path_kind: v1::RulePath::Prefix.into(),
        path: "/".to_owned(),
        headers: vec![v1::RuleValue { name: field.to_owned(), value: value.to_owned(), regex: false }],
        ..v1::RuleMatch::default()
    };
    let rule = v1::RouteRule { matches: vec![matches], ..v1::RouteRule::default() };
    let route =
        v1::RuleRoute { attachments: attachments.to_vec(), rules: vec![rule], ..v1::RuleRoute::default() };
    let change = Change {
        declared: vec![
            listener("plain", 80, v1::ListenerProtocol::Http),
            listener("tls", 443, v1::ListenerProtocol::Https),
            DeclaredEntry { id: "httproute/default/r".to_owned(), kind: Some(Kind::Route(route)) },
        ],
        ..Change::default()
    };
    let (snapshot, _) = Snapshot::empty("h").change(change, 7, true).expect("it is sound");
    Table::of(&snapshot, &PolicyName::default().policy())
}

#[tokio::test]
async fn a_url_without_a_port_is_for_the_listener_of_its_scheme() {
    let admin = admin();
    admin.table.store(listening("x-forwarded-proto", "https"));
    for (url, port) in [
        ("https://a.example/", 443),
        ("http://a.example/", 80),
        ("http://a.example:81/", 0),
        ("/", 0),
        ("https://a.example/&port=80", 80),
    ] {
        let found = json(&admin, &format!("/explain?url={url}")).await;
        assert_eq!(found["request"]["port"], port, "{url}");
    }
    admin.table.store(table());
    assert_eq!(json(&admin, "/explain?url=https://a.example/users").await["request"]["port"], 0);
}

#[tokio::test]
async fn a_request_is_explained_as_it_is_matched_when_it_comes() {
    let admin = admin();
    for (field, value, question, fits) in [
        ("x-forwarded-proto", "https", "https://a.example/", true),
        ("x-forwarded-proto", "https", "/&port=443", true),
        ("x-forwarded-proto", "https", "http://a.example/&header=x-forwarded-proto:https", false),
        ("x-forwarded-host", "a.example", "http://a.example/&header=x-forwarded-host:b.example", true),
        ("x-a", "1", "http://a.example/&header=x-a:1", true),
        ("x-a", "1", "http://a.example/&header=x-a:1&header=connection:x-a", false),
        ("x-waypost-a", "1", "http://a.example/&header=x-waypost-a:1", false),
        ("host", "a.example", "http://a.example/", false),
        ("host", "a.example", "/&header=host:a.example", false),
    ] {
        admin.table.store(listening(field, value));
        let found = json(&admin, &format!("/explain?url={question}")).await;
        let wanted = if fits { "rule" } else { "no_route" };
        assert_eq!(found["outcome"]["kind"], wanted, "{field} {question}: {found:#}");
    }
    let (status, body) = get_path(&admin, "/explain?url=http://a.example/&port=443").await;
    assert!(status == 400 && body.contains("a.example is served over HTTPS only"), "{status} {body}");
}

/// The preview of a route at the proxy's own listener for all that begins with a prefix, to a service.
fn preview(prefix: &str, path_kind: &str, service: &str) -> Value {
    let rule = serde_json::json!({
        "matches": [{ "path_kind": path_kind, "path": prefix }],
        "backends": [{ "service": { "name": service }, "weight": 1 }],
    });
    let route = serde_json::json!({
        "namespace": "default", "name": "new", "rules": [rule],
        "attachments": [{ "listener": "listener/default/waypost/http" }],
    });
    serde_json::json!({
        "revision": "7",
        "declared": [{ "id": "httproute/default/new", "route": route }],
        "withheld": ["certificate/default/a"],
    })
}

#[tokio::test]
async fn it_explains_by_the_revision_that_is_asked_for() {
    let admin = admin();
    assert_eq!(get_path(&admin, "/explain?url=/users&revision=7").await.0, 503);
    let first = table();
    admin.table.store(Arc::clone(&first));
    let told = json(&admin, "/explain?url=/users").await;
    assert_eq!((&told["revision"], &told["current"]), (&7.into(), &true.into()));
    assert_eq!(json(&admin, "/status").await["kept_revisions"], Value::Array(Vec::new()));
    let snapshot = Snapshot::empty(&first.position().history);
    let (snapshot, _) = snapshot.change(Change::default(), 9, true).expect("it is sound");
    admin.table.store(Table::of(&snapshot, &PolicyName::default().policy()));
    assert_eq!(json(&admin, "/status").await["kept_revisions"], serde_json::json!([7]));
    for (asked, revision, current, kind) in [
        ("", 9, true, "no_route"),
        ("&revision=9", 9, true, "no_route"),
        ("&revision=8", 7, false, "automatic"),
    ] {
        let told = json(&admin, &format!("/explain?url=/users{asked}")).await;
        assert_eq!((&told["revision"], &told["current"]), (&revision.into(), &current.into()), "{asked}");
        assert_eq!(told["outcome"]["kind"], kind, "{asked}");
        assert_eq!(told.get("preview"), None);
    }
    for (asked, status) in [("6", 404), ("10", 404), ("x", 400), ("-1", 400)] {
        let (got, body) = get_path(&admin, &format!("/explain?url=/users&revision={asked}")).await;
        assert_eq!(got, status, "{body}");
        assert!(status == 400 || body.contains("any from 7 to 9"), "{body}");
    }
}

#[tokio::test]
async fn a_preview_is_explained_and_changes_nothing() {
    let admin = admin();
    let explain = "/explain?url=/users/1";
    let good = preview("/users", "RULE_PATH_PREFIX", "orders").to_string();
    assert_eq!(post_json(&admin, explain, "application/json", good.clone()).await.0, 503);
    admin.table.store(table());
    let (before, served) = (json(&admin, explain).await, admin.table.load().expect("a table"));
    let (status, told) = post_json(&admin, explain, "application/json; charset=utf-8", good.clone()).await;
    assert_eq!((status, &told["outcome"]["route"]), (200, &"httproute/default/new".into()), "{told}");
    assert_eq!(told["outcome"]["backends"][0]["service"], "orders");
    assert_eq!((&told["revision"], &told["current"]), (&7.into(), &false.into()));
    assert_eq!(
        told["preview"],
        serde_json::json!({
            "revision": 7, "removed": [], "changed": ["httproute/default/new", "certificate/default/a"],
        })
    );
    assert_eq!(json(&admin, explain).await, before);
    assert!(Arc::ptr_eq(&served, &admin.table.load().expect("a table")), "nothing was swapped");
    assert_eq!(served.declared_entries().count(), 0);

    let large = " ".repeat(LARGEST_PREVIEW + 1);
    for (path, kind, body, says) in [
        (explain, "text/plain", good.clone(), "application/json"),
        (
            explain,
            "application/json",
            preview("(", "RULE_PATH_REGEX", "s").to_string(),
            "httproute/default/new",
        ),
        (explain, "application/json", r#"{"declared":[{"id":"a","tunnel":{}}]}"#.to_owned(), "tunnel"),
        (explain, "application/json", "{".to_owned(), "waypost.v1.Preview"),
        (explain, "application/json", large, "4194304"),
        ("/explain?url=/users&revision=7", "application/json", good, "GET"),
    ] {
        let (status, problem) = post_json(&admin, path, kind, body).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(status == 400 && detail.contains(says), "{says}: {status} {problem}");
    }
}
