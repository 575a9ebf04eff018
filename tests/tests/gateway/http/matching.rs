//! Paths, headers, query parameters and methods.

use waypost_tests::gateway::{Ask, Scene, http_route};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Core "HTTPRouteMatching" "Exact matches the path exactly and with case sensitivity" exact),
    case!(Core "HTTPRouteMatching"
        "PathPrefix matches path elements: `/abc` matches /abc, /abc/ and /abc/def, but not /abcd" prefix),
    case!(Core "HTTPRouteMatching" "a trailing slash of a prefix is ignored" trailing_slash),
    case!(Core "HTTPRouteMatching" "a rule without matches is a prefix match on `/`" default),
    case!(Core "HTTPRouteMatching"
        "matches of a rule are ORed, and conditions within a match are ANDed" or_and),
    case!(Implementation "HTTPRoutePathRegularExpressionMatching"
        "RegularExpression matches the whole path" regular_expression),
    case!(Core "HTTPRouteHeaderMatching"
        "a header's value must be equal; names are case-insensitive; of several headers all must match" headers),
    case!(Implementation "HTTPRouteHeaderMatching"
        "the host is no header over HTTP/1.1 either: a header match for it takes nothing; `hostnames` does" host),
    case!(Implementation "HTTPRouteHeaderRegularExpressionMatching"
        "a header's whole value is matched by a regular expression" header_regex),
    case!(Extended "HTTPRouteQueryParamMatching"
        "a query parameter's value must be equal, decoded; names are case-sensitive; of several all must match" query),
    case!(Implementation "HTTPRouteQueryParamRegularExpressionMatching"
        "a query parameter's whole value is matched by a regular expression" query_regex),
    case!(Extended "HTTPRouteMethodMatching" "with a method, only requests of that method are matched" method),
];

/// Declares a route whose one rule has these matches.
async fn route(scene: &Scene, matches: &str) {
    let spec = format!("rules: [{{matches: [{matches}], backendRefs: [{{name: one}}]}}]");
    scene.apply(&http_route("shop", &spec)).await;
}

async fn takes(scene: &Scene, paths: &[&str]) {
    for path in paths {
        assert_eq!(scene.who("a.example", path).await, "one", "{path}");
    }
}

async fn leaves(scene: &Scene, paths: &[&str]) {
    for path in paths {
        assert_eq!(scene.who("a.example", path).await, "404 no_route", "{path}");
    }
}

async fn exact(scene: &Scene) {
    route(scene, "{path: {type: Exact, value: /a/B}}").await;
    takes(scene, &["/a/B", "/a/B?x=1"]).await;
    leaves(scene, &["/a/b", "/a/B/", "/a/B/c", "/a", "/"]).await;
}

async fn prefix(scene: &Scene) {
    route(scene, "{path: {type: PathPrefix, value: /abc}}").await;
    takes(scene, &["/abc", "/abc/", "/abc/def", "/abc?x=1"]).await;
    leaves(scene, &["/abcd", "/ab", "/", "/ABC", "/x/abc"]).await;
}

async fn trailing_slash(scene: &Scene) {
    route(scene, "{path: {type: PathPrefix, value: /abc/}}").await;
    takes(scene, &["/abc", "/abc/", "/abc/def"]).await;
    leaves(scene, &["/abcd"]).await;
}

async fn default(scene: &Scene) {
    scene.apply(&http_route("shop", "rules: [{backendRefs: [{name: one}]}]")).await;
    takes(scene, &["/", "/abc", "/a/b/c?d"]).await;
}

async fn or_and(scene: &Scene) {
    route(scene, "{path: {value: /a}, headers: [{name: x-a, value: '1'}]}, {path: {value: /b}}").await;
    assert_eq!(scene.get("a.example", "/a", &[("x-a", "1")]).await.who(), "one");
    takes(scene, &["/b"]).await;
    leaves(scene, &["/a", "/c"]).await;
    assert_eq!(scene.get("a.example", "/c", &[("x-a", "1")]).await.who(), "404 no_route");
}

async fn regular_expression(scene: &Scene) {
    route(scene, "{path: {type: RegularExpression, value: '/v[0-9]+/users/[^/]+'}}").await;
    takes(scene, &["/v1/users/ann", "/v22/users/b?x=/"]).await;
    leaves(scene, &["/v1/users/", "/x/v1/users/ann", "/v1/users/ann/more", "/v/users/ann"]).await;
}

async fn headers(scene: &Scene) {
    route(scene, "{headers: [{name: Version, value: two}, {name: x-color, value: blue}]}").await;
    for (headers, who) in [
        (&[("version", "two"), ("X-Color", "blue")][..], "one"),
        (&[("VERSION", "two"), ("x-color", "blue"), ("x-more", "1")], "one"),
        (&[("version", "two")], "404 no_route"),
        (&[("version", "Two"), ("x-color", "blue")], "404 no_route"),
        (&[("version", "two"), ("x-color", "blueish")], "404 no_route"),
        (&[], "404 no_route"),
    ] {
        assert_eq!(scene.get("a.example", "/", headers).await.who(), who, "{headers:?}");
    }
}

async fn host(scene: &Scene) {
    route(scene, "{headers: [{name: Host, value: a.example}]}").await;
    let ask = Ask::get("a.example", "/");
    for ask in [ask.clone(), ask.clone().http2(), ask.http2().header("host", "a.example")] {
        assert_eq!(scene.send(&ask).await.who(), "404 no_route", "{ask:?}");
    }
}

async fn header_regex(scene: &Scene) {
    route(scene, "{headers: [{type: RegularExpression, name: x-user, value: '[a-f0-9]{4}'}]}").await;
    for (value, who) in [("00ff", "one"), ("00ff0", "404 no_route"), ("x00ff", "404 no_route")] {
        assert_eq!(scene.get("a.example", "/", &[("x-user", value)]).await.who(), who, "{value}");
    }
}

async fn query(scene: &Scene) {
    route(scene, "{queryParams: [{name: animal, value: whale}, {name: color, value: light blue}]}").await;
    takes(scene, &["/?animal=whale&color=light%20blue", "/x?color=light+blue&more=1&animal=whale"]).await;
    leaves(
        scene,
        &["/", "/?animal=whale", "/?Animal=whale&color=light+blue", "/?animal=whales&color=light+blue"],
    )
    .await;
}

async fn query_regex(scene: &Scene) {
    route(scene, "{queryParams: [{type: RegularExpression, name: page, value: '[0-9]+'}]}").await;
    takes(scene, &["/?page=17"]).await;
    leaves(scene, &["/?page=17a", "/?page=", "/?pages=17"]).await;
}

async fn method(scene: &Scene) {
    route(scene, "{method: POST}").await;
    assert_eq!(scene.send(&Ask::get("a.example", "/").method("POST")).await.who(), "one");
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let answer = scene.send(&Ask::get("a.example", "/").method(method)).await;
        assert_eq!(answer.who(), "404 no_route", "{method}");
    }
}
