//! ReferenceGrant: who may refer across namespaces, and to what.

use std::time::Duration;

use waypost_tests::{
    gateway::{Ask, Scene, grpc_route, http_route, resource},
    wait::{eventually, holds},
};

use crate::case::{Case, case};

/// All cases of ReferenceGrant.
pub(super) const CASES: &[&[Case]] = &[&[
    case!(Core "ReferenceGrant" "a grant is for the kinds, namespaces and names that it lists, and no others" exact),
    case!(Core "ReferenceGrant" "a grant without a name is for all of its kind" any_name),
    case!(Core "ReferenceGrant" "a GRPCRoute needs a grant of its own" grpc),
    case!(Core "ReferenceGrant" "a mirror in another namespace needs a grant, too" mirror),
    case!(Core "ReferenceGrant" "a grant can be changed, but not so that a reference is without it" narrowed),
]];

/// A grant in the namespace of the service `far`.
fn grant(from: &str, to: &str) -> String {
    resource("ReferenceGrant", "other", "grant", &format!("from: [{from}]\nto: [{to}]"))
}

const ROUTES: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}";
const FAR: &str = "{group: '', kind: Service, name: far}";

fn shop() -> String {
    http_route("shop", "rules: [{backendRefs: [{name: far, namespace: other}]}]")
}

async fn exact(scene: &Scene) {
    for (from, to) in [
        (ROUTES, "{group: '', kind: Service, name: near}"),
        (ROUTES, "{group: '', kind: Secret}"),
        ("{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: default}", FAR),
        ("{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: third}", FAR),
    ] {
        let why = scene.refused(&(shop() + &grant(from, to))).await;
        assert!(why.contains("has no ReferenceGrant"), "{from} {to}: {why}");
    }
    // A grant elsewhere says nothing of this namespace.
    let elsewhere = grant(ROUTES, FAR).replace("namespace: other}", "namespace: third}");
    let why = scene.refused(&(shop() + &elsewhere)).await;
    assert!(why.contains("has no ReferenceGrant"), "{why}");
    scene.apply(&(shop() + &grant(ROUTES, FAR))).await;
    assert_eq!(scene.who("a.example", "/").await, "far");
}

async fn any_name(scene: &Scene) {
    scene.apply(&(shop() + &grant(ROUTES, "{group: '', kind: Service}"))).await;
    assert_eq!(scene.who("a.example", "/").await, "far");
}

async fn grpc(scene: &Scene) {
    let route = grpc_route("calls", "rules: [{backendRefs: [{name: far, namespace: other}]}]");
    let why = scene.refused(&(route.clone() + &grant(ROUTES, FAR))).await;
    assert!(why.contains("has no ReferenceGrant that lets GRPCRoutes"), "{why}");
    scene.apply(&(route + &grant(&ROUTES.replace("HTTPRoute", "GRPCRoute"), FAR))).await;
    let calls = ("GRPCRoute", "default", "calls");
    scene.condition(calls, "/parents/0", ("ResolvedRefs", "True", "ResolvedRefs")).await;
}

async fn mirror(scene: &Scene) {
    let filter = "{type: RequestMirror, requestMirror: {backendRef: {name: far, namespace: other}}}";
    let route =
        http_route("shop", &format!("rules: [{{filters: [{filter}], backendRefs: [{{name: one}}]}}]"));
    let why = scene.refused(&route).await;
    assert!(why.contains("requestMirror.backendRef.namespace"), "{why}");
    scene.apply(&(route + &grant(ROUTES, FAR))).await;
    let ask = Ask::get("a.example", "/").header("x-remember", "granted");
    assert_eq!(scene.send(&ask).await.who(), "one");
    eventually("the copy arrives", Duration::from_secs(5), async || {
        let copies = scene.service("far").remembered("granted").len();
        holds(copies == 1, || copies.to_string())
    })
    .await;
}

async fn narrowed(scene: &Scene) {
    scene.apply(&(shop() + &grant(ROUTES, "{group: '', kind: Service}"))).await;
    let why = scene.refused(&grant(ROUTES, "{group: '', kind: Service, name: near}")).await;
    assert!(why.contains("has no ReferenceGrant") || why.contains("is needed by"), "{why}");
    scene.apply(&grant(ROUTES, FAR)).await;
    assert_eq!(scene.who("a.example", "/").await, "far");
}
