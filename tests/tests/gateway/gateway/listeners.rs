//! Ports, hostnames of listeners, and which routes may attach.

use std::time::Duration;

use tokio::net::TcpStream;
use waypost_tests::{
    gateway::{Ask, Scene, gateway, grpc_route, http_route, listener_port, resource},
    wait::{eventually, holds},
};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Core "GatewayListeners" "a Gateway's listeners take requests at their ports, as long as it is there" ports),
    case!(Core "GatewayListeners" "listeners of one port are told apart by hostname" hostnames),
    case!(Extended "GatewayHTTPListenerIsolation"
        "a request goes to the listener with the most specific hostname, and to no other one" isolation),
    case!(Core "GatewayListeners" "a listener at the proxy's own port takes its requests by hostname" own_port),
    case!(Core "GatewayAllowedRoutesNamespaces" "`from: Same`, the default, lets in routes of its own namespace" same),
    case!(Core "GatewayAllowedRoutesNamespaces" "`from: All` lets in routes of all namespaces" all),
    case!(Core "GatewayAllowedRoutesNamespaces"
        "`from: Selector` lets in routes of namespaces that the selector selects" selector),
    case!(Core "GatewayAllowedRoutesNamespaces" "`from: None` lets in no routes" none),
    case!(Core "GatewayAllowedRoutesKinds"
        "a listener takes only routes of its `kinds`: else NotAllowedByListeners" kinds),
    case!(Core "GatewayModifyListeners" "listeners can be added to a Gateway and removed from it" modified),
    case!(Implementation "GatewayListeners" "Gateways share ports: all stand on the same proxies" shared_port),
];

async fn who(scene: &Scene, port: u16, host: &str) -> String {
    scene.send(&Ask::get(host, "/").port(port)).await.who()
}

/// Waits until nobody listens at a port.
async fn closed(scene: &Scene, port: u16) {
    eventually("the port is closed", Duration::from_secs(10), async || {
        let connected = TcpStream::connect(scene.address(Some(port))).await;
        holds(connected.is_err(), || "connected".to_owned())
    })
    .await;
}

fn at_edge(name: &str, parent: &str, backend: &str) -> String {
    http_route(
        name,
        &format!("parentRefs: [{{name: edge{parent}}}]\nrules: [{{backendRefs: [{{name: {backend}}}]}}]"),
    )
}

async fn ports(scene: &Scene) {
    let (a, b) = (listener_port(), listener_port());
    let listeners =
        format!("- {{name: a, port: {a}, protocol: HTTP}}\n- {{name: b, port: {b}, protocol: HTTP}}");
    scene.apply(&(gateway("edge", &listeners) + &at_edge("shop", "", "one"))).await;
    assert_eq!([who(scene, a, "a.example").await, who(scene, b, "b.example").await], ["one", "one"]);
    scene.condition(("Gateway", "default", "edge"), "", ("Programmed", "True", "Programmed")).await;
    scene.clear().await;
    closed(scene, a).await;
    closed(scene, b).await;
}

async fn hostnames(scene: &Scene) {
    let port = listener_port();
    let listeners = format!(
        "- {{name: a, port: {port}, protocol: HTTP, hostname: a.example}}\n\
         - {{name: b, port: {port}, protocol: HTTP, hostname: b.example}}"
    );
    let routes = at_edge("a", ", sectionName: a", "one") + &at_edge("b", ", sectionName: b", "two");
    scene.apply(&(gateway("edge", &listeners) + &routes)).await;
    assert_eq!(who(scene, port, "a.example").await, "one");
    assert_eq!(who(scene, port, "b.example").await, "two");
    assert_eq!(who(scene, port, "c.example").await, "404 no_route");
}

async fn isolation(scene: &Scene) {
    let port = listener_port();
    let listener = |name: &str, hostname: &str| {
        format!("- {{name: {name}, port: {port}, protocol: HTTP, hostname: {hostname}}}\n")
    };
    let listeners = [
        format!("- {{name: empty, port: {port}, protocol: HTTP}}\n"),
        listener("wild", "'*.example.com'"),
        listener("longer", "'*.foo.example.com'"),
        listener("exact", "abc.foo.example.com"),
    ];
    let route = |name: &str| {
        http_route(
            name,
            &format!(
                "parentRefs: [{{name: edge, sectionName: {name}}}]\n\
                 rules: [{{matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: one}}]}}]"
            ),
        )
    };
    let names = ["empty", "wild", "longer", "exact"];
    scene.apply(&(gateway("edge", &listeners.concat()) + &names.map(route).concat())).await;
    for (host, listener) in [
        ("bar.com", "empty"),
        ("example.com", "empty"),
        ("bar.example.com", "wild"),
        ("bar.foo.example.com", "longer"),
        ("abc.foo.example.com", "exact"),
    ] {
        for name in names {
            let answer = scene.send(&Ask::get(host, &format!("/{name}")).port(port)).await;
            let wanted = if name == listener { "one" } else { "404 no_route" };
            assert_eq!(answer.who(), wanted, "{host}/{name}");
        }
    }
}

async fn own_port(scene: &Scene) {
    let port = scene.own_port();
    let listeners = format!("- {{name: http, port: {port}, protocol: HTTP, hostname: a.example}}");
    scene.apply(&(gateway("edge", &listeners) + &at_edge("shop", "", "one"))).await;
    assert_eq!(who(scene, port, "a.example").await, "one");
    assert_eq!(who(scene, port, "b.example").await, "404 no_route");
    let answer = scene.get("b.example", "/two/x", &[]).await;
    assert_eq!(answer.who(), "two", "the proxy's own listener still takes other hosts");
}

/// A Gateway that lets in routes of these namespaces, with a route of its own namespace and of another one.
async fn from(scene: &Scene, namespaces: &str) -> (u16, [bool; 2]) {
    let port = listener_port();
    let allowed = if namespaces.is_empty() {
        String::new()
    } else {
        format!(", allowedRoutes: {{namespaces: {{{namespaces}}}}}")
    };
    let listeners = format!("- {{name: http, port: {port}, protocol: HTTP{allowed}}}");
    let near = "parentRefs: [{name: edge}]\nhostnames: [near.example]\nrules: [{backendRefs: [{name: one}]}]";
    let far = "parentRefs: [{name: edge, namespace: default}]\nhostnames: [far.example]\n\
               rules: [{backendRefs: [{name: far}]}]";
    let routes = http_route("near", near) + &resource("HTTPRoute", "other", "far", far);
    scene.apply(&(gateway("edge", &listeners) + &routes)).await;
    let near = who(scene, port, "near.example").await == "one";
    let far = who(scene, port, "far.example").await == "far";
    (port, [near, far])
}

const FAR: (&str, &str, &str) = ("HTTPRoute", "other", "far");

async fn same(scene: &Scene) {
    let (_, [near, far]) = from(scene, "").await;
    assert!(near && !far, "{near} {far}");
    scene.condition(FAR, "/parents/0", ("Accepted", "False", "NotAllowedByListeners")).await;
}

async fn all(scene: &Scene) {
    let (_, taken) = from(scene, "from: All").await;
    assert_eq!(taken, [true, true]);
    scene.condition(FAR, "/parents/0", ("Accepted", "True", "Accepted")).await;
}

async fn selector(scene: &Scene) {
    let selector = "from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: other}}";
    let (_, taken) = from(scene, selector).await;
    assert_eq!(taken, [false, true]);
    let near = ("HTTPRoute", "default", "near");
    scene.condition(near, "/parents/0", ("Accepted", "False", "NotAllowedByListeners")).await;
}

async fn none(scene: &Scene) {
    let (_, taken) = from(scene, "from: None").await;
    assert_eq!(taken, [false, false]);
    for route in [FAR, ("HTTPRoute", "default", "near")] {
        scene.condition(route, "/parents/0", ("Accepted", "False", "NotAllowedByListeners")).await;
    }
}

async fn kinds(scene: &Scene) {
    let port = listener_port();
    let listeners = format!(
        "- {{name: http, port: {port}, protocol: HTTP, allowedRoutes: {{kinds: [{{kind: GRPCRoute}}]}}}}"
    );
    let calls = grpc_route("calls", "parentRefs: [{name: edge}]\nrules: [{backendRefs: [{name: calls}]}]");
    scene.apply(&(gateway("edge", &listeners) + &at_edge("shop", "", "one") + &calls)).await;
    let shop = ("HTTPRoute", "default", "shop");
    scene.condition(shop, "/parents/0", ("Accepted", "False", "NotAllowedByListeners")).await;
    let calls = ("GRPCRoute", "default", "calls");
    scene.condition(calls, "/parents/0", ("Accepted", "True", "Accepted")).await;
    assert_eq!(scene.send(&Ask::call("a.example", "/a.B/C").port(port)).await.who(), "calls");
}

async fn modified(scene: &Scene) {
    let (a, b) = (listener_port(), listener_port());
    let listener = |name: &str, port: u16| format!("- {{name: {name}, port: {port}, protocol: HTTP}}\n");
    scene.apply(&(gateway("edge", &listener("a", a)) + &at_edge("shop", "", "one"))).await;
    assert_eq!(who(scene, a, "a.example").await, "one");
    scene.apply(&gateway("edge", &(listener("a", a) + &listener("b", b)))).await;
    assert_eq!(who(scene, b, "a.example").await, "one");
    scene.apply(&gateway("edge", &listener("b", b))).await;
    assert_eq!(who(scene, b, "a.example").await, "one");
    closed(scene, a).await;
}

async fn shared_port(scene: &Scene) {
    let port = listener_port();
    let listener = |host: &str| format!("- {{name: http, port: {port}, protocol: HTTP, hostname: {host}}}");
    let gateways = gateway("edge", &listener("a.example")) + &gateway("inner", &listener("b.example"));
    let inner = http_route("inner", "parentRefs: [{name: inner}]\nrules: [{backendRefs: [{name: two}]}]");
    scene.apply(&(gateways + &at_edge("shop", "", "one") + &inner)).await;
    assert_eq!(who(scene, port, "a.example").await, "one");
    assert_eq!(who(scene, port, "b.example").await, "two");
}
