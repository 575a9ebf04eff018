//! URLRewrite: the host and path that a backend gets.

use waypost_tests::gateway::{Scene, http_route};

use crate::case::{Case, case};

pub(super) const CASES: &[Case] = &[
    case!(Extended "HTTPRouteHostRewrite" "`hostname` replaces the Host header during forwarding" hostname),
    case!(Extended "HTTPRoutePathRewrite" "ReplaceFullPath replaces the path; the query is kept" full_path),
    case!(Extended "HTTPRoutePathRewrite" "ReplacePrefixMatch replaces the matched prefix" prefix),
    case!(Extended "HTTPRoutePathRewrite" "a rewrite goes together with header changes and a host" combined),
];

async fn rewrite(scene: &Scene, prefix: &str, rewrite: &str) {
    let filter = format!("{{type: URLRewrite, urlRewrite: {{{rewrite}}}}}");
    let matches = format!("[{{path: {{value: {prefix}}}}}]");
    let rule = format!("{{matches: {matches}, filters: [{filter}], backendRefs: [{{name: one}}]}}");
    scene.apply(&http_route("shop", &format!("rules: [{rule}]"))).await;
}

async fn hostname(scene: &Scene) {
    rewrite(scene, "/", "hostname: inside.example").await;
    let answer = scene.get("a.example", "/x?y", &[]).await;
    assert_eq!(answer.host(), "inside.example");
    assert_eq!(answer.path(), "/x?y");
}

async fn full_path(scene: &Scene) {
    rewrite(scene, "/a", "path: {type: ReplaceFullPath, replaceFullPath: /new/place}").await;
    let answer = scene.get("a.example", "/a/b?c=d", &[]).await;
    assert_eq!(answer.path(), "/new/place?c=d");
    assert_eq!(answer.host(), "a.example");
}

async fn prefix(scene: &Scene) {
    // The specification's own table.
    for (matched, with, asked, wanted) in [
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "''", "/foo/bar", "/bar"),
        ("/foo", "''", "/foo/", "/"),
        ("/foo", "''", "/foo", "/"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo/", "/"),
        ("/foo", "/", "/foo", "/"),
        ("/foo", "/xyz", "/foo/a%2Fb?q=1", "/xyz/a%2Fb?q=1"),
        ("/", "/xyz", "/foo", "/xyz/foo"),
    ] {
        rewrite(scene, matched, &format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: {with}}}"))
            .await;
        let answer = scene.get("a.example", asked, &[]).await;
        assert_eq!(answer.path(), wanted, "{matched} -> {with}: {asked}");
    }
}

async fn combined(scene: &Scene) {
    let rules = "
- matches: [{path: {value: /shop}}]
  filters:
  - {type: URLRewrite, urlRewrite: {hostname: inside.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}
  - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-edge, value: '1'}]}}
  - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-served, value: edge}]}}
  backendRefs: [{name: one}]";
    scene.apply(&http_route("shop", &format!("rules:{rules}"))).await;
    let answer = scene.get("a.example", "/shop/cart?id=1", &[]).await;
    assert_eq!((answer.host(), answer.path()), ("inside.example".into(), "/v2/cart?id=1".into()));
    assert_eq!(answer.arrived("x-edge"), ["1"]);
    assert_eq!(answer.header("x-served"), "edge");
}
