//! Routing, header fields and connections, for requests that go well or end here.

use waypost_proto::v1::InstanceState;
use waypost_proxy::serve::ServeConfig;

use crate::support::{Instance, Proxy, field, until};

#[tokio::test]
async fn a_request_reaches_the_instance_without_the_prefix() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    for (path, seen) in [
        ("/api/users/7?x=1&y=%20", "/users/7?x=1&y=%20"),
        ("/api", "/"),
        ("/api?x", "/?x"),
        ("/api/a%2Fb", "/a%2Fb"),
        ("/exact/7", "/exact/7"),
    ] {
        let response = proxy.get(path).await;
        assert_eq!(response.status, 200);
        assert!(response.text().starts_with(&format!("GET {seen} HTTP/1.1\r\n")), "{}", response.text());
    }
}

#[tokio::test]
async fn header_fields_are_those_of_a_proxy() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client
        .send(
            "GET /api/ HTTP/1.1\r\nhost: shop.example:81\r\nx-forwarded-for: 10.0.0.1\r\nx-waypost-reason: x\r\n\
             connection: x-hop\r\nx-hop: 1\r\naccept: */*\r\n\r\n",
        )
        .await;
    let response = client.response().await;
    let seen = response.text();
    assert_eq!(field(&seen, "host").as_deref(), Some("shop.example:81"));
    assert_eq!(field(&seen, "x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(field(&seen, "x-forwarded-host").as_deref(), Some("shop.example:81"));
    assert_eq!(field(&seen, "x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(field(&seen, "via").as_deref(), Some("1.1 waypost"));
    assert_eq!(field(&seen, "accept").as_deref(), Some("*/*"));
    for gone in ["x-hop", "connection", "x-waypost-reason"] {
        assert_eq!(field(&seen, gone), None, "{gone}");
    }
    assert_eq!(response.field("via").as_deref(), Some("1.1 waypost"));
    assert_eq!(response.reason(), None);
}

#[tokio::test]
async fn a_trusted_proxy_is_extended() {
    let instance = Instance::mirror().await;
    let config = ServeConfig {
        trusted_proxies: vec!["127.0.0.0/8".parse().expect("a network")],
        ..Default::default()
    };
    let proxy = Proxy::new(config, &[instance.address]);
    let mut client = proxy.client().await;
    client
        .send(
            "GET /api/ HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.0.0.1\r\nx-forwarded-proto: https\r\n\r\n",
        )
        .await;
    let seen = client.response().await.text();
    assert_eq!(field(&seen, "x-forwarded-for").as_deref(), Some("10.0.0.1, 127.0.0.1"));
    assert_eq!(field(&seen, "x-forwarded-proto").as_deref(), Some("https"));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    for _ in 0..5 {
        client.send("POST /api/ HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await;
        assert!(client.response().await.text().ends_with("\r\n\r\nabc"));
    }
    // Another client's request takes the same idle connection.
    assert_eq!(proxy.get("/api/").await.status, 200);
    assert_eq!(instance.accepted(), 1);
    proxy.until_in_flight(instance.address, 0).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    let requests: String = (0..8).map(|n| format!("GET /api/{n} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    client.send(&requests).await;
    for n in 0..8 {
        let seen = client.response().await.text();
        assert!(seen.starts_with(&format!("GET /{n} ")), "{seen}");
    }
}

#[tokio::test]
async fn an_answer_to_head_has_fields_and_no_body() {
    let instance = Instance::answering("HTTP/1.1 200 OK\r\ncontent-length: 42\r\netag: \"x\"\r\n\r\n").await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    for path in ["/api/", "/nowhere"] {
        for _ in 0..2 {
            client.send(&format!("HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            let response = client.response_to_head().await;
            assert!(response.field("content-length").is_some_and(|length| length != "0"), "{response:?}");
        }
    }
    assert_eq!(instance.accepted(), 1, "the connection is kept");
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connections_usable() {
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ] {
        let instance = Instance::answering(answer).await;
        let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
        let mut client = proxy.client().await;
        for _ in 0..3 {
            client.send("GET /api/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert!(client.response().await.body.is_empty());
        }
        assert_eq!(instance.accepted(), 1, "{answer}");
    }
}

#[tokio::test]
async fn an_http10_client_gets_an_answer_that_it_understands() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let instance = Instance::answering(answer).await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("GET /api/ HTTP/1.0\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.field("transfer-encoding"), response.text().as_str()), (None, "abc"));
}

#[tokio::test]
async fn what_has_no_route_is_answered_here() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let response = proxy.get("/nowhere?secret=1").await;
    assert_eq!((response.status, response.reason().as_deref()), (404, Some("no_route")));
    assert_eq!(response.field("content-type").as_deref(), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(problem["status"], 404);
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(detail.contains("GET /nowhere") && !detail.contains("secret"), "{detail}");

    let mut client = proxy.client().await;
    client.send("DELETE /exact/7 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status, response.reason().as_deref()), (405, Some("method_not_allowed")));
    assert_eq!(response.field("allow").as_deref(), Some("GET, HEAD"));
    assert_eq!(instance.accepted(), 0);
}

#[tokio::test]
async fn a_path_that_could_leave_its_prefix_is_refused() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    for path in ["/api/../admin", "/api/%2e%2e/admin", "/api/..%2fadmin"] {
        let response = proxy.get(path).await;
        assert_eq!((response.status, response.reason().as_deref()), (400, Some("bad_request")), "{path}");
    }
    assert_eq!(instance.accepted(), 0);
}

#[tokio::test]
async fn a_service_without_instances_is_unavailable() {
    let instance = Instance::mirror().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    proxy.set_state(instance.address, InstanceState::Draining);
    let response = proxy.get("/api/").await;
    assert_eq!((response.status, response.reason().as_deref()), (503, Some("no_healthy_instance")));
    assert!(response.text().contains("service api"), "{}", response.text());
    assert_eq!(response.field("retry-after").as_deref(), Some("1"));

    proxy.set_state(instance.address, InstanceState::Up);
    assert_eq!(proxy.get("/api/").await.status, 200);
}

#[tokio::test]
async fn without_a_table_the_proxy_says_so() {
    let proxy = Proxy::without_table(ServeConfig::default());
    let response = proxy.get("/api/").await;
    assert_eq!((response.status, response.reason().as_deref()), (503, Some("no_table")));
}

#[tokio::test]
async fn connect_is_refused() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status, response.reason().as_deref()), (405, Some("method_not_allowed")));
}

#[tokio::test]
async fn an_absolute_target_names_the_host() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let mut client = proxy.client().await;
    client.send("GET http://b.example/api/x HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    let seen = client.response().await.text();
    assert!(seen.starts_with("GET /x HTTP/1.1\r\n"), "{seen}");
    assert_eq!(field(&seen, "host").as_deref(), Some("b.example"));
}

#[tokio::test]
async fn requests_are_counted_with_their_status_and_reason() {
    let instance = Instance::mirror().await;
    let proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    proxy.get("/api/").await;
    proxy.get("/nowhere").await;
    until("the answer is counted", || proxy.metrics.render().contains("no_route\"} 1")).await;
}
