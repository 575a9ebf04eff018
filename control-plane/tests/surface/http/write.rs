//! The write side and the watch.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
};

use crate::harness::{PATIENCE, Plane, Proxy, eventually};

async fn call(plane: &Plane, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, kind, text) = plane.send(method, path, "", body).await;
    let expected = if status < 400 { "application/json" } else { "application/problem+json" };
    assert_eq!(kind, expected, "{method} {path}: {text}");
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

async fn register(plane: &Plane, port: u16) -> Value {
    let body =
        json!({ "instance": { "service": "users", "address": format!("127.0.0.1:{port}") }, "ttl": "30s" });
    let (status, lease) = call(plane, "POST", "/v1/instances", &body.to_string()).await;
    assert_eq!(status, 201, "{lease}");
    lease
}

/// Sends a request, reads nothing of the answer.
async fn begin(plane: &Plane, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(plane.server.http).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    stream
}

/// The next line of JSON, whatever stands between.
async fn step(lines: &mut Lines<BufReader<TcpStream>>) -> Option<Value> {
    loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("something comes");
        let line = line.expect("the stream is whole")?;
        if line.starts_with('{') {
            return Some(serde_json::from_str(&line).expect("JSON"));
        }
    }
}

#[tokio::test]
async fn an_instance_comes_stays_and_goes() {
    let plane = Plane::start().await;
    let lease = register(&plane, 9001).await;
    assert_eq!((&lease["ttl"], &lease["heartbeat_interval"]), (&"30s".into(), &"10s".into()));
    assert_eq!(lease["key"]["id"], "127.0.0.1:9001");
    let beat = |epoch: &Value| json!({ "beats": [{ "key": lease["key"], "epoch": epoch }] }).to_string();
    let (status, answer) = call(&plane, "POST", "/v1/heartbeats", &beat(&lease["epoch"])).await;
    assert_eq!((status, &answer["results"][0]["outcome"]), (200, &"BEAT_OUTCOME_RENEWED".into()));
    let (_, answer) = call(&plane, "POST", "/v1/heartbeats", &beat(&1.into())).await;
    assert_eq!(answer["results"][0]["outcome"], "BEAT_OUTCOME_STALE");

    let (_, resolved) = call(&plane, "GET", "/v1/resolve?service=users&zone=here", "").await;
    assert_eq!(resolved["instances"][0]["address"], "127.0.0.1:9001");
    let (status, missing) = call(&plane, "GET", "/v1/resolve?service=users&version=9", "").await;
    assert_eq!((status, &missing["code"]), (404, &"not_found".into()));

    let path = "/v1/instances/default/users/127.0.0.1:9001";
    let (status, stale) = call(&plane, "DELETE", &format!("{path}?epoch=1"), "").await;
    assert_eq!((status, &stale["code"]), (409, &"stale_epoch".into()));
    let (status, gone) =
        call(&plane, "DELETE", &format!("{path}?drain&drain_deadline=5s&reason=done"), "").await;
    assert_eq!((status, &gone["drain"]["complete"]), (200, &true.into()), "{gone}");
    assert_eq!(call(&plane, "DELETE", path, "").await.0, 404);
    let (_, answer) = call(&plane, "POST", "/v1/heartbeats", &beat(&lease["epoch"])).await;
    assert_eq!(answer["results"][0]["outcome"], "BEAT_OUTCOME_UNKNOWN");
}

#[tokio::test]
async fn operators_steer_over_http_too() {
    let plane = Plane::start().await;
    let lease = register(&plane, 9001).await;
    let path = "/v1/instances/default/users/127.0.0.1:9001";
    let state = async || {
        let (_, listed) = call(&plane, "GET", "/v1/instances", "").await;
        listed["instances"][0]["state"].as_str().map(str::to_owned)
    };
    let down = json!({ "state": "INSTANCE_STATE_DOWN", "ttl": "60s", "reason": "looks odd" }).to_string();
    let (status, answer) = call(&plane, "POST", &format!("{path}/override"), &down).await;
    assert_eq!((status, &answer["instance"]["override"]["reason"]), (200, &"looks odd".into()));
    assert_eq!(state().await.as_deref(), Some("INSTANCE_STATE_DOWN"));
    call(&plane, "POST", &format!("{path}/override"), "").await;
    assert_eq!(state().await.as_deref(), Some("INSTANCE_STATE_UP"));
    let (status, answer) = call(&plane, "POST", &format!("{path}/drain"), r#"{"wait": true}"#).await;
    assert_eq!((status, &answer["drain"]["complete"]), (200, &true.into()));
    assert_eq!(state().await.as_deref(), Some("INSTANCE_STATE_DRAINING"));
    call(&plane, "POST", &format!("{path}/drain"), r#"{"cancel": true}"#).await;
    assert_eq!(state().await.as_deref(), Some("INSTANCE_STATE_UP"));

    let proxy = Proxy::connect(&plane, "late", None).await;
    eventually("the proxy", || async { !plane.proxies().await.is_empty() }).await;
    let (status, late) = call(&plane, "GET", "/v1/applied?deadline=20ms", "").await;
    assert_eq!((status, &late["code"]), (504, &"deadline_exceeded".into()));
    drop(proxy);
    let revision = lease["revision"].as_str().expect("a revision");
    eventually("the proxy's end", || async { plane.proxies().await.iter().all(|proxy| !proxy.connected) })
        .await;
    let (status, applied) = call(&plane, "GET", &format!("/v1/applied?revision={revision}"), "").await;
    assert_eq!((status, &applied["revision"]), (200, &revision.into()));
}

#[tokio::test]
async fn what_is_wrong_with_a_change_is_named() {
    let plane = Plane::start().await;
    let instance = "/v1/instances/default/users/127.0.0.1:9001";
    let reserved = r#"{"instance": {"namespace": "waypost", "service": "control-plane", "address": "a:1"}}"#;
    let beats = json!({ "beats": vec![json!({}); 10_001] }).to_string();
    for (method, path, body, field) in [
        ("POST", "/v1/instances".to_owned(), r#"{"instnace": {}}"#, "instnace"),
        ("POST", "/v1/instances".to_owned(), r#"{"instance": {"adress": "a:1"}}"#, "instance.adress"),
        ("POST", "/v1/instances".to_owned(), r#"{"instance": {"weight": -1}}"#, "instance.weight"),
        ("POST", "/v1/instances".to_owned(), r#"{"ttl": "soon"}"#, "ttl"),
        ("POST", "/v1/instances".to_owned(), "service: users", "body"),
        ("POST", "/v1/instances".to_owned(), "", "instance.service"),
        ("POST", "/v1/instances".to_owned(), reserved, "instance.namespace"),
        ("POST", "/v1/instances?ttl=10s".to_owned(), "", "ttl"),
        (
            "POST",
            "/v1/heartbeats".to_owned(),
            r#"{"beats": [{"key": {"service": "users"}}]}"#,
            "beats[0].key.id",
        ),
        ("POST", "/v1/heartbeats".to_owned(), beats.as_str(), "beats"),
        ("DELETE", format!("{instance}?drain=perhaps"), "", "drain"),
        ("DELETE", format!("{instance}?drain_deadline=2h"), "", "drain_deadline"),
        ("DELETE", format!("{instance}?epoc=1"), "", "epoc"),
        ("DELETE", "/v1/instances/default/a%20b/x".to_owned(), "", "key.service"),
        ("DELETE", "/v1/instances/default/a/%ff".to_owned(), "", "path"),
        ("POST", format!("{instance}/drain"), r#"{"key": {"service": "users"}}"#, "key"),
        ("POST", format!("{instance}/drain"), r#"{"wait": true, "cancel": true}"#, "wait"),
        ("POST", format!("{instance}/override"), r#"{"state": "INSTANCE_STATE_DRAINING"}"#, "state"),
        ("POST", format!("{instance}/override"), r#"{"ttl": "1ms"}"#, "ttl"),
        ("GET", "/v1/resolve".to_owned(), "", "service"),
        ("GET", "/v1/watch?namespace=a%20b".to_owned(), "", "namespace"),
        ("GET", "/v1/watch?since=1".to_owned(), "", "since"),
        ("GET", "/v1/applied?revision=99".to_owned(), "", "revision"),
        ("POST", "/v1/resources/delete".to_owned(), r#"{"keys": [{"kind": "Pod"}]}"#, "keys[0].kind"),
    ] {
        let (status, problem) = call(&plane, method, &path, body).await;
        assert_eq!((status, &problem["code"]), (400, &"invalid_argument".into()), "{method} {path} {body}");
        assert_eq!(problem["violations"][0]["field"], field, "{method} {path}: {problem}");
    }
    assert_eq!(plane.status().await.revision, 0);
}

#[tokio::test]
async fn a_page_of_another_site_registers_and_removes_nothing() {
    let plane = Plane::start().await;
    register(&plane, 9001).await;
    let instance = "/v1/instances/default/users/127.0.0.1:9001";
    let body = r#"{"instance": {"service": "users", "address": "127.0.0.1:9002"}}"#;
    for foreign in ["origin: http://evil.example\r\n", "sec-fetch-site: cross-site\r\n"] {
        for (method, path) in [
            ("POST", "/v1/instances".to_owned()),
            ("POST", "/v1/heartbeats".to_owned()),
            ("DELETE", instance.to_owned()),
            ("POST", format!("{instance}/drain")),
            ("POST", format!("{instance}/override")),
            ("POST", "/v1/resources/delete".to_owned()),
        ] {
            let (status, ..) = plane.send(method, &path, foreign, body).await;
            assert_eq!(status, 403, "{method} {path}");
        }
    }
    assert_eq!(plane.status().await.revision, 1);
}

#[tokio::test]
async fn resources_are_deleted_together_or_not_at_all() {
    let plane = Plane::start().await;
    let gateway = "kind: Gateway\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {name: edge}\nspec:\n  \
                   gatewayClassName: waypost\n  listeners: [{name: http, port: 8000, protocol: HTTP}]\n";
    let route = "kind: HTTPRoute\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {name: shop}\nspec:\n  \
                 parentRefs: [{name: edge}]\n  rules: [{backendRefs: [{name: cart, port: 80}]}]\n";
    let (status, answer) = call(&plane, "PUT", "/v1/resources", &format!("{gateway}---\n{route}")).await;
    assert_eq!(status, 200, "{answer}");
    let key = |kind: &str, name: &str| json!({ "kind": kind, "name": name });
    let alone = json!({ "keys": [key("Gateway", "edge")] }).to_string();
    let (status, refused) = call(&plane, "POST", "/v1/resources/delete", &alone).await;
    assert_eq!((status, &refused["code"]), (409, &"failed_precondition".into()), "{refused}");
    let both = json!({ "keys": [key("Gateway", "edge"), key("HTTPRoute", "shop")] }).to_string();
    let (status, answer) = call(&plane, "POST", "/v1/resources/delete", &both).await;
    assert_eq!(status, 200, "{answer}");
    let left = call(&plane, "GET", "/v1/resources", "").await.1;
    assert!(left["resources"].as_array().is_none_or(Vec::is_empty), "{left}");
}

#[tokio::test]
async fn a_watch_begins_with_everything_goes_on_with_changes_and_ends_with_the_control_plane() {
    let plane = Plane::start().await;
    register(&plane, 9001).await;
    let request = "GET /v1/watch?service=users HTTP/1.1\r\nhost: test\r\n\r\n";
    let mut lines = BufReader::new(begin(&plane, request).await).lines();
    let first = step(&mut lines).await.expect("it begins");
    assert_eq!((&first["initial"], first["changed"].as_array().map(Vec::len)), (&true.into(), Some(1)));
    plane.register("orders", 9002).await;
    register(&plane, 9003).await;
    let second = step(&mut lines).await.expect("it goes on");
    assert_eq!(second["changed"][0]["key"]["id"], "127.0.0.1:9003");
    assert_ne!(second["initial"], true);
    call(&plane, "DELETE", "/v1/instances/default/users/127.0.0.1:9001", "").await;
    let third = step(&mut lines).await.expect("it goes on");
    assert_eq!(third["removed"][0]["id"], "127.0.0.1:9001");
    plane.server.stop(PATIENCE).await;
    assert_eq!(step(&mut lines).await, None, "it ends");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_work_behind() {
    let plane = Plane::start().await;
    let lease = register(&plane, 9001).await;
    let mut proxy = Proxy::connect(&plane, "stuck", None).await;
    proxy.reach(lease["revision"].as_str().and_then(|revision| revision.parse().ok()).expect("one")).await;
    let holders = || Arc::strong_count(&plane.server.plane);
    let idle = holders();
    let mut watch = begin(&plane, "GET /v1/watch HTTP/1.1\r\nhost: test\r\n\r\n").await;
    watch.read_u8().await.expect("it answers");
    let body = r#"{"wait": true, "deadline": "3600s"}"#;
    let head = "POST /v1/instances/default/users/127.0.0.1:9001/drain HTTP/1.1\r\nhost: test\r\n";
    let drain = begin(&plane, &format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
    proxy.next().await.expect("it drains");
    assert!(holders() > idle, "both are under way");
    drop((watch, drain));
    eventually("the end of both", || async { holders() <= idle }).await;
}
