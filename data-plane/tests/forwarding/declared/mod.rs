//! Declared routes: whom they send requests to.

mod clients;
mod filters;
mod limits;
mod mirrors;

use std::{collections::BTreeMap, net::SocketAddr};

use waypost_proto::{
    instance::Protocol,
    snapshot::Change,
    v1::{RouteBackend, RouteRule, RuleRoute},
};
use waypost_proxy::serve::ServeConfig;

use crate::{
    routes::{below, endpoint, proxy, proxy_with, rule, service, to},
    support::{Instance, Proxy, nobody},
};

/// How often each answer came, of `count`.
async fn tally(proxy: &Proxy, count: usize) -> BTreeMap<String, usize> {
    let mut client = proxy.client().await;
    let mut tally = BTreeMap::new();
    for _ in 0..count {
        client.send("GET /a HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let response = client.response().await;
        let said = response.reason().unwrap_or_else(|| response.text());
        *tally.entry(format!("{} {said}", response.status)).or_default() += 1;
    }
    tally
}

async fn saying(word: &'static str) -> Instance {
    Instance::start(move |mut wire, _| async move {
        while wire.request().await.is_some() {
            wire.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{word}", word.len())).await;
        }
    })
    .await
}

fn splitting(backends: Vec<RouteBackend>) -> RouteRule {
    RouteRule { backends, ..rule("/", RouteBackend::default()) }
}

#[tokio::test]
async fn a_request_goes_to_the_rule_s_backend_as_it_came() {
    let instance = Instance::mirror().await;
    let proxy = proxy(&[("a", "", instance.address)], rule("/shop", to("a", 1)));
    let response = proxy.get("/shop/cart?x=1").await;
    assert_eq!(response.status, 200);
    assert!(
        response.text().starts_with("GET /shop/cart?x=1 HTTP/1.1\r\nhost: test\r\n"),
        "{}",
        response.text()
    );
    assert_eq!(proxy.get("/shopping").await.reason().as_deref(), Some("no_route"));
}

#[tokio::test]
async fn backends_share_requests_by_their_weights() {
    let (one, two) = (saying("one").await, saying("two").await);
    let instances = [("one", "", one.address), ("two", "", two.address)];
    let proxy = proxy(&instances, splitting(vec![to("one", 900), to("two", 100), to("none", 0)]));
    let tally = tally(&proxy, 1000).await;
    // Four standard deviations are 38.
    assert!((62..=138).contains(&tally["200 two"]) && tally.len() == 2, "{tally:?}");
}

#[tokio::test]
async fn a_backend_may_be_some_versions_of_a_service() {
    let (one, two) = (saying("one").await, saying("two").await);
    let only = RouteBackend { versions: vec!["v2".to_owned()], ..to("a", 1) };
    let proxy = proxy(&[("a", "v1", one.address), ("a", "v2", two.address)], rule("/", only));
    assert_eq!(tally(&proxy, 20).await["200 two"], 20);
}

#[tokio::test]
async fn requests_for_an_invalid_or_unknown_backend_get_500_for_its_share() {
    let one = saying("one").await;
    let invalid = RouteBackend { invalid: "no grant".to_owned(), weight: 1, ..RouteBackend::default() };
    for bad in [invalid, to("unknown", 1)] {
        let proxy = proxy(&[("one", "", one.address)], splitting(vec![to("one", 1), bad]));
        let tally = tally(&proxy, 200).await;
        // Five standard deviations are 36.
        assert!((64..=136).contains(&tally["500 no_such_backend"]) && tally.len() == 2, "{tally:?}");
    }
}

#[tokio::test]
async fn a_rule_without_backends_or_without_weights_answers_500() {
    for backends in [Vec::new(), vec![to("one", 0)]] {
        let proxy = proxy(&[("one", "", nobody().await)], splitting(backends));
        let response = proxy.get("/").await;
        assert_eq!((response.status, response.reason().as_deref()), (500, Some("no_such_backend")));
    }
}

#[tokio::test]
async fn a_known_service_without_instances_answers_503() {
    let mut proxy = proxy(&[("a", "", nobody().await)], rule("/", to("b", 1)));
    assert_eq!(proxy.get("/").await.status, 500, "not known yet");
    proxy.change(Change { services: vec![service("b")], ..Change::default() });
    let response = proxy.get("/").await;
    assert_eq!((response.status, response.reason().as_deref()), (503, Some("no_healthy_instance")));
}

#[tokio::test]
async fn another_instance_of_the_backend_is_tried_where_none_can_be_connected_to() {
    let instance = saying("there").await;
    let instances: [(&str, &str, SocketAddr); 2] = [("a", "", nobody().await), ("a", "", instance.address)];
    let proxy = proxy(&instances, rule("/", to("a", 1)));
    assert_eq!(tally(&proxy, 4).await["200 there"], 4);
}

#[tokio::test]
async fn what_a_grpc_route_answers_by_itself_is_a_grpc_status() {
    let route = RuleRoute { grpc: true, rules: vec![rule("/", to("unknown", 1))], ..RuleRoute::default() };
    let proxy = proxy_with(ServeConfig::default(), &[], Protocol::Grpc, route);
    let response = proxy.get("/").await;
    let fields = ["content-type", "grpc-status", "x-waypost-reason"].map(|name| response.field(name));
    let fields = fields.map(Option::unwrap_or_default);
    assert_eq!(
        (response.status, fields.each_ref().map(String::as_str)),
        (200, ["application/grpc", "14", "no_such_backend"])
    );
}

#[tokio::test]
async fn a_declared_route_beats_an_automatic_one() {
    let (one, two) = (saying("automatic").await, saying("declared").await);
    let mut proxy = Proxy::new(ServeConfig::default(), &[one.address]);
    assert_eq!(proxy.get("/api/a").await.text(), "automatic");
    let route = RuleRoute {
        rules: vec![RouteRule { matches: vec![below("/api/a")], ..rule("/", to("b", 1)) }],
        ..RuleRoute::default()
    };
    proxy.change(Change {
        services: vec![service("b")],
        instances: vec![endpoint(&("b", "", two.address), Protocol::Http1)],
        declared: vec![crate::routes::entry(route)],
        ..Change::default()
    });
    assert_eq!(proxy.get("/api/a").await.text(), "declared");
    assert_eq!(proxy.get("/api/b").await.text(), "automatic");
}
