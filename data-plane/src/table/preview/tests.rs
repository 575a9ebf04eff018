//! What a preview promises: the answer is that of a table that had it, and the table that is served by stays as it is.

use http::{HeaderMap, Method};
use serde_json::{Value, json};
use waypost_proto::{
    snapshot::Change,
    v1::{self, Attachment, Removals, RouteBackend, RouteRule, RuleMatch, RulePath, RuleRoute},
};

use super::*;
use crate::table::declared::{
    RequestView,
    explain::explain,
    tests::{Scene, instance, listener_entry, prefix, route_entry, service, simple},
};

fn explained(table: &Table, port: u16, path: &str) -> Value {
    let headers = HeaderMap::new();
    let request = RequestView { port, ..RequestView::plain(&Method::GET, path, &headers) };
    serde_json::to_value(explain(table, &request)).expect("JSON")
}

fn selected(explanation: &Value) -> Vec<String> {
    let endpoints = explanation["outcome"]["backends"][0]["endpoints"].as_array();
    let picked = endpoints.into_iter().flatten().filter(|endpoint| endpoint["selected"] == true);
    picked.map(|endpoint| endpoint["id"].as_str().expect("text").to_owned()).collect()
}

/// A route at a listener, to some versions of a service.
fn to(listener: &str, name: &str, path: &str, backend: &str, versions: &[&str]) -> DeclaredEntry {
    let backend = RouteBackend {
        service: Some(service(backend).to_wire()),
        weight: 1,
        versions: versions.iter().map(|version| (*version).to_owned()).collect(),
        ..RouteBackend::default()
    };
    let rule = RouteRule { matches: vec![prefix(path)], backends: vec![backend], ..RouteRule::default() };
    let attachments = vec![Attachment { listener: listener.to_owned(), hostnames: Vec::new() }];
    route_entry(name, RuleRoute { attachments, rules: vec![rule], ..RuleRoute::default() })
}

fn shop() -> (Scene, Arc<Table>) {
    let mut scene = Scene::new();
    let table = scene.change(Change {
        services: vec![service("s")],
        instances: vec![instance("s", "a", "v1", &[]), instance("s", "b", "v2", &[])],
        declared: vec![
            to("listener/default/waypost/http", "shop", "/shop", "s", &["v1"]),
            simple("old", "", prefix("/old"), "s"),
        ],
        ..Change::default()
    });
    (scene, table)
}

#[test]
fn it_answers_as_if_it_were_applied_and_what_is_served_stays() {
    let (mut scene, table) = shop();
    let ask = |table: &Table| {
        [(0, "/shop/1"), (0, "/old"), (8443, "/x")].map(|(port, path)| explained(table, port, path))
    };
    let before = ask(&table);
    let external = instance("partner", "p", "", &[]);
    let declared = vec![
        to("listener/default/waypost/http", "shop", "/shop", "s", &["v2"]),
        listener_entry("tls", 8443, ""),
        to("listener/default/gw/tls", "partner", "/", "partner", &[]),
    ];
    let preview = Preview {
        revision: 1,
        declared: declared.clone(),
        services: vec![service("partner").to_wire()],
        instances: vec![external.to_wire()],
        removals: Some(Removals {
            declared: vec!["httproute/default/old".to_owned()],
            ..Removals::default()
        }),
        withheld: Vec::new(),
    };
    let previewed = ask(&table.with(&preview).expect("it is good"));
    assert_eq!(selected(&before[0]), ["a"]);
    assert_eq!(selected(&previewed[0]), ["b"], "another subset of the service");
    assert_eq!(previewed[1]["outcome"]["kind"], "no_route", "it is gone");
    assert_eq!(selected(&previewed[2]), ["p"], "an external service, at a listener that is new");
    assert_eq!(ask(&table), before);
    assert_eq!(ask(&scene.shared().load().expect("a table")), before);

    // The same, applied in earnest, comes to the same.
    let applied = scene.change(Change {
        services: vec![service("partner")],
        instances: vec![external],
        declared,
        removed_declared: vec!["httproute/default/old".into()],
        ..Change::default()
    });
    assert_eq!(ask(&applied), previewed);
}

#[test]
fn an_external_service_that_is_gone_is_not_known() {
    let mut scene = Scene::new();
    let gone = instance("s", "a", "", &[]);
    let table = scene.change(Change {
        services: vec![service("s")],
        instances: vec![gone.clone(), instance("s", "b", "", &[])],
        declared: vec![simple("r", "", prefix("/"), "s")],
        ..Change::default()
    });
    let removals = Removals { instances: vec![gone.key.to_wire()], ..Removals::default() };
    let preview = Preview { removals: Some(removals.clone()), ..Preview::default() };
    assert_eq!(selected(&explained(&table.with(&preview).expect("it is good"), 0, "/")), ["b"]);
    let removals = Removals { services: vec![service("s").to_wire()], ..removals };
    let preview = Preview { removals: Some(removals), ..Preview::default() };
    let explanation = explained(&table.with(&preview).expect("it is good"), 0, "/");
    assert_eq!(explanation["outcome"]["backends"][0]["problem"], json!("service \"s\" is not known: 500"));
    assert_eq!(selected(&explained(&table, 0, "/")), ["a", "b"]);
}

#[test]
fn what_this_proxy_could_not_serve_by_is_refused_by_name() {
    let (_, table) = shop();
    let wrong = RuleMatch { path_kind: RulePath::Regex.into(), path: "(".to_owned(), ..RuleMatch::default() };
    let of = |declared| Preview { declared: vec![declared], ..Preview::default() };
    let nothing = DeclaredEntry { id: "udproute/default/a".to_owned(), kind: None };
    let unnamed = v1::InstanceEntry { address: "10.0.0.1:1".to_owned(), ..v1::InstanceEntry::default() };
    for (preview, says) in [
        (of(simple("wrong", "", wrong, "s")), "httproute/default/wrong"),
        (of(listener_entry("far", 70_000, "")), "70000"),
        (of(nothing), "udproute/default/a"),
        (Preview { instances: vec![unnamed], ..Preview::default() }, "must"),
    ] {
        let refused = table.with(&preview).expect_err(says).to_string();
        assert!(refused.contains(says), "{refused}");
    }
}
