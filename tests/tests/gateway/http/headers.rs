//! The filters that change header fields.

use waypost_tests::gateway::{Ask, Scene, http_route};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Core "HTTPRouteRequestHeaderModifier" "set overwrites a request's header, or adds it" request_set),
    case!(Core "HTTPRouteRequestHeaderModifier" "add appends to the values of a request's header" request_add),
    case!(Core "HTTPRouteRequestHeaderModifier"
        "remove takes request headers away, by case-insensitive name" request_remove),
    case!(Extended "HTTPRouteResponseHeaderModification"
        "set, add and remove change the answer's headers" response),
    case!(Extended "HTTPRouteBackendRequestHeaderModification"
        "a backend's own filters change only requests to it, after the rule's" backend_request),
    case!(Extended "HTTPRouteBackendResponseHeaderModification"
        "a backend's own filters change only its answers" backend_response),
    case!(Core "HTTPRouteRequestHeaderModifier" "the client's request headers otherwise arrive as they were" untouched),
];

async fn filtered(scene: &Scene, filters: &str) {
    scene
        .apply(&http_route(
            "shop",
            &format!("rules: [{{filters: [{filters}], backendRefs: [{{name: one}}]}}]"),
        ))
        .await;
}

fn change(change: &str) -> String {
    format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{change}}}}}")
}

async fn request_set(scene: &Scene) {
    filtered(scene, &change("set: [{name: X-Set, value: mine}, {name: x-new, value: 'a, b'}]")).await;
    let answer = scene.get("a.example", "/", &[("x-set", "theirs"), ("x-set", "twice")]).await;
    assert_eq!(answer.arrived("x-set"), ["mine"]);
    assert_eq!(answer.arrived("x-new"), ["a, b"]);
}

async fn request_add(scene: &Scene) {
    filtered(scene, &change("add: [{name: x-add, value: mine}]")).await;
    let answer = scene.get("a.example", "/", &[("x-add", "theirs")]).await;
    assert_eq!(answer.arrived("x-add").join(",").replace(' ', ""), "theirs,mine");
    assert_eq!(scene.get("a.example", "/", &[]).await.arrived("x-add"), ["mine"]);
}

async fn request_remove(scene: &Scene) {
    filtered(scene, &change("remove: [X-Gone, user-agent]")).await;
    let answer = scene
        .get("a.example", "/", &[("x-gone", "1"), ("X-GONE", "2"), ("user-agent", "u"), ("x-kept", "3")])
        .await;
    assert_eq!(answer.arrived("x-gone"), [""; 0]);
    assert_eq!(answer.arrived("user-agent"), [""; 0]);
    assert_eq!(answer.arrived("x-kept"), ["3"]);
}

async fn response(scene: &Scene) {
    let modifier = "{set: [{name: Content-Type, value: text/x-mine}], add: [{name: x-added, value: a}, \
                    {name: x-instance, value: again}]}";
    filtered(scene, &format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {modifier}}}")).await;
    let answer = scene.get("a.example", "/", &[]).await;
    assert_eq!(answer.header("content-type"), "text/x-mine");
    assert_eq!(answer.header("x-added"), "a");
    let instances: Vec<_> = answer.headers.get_all("x-instance").iter().collect();
    assert_eq!(instances, ["one", "again"]);
    let modifier = "{remove: [X-Instance]}";
    filtered(scene, &format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {modifier}}}")).await;
    let answer = scene.get("a.example", "/", &[]).await;
    assert_eq!(answer.json()["instance"], "one");
    assert!(!answer.headers.contains_key("x-instance"), "{:?}", answer.headers);
}

async fn backend_request(scene: &Scene) {
    let rules = "
- matches: [{path: {value: /both}}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-rule, value: r}, {name: x-who, value: rule}]}}]
  backendRefs:
  - {name: one, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-who, value: one}]}}]}
  - {name: two, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-who, value: two}]}}]}
  - {name: three}";
    scene.apply(&http_route("shop", &format!("rules:{rules}"))).await;
    let ask = Ask::get("a.example", "/both");
    let mut connection = scene.connect(&ask).await;
    let mut seen = std::collections::BTreeSet::new();
    // Each of three has the same share: that one is not seen in 100 requests happens once in 10^17.
    for _ in 0..100 {
        let answer = connection.send(&ask).await.expect("an answer");
        assert_eq!(answer.arrived("x-rule"), ["r"]);
        let who = answer.arrived("x-who").join(",").replace(' ', "");
        let wanted = match &*answer.who() {
            "one" => "one",
            "two" => "rule,two",
            "three" => "rule",
            other => panic!("{other}"),
        };
        assert_eq!(who, wanted);
        seen.insert(answer.who());
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

async fn backend_response(scene: &Scene) {
    let rules = "
- backendRefs:
  - {name: one, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-from, value: first}]}}]}
  - {name: two}";
    scene.apply(&http_route("shop", &format!("rules:{rules}"))).await;
    for _ in 0..20 {
        let answer = scene.get("a.example", "/", &[]).await;
        let wanted = if answer.who() == "one" { "first" } else { "" };
        assert_eq!(answer.header("x-from"), wanted);
    }
}

async fn untouched(scene: &Scene) {
    filtered(scene, &change("set: [{name: x-other, value: '1'}]")).await;
    let headers =
        [("x-list", "1"), ("x-list", "2"), ("accept", "a/b;q=0.1, c/d"), ("cookie", "a=b; c=\"d\"")];
    let answer = scene.get("a.example", "/p%20q?r=%2F&s", &headers).await;
    assert_eq!(answer.arrived("x-list"), ["1", "2"]);
    assert_eq!(answer.arrived("accept"), ["a/b;q=0.1, c/d"]);
    assert_eq!(answer.arrived("cookie"), ["a=b; c=\"d\""]);
    assert_eq!(answer.path(), "/p%20q?r=%2F&s");
    assert_eq!(answer.host(), "a.example");
}
