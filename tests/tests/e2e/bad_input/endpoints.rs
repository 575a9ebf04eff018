//! Every HTTP port answers bad requests with problem details (RFC 9457).

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use waypost_tests::{
    cluster::Cluster,
    http::{Answer, get, send},
};

async fn request(address: SocketAddr, method: Method, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(path).header(header::HOST, address.to_string());
    let request = request.body(Full::<Bytes>::default()).expect("a request");
    send(address, request).await.unwrap_or_else(|error| panic!("{address}{path}: {error}"))
}

#[track_caller]
fn assert_problem(what: &str, answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}: {}", answer.text());
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{what}: {problem}");
    for field in ["type", "title", "detail", "code"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{what}: {field} in {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods_are_problems() {
    let cluster = Cluster::builder().start().await;
    for (name, address) in
        [("control plane", cluster.control_plane.http), ("proxy's admin port", cluster.proxies[0].admin)]
    {
        for path in ["/no/such/page", "/v1/nothing", "/%ff", "/..%2f..%2fetc/passwd"] {
            let answer = get(address, path).await;
            assert_problem(&format!("{name} {path}"), &answer, 404);
            assert!(answer.text().contains(path), "it names the path: {}", answer.text());
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            let answer = request(address, Method::DELETE, path).await;
            assert_problem(&format!("{name} DELETE {path}"), &answer, 405);
            assert!(answer.header("allow").contains("GET"), "{name} {path}: {:?}", answer.headers);
            assert_eq!(get(address, path).await.status, 200, "{name} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_checked_as_calls_are() {
    let cluster = Cluster::builder().start().await;
    let http = cluster.control_plane.http;
    for (path, field, value) in [
        ("/v1/events?limit=none", "limit", "none"),
        ("/v1/events?limit=10001", "limit", "10001"),
        ("/v1/events?limit=-1", "limit", "-1"),
        ("/v1/events?after_revision=x", "after_revision", "x"),
        ("/v1/instances?state=sideways", "state", "sideways"),
        ("/v1/instances?service=a%20b", "service", "a b"),
        ("/v1/services?namespace=a%20b", "namespace", "a b"),
        ("/v1/services?namspace=shop", "namspace", "shop"),
    ] {
        let answer = get(http, path).await;
        assert_problem(path, &answer, 400);
        let violation = &answer.json()["violations"][0];
        assert_eq!(
            (&violation["field"], &violation["value"]),
            (&field.into(), &value.into()),
            "{path}: {violation}"
        );
    }
    assert_problem("no such service", &get(http, "/v1/services/nobody").await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_says_why_it_answers_by_itself() {
    let cluster = Cluster::builder().start().await;
    let answer = cluster.proxies[0].get("/nobody/here").await;
    assert_problem("no route", &answer, 404);
    assert_eq!(answer.header("x-waypost-reason"), "no_route");
    assert_eq!(answer.json()["code"], "no_route");
}
