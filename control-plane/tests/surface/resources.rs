//! `waypost.v1.Resources` over a socket: what is declared comes to proxies, all of it or nothing.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tonic::Code;
use waypost_control_plane::{
    server::Options,
    store::{self, StoreOptions},
};
use waypost_proto::{
    name::ServiceKey,
    time::wire_duration,
    v1::{self, ApplyOutcome, declared_entry::Kind, subscribe_request},
};

use crate::harness::{PATIENCE, Plane, Proxy, eventually, fields};

mod change;
mod http;
mod secret;

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: waypost
  listeners:
  - {name: web, port: 8443, protocol: HTTP, hostname: '*.example.com'}
";

/// A route to `users` at the Gateway, for a path.
fn route(name: &str, path: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [shop.example.com]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs: [{{name: users, port: 80}}]
"
    )
}

fn shop() -> String {
    format!("{GATEWAY}---{}", route("shop", "/shop"))
}

fn external(name: &str, address: &str) -> String {
    format!(
        "
apiVersion: waypost.dev/v1
kind: ExternalService
metadata: {{name: {name}}}
spec: {{addresses: ['{address}'], protocol: http1}}
"
    )
}

fn key(kind: &str, name: &str) -> v1::ResourceKey {
    v1::ResourceKey { kind: kind.into(), namespace: String::new(), name: name.into() }
}

fn outcomes(answer: &v1::ApplyResponse) -> Vec<(ApplyOutcome, u64)> {
    answer.resources.iter().map(|resource| (resource.outcome(), resource.generation)).collect()
}

async fn list(plane: &Plane, kind: &str, name: &str) -> Vec<v1::Resource> {
    let request = v1::ListResourcesRequest { kind: kind.into(), name: name.into(), ..Default::default() };
    plane.resources().list_resources(request).await.expect("a list").into_inner().resources
}

/// The conditions that hold, of the first parent or of the resource itself.
async fn holding(plane: &Plane, kind: &str, name: &str) -> Vec<String> {
    let listed = list(plane, kind, name).await;
    let status: Value = serde_json::from_str(&listed[0].status).expect("JSON");
    let conditions = status.pointer("/parents/0/conditions").unwrap_or(&status["conditions"]).clone();
    let holds = |condition: &&Value| condition["status"] == "True";
    let conditions = conditions.as_array().expect("conditions").iter().filter(holds);
    conditions.map(|condition| condition["type"].as_str().expect("a type").to_owned()).collect()
}

fn entries(proxy: &Proxy) -> Vec<String> {
    let held = proxy.held.as_ref().expect("it holds something");
    let mut ids: Vec<String> = held.declared().map(|entry| entry.id.clone()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn what_is_declared_comes_to_proxies_and_says_how_it_stands() {
    let plane = Plane::start().await;
    let registered = plane.register("users", 9001).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(registered.revision).await;
    let answer = plane.apply(&shop()).await.expect("good documents");
    assert_eq!(outcomes(&answer), [(ApplyOutcome::Created, 1); 2]);
    assert!(answer.resources[0].before.is_empty() && answer.resources[0].after.contains("\"edge\""));
    assert_eq!(holding(&plane, "HTTPRoute", "shop").await, ["Accepted", "ResolvedRefs"]);
    proxy.reach(answer.revision).await;
    assert_eq!(entries(&proxy), ["httproute/default/shop", "listener/default/edge/web"]);
    eventually("the report", || async {
        holding(&plane, "httproutes", "shop").await == ["Accepted", "ResolvedRefs", "Programmed"]
    })
    .await;
    assert_eq!(holding(&plane, "gw", "edge").await, ["Accepted", "Programmed"]);

    let again = plane.apply(&shop()).await.expect("the same again");
    assert_eq!(outcomes(&again), [(ApplyOutcome::Unchanged, 1); 2]);
    assert_eq!((again.revision, plane.status().await.revision), (answer.revision, answer.revision));
    let listed = list(&plane, "", "").await;
    let named: Vec<String> = listed.iter().map(|one| one.key.clone().expect("a key").kind).collect();
    assert_eq!(named, ["Gateway", "HTTPRoute"]);
    assert_eq!((listed[1].actor.as_str(), listed[1].generation), ("ada", 1));
    assert_eq!(listed[1].revision, answer.revision);
}

#[tokio::test]
async fn a_condition_follows_the_services_that_come_and_go() {
    let plane = Plane::start().await;
    plane.apply(&shop()).await.expect("a service may come later");
    assert_eq!(holding(&plane, "HTTPRoute", "shop").await, ["Accepted"]);
    plane.register("users", 9001).await;
    assert_eq!(holding(&plane, "HTTPRoute", "shop").await, ["Accepted", "ResolvedRefs"]);
}

#[tokio::test]
async fn a_service_that_is_not_registered_is_warned_about_and_taken() {
    let plane = Plane::start().await;
    plane.register("users", 9001).await;
    let warnings = async |text: &str| -> Vec<String> {
        let answer = plane.apply(text).await.expect("a service may come later");
        let one = |found: &v1::ResourceFinding| {
            format!(
                "{}:{}: {}: {}; {}",
                found.line, found.column, found.field, found.reason, found.suggestion
            )
        };
        answer.warnings.iter().map(one).collect()
    };
    assert_eq!(warnings(&shop()).await, [""; 0]);
    let slip = route("shop", "/shop").replace("name: users,", "name: uesrs,");
    let until = "is registered now: no request reaches it until one is";
    assert_eq!(
        warnings(&slip).await,
        [format!(
            "10:20: spec.rules[0].backendRefs[0].name: \"uesrs\" is no service of namespace default that {until}; did you \
             mean \"users\"?"
        )]
    );
    let other = route("shop", "/shop").replace("name: users,", "name: orders,");
    let hint = "`waypost services` lists those there are";
    assert!(warnings(&other).await[0].ends_with(&format!("{until}; {hint}")));
    // A mirror's is looked at, too; an ExternalService of this name is a service.
    let mirror =
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: partner}}}]\n    backendRefs";
    let mirrored = route("shop", "/shop").replace("backendRefs", mirror);
    let found = warnings(&mirrored).await;
    assert!(found[0].contains("filters[0].requestMirror.backendRef.name: \"partner\""), "{found:?}");
    assert_eq!(warnings(&format!("{mirrored}---{}", external("partner", "10.0.0.1:80"))).await, [""; 0]);
    let policy = "
apiVersion: waypost.dev/v1
kind: BackendTrafficPolicy
metadata: {name: users}
spec: {targetRefs: [{group: '', kind: Service, name: user}], timeouts: {request: 1s}}
";
    let found = warnings(policy).await;
    assert!(
        found[0].contains("spec.targetRefs[0].name: \"user\"") && found[0].contains("\"users\"?"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_wrong_document_leaves_everything_as_it_was() {
    let plane = Plane::start().await;
    let before = plane.apply(&shop()).await.expect("good documents").revision;
    let wrong = format!("{}---{GATEWAY}", route("new", "/new").replace("port: 80", "port: 80000"));
    let refused = plane.apply(&wrong).await.expect_err("no such port");
    let named = fields(&refused);
    assert!(named[0].starts_with("test.yaml:10:") && named[0].contains("HTTPRoute default/new"), "{named:?}");
    assert!(named[0].ends_with("spec.rules[0].backendRefs[0].port"), "{named:?}");
    // Each by itself is good; together they are not.
    let stray = route("stray", "/x").replace("name: edge", "name: egde");
    let refused =
        plane.apply(&format!("{}---{stray}", route("new", "/new"))).await.expect_err("no such Gateway");
    let named = fields(&refused);
    assert!(
        named.len() == 1 && named[0].contains("HTTPRoute default/stray: spec.parentRefs[0]"),
        "{named:?}"
    );
    assert!(refused.message().contains("edge"), "{refused}");
    // What others need is not taken from them.
    let moved = GATEWAY.replace("*.example.com", "*.example.org");
    let refused = plane.apply(&moved).await.expect_err("the route has no listener then");
    assert!(refused.message().contains("HTTPRoute default/shop"), "{refused}");
    for (text, field) in [("", "documents"), ("kind: [", "")] {
        let refused = fields(&plane.apply(text).await.expect_err(text));
        assert!(refused[0].contains(field), "{refused:?}");
    }
    assert_eq!(plane.status().await.revision, before);
    assert_eq!(list(&plane, "", "").await.len(), 2);
}

#[tokio::test]
async fn a_manifest_that_no_store_has_room_for_is_refused() {
    let plane = Plane::start().await;
    let large = "x".repeat(store::LARGEST_MANIFEST);
    let text =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large}}\ndata: {{text: {large}}}\n");
    let refused = plane.apply(&text).await.expect_err("it is too large");
    assert!(refused.message().contains("98304"), "{}", refused.message());
    assert_eq!(fields(&refused).len(), 1);
}

#[tokio::test]
async fn an_update_of_one_among_many_compiles_that_alone() {
    let plane = Plane::start().await;
    let mut all = GATEWAY.to_owned();
    for number in 0..50 {
        all += &format!("---{}", route(&format!("route-{number}"), &format!("/{number}")));
    }
    let first = plane.apply(&all).await.expect("good documents");
    let compiled = || plane.server.plane.registry.view().gateway().compiled();
    let before = compiled();
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(first.revision).await;
    assert_eq!(entries(&proxy).len(), 51);
    let changed = plane.apply(&route("route-7", "/seven")).await.expect("a good document");
    assert_eq!(outcomes(&changed), [(ApplyOutcome::Configured, 2)]);
    assert_eq!(compiled(), before + 1);
    proxy.reach(changed.revision).await;
    assert_eq!(proxy.deltas, 1);
    let held = proxy.held.as_ref().and_then(|held| held.declared_entry("httproute/default/route-7"));
    let Some(Kind::Route(entry)) = held.and_then(|entry| entry.kind.clone()) else { panic!("no route") };
    assert_eq!(entry.rules[0].matches[0].path, "/seven");
    // Instances come and go without any of it.
    plane.register("users", 9001).await;
    assert_eq!(compiled(), before + 1);
    let metrics = plane.get("/metrics").await.2;
    for line in ["waypost_resources{kind=\"HTTPRoute\"} 50", "waypost_resources{kind=\"Secret\"} 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let line = format!("waypost_resources_compiled_total {}", before + 1);
    assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
}

#[tokio::test]
async fn an_external_service_is_known_until_one_registers_by_its_name() {
    let plane = Plane::start().await;
    let declared = plane.apply(&external("legacy", "10.0.0.1:80")).await.expect("a good document");
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(declared.revision).await;
    let addresses = |proxy: &Proxy| -> Vec<String> {
        let held = proxy.held.as_ref().expect("it holds something");
        held.instances().map(|instance| instance.address.to_string()).collect()
    };
    assert_eq!(addresses(&proxy), ["10.0.0.1:80"]);
    let moved = plane.apply(&external("legacy", "10.0.0.2:80")).await.expect("a good document");
    proxy.reach(moved.revision).await;
    assert_eq!(addresses(&proxy), ["10.0.0.2:80"]);
    let registered = plane.register("legacy", 9001).await;
    proxy.reach(registered.revision).await;
    assert_eq!(addresses(&proxy), ["127.0.0.1:9001"]);
    assert!(holding(&plane, "ExternalService", "legacy").await.is_empty(), "it waits");
    let again = plane.apply(&external("legacy", "10.0.0.2:80")).await.expect("nothing changes");
    assert_eq!(again.warnings.len(), 1, "{again:?}");
    plane.register("users", 9002).await;
    let refused = plane.apply(&external("users", "10.0.0.3:80")).await.expect_err("the name is taken");
    assert!(fields(&refused)[0].ends_with("metadata.name"), "{refused}");
    let service: ServiceKey = "users".parse().expect("a name");
    assert!(plane.server.plane.registry.view().gateway().external(&service).is_none());
}

#[tokio::test]
async fn a_gateways_addresses_are_never_those_that_mean_any() {
    let plane = Plane::start().await;
    plane.apply(GATEWAY).await.expect("a good document");
    let addresses = async || -> Value {
        let listed = list(&plane, "Gateway", "edge").await;
        serde_json::from_str::<Value>(&listed[0].status).expect("JSON")["addresses"].clone()
    };
    assert_eq!(addresses().await, serde_json::json!([]));
    let mut proxies = Vec::new();
    for listen_address in ["0.0.0.0:8080", "[::]:8080", "10.1.2.3:8080"] {
        let (proxy_id, listen_address) = (listen_address.to_owned(), listen_address.to_owned());
        let hello = v1::Hello { proxy_id, listen_address, ..Default::default() };
        let mut proxy = Proxy::open(&plane, subscribe_request::Kind::Hello(hello)).await;
        proxy.next().await.expect("everything");
        proxies.push(proxy);
    }
    let address = |value: &str| serde_json::json!({ "type": "IPAddress", "value": value });
    assert_eq!(addresses().await, serde_json::json!([address("10.1.2.3"), address("127.0.0.1")]));
}

#[tokio::test]
async fn a_restart_keeps_all_that_is_declared() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = StoreOptions { data_dir: Some(directory.path().to_owned()), ..StoreOptions::default() };
    let open = async || {
        let store = store::open("memory://", &options).await.expect("it opens");
        Plane::start_over(store, Options::default()).await
    };
    let plane = open().await;
    plane.apply(&shop()).await.expect("good documents");
    plane.apply(&route("shop", "/store")).await.expect("a good document");
    plane.apply(&external("legacy", "10.0.0.1:80")).await.expect("a good document");
    let listed = list(&plane, "", "").await;
    let digest = plane.server.plane.registry.feed().0.digest();
    plane.server.stop(Duration::from_secs(5)).await;
    let plane = open().await;
    let manifests = |listed: &[v1::Resource]| -> Vec<(String, u64, u64)> {
        let one = |one: &v1::Resource| (one.manifest.clone(), one.generation, one.revision);
        listed.iter().map(one).collect()
    };
    assert_eq!(manifests(&list(&plane, "", "").await), manifests(&listed));
    assert_eq!(plane.server.plane.registry.feed().0.digest(), digest, "proxies get the same");
    let request = v1::GetHistoryRequest { key: Some(key("HTTPRoute", "shop")) };
    let past = plane.resources().get_history(request).await.expect("a past").into_inner().generations;
    assert_eq!(past.len(), 2);
}

#[tokio::test]
async fn a_replica_knows_what_another_one_was_told_and_waits_for_its_proxies() {
    let store = Arc::new(store::Memory::new());
    let (one, other) = (Plane::replica(&store, "one").await, Plane::replica(&store, "other").await);
    eventually("they know each other", || async { one.status().await.replicas.len() == 2 }).await;
    let mut proxy = Proxy::connect(&other, "there", None).await;
    proxy.next().await.expect("everything");
    proxy.applied(Vec::new()).await;
    let document = v1::Document { source: String::new(), text: shop() };
    let request = v1::ApplyRequest {
        documents: vec![document],
        wait: Some(wire_duration(PATIENCE)),
        ..Default::default()
    };
    let mut resources = one.resources();
    let applying = tokio::spawn(async move { resources.apply(request).await });
    while proxy.held.as_ref().is_none_or(|held| held.declared().len() != 2) {
        proxy.next().await.expect("the stream goes on");
    }
    assert!(!applying.is_finished(), "the proxy has not said that it serves by it");
    proxy.applied(Vec::new()).await;
    let answer = applying.await.expect("no panic").expect("it is declared").into_inner();
    assert!(answer.waiting_for.is_empty(), "{answer:?}");
    assert_eq!(list(&other, "", "").await.len(), 2);
    let gateway = list(&one, "Gateway", "edge").await;
    assert!(gateway[0].status.contains("\"Programmed\""), "{}", gateway[0].status);
}
