//! RequestRedirect: what Location says, and with which status.

use waypost_tests::gateway::{Ask, Scene, Tls, gateway, http_route, listener_port};

use crate::{
    case::{Case, case},
    certificates::Authority,
};

pub(super) const CASES: &[Case] = &[
    case!(Core "HTTPRouteRedirectHostAndStatus"
        "`hostname` is used in Location, with the path of the request; the status is 302 unless given" hostname),
    case!(Core "HTTPRouteRedirectHostAndStatus" "`statusCode` may be 301 or 302" status),
    case!(Extended "HTTPRoute303RedirectStatusCode" "`statusCode` may be 303" status_303),
    case!(Extended "HTTPRoute307RedirectStatusCode" "`statusCode` may be 307" status_307),
    case!(Extended "HTTPRoute308RedirectStatusCode" "`statusCode` may be 308" status_308),
    case!(Extended "HTTPRouteSchemeRedirect"
        "with `scheme` and without `port`, the scheme's well-known port is used and left out of Location" scheme),
    case!(Extended "HTTPRoutePortRedirect" "`port` is used in Location, unless it is the scheme's well-known one" port),
    case!(Extended "HTTPRoutePortRedirect"
        "without `scheme` and `port` the Gateway listener's port is used" listeners_port),
    case!(Extended "HTTPRouteRedirectPortAndScheme"
        "without `scheme` and `port` the scheme of the request and the port of an HTTPS listener are used" from_https),
    case!(Extended "HTTPRouteRedirectPortAndScheme"
        "at an HTTPS listener, `scheme` and `port` are used; the scheme's well-known port is left out" from_https_to),
    case!(Extended "HTTPRoutePathRedirect" "ReplaceFullPath replaces the path" full_path),
    case!(Extended "HTTPRoutePathRedirect" "ReplacePrefixMatch replaces the matched prefix" prefix),
    case!(Extended "HTTPRoutePathRedirect" "the query of the request is kept" query),
    case!(Core "HTTPRouteRedirectHostAndStatus" "what Location takes from the request cannot break out of it" safe),
];

/// Declares a redirect of everything.
async fn redirect(scene: &Scene, redirect: &str) {
    under(scene, "/", redirect).await;
}

/// Declares a redirect of a prefix.
async fn under(scene: &Scene, prefix: &str, redirect: &str) {
    let filter = format!("{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}");
    let rule = format!("{{matches: [{{path: {{value: {prefix}}}}}], filters: [{filter}]}}");
    scene.apply(&http_route("shop", &format!("rules: [{rule}]"))).await;
}

/// The status and `Location`, where `PORT` stands for the proxy's own port.
async fn location(scene: &Scene, path: &str) -> (u16, String) {
    let answer = scene.get("a.example", path, &[]).await;
    let location = answer.header("location").replace(&format!(":{}", scene.own_port()), ":PORT");
    (answer.status.as_u16(), location)
}

async fn hostname(scene: &Scene) {
    redirect(scene, "hostname: b.example").await;
    assert_eq!(location(scene, "/x/y").await, (302, "http://b.example:PORT/x/y".into()));
}

async fn statuses(scene: &Scene, code: u16) {
    redirect(scene, &format!("hostname: b.example, port: 80, statusCode: {code}")).await;
    assert_eq!(location(scene, "/x").await, (code, "http://b.example/x".into()));
    let post = Ask::get("a.example", "/x").method("POST").body(b"some body");
    assert_eq!(scene.send(&post).await.status, code);
}

async fn status(scene: &Scene) {
    statuses(scene, 301).await;
    statuses(scene, 302).await;
}

async fn status_303(scene: &Scene) {
    statuses(scene, 303).await;
}

async fn status_307(scene: &Scene) {
    statuses(scene, 307).await;
}

async fn status_308(scene: &Scene) {
    statuses(scene, 308).await;
}

async fn scheme(scene: &Scene) {
    redirect(scene, "scheme: https").await;
    assert_eq!(location(scene, "/x").await.1, "https://a.example/x");
    redirect(scene, "scheme: http, hostname: b.example").await;
    assert_eq!(location(scene, "/x").await.1, "http://b.example/x");
}

async fn port(scene: &Scene) {
    for (given, wanted) in [
        ("port: 8083", "http://a.example:8083/x"),
        ("port: 80", "http://a.example/x"),
        ("port: 443", "http://a.example:443/x"),
        ("scheme: https, port: 443", "https://a.example/x"),
        ("scheme: https, port: 8443", "https://a.example:8443/x"),
        ("scheme: https, port: 80", "https://a.example:80/x"),
    ] {
        redirect(scene, given).await;
        assert_eq!(location(scene, "/x").await.1, wanted, "{given}");
    }
}

async fn listeners_port(scene: &Scene) {
    let port = listener_port();
    let filter = "{type: RequestRedirect, requestRedirect: {hostname: b.example}}";
    let route = format!("parentRefs: [{{name: edge}}]\nrules: [{{filters: [{filter}]}}]");
    let listeners = format!("- {{name: http, port: {port}, protocol: HTTP}}");
    scene.apply(&(gateway("edge", &listeners) + &http_route("shop", &route))).await;
    let answer = scene.send(&Ask::get("a.example", "/x").port(port)).await;
    assert_eq!(answer.header("location"), format!("http://b.example:{port}/x"));
    // What the client says of the port does not count.
    let answer = scene.send(&Ask::get("a.example:9", "/x").port(port)).await;
    assert_eq!(answer.header("location"), format!("http://b.example:{port}/x"));
}

/// `Location` of redirects at an HTTPS listener, where `PORT` stands for its port.
async fn locations_from_https<const N: usize>(scene: &Scene, redirects: [&str; N]) -> [String; N] {
    let (authority, port) = (Authority::new(), listener_port());
    let tls = "hostname: a.example, tls: {certificateRefs: [{name: a}]}";
    let listeners = format!("- {{name: https, port: {port}, protocol: HTTPS, {tls}}}");
    scene
        .apply(&(authority.sign(&["a.example"]).secret("default", "a") + &gateway("edge", &listeners)))
        .await;
    let ask = Ask::get("a.example", "/x").port(port).tls(&Tls::new(&authority.pem, "a.example"));
    let mut locations = [const { String::new() }; N];
    for (location, redirect) in locations.iter_mut().zip(redirects) {
        let filter = format!("{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}");
        let route = format!("parentRefs: [{{name: edge}}]\nrules: [{{filters: [{filter}]}}]");
        scene.apply(&http_route("shop", &route)).await;
        let answer = scene.send(&ask).await;
        assert_eq!(answer.status, 302, "{redirect}");
        *location = answer.header("location").replace(&format!(":{port}"), ":PORT");
    }
    locations
}

async fn from_https(scene: &Scene) {
    let told = locations_from_https(scene, ["hostname: b.example"]).await;
    assert_eq!(told, ["https://b.example:PORT/x"]);
}

async fn from_https_to(scene: &Scene) {
    let redirects = [
        "hostname: b.example, port: 443",
        "hostname: b.example, port: 8443",
        "scheme: http, hostname: b.example",
        "scheme: https, hostname: b.example",
        "scheme: http, port: 8080",
    ];
    let wanted = [
        "https://b.example/x",
        "https://b.example:8443/x",
        "http://b.example/x",
        "https://b.example/x",
        "http://a.example:8080/x",
    ];
    assert_eq!(locations_from_https(scene, redirects).await, wanted);
}

async fn full_path(scene: &Scene) {
    redirect(scene, "port: 80, path: {type: ReplaceFullPath, replaceFullPath: /new/place}").await;
    assert_eq!(location(scene, "/x/y").await.1, "http://a.example/new/place");
}

async fn prefix(scene: &Scene) {
    for (matched, with, asked, wanted) in [
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo", "/"),
        ("/foo", "/", "/foo/", "/"),
    ] {
        under(
            scene,
            matched,
            &format!("port: 80, path: {{type: ReplacePrefixMatch, replacePrefixMatch: {with}}}"),
        )
        .await;
        let wanted = format!("http://a.example{wanted}");
        assert_eq!(location(scene, asked).await.1, wanted, "{matched} -> {with}: {asked}");
    }
}

async fn query(scene: &Scene) {
    redirect(scene, "port: 80, path: {type: ReplaceFullPath, replaceFullPath: /new}").await;
    assert_eq!(location(scene, "/x?a=1&b=%2F").await.1, "http://a.example/new?a=1&b=%2F");
}

async fn safe(scene: &Scene) {
    redirect(scene, "scheme: https").await;
    for path in ["/%0d%0aset-cookie:a=b", "//evil.example/x", "/x%3f%23"] {
        let answer = scene.get("a.example", path, &[]).await;
        let location = answer.header("location").to_owned();
        assert!(location.is_empty() || location.starts_with("https://a.example/"), "{path}: {location}");
        assert!(!answer.headers.contains_key("set-cookie"), "{path}");
    }
}
