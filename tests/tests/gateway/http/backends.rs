//! Who answers: weights, and backends that cannot.

use std::collections::BTreeMap;

use waypost_tests::gateway::{Ask, Scene, http_route, resource};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Core "HTTPRouteWeight" "requests are shared in proportion to weights; a weight defaults to 1" weights),
    case!(Core "HTTPRouteWeight" "with weight 0 no traffic is forwarded to a backend" zero),
    case!(Core "HTTPRouteWeight" "a rule whose backends all have weight 0 answers 500" all_zero),
    case!(Core "HTTPRouteBackendRefs" "a rule without backends and without a redirect answers 500" none),
    case!(Core "HTTPRouteInvalidNonExistentBackendRef"
        "a backend that does not exist gets 500: ResolvedRefs is False, BackendNotFound" missing),
    case!(Core "HTTPRouteInvalidBackendRefUnknownKind"
        "a backend of an unknown kind is refused" unknown_kind),
    case!(Core "HTTPRouteBackendRefs"
        "an invalid backend's share of the requests gets 500, the others are answered" invalid_share),
    case!(Core "HTTPRouteBackendRefs" "a service that exists and has no instance to send to gets 503" no_instance),
    case!(Core "HTTPRouteBackendRefs" "a backend that appears is used without the route being declared again" appears),
    case!(Core "HTTPRouteInvalidCrossNamespaceBackendRef"
        "a backend of another namespace without a ReferenceGrant is refused" not_permitted),
    case!(Core "HTTPRouteReferenceGrant"
        "a ReferenceGrant in the backend's namespace permits the reference, and stays as long as it is needed" permitted),
    case!(Implementation "BackendRefSubset"
        "`versions` and `tags` choose instances of a service" subset),
    case!(Implementation "ExternalService"
        "a backend may be an ExternalService: addresses that nobody registers" external),
    case!(Implementation "ExternalService"
        "an address may be a DNS name with a port, which the proxy resolves" external_by_name),
];

/// Who answered how many of `count` requests over one connection.
async fn shares(scene: &Scene, path: &str, count: usize) -> BTreeMap<String, usize> {
    let ask = Ask::get("a.example", path);
    let mut connection = scene.connect(&ask).await;
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let answer = connection.send(&ask).await.expect("an answer");
        *shares.entry(answer.who()).or_default() += 1;
    }
    shares
}

async fn route(scene: &Scene, backends: &str) {
    scene.apply(&http_route("shop", &format!("rules: [{{backendRefs: [{backends}]}}]"))).await;
}

const SHOP: (&str, &str, &str) = ("HTTPRoute", "default", "shop");

async fn weights(scene: &Scene) {
    route(scene, "{name: one, weight: 8}, {name: two}, {name: three}").await;
    let shares = shares(scene, "/", 300).await;
    let share = |name: &str| shares.get(name).copied().unwrap_or(0);
    // Six standard deviations.
    assert!((200..=280).contains(&share("one")), "{shares:?}");
    assert!((1..=62).contains(&share("two")) && (1..=62).contains(&share("three")), "{shares:?}");
}

async fn zero(scene: &Scene) {
    route(scene, "{name: one, weight: 1}, {name: two, weight: 0}").await;
    assert_eq!(shares(scene, "/", 100).await, BTreeMap::from([("one".to_owned(), 100)]));
}

async fn all_zero(scene: &Scene) {
    route(scene, "{name: one, weight: 0}, {name: two, weight: 0}").await;
    let answer = scene.get("a.example", "/", &[]).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
}

async fn none(scene: &Scene) {
    scene.apply(&http_route("shop", "rules: [{matches: [{path: {value: /a}}]}]")).await;
    let answer = scene.get("a.example", "/a", &[]).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
}

async fn missing(scene: &Scene) {
    route(scene, "{name: nowhere}").await;
    let answer = scene.get("a.example", "/", &[]).await;
    assert_eq!(answer.who(), "500 no_such_backend");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    scene.condition(SHOP, "/parents/0", ("ResolvedRefs", "False", "BackendNotFound")).await;
    scene.condition(SHOP, "/parents/0", ("Accepted", "True", "Accepted")).await;
}

async fn unknown_kind(scene: &Scene) {
    let backend = "{group: example.com, kind: Bucket, name: one}";
    let why = scene.refused(&http_route("shop", &format!("rules: [{{backendRefs: [{backend}]}}]"))).await;
    assert!(why.contains("\"example.com/Bucket\" is no backend"), "{why}");
}

async fn invalid_share(scene: &Scene) {
    route(scene, "{name: one}, {name: nowhere}").await;
    let shares = shares(scene, "/", 100).await;
    assert_eq!(shares.len(), 2, "{shares:?}");
    assert!((20..=80).contains(&shares["one"]), "{shares:?}");
    assert_eq!(shares["one"] + shares["500 no_such_backend"], 100);
}

async fn no_instance(scene: &Scene) {
    let idle = scene.register("idle", "idle", |it| it.start_unhealthy()).await;
    route(scene, "{name: idle}").await;
    assert_eq!(scene.who("a.example", "/").await, "503 no_healthy_instance");
    drop(idle);
}

async fn appears(scene: &Scene) {
    route(scene, "{name: late}").await;
    assert_eq!(scene.who("a.example", "/").await, "500 no_such_backend");
    let late = scene.register("late", "late", |it| it).await;
    assert_eq!(scene.who("a.example", "/").await, "late");
    scene.condition(SHOP, "/parents/0", ("ResolvedRefs", "True", "ResolvedRefs")).await;
    drop(late);
}

async fn not_permitted(scene: &Scene) {
    let rules = "rules: [{backendRefs: [{name: far, namespace: other}]}]";
    let why = scene.refused(&http_route("shop", rules)).await;
    assert!(
        why.contains("\"other\" has no ReferenceGrant that lets HTTPRoutes of namespace default"),
        "{why}"
    );
}

async fn permitted(scene: &Scene) {
    let grant = resource(
        "ReferenceGrant",
        "other",
        "shops",
        "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]\n\
         to: [{group: '', kind: Service, name: far}]",
    );
    scene.apply(&grant).await;
    route(scene, "{name: far, namespace: other}").await;
    assert_eq!(scene.who("a.example", "/").await, "far");
    scene.condition(SHOP, "/parents/0", ("ResolvedRefs", "True", "ResolvedRefs")).await;
    let why = scene.keeps("ReferenceGrant", "other", "shops").await;
    assert!(why.contains("is needed by HTTPRoute default/shop"), "{why}");
    assert_eq!(scene.who("a.example", "/").await, "far");
}

async fn subset(scene: &Scene) {
    let old = scene.register("shades", "old", |it| it.version("1.0").tag("blue")).await;
    let new = scene.register("shades", "new", |it| it.version("2.0").tag("green")).await;
    let rules = "
- {matches: [{path: {value: /old}}], backendRefs: [{name: shades, versions: ['1.0']}]}
- {matches: [{path: {value: /green}}], backendRefs: [{name: shades, tags: [green, red]}]}
- {matches: [{path: {value: /neither}}], backendRefs: [{name: shades, versions: ['1.0'], tags: [green]}]}";
    scene.apply(&http_route("shop", &format!("rules:{rules}"))).await;
    assert_eq!(shares(scene, "/old", 20).await, BTreeMap::from([("old".to_owned(), 20)]));
    assert_eq!(shares(scene, "/green", 20).await, BTreeMap::from([("new".to_owned(), 20)]));
    assert_eq!(scene.who("a.example", "/neither").await, "503 no_healthy_instance");
    drop((old, new));
}

async fn external(scene: &Scene) {
    let legacy = waypost_tests::service::SampleService::start("legacy").await;
    let spec = format!("addresses: ['{}']", legacy.address);
    scene.apply(&resource("ExternalService", "default", "legacy", &spec)).await;
    route(scene, "{group: waypost.dev, kind: ExternalService, name: legacy}").await;
    assert_eq!(scene.who("a.example", "/").await, "legacy");
    scene.condition(SHOP, "/parents/0", ("ResolvedRefs", "True", "ResolvedRefs")).await;
}

async fn external_by_name(scene: &Scene) {
    let legacy = waypost_tests::service::SampleService::start("legacy").await;
    let spec = format!("addresses: ['localhost:{}']", legacy.address.port());
    scene.apply(&resource("ExternalService", "default", "legacy", &spec)).await;
    route(scene, "{group: waypost.dev, kind: ExternalService, name: legacy}").await;
    assert_eq!(scene.who("a.example", "/").await, "legacy");
}
