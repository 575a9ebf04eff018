//! Which of several matching rules takes a request.

use waypost_tests::gateway::{Ask, Scene, http_route};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Core "HTTPRouteMatchingPrecedence" "an Exact path match is first" exact_first),
    case!(Core "HTTPRouteMatchingPrecedence" "then the prefix with the most characters" longest_prefix),
    case!(Implementation "HTTPRouteMatchingPrecedence"
        "a regular expression comes after Exact and before prefixes" regex_between),
    case!(Core "HTTPRouteMatchingPrecedence" "then a method match" method),
    case!(Core "HTTPRouteMatchingPrecedence" "then the largest number of header matches" header_count),
    case!(Core "HTTPRouteMatchingPrecedence" "then the largest number of query parameter matches" query_count),
    case!(Core "HTTPRouteMatchingAcrossRoutes" "if ties remain, the oldest route wins" oldest),
    case!(Core "HTTPRouteMatchingAcrossRoutes"
        "if ties remain, the route first in alphabetical order by namespace/name wins" alphabetical),
    case!(Core "HTTPRouteMatchingAcrossRoutes" "within a route, the first matching rule wins" first_rule),
    case!(Implementation "HTTPRouteMatchingAcrossRoutes"
        "declared routes beat the route that a registered service has by itself" declared_first),
];

async fn exact_first(scene: &Scene) {
    let rules = "
- {matches: [{path: {value: /a/b}, method: GET, headers: [{name: x, value: '1'}]}], backendRefs: [{name: two}]}
- {matches: [{path: {type: Exact, value: /a/b}}], backendRefs: [{name: one}]}";
    scene.apply(&http_route("shop", &format!("rules:{rules}"))).await;
    assert_eq!(scene.get("a.example", "/a/b", &[("x", "1")]).await.who(), "one");
    assert_eq!(scene.get("a.example", "/a/b/", &[("x", "1")]).await.who(), "two");
}

async fn longest_prefix(scene: &Scene) {
    let routes = [
        http_route("a", "rules: [{matches: [{path: {value: /}, method: GET}], backendRefs: [{name: one}]}]"),
        http_route("b", "rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: two}]}]"),
        http_route("c", "rules: [{matches: [{path: {value: /a/b}}], backendRefs: [{name: three}]}]"),
    ];
    scene.apply(&routes.concat()).await;
    assert_eq!(scene.who("a.example", "/x").await, "one");
    assert_eq!(scene.who("a.example", "/a/x").await, "two");
    assert_eq!(scene.who("a.example", "/a/b/x").await, "three");
}

async fn regex_between(scene: &Scene) {
    let routes = [
        http_route("a", "rules: [{matches: [{path: {value: /a/long/prefix}}], backendRefs: [{name: one}]}]"),
        http_route(
            "b",
            "rules: [{matches: [{path: {type: RegularExpression, value: '/a/.*'}}], backendRefs: [{name: two}]}]",
        ),
        http_route(
            "c",
            "rules: [{matches: [{path: {type: Exact, value: /a/long}}], backendRefs: [{name: three}]}]",
        ),
    ];
    scene.apply(&routes.concat()).await;
    assert_eq!(scene.who("a.example", "/a/long/prefix").await, "two");
    assert_eq!(scene.who("a.example", "/a/long").await, "three");
}

async fn method(scene: &Scene) {
    let routes = [
        http_route(
            "a",
            "rules: [{matches: [{path: {value: /a}, headers: [{name: x, value: '1'}, {name: y, value: '1'}]}], \
             backendRefs: [{name: one}]}]",
        ),
        http_route("b", "rules: [{matches: [{path: {value: /a}, method: GET}], backendRefs: [{name: two}]}]"),
    ];
    scene.apply(&routes.concat()).await;
    let headers = [("x", "1"), ("y", "1")];
    assert_eq!(scene.get("a.example", "/a", &headers).await.who(), "two");
    let put = Ask::get("a.example", "/a").method("PUT").headers(&headers);
    assert_eq!(scene.send(&put).await.who(), "one");
}

async fn header_count(scene: &Scene) {
    let routes = [
        http_route(
            "a",
            "rules: [{matches: [{headers: [{name: x, value: '1'}], queryParams: [{name: p, value: '1'}, \
             {name: q, value: '1'}]}], backendRefs: [{name: one}]}]",
        ),
        http_route(
            "b",
            "rules: [{matches: [{headers: [{name: x, value: '1'}, {name: y, value: '1'}]}], \
             backendRefs: [{name: two}]}]",
        ),
    ];
    scene.apply(&routes.concat()).await;
    assert_eq!(scene.get("a.example", "/?p=1&q=1", &[("x", "1"), ("y", "1")]).await.who(), "two");
    assert_eq!(scene.get("a.example", "/?p=1&q=1", &[("x", "1")]).await.who(), "one");
}

async fn query_count(scene: &Scene) {
    let routes = [
        http_route(
            "a",
            "rules: [{matches: [{queryParams: [{name: p, value: '1'}]}], backendRefs: [{name: one}]}]",
        ),
        http_route(
            "b",
            "rules: [{matches: [{queryParams: [{name: p, value: '1'}, {name: q, value: '1'}]}], \
             backendRefs: [{name: two}]}]",
        ),
    ];
    scene.apply(&routes.concat()).await;
    assert_eq!(scene.who("a.example", "/?p=1&q=1").await, "two");
    assert_eq!(scene.who("a.example", "/?p=1").await, "one");
}

async fn oldest(scene: &Scene) {
    scene.apply(&http_route("z", "rules: [{backendRefs: [{name: one}]}]")).await;
    scene.apply(&http_route("a", "rules: [{backendRefs: [{name: two}]}]")).await;
    assert_eq!(scene.who("a.example", "/").await, "one");
    // A change does not make it younger.
    scene.apply(&http_route("z", "rules: [{backendRefs: [{name: three}]}]")).await;
    assert_eq!(scene.who("a.example", "/").await, "three");
    scene.delete("HTTPRoute", "default", "z").await;
    assert_eq!(scene.who("a.example", "/").await, "two");
}

async fn alphabetical(scene: &Scene) {
    let routes = [
        http_route("b", "rules: [{backendRefs: [{name: two}]}]"),
        http_route("a", "rules: [{backendRefs: [{name: one}]}]"),
        http_route("c", "rules: [{backendRefs: [{name: three}]}]"),
    ];
    scene.apply(&routes.concat()).await;
    assert_eq!(scene.who("a.example", "/").await, "one");
}

async fn first_rule(scene: &Scene) {
    let rules = "
- {matches: [{path: {value: /b}}], backendRefs: [{name: three}]}
- {matches: [{path: {value: /a}, headers: [{name: x, value: '1'}]}], backendRefs: [{name: one}]}
- {matches: [{path: {value: /a}, headers: [{name: y, value: '1'}]}], backendRefs: [{name: two}]}";
    scene.apply(&http_route("shop", &format!("rules:{rules}"))).await;
    assert_eq!(scene.get("a.example", "/a", &[("x", "1"), ("y", "1")]).await.who(), "one");
    assert_eq!(scene.get("a.example", "/a", &[("y", "1")]).await.who(), "two");
}

async fn declared_first(scene: &Scene) {
    assert_eq!(scene.who("a.example", "/two/x").await, "two", "by its own prefix");
    scene
        .apply(&http_route("shop", "rules: [{matches: [{path: {value: /two}}], backendRefs: [{name: one}]}]"))
        .await;
    assert_eq!(scene.who("a.example", "/two/x").await, "one");
    assert_eq!(scene.who("a.example", "/three/x").await, "three");
}
