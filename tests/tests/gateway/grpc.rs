//! GRPCRoute: calls by service, method and metadata.

use std::collections::{BTreeMap, BTreeSet};

use waypost_tests::{
    gateway::{Ask, Scene, gateway, grpc_route, http_route, listener_port},
    http::Answer,
};

use crate::case::{Case, case};

/// All cases of GRPCRoute.
pub(super) const CASES: &[&[Case]] = &[&[
    case!(Core "GRPCExactMethodMatching" "`service` and `method` match a call exactly, with case sensitivity" exact),
    case!(Core "GRPCExactMethodMatching" "a service alone matches all its methods; a method alone that of any" parts),
    case!(Core "GRPCRouteMatching"
        "precedence: the most characters of a service, then of a method, then the most headers" precedence),
    case!(Implementation "GRPCRegularExpressionMethodMatching"
        "with type RegularExpression, service and method are matched by regular expressions" regex),
    case!(Core "GRPCRouteHeaderMatching" "all headers of a match must be equal" headers),
    case!(Core "GRPCRouteListenerHostnameMatching" "hostnames choose calls by :authority" hostnames),
    case!(Core "GRPCRouteWeight" "calls are shared in proportion to weights" weights),
    case!(Core "GRPCRouteRequestHeaderModifier" "metadata of calls and answers is changed by filters" filters),
    case!(Extended "GRPCRouteBackendRequestHeaderModification"
        "filters of a backendRef change the metadata of the calls that it gets, and no others" backend_filters),
    case!(Extended "GRPCRouteNamedRouteRule" "a rule's name is what the proxy explains calls with" named),
    case!(Core "GRPCRouteMatching" "a rule without matches takes every call" every),
    case!(Core "GRPCRouteMatching" "trailers arrive as the backend sent them" trailers),
    case!(Core "GRPCRouteMatching"
        "the gateway's own answers are gRPC statuses: UNIMPLEMENTED where nothing matches" own_answers),
    case!(Extended "GRPCRouteRequestMirror" "a call is also sent to the mirror" mirror),
    case!(Implementation "GRPCRouteAndHTTPRoute"
        "an HTTPRoute and a GRPCRoute at one listener share a hostname; the more specific match wins" beside_http),
]];

async fn route(scene: &Scene, rules: &str) {
    scene.apply(&grpc_route("calls", &format!("rules:{rules}"))).await;
}

/// Who took a call, and else its gRPC status.
fn taker(answer: &Answer) -> String {
    let status = answer.headers.get("grpc-status").or(answer.trailers.get("grpc-status"));
    let status = status.and_then(|status| status.to_str().ok()).unwrap_or("none");
    match answer.header("x-instance") {
        "" => format!("status {status}"),
        instance => instance.to_owned(),
    }
}

async fn call(scene: &Scene, path: &str) -> String {
    taker(&scene.send(&Ask::call("a.example", path)).await)
}

/// What the service says of a call: the message behind its five bytes of framing.
fn arrived(answer: &Answer, name: &str) -> String {
    let json: serde_json::Value = serde_json::from_slice(&answer.body[5..]).expect("JSON");
    json["headers"][name][0].as_str().unwrap_or_default().to_owned()
}

const UNIMPLEMENTED: &str = "status 12";

async fn exact(scene: &Scene) {
    route(
        scene,
        "\n- {matches: [{method: {service: shop.v1.Users, method: Get}}], backendRefs: [{name: calls}]}",
    )
    .await;
    assert_eq!(call(scene, "/shop.v1.Users/Get").await, "calls");
    for path in ["/shop.v1.Users/get", "/shop.v1.Users/GetAll", "/shop.v1.users/Get", "/Users/Get"] {
        assert_eq!(call(scene, path).await, UNIMPLEMENTED, "{path}");
    }
}

async fn parts(scene: &Scene) {
    let rules = "
- {matches: [{method: {service: shop.v1.Users}}], backendRefs: [{name: calls}]}
- {matches: [{method: {method: Watch}}], backendRefs: [{name: h2c}]}";
    route(scene, rules).await;
    assert_eq!(call(scene, "/shop.v1.Users/Get").await, "calls");
    assert_eq!(call(scene, "/shop.v1.Users/Put").await, "calls");
    assert_eq!(call(scene, "/shop.v1.Carts/Watch").await, "h2c");
    assert_eq!(call(scene, "/shop.v1.Carts/Get").await, UNIMPLEMENTED);
    assert_eq!(call(scene, "/shop.v1.UsersAll/Get").await, UNIMPLEMENTED);
}

async fn precedence(scene: &Scene) {
    let rules = "
- {backendRefs: [{name: three}]}
- {matches: [{method: {method: Watch}}], backendRefs: [{name: h2c}]}
- {matches: [{method: {method: Watch}, headers: [{name: x-a, value: '1'}]}], backendRefs: [{name: one}]}
- {matches: [{method: {service: shop.v1.Users}}], backendRefs: [{name: calls}]}
- {matches: [{method: {service: shop.v1.Users, method: Get}}], backendRefs: [{name: two}]}";
    route(scene, rules).await;
    for (path, who) in [
        ("/shop.v1.Users/Watch", "calls"),
        ("/shop.v1.Users/Get", "two"),
        ("/shop.v1.Carts/Watch", "h2c"),
        ("/shop.v1.Carts/Get", "three"),
    ] {
        assert_eq!(call(scene, path).await, who, "{path}");
    }
    let marked = |path: &str| Ask::call("a.example", path).header("x-a", "1");
    assert_eq!(taker(&scene.send(&marked("/shop.v1.Carts/Watch")).await), "one");
    assert_eq!(taker(&scene.send(&marked("/shop.v1.Users/Watch")).await), "calls");
}

async fn regex(scene: &Scene) {
    let method = "{type: RegularExpression, service: 'shop\\.v[0-9]+\\..*', method: 'Get|List'}";
    route(scene, &format!("\n- {{matches: [{{method: {method}}}], backendRefs: [{{name: calls}}]}}")).await;
    assert_eq!(call(scene, "/shop.v2.Users/List").await, "calls");
    for path in
        ["/shop.vx.Users/List", "/shop.v1.Users/Put", "/shop.v1.Users/GetAll", "/my.shop.v1.Users/Get"]
    {
        assert_eq!(call(scene, path).await, UNIMPLEMENTED, "{path}");
    }
}

async fn headers(scene: &Scene) {
    let headers = "[{name: x-tenant, value: a}, {name: x-zone, value: b}]";
    route(scene, &format!("\n- {{matches: [{{headers: {headers}}}], backendRefs: [{{name: calls}}]}}")).await;
    let ask = Ask::call("a.example", "/a.B/C").header("x-tenant", "a");
    assert_eq!(taker(&scene.send(&ask).await), UNIMPLEMENTED);
    assert_eq!(taker(&scene.send(&ask.header("x-zone", "b")).await), "calls");
}

async fn hostnames(scene: &Scene) {
    let port = listener_port();
    let spec = "parentRefs: [{name: edge}]\nhostnames: ['*.example.com', a.net]\nrules: [{backendRefs: [{name: calls}]}]";
    let listeners = format!("- {{name: http, port: {port}, protocol: HTTP, hostname: '*.example.com'}}");
    scene.apply(&(gateway("edge", &listeners) + &grpc_route("calls", spec))).await;
    for (host, who) in [("a.example.com", "calls"), ("a.net", UNIMPLEMENTED), ("example.com", UNIMPLEMENTED)]
    {
        assert_eq!(taker(&scene.send(&Ask::call(host, "/a.B/C").port(port)).await), who, "{host}");
    }
}

async fn weights(scene: &Scene) {
    route(
        scene,
        "\n- {backendRefs: [{name: calls, weight: 3}, {name: h2c, weight: 1}, {name: one, weight: 0}]}",
    )
    .await;
    let ask = Ask::call("a.example", "/a.B/C");
    let mut connection = scene.connect(&ask).await;
    let mut shares = BTreeMap::<String, u32>::new();
    for _ in 0..200 {
        *shares.entry(taker(&connection.send(&ask).await.expect("an answer"))).or_default() += 1;
    }
    // Six standard deviations.
    assert!((14..=86).contains(&shares["h2c"]), "{shares:?}");
    assert_eq!(shares["calls"] + shares["h2c"], 200, "{shares:?}");
}

async fn filters(scene: &Scene) {
    let rules = "
- filters:
  - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: s}], remove: [x-gone]}}
  - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-back, value: b}]}}
  backendRefs: [{name: calls}]";
    route(scene, rules).await;
    let ask = Ask::call("a.example", "/a.B/C").header("x-gone", "1").header("x-kept", "2");
    let answer = scene.send(&ask).await;
    let seen = ["x-set", "x-gone", "x-kept"].map(|name| arrived(&answer, name));
    assert_eq!(seen, ["s", "", "2"]);
    assert_eq!(answer.header("x-back"), "b");
}

async fn backend_filters(scene: &Scene) {
    let filter = |value: &str| {
        format!(
            "[{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-set, value: {value}}}]}}}}]"
        )
    };
    let rules = format!(
        "\n- {{backendRefs: [{{name: calls, filters: {}}}, {{name: h2c, filters: {}}}]}}",
        filter("first"),
        filter("second")
    );
    route(scene, &rules).await;
    let ask = Ask::call("a.example", "/a.B/C");
    let mut connection = scene.connect(&ask).await;
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let answer = connection.send(&ask).await.expect("an answer");
        seen.insert((taker(&answer), arrived(&answer, "x-set")));
    }
    let wanted = [("calls", "first"), ("h2c", "second")].map(|(who, set)| (who.to_owned(), set.to_owned()));
    assert_eq!(seen, BTreeSet::from(wanted));
}

async fn named(scene: &Scene) {
    let rules = "
- {name: watchers, matches: [{method: {method: Watch}}], backendRefs: [{name: h2c}]}
- {name: rest, backendRefs: [{name: calls}]}";
    route(scene, rules).await;
    for (path, name, who) in [("/a.B/Watch", "watchers", "h2c"), ("/a.B/Get", "rest", "calls")] {
        let explained = scene.admin(&format!("/explain?method=POST&url=http://a.example{path}")).await;
        assert_eq!(explained.json()["outcome"]["name"], name, "{path}: {}", explained.text());
        assert_eq!(call(scene, path).await, who);
    }
}

async fn every(scene: &Scene) {
    route(scene, "\n- {backendRefs: [{name: calls}]}").await;
    assert_eq!(call(scene, "/any.Service/Method").await, "calls");
}

async fn trailers(scene: &Scene) {
    route(scene, "\n- {backendRefs: [{name: calls}]}").await;
    let answer = scene.send(&Ask::call("a.example", "/a.B/C").header("x-give-status", "5")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.trailers["grpc-status"], "5");
}

async fn own_answers(scene: &Scene) {
    let rules = "
- {matches: [{method: {service: a.B}}], backendRefs: [{name: nowhere}]}
- {matches: [{method: {service: a.C}}], backendRefs: [{name: idle}]}";
    let idle = scene.register("idle", "idle", |it| it.start_unhealthy()).await;
    route(scene, rules).await;
    for (path, status) in [("/a.D/X", "12"), ("/a.C/X", "14"), ("/a.B/X", "14")] {
        let answer = scene.send(&Ask::call("a.example", path)).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), "application/grpc", "{path}");
        let given = answer.header("grpc-status");
        // The specification leaves the status of a broken backend open: INTERNAL or UNAVAILABLE.
        assert!(given == status || (path == "/a.B/X" && given == "13"), "{path}: {given}");
        assert_ne!(answer.header("grpc-message"), "", "{path}");
    }
    drop(idle);
}

async fn mirror(scene: &Scene) {
    let rules = "
- filters: [{type: RequestMirror, requestMirror: {backendRef: {name: h2c}}}]
  backendRefs: [{name: calls}]";
    route(scene, rules).await;
    let ask = Ask::call("a.example", "/a.B/C").header("x-remember", "call");
    assert_eq!(taker(&scene.send(&ask).await), "calls");
    waypost_tests::wait::eventually("the copy arrives", std::time::Duration::from_secs(5), async || {
        let copies = scene.service("h2c").remembered("call").len();
        waypost_tests::wait::holds(copies == 1, || copies.to_string())
    })
    .await;
}

async fn beside_http(scene: &Scene) {
    let grpc = grpc_route(
        "calls",
        "hostnames: [a.example]\nrules: [{matches: [{method: {service: a.B}}], backendRefs: [{name: calls}]}]",
    );
    let http = http_route("shop", "hostnames: [a.example]\nrules: [{backendRefs: [{name: one}]}]");
    scene.apply(&(grpc + &http)).await;
    assert_eq!(call(scene, "/a.B/C").await, "calls");
    assert_eq!(scene.who("a.example", "/x").await, "one");
}
