//! Hostnames of routes, and what they have in common with those of listeners.

use waypost_tests::gateway::{Ask, Scene, gateway, http_route, listener_port};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Core "HTTPRouteHostnames"
        "a route with hostnames takes requests whose Host is one of them, whatever its case and port" exact),
    case!(Core "HTTPRouteHostnames"
        "`*.example.com` matches test.example.com and foo.test.example.com, but not example.com" wildcard),
    case!(Core "HTTPRouteHostnames"
        "of several routes the one with the most characters in a matching non-wildcard hostname wins, then in a \
         wildcard hostname, then one without" precedence),
    case!(Implementation "HTTPRouteHostnames"
        "a request that no rule at the most specific hostname matches goes on to less specific ones" falls_through),
    case!(Core "HTTPRouteHostnameIntersection"
        "hostnames that do not match the listener's are ignored: only those in common take requests" intersection),
    case!(Core "HTTPRouteHostnameIntersection"
        "a listener's `test.example.com` and a route's `*.example.com` have test.example.com in common" narrowed),
    case!(Core "HTTPRouteHostnameIntersection"
        "a route without a hostname in common with the listener is refused" disjoint),
];

async fn exact(scene: &Scene) {
    let spec = "hostnames: [shop.example.com, cart.example.com]\nrules: [{backendRefs: [{name: one}]}]";
    scene.apply(&http_route("shop", spec)).await;
    for host in ["shop.example.com", "cart.example.com", "SHOP.example.COM", "shop.example.com:8080"] {
        assert_eq!(scene.who(host, "/").await, "one", "{host}");
    }
    for host in ["other.example.com", "example.com", "a.shop.example.com", "shop.example.comm"] {
        assert_eq!(scene.who(host, "/").await, "404 no_route", "{host}");
    }
}

async fn wildcard(scene: &Scene) {
    let spec = "hostnames: ['*.example.com']\nrules: [{backendRefs: [{name: one}]}]";
    scene.apply(&http_route("shop", spec)).await;
    for host in ["test.example.com", "foo.test.example.com", "TEST.example.com:80"] {
        assert_eq!(scene.who(host, "/").await, "one", "{host}");
    }
    for host in ["example.com", "testexample.com", "test.example.com.evil.net"] {
        assert_eq!(scene.who(host, "/").await, "404 no_route", "{host}");
    }
}

async fn precedence(scene: &Scene) {
    scene.apply(&http_route("none", "rules: [{backendRefs: [{name: one}]}]")).await;
    let routes = [
        http_route("wild", "hostnames: ['*.example.com']\nrules: [{backendRefs: [{name: two}]}]"),
        http_route("longer", "hostnames: ['*.test.example.com']\nrules: [{backendRefs: [{name: three}]}]"),
        http_route("exact", "hostnames: [a.test.example.com]\nrules: [{backendRefs: [{name: far-away}]}]"),
    ];
    scene.apply(&routes.concat()).await;
    assert_eq!(scene.who("other.net", "/").await, "one");
    assert_eq!(scene.who("a.example.com", "/").await, "two");
    assert_eq!(scene.who("b.test.example.com", "/").await, "three");
    assert_eq!(scene.who("a.test.example.com", "/").await, "500 no_such_backend", "the exact one's backend");
}

async fn falls_through(scene: &Scene) {
    let routes = [
        http_route("all", "rules: [{backendRefs: [{name: one}]}]"),
        http_route(
            "wild",
            "hostnames: ['*.example.com']\nrules: [{backendRefs: [{name: two}], matches: [{path: {value: /w}}]}]",
        ),
        http_route(
            "exact",
            "hostnames: [a.example.com]\nrules: [{backendRefs: [{name: three}], matches: [{path: {value: /e}}]}]",
        ),
    ];
    scene.apply(&routes.concat()).await;
    assert_eq!(scene.who("a.example.com", "/e").await, "three");
    assert_eq!(scene.who("a.example.com", "/w").await, "two");
    assert_eq!(scene.who("a.example.com", "/").await, "one");
}

/// Declares a Gateway with one listener for `listener`, and a route for `hosts` at it.
async fn at(scene: &Scene, listener: &str, hosts: &str) -> u16 {
    let port = listener_port();
    let listeners = format!("- {{name: http, port: {port}, protocol: HTTP, hostname: '{listener}'}}");
    let route = format!(
        "parentRefs: [{{name: edge}}]\nhostnames: [{hosts}]\nrules: [{{backendRefs: [{{name: one}}]}}]"
    );
    scene.apply(&(gateway("edge", &listeners) + &http_route("shop", &route))).await;
    port
}

async fn who(scene: &Scene, port: u16, host: &str) -> String {
    scene.send(&Ask::get(host, "/").port(port)).await.who()
}

async fn intersection(scene: &Scene) {
    let port = at(scene, "*.example.com", "test.example.com, foo.example.net").await;
    assert_eq!(who(scene, port, "test.example.com").await, "one");
    assert_eq!(who(scene, port, "foo.example.net").await, "404 no_route");
    assert_eq!(who(scene, port, "other.example.com").await, "404 no_route");
    scene.condition(("HTTPRoute", "default", "shop"), "/parents/0", ("Accepted", "True", "Accepted")).await;
}

async fn narrowed(scene: &Scene) {
    let port = at(scene, "test.example.com", "'*.example.com'").await;
    assert_eq!(who(scene, port, "test.example.com").await, "one");
    assert_eq!(who(scene, port, "other.example.com").await, "404 no_route");
}

async fn disjoint(scene: &Scene) {
    let listeners = "- {name: http, port: 8080, protocol: HTTP, hostname: '*.example.com'}";
    let route =
        "parentRefs: [{name: edge}]\nhostnames: [foo.example.net]\nrules: [{backendRefs: [{name: one}]}]";
    let why = scene.refused(&(gateway("edge", listeners) + &http_route("shop", route))).await;
    assert!(why.contains("spec.hostnames: have nothing in common with listener http"), "{why}");
}
