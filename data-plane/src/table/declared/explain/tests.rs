//! What an explanation says.

use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use waypost_proto::v1::{
    self, Attachment, PathChange, Rewrite, RouteBackend, RouteFilter, RouteRule, RuleMatch, RuleRoute,
    RuleValue, path_change, route_filter,
};

use super::{
    super::tests::{
        Scene, instance, listener_entry, prefix, preflight_fields, route_entry, service, simple, with_cors,
    },
    *,
};
use crate::table::declared::OWN_LISTENER;
use waypost_proto::snapshot::Change;

fn explained(table: &Table, request: &RequestView<'_>) -> Value {
    serde_json::to_value(explain(table, request)).expect("JSON")
}

fn asking(path: &str, header: &str, value: &str) -> RuleMatch {
    let headers = vec![RuleValue { name: header.to_owned(), value: value.to_owned(), regex: false }];
    RuleMatch { headers, ..prefix(path) }
}

#[test]
fn the_winner_comes_with_its_backends_and_those_before_it_with_what_rejected_them() {
    let mut scene = Scene::new();
    let backend = |name: &str, weight, versions: &[&str]| RouteBackend {
        service: Some(service(name).to_wire()),
        weight,
        versions: versions.iter().map(|version| (*version).to_owned()).collect(),
        ..RouteBackend::default()
    };
    let path = PathChange { kind: Some(path_change::Kind::Prefix("/v2".to_owned())) };
    let rewrite = Rewrite { path: Some(path), ..Rewrite::default() };
    let rule = RouteRule {
        name: "main".to_owned(),
        matches: vec![prefix("/shop")],
        filters: vec![RouteFilter { kind: Some(route_filter::Kind::Rewrite(rewrite)) }],
        backends: vec![backend("s", 3, &["v1"]), backend("gone", 1, &[])],
        ..RouteRule::default()
    };
    let attachments =
        vec![Attachment { listener: OWN_LISTENER.to_owned(), hostnames: vec!["*.example".to_owned()] }];
    let table = scene.change(Change {
        services: vec![service("s")],
        instances: vec![instance("s", "a", "v1", &[]), instance("s", "b", "v2", &[])],
        declared: vec![
            route_entry("shop", RuleRoute { attachments, rules: vec![rule], ..RuleRoute::default() }),
            simple("canary", "a.example", asking("/shop", "x-canary", "yes"), "s"),
            simple("other", "", prefix("/shop/cart"), "s"),
            listener_entry("tls", 8443, ""),
            listener_entry("b", 0, "b.example"),
        ],
        ..Change::default()
    });
    let mut headers = HeaderMap::new();
    headers.insert("x-canary", HeaderValue::from_static("no"));
    let request =
        RequestView { host: "A.example", ..RequestView::plain(&Method::GET, "/shop/cart", &headers) };
    let found = explained(&table, &request);

    assert_eq!(found["listeners"][0]["id"], OWN_LISTENER);
    assert_eq!(found["listeners"][0]["chosen"], true);
    let rejected: Vec<&Value> = found["listeners"].as_array().expect("a list")[1..]
        .iter()
        .map(|listener| &listener["rejected"])
        .collect();
    assert_eq!(rejected, ["its hostname does not take \"a.example\"", "its port is 8443"]);
    assert_eq!(found["hostnames"], json!(["a.example", "*.example"]));
    assert_eq!(found["considered"][0]["route"], "httproute/default/canary");
    assert_eq!(found["considered"][0]["asks"], "/shop/* header x-canary=\"yes\"");
    assert_eq!(found["considered"][0]["rejected"], "header x-canary is \"no\", and \"yes\" is asked for");
    assert_eq!(found["considered"][1]["route"], "httproute/default/shop");
    assert_eq!(found["considered"][1]["hostname"], "*.example");
    assert_eq!(found["considered"][1].get("rejected"), None);
    assert_eq!(found["more"], 0);

    let outcome = &found["outcome"];
    assert_eq!(outcome["kind"], "rule");
    assert_eq!(outcome["name"], "main");
    assert_eq!(outcome["matched_prefix"], "/shop");
    assert_eq!(outcome["path"], "/v2/cart");
    assert_eq!(outcome["filters"][0]["rewrite"]["path"]["prefix"], "/v2");
    assert_eq!(outcome["backends"][0]["share"], 0.75);
    assert_eq!(outcome["backends"][0]["endpoints"][0]["selected"], true);
    assert_eq!(outcome["backends"][0]["endpoints"][1]["selected"], false, "another version");
    assert_eq!(outcome["backends"][0]["endpoints"][0]["in_flight"], 0);
    assert_eq!(outcome["backends"][1]["problem"], "service \"gone\" is not known: 500");
}

#[test]
fn where_nothing_matches_the_nearest_misses_say_what_is_in_the_way() {
    let mut scene = Scene::new();
    let posted = RuleMatch { method: "POST".to_owned(), ..prefix("/orders") };
    let table = scene.declare(vec![
        simple("orders", "shop.example", posted, "s"),
        simple("users", "shop.example", prefix("/users"), "s"),
        simple("elsewhere", "other.example", prefix("/orders"), "s"),
    ]);
    let headers = HeaderMap::new();
    let ask = |host, path| {
        let request = RequestView { host, ..RequestView::plain(&Method::GET, path, &headers) };
        explained(&table, &request)["outcome"].clone()
    };
    let outcome = ask("shop.example", "/orders/7");
    assert_eq!(outcome["kind"], "no_route");
    let nearest = outcome["nearest"].as_array().expect("a list");
    assert_eq!(nearest.len(), 3);
    let methods =
        nearest.iter().find(|miss| miss["route"] == "httproute/default/orders").expect("it is near");
    assert_eq!(methods["missed"], json!(["the method is GET, and POST is asked for"]));
    assert_eq!(nearest[2]["route"], "httproute/default/users", "less of its path fits");
    let outcome = ask("nobody.example", "/orders");
    assert!(outcome["why"].as_str().expect("text").starts_with("no route at this listener takes the host"));
    assert_eq!(outcome["nearest"][0]["missed"], json!(["it takes other.example alone"]));
}

#[test]
fn a_preflight_is_said_to_be_one_and_why_a_rule_does_not_answer_it() {
    let mut scene = Scene::new();
    let read = |path| RuleMatch { method: "GET".to_owned(), ..prefix(path) };
    let table = scene.declare(vec![
        with_cors(simple("with", "", read("/a"), "s")),
        simple("without", "", read("/a/b"), "s"),
    ]);
    let fields = preflight_fields("GET");
    let found = explained(&table, &RequestView::plain(&Method::OPTIONS, "/a/b", &fields));
    assert_eq!(found["considered"][0]["route"], "httproute/default/without");
    assert_eq!(
        found["considered"][0]["rejected"],
        "the method is OPTIONS, and GET is asked for; the rule has no CORS filter that answers preflights for that"
    );
    assert_eq!(found["outcome"]["route"], "httproute/default/with");
    assert_eq!(found["outcome"]["preflight"], "GET");
    let found = explained(&table, &RequestView::plain(&Method::GET, "/a", &fields));
    assert_eq!(found["outcome"].get("preflight"), None);
}

#[test]
fn a_long_list_is_cut_and_still_has_the_winner() {
    let mut scene = Scene::new();
    let picky =
        |number: usize| simple(&format!("r{number}"), "", asking("/", "x-n", &number.to_string()), "s");
    let mut entries: Vec<v1::DeclaredEntry> = (0..150).map(picky).collect();
    entries.push(simple("last", "", prefix("/"), "s"));
    let table = scene.declare(entries);
    let headers = HeaderMap::new();
    let explanation = explain(&table, &RequestView::plain(&Method::GET, "/", &headers));
    assert_eq!(explanation.considered.len(), MOST);
    assert_eq!(explanation.more, 51);
    let last = explanation.considered.last().expect("there are some");
    assert!(last.route == "httproute/default/last" && last.rejected.is_none(), "{last:?}");
}
