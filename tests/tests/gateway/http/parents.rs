//! Where a route attaches, and what its rules are called.

use serde_json::Value;
use waypost_tests::{
    gateway::{Ask, Scene, gateway, http_route, listener_port, resource},
    process::run,
    program::Program,
};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Core "HTTPRouteParentRefs" "`sectionName` is the one listener that the route attaches to" section_name),
    case!(Extended "HTTPRouteParentRefPort" "`port` chooses the listeners of that port" port),
    case!(Core "HTTPRouteParentRefs" "a route may attach to several Gateways, each with its own status" several),
    case!(Core "HTTPRouteParentRefs"
        "a route that one parent accepts and another one refuses is served by the one, and its status says both" refused_by_one),
    case!(Core "HTTPRouteParentRefs"
        "a parent that is not there, or has no such listener, is refused" no_such_listener),
    case!(Core "HTTPRouteParentRefs" "a Gateway is not deleted before the routes that need it" needed),
    case!(Implementation "HTTPRouteParentRefs"
        "a route without parentRefs belongs to the proxy's own port, and so does `default/waypost`" implicit),
    case!(Extended "HTTPRouteNamedRouteRule" "a rule's name is what the proxy explains requests with" named),
    case!(Implementation "HTTPRouteParentRefs"
        "`waypost explain` answers as if manifests were applied, and by revisions that are past" explained),
    case!(Core "HTTPRouteObservedGenerationBump" "conditions carry the generation that they speak of" generation),
    case!(Core "HTTPRouteParentRefs" "a route that is deleted takes no requests any more" deleted),
];

/// A Gateway with two listeners, `a` and `b`; gives their ports.
async fn two_listeners(scene: &Scene) -> (u16, u16) {
    let (a, b) = (listener_port(), listener_port());
    let listeners =
        format!("- {{name: a, port: {a}, protocol: HTTP}}\n- {{name: b, port: {b}, protocol: HTTP}}");
    scene.apply(&gateway("edge", &listeners)).await;
    (a, b)
}

async fn who(scene: &Scene, port: u16) -> String {
    scene.send(&Ask::get("a.example", "/").port(port)).await.who()
}

async fn section_name(scene: &Scene) {
    let (a, b) = two_listeners(scene).await;
    let spec = "parentRefs: [{name: edge, sectionName: a}]\nrules: [{backendRefs: [{name: one}]}]";
    scene.apply(&http_route("shop", spec)).await;
    assert_eq!(who(scene, a).await, "one");
    assert_eq!(who(scene, b).await, "404 no_route");
    assert_eq!(scene.who("a.example", "/").await, "404 no_route", "at the proxy's own port");
}

async fn port(scene: &Scene) {
    let (a, b) = two_listeners(scene).await;
    let spec = format!("parentRefs: [{{name: edge, port: {b}}}]\nrules: [{{backendRefs: [{{name: one}}]}}]");
    scene.apply(&http_route("shop", &spec)).await;
    assert_eq!(who(scene, a).await, "404 no_route");
    assert_eq!(who(scene, b).await, "one");
}

async fn several(scene: &Scene) {
    let (a, b) = two_listeners(scene).await;
    let c = listener_port();
    scene.apply(&gateway("inner", &format!("- {{name: http, port: {c}, protocol: HTTP}}"))).await;
    let spec = "parentRefs: [{name: inner}, {name: edge, sectionName: a}]\n\
                rules: [{backendRefs: [{name: one}]}]";
    scene.apply(&http_route("shop", spec)).await;
    assert_eq!(
        [who(scene, a).await, who(scene, b).await, who(scene, c).await],
        ["one", "404 no_route", "one"]
    );
    for (at, wanted) in
        [("/parents/0", ("Accepted", "True", "Accepted")), ("/parents/1", ("Accepted", "True", "Accepted"))]
    {
        scene.condition(("HTTPRoute", "default", "shop"), at, wanted).await;
    }
}

async fn no_such_listener(scene: &Scene) {
    two_listeners(scene).await;
    for (parent, reason) in [
        ("{name: edge, sectionName: c}", "\"c\" is no listener of Gateway default/edge"),
        ("{name: edge, port: 9}", "spec.parentRefs[0].port"),
        ("{name: nowhere}", "\"nowhere\" is no Gateway of namespace default"),
    ] {
        let spec = format!("parentRefs: [{parent}]\nrules: [{{backendRefs: [{{name: one}}]}}]");
        let why = scene.refused(&http_route("shop", &spec)).await;
        assert!(why.contains(reason), "{parent}: {why}");
    }
}

async fn needed(scene: &Scene) {
    let (a, _) = two_listeners(scene).await;
    let spec = "parentRefs: [{name: edge}]\nrules: [{backendRefs: [{name: one}]}]";
    scene.apply(&http_route("shop", spec)).await;
    let why = scene.keeps("Gateway", "default", "edge").await;
    assert!(why.contains("is needed by HTTPRoute default/shop"), "{why}");
    assert_eq!(who(scene, a).await, "one");
}

async fn implicit(scene: &Scene) {
    scene.apply(&http_route("a", "hostnames: [a.example]\nrules: [{backendRefs: [{name: one}]}]")).await;
    let spec = "parentRefs: [{name: waypost, namespace: default}]\nhostnames: [b.example]\n\
                rules: [{backendRefs: [{name: two}]}]";
    scene.apply(&resource("HTTPRoute", "other", "b", &spec.replace("name: two", "name: far"))).await;
    assert_eq!(scene.who("a.example", "/").await, "one");
    assert_eq!(scene.who("b.example", "/").await, "far");
}

async fn named(scene: &Scene) {
    let rules = "
- {name: basket, matches: [{path: {value: /cart}}], backendRefs: [{name: one}]}
- {name: rest, backendRefs: [{name: two}]}";
    scene.apply(&http_route("shop", &format!("rules:{rules}"))).await;
    for (path, name, other) in [("/cart", "basket", "two"), ("/x", "rest", "one")] {
        let explained = scene.admin(&format!("/explain?url=http://a.example{path}")).await;
        assert_eq!(explained.status, 200, "{}", explained.text());
        assert_eq!(explained.json()["outcome"]["name"], name, "{path}: {}", explained.text());
        assert_ne!(scene.who("a.example", path).await, other);
    }
}

async fn refused_by_one(scene: &Scene) {
    let (open, calls) = (listener_port(), listener_port());
    let kinds = "allowedRoutes: {kinds: [{kind: GRPCRoute}]}";
    let gateways = gateway("edge", &format!("- {{name: http, port: {open}, protocol: HTTP}}"))
        + &gateway("inner", &format!("- {{name: http, port: {calls}, protocol: HTTP, {kinds}}}"));
    let spec = "parentRefs: [{name: inner}, {name: edge}]\nrules: [{backendRefs: [{name: one}]}]";
    scene.apply(&(gateways + &http_route("shop", spec))).await;
    assert_eq!([who(scene, open).await, who(scene, calls).await], ["one", "404 no_route"]);
    let shop = ("HTTPRoute", "default", "shop");
    scene.condition(shop, "/parents/0", ("Accepted", "False", "NotAllowedByListeners")).await;
    scene.condition(shop, "/parents/1", ("Accepted", "True", "Accepted")).await;
}

async fn generation(scene: &Scene) {
    scene.apply(&http_route("shop", "rules: [{backendRefs: [{name: one}]}]")).await;
    let observed = async || {
        let status = scene.status("HTTPRoute", "default", "shop").await;
        status
            .pointer("/parents/0/conditions/0/observedGeneration")
            .and_then(|it| it.as_u64())
            .expect("a number")
    };
    let before = observed().await;
    scene.apply(&http_route("shop", "rules: [{backendRefs: [{name: two}]}]")).await;
    assert_eq!(observed().await, before + 1);
    // The same once more is no change.
    scene.apply(&http_route("shop", "rules: [{backendRefs: [{name: two}]}]")).await;
    assert_eq!(observed().await, before + 1);
}

async fn deleted(scene: &Scene) {
    scene.apply(&http_route("shop", "rules: [{backendRefs: [{name: one}]}]")).await;
    assert_eq!(scene.who("a.example", "/").await, "one");
    scene.delete("HTTPRoute", "default", "shop").await;
    assert_eq!(scene.who("a.example", "/").await, "404 no_route");
}

/// What `waypost explain` says of a request.
async fn explain(scene: &Scene, more: &[&str], url: &str) -> Value {
    let control_plane = format!("http://{}", scene.cluster.control_plane.grpc);
    let all = ["--control-plane", &control_plane, "-o", "json", "explain", "GET", url];
    let ended = run(Program::Cli, &[&all[..], more].concat()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// The listener and the service that a request comes to.
fn way(explanation: &Value) -> [String; 2] {
    let outcome = &explanation["outcome"];
    let texts = [&outcome["listener"], &outcome["backends"][0]["service"]];
    texts.map(|text| text.as_str().unwrap_or_default().to_owned())
}

async fn explained(scene: &Scene) {
    let spec = |service: &str| format!("rules: [{{backendRefs: [{{name: {service}}}]}}]");
    let first = scene.apply(&http_route("shop", &spec("one"))).await.revision;
    let port = listener_port();
    let own = "listener/default/waypost/http";
    let next = [
        gateway("edge", &format!("- {{name: a, port: {port}, protocol: HTTP}}")),
        http_route("shop", &format!("parentRefs: [{{name: edge}}, {{name: waypost}}]\n{}", spec("partner"))),
        resource("ExternalService", "default", "partner", "addresses: ['127.0.0.1:9']\nprotocol: http1"),
    ]
    .concat();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("next.yaml");
    std::fs::write(&file, &next).expect("it is written");
    let file = file.to_str().expect("text");
    let at = format!("http://a.example:{port}/");

    let preview = explain(scene, &["-f", file], &at).await;
    assert_eq!(way(&preview), ["listener/default/edge/a", "partner"]);
    assert_eq!(preview["outcome"]["backends"][0]["endpoints"][0]["selected"], true, "{preview:#}");
    assert_eq!((&preview["revision"], &preview["current"]), (&first.into(), &false.into()));
    assert_eq!(way(&explain(scene, &["-f", file], "/").await), [own, "partner"]);
    assert_eq!(way(&explain(scene, &[], "/").await), [own, "one"], "nothing was applied");
    assert_eq!(scene.who("a.example", "/").await, "one");

    let second = scene.apply(&next).await.revision;
    let now = explain(scene, &[], &at).await;
    assert_eq!((&now["outcome"], &now["listeners"]), (&preview["outcome"], &preview["listeners"]));
    assert_eq!((&now["revision"], &now["current"]), (&second.into(), &true.into()));
    let past = explain(scene, &["--revision", &first.to_string()], "/").await;
    assert_eq!(way(&past), [own, "one"]);
    assert_eq!((&past["revision"], &past["current"]), (&first.into(), &false.into()));
}
