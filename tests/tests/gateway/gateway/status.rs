//! What a Gateway's status says.

use serde_json::Value;
use waypost_tests::{
    gateway::{Scene, gateway, http_route, listener_port},
    http::get,
};

use crate::{
    case::{Case, case},
    certificates::Authority,
};

pub(super) const CASES: &[Case] = &[
    case!(Core "GatewayStatus" "a Gateway that is served is Accepted and Programmed, and so are its listeners" good),
    case!(Core "GatewayWithAttachedRoutes" "`attachedRoutes` counts the routes that attached successfully" attached),
    case!(Core "GatewaySupportedKinds" "`supportedKinds` are the kinds that may attach" supported_kinds),
    case!(Core "GatewayInvalidRouteKind"
        "a kind that is not known is refused" invalid_kind),
    case!(Core "GatewayConflictedListeners"
        "two listeners of one Gateway with one port and hostname are refused" hostname_conflict),
    case!(Core "GatewayConflictedListeners"
        "HTTP beside HTTPS at one port is refused" protocol_conflict),
    case!(Core "GatewayStatus" "`addresses` are where the Gateway can be reached" addresses),
    case!(Core "GatewayObservedGenerationBump" "conditions carry the generation that they speak of" generation),
    case!(Core "GatewayClass" "a Gateway of another class is refused" other_class),
];

const EDGE: (&str, &str, &str) = ("Gateway", "default", "edge");

async fn listener(scene: &Scene, more: &str) -> u16 {
    let port = listener_port();
    scene.apply(&gateway("edge", &format!("- {{name: http, port: {port}, protocol: HTTP{more}}}"))).await;
    port
}

async fn good(scene: &Scene) {
    listener(scene, "").await;
    for at in ["", "/listeners/0"] {
        scene.condition(EDGE, at, ("Accepted", "True", "Accepted")).await;
        scene.condition(EDGE, at, ("Programmed", "True", "Programmed")).await;
    }
    scene.condition(EDGE, "/listeners/0", ("ResolvedRefs", "True", "ResolvedRefs")).await;
    scene.condition(EDGE, "/listeners/0", ("Conflicted", "False", "NoConflicts")).await;
}

async fn attached(scene: &Scene) {
    listener(scene, ", hostname: '*.example.com'").await;
    let count = async || {
        let status = scene.status("Gateway", "default", "edge").await;
        status.pointer("/listeners/0/attachedRoutes").and_then(Value::as_u64).expect("a number")
    };
    assert_eq!(count().await, 0);
    let route = |name: &str, host: &str| {
        http_route(
            name,
            &format!(
                "parentRefs: [{{name: edge}}]\nhostnames: [{host}]\nrules: [{{backendRefs: [{{name: one}}]}}]"
            ),
        )
    };
    scene
        .apply(
            &(route("a", "a.example.com")
                + &route("b", "b.example.com")
                + &route("c", "c.net, c.example.com")),
        )
        .await;
    assert_eq!(count().await, 3);
    scene.delete("HTTPRoute", "default", "a").await;
    assert_eq!(count().await, 2);
}

async fn supported_kinds(scene: &Scene) {
    listener(scene, "").await;
    let status = scene.status("Gateway", "default", "edge").await;
    let kinds = status.pointer("/listeners/0/supportedKinds").and_then(Value::as_array).expect("a list");
    let mut kinds: Vec<&str> = kinds.iter().filter_map(|kind| kind["kind"].as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["GRPCRoute", "HTTPRoute"]);
}

async fn invalid_kind(scene: &Scene) {
    let kinds = "allowedRoutes: {kinds: [{kind: FishRoute}, {kind: HTTPRoute}]}";
    let listener = format!("- {{name: http, port: 8080, protocol: HTTP, {kinds}}}");
    let why = scene.refused(&gateway("edge", &listener)).await;
    assert!(why.contains("must be HTTPRoute or GRPCRoute"), "{why}");
}

async fn hostname_conflict(scene: &Scene) {
    let listeners = "- {name: a, port: 8080, protocol: HTTP, hostname: a.example}\n\
                     - {name: b, port: 8080, protocol: HTTP, hostname: a.example}";
    let why = scene.refused(&gateway("edge", listeners)).await;
    assert!(why.contains("listeners[1]: is the same as spec.listeners[0]"), "{why}");
}

async fn protocol_conflict(scene: &Scene) {
    let secret = Authority::new().sign(&["b.example"]).secret("default", "b");
    let listeners = "- {name: a, port: 8080, protocol: HTTP, hostname: a.example}\n\
                     - {name: b, port: 8080, protocol: HTTPS, hostname: b.example, tls: {certificateRefs: [{name: b}]}}";
    let why = scene.refused(&(secret + &gateway("edge", listeners))).await;
    assert!(why.contains("listeners[1].protocol"), "{why}");
}

async fn addresses(scene: &Scene) {
    let port = listener(scene, "").await;
    let route = "parentRefs: [{name: edge}]\nrules: [{backendRefs: [{name: one}]}]";
    scene.apply(&http_route("shop", route)).await;
    let status = scene.status("Gateway", "default", "edge").await;
    let address = status.pointer("/addresses/0").expect("an address");
    assert_eq!(address["type"], "IPAddress");
    let ip = address["value"].as_str().expect("text").parse().expect("an address");
    scene.connect(&waypost_tests::gateway::Ask::get("a.example", "/").port(port)).await;
    assert_eq!(get(std::net::SocketAddr::new(ip, port), "/").await.who(), "one");
}

async fn generation(scene: &Scene) {
    listener(scene, "").await;
    let observed = async || {
        let status = scene.status("Gateway", "default", "edge").await;
        ["/conditions/0/observedGeneration", "/listeners/0/conditions/0/observedGeneration"]
            .map(|at| status.pointer(at).and_then(Value::as_u64).expect("a number"))
    };
    let before = observed().await;
    listener(scene, ", hostname: a.example").await;
    assert_eq!(observed().await, before.map(|generation| generation + 1));
}

async fn other_class(scene: &Scene) {
    let other = gateway("edge", "- {name: http, port: 8080, protocol: HTTP}").replace("waypost", "envoy");
    let why = scene.refused(&other).await;
    assert!(why.contains("gatewayClassName"), "{why}");
}
