//! What rules say, from the Gateway API's words to the proxies'.

use waypost_proto::v1::{RouteRule, RulePath, path_change, route_filter::Kind};

use super::Bench;

fn http(rule: &str) -> RouteRule {
    let yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  rules:\n  - {rule}\n"
    );
    Bench::of(&yaml).route("httproute/default/r").rules.remove(0)
}

fn grpc(rule: &str) -> RouteRule {
    let yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: r}}\nspec:\n  rules:\n  - {rule}\n"
    );
    let mut route = Bench::of(&yaml).route("grpcroute/default/r");
    assert!(route.grpc);
    route.rules.remove(0)
}

#[test]
fn paths_of_http() {
    for (path, kind, expected) in [
        ("{}", RulePath::Prefix, "/"),
        ("{path: {type: PathPrefix, value: /}}", RulePath::Prefix, "/"),
        ("{path: {value: /a}}", RulePath::Prefix, "/a"),
        ("{path: {type: PathPrefix, value: /a/b/}}", RulePath::Prefix, "/a/b"),
        ("{path: {type: Exact, value: /a/}}", RulePath::Exact, "/a/"),
        ("{path: {type: RegularExpression, value: '/a/[0-9]+'}}", RulePath::Regex, "/a/[0-9]+"),
    ] {
        let rule = http(&format!("matches: [{path}]"));
        assert_eq!((rule.matches[0].path_kind(), rule.matches[0].path.as_str()), (kind, expected), "{path}");
    }
    let rule = http("backendRefs: [{name: users}]");
    assert_eq!(
        (rule.matches.len(), rule.matches[0].path.as_str()),
        (1, "/"),
        "a rule without matches takes all"
    );
}

#[test]
fn paths_of_grpc() {
    for (method, kind, expected) in [
        ("{}", RulePath::Prefix, "/"),
        ("{method: {service: a.B, method: C}}", RulePath::Exact, "/a.B/C"),
        ("{method: {service: a.B}}", RulePath::Prefix, "/a.B"),
        ("{method: {method: Get}}", RulePath::GrpcMethod, "Get"),
        (
            "{method: {type: RegularExpression, service: 'a|b', method: 'G.*'}}",
            RulePath::Regex,
            "/(?:a|b)/(?:G.*)",
        ),
        ("{method: {type: RegularExpression, method: 'G.*'}}", RulePath::Regex, "/[^/]+/(?:G.*)"),
    ] {
        let rule = grpc(&format!("matches: [{method}]"));
        assert_eq!(
            (rule.matches[0].path_kind(), rule.matches[0].path.as_str()),
            (kind, expected),
            "{method}"
        );
    }
}

#[test]
fn headers_queries_and_methods() {
    let rule = http(
        "matches: [{method: POST, headers: [{name: X-Env, value: Blue}, {type: RegularExpression, name: a, value: b+}], \
         queryParams: [{name: Q, value: v}]}]",
    );
    let one = &rule.matches[0];
    assert_eq!(one.method, "POST");
    let headers: Vec<_> =
        one.headers.iter().map(|value| (value.name.as_str(), value.value.as_str(), value.regex)).collect();
    assert_eq!(headers, [("x-env", "Blue", false), ("a", "b+", true)]);
    assert_eq!((one.query[0].name.as_str(), one.query[0].regex), ("Q", false));
}

#[test]
fn filters_keep_their_order_and_say_all() {
    let rule = http(
        r#"filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: "1"}], remove: [X-B]}}
    - {type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}
    - {type: CORS, cors: {allowOrigins: ["https://*.example"], allowCredentials: true, maxAge: 60}}"#,
    );
    let kinds: Vec<Kind> = rule.filters.into_iter().filter_map(|filter| filter.kind).collect();
    let Kind::RequestHeaders(change) = &kinds[0] else { panic!("{kinds:?}") };
    assert_eq!((change.set[0].name.as_str(), change.remove[0].as_str()), ("x-a", "x-b"));
    let Kind::Redirect(redirect) = &kinds[1] else { panic!("{kinds:?}") };
    assert_eq!((redirect.scheme.as_str(), redirect.status, redirect.port), ("https", 301, 0));
    let Kind::Cors(cors) = &kinds[2] else { panic!("{kinds:?}") };
    assert_eq!((cors.allow_credentials, cors.max_age.map(|age| age.seconds)), (true, Some(60)));
}

#[test]
fn rewrites_mirrors_and_filters_of_one_backend() {
    let rule = http(
        r#"matches: [{path: {value: /a}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: b.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: copies}, fraction: {numerator: 1, denominator: 3}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: copies}}}
    backendRefs:
    - {name: users, weight: 0, versions: ["2"], tags: [canary]}
    - name: users
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-Who, value: me}]}}]"#,
    );
    let kinds: Vec<Kind> = rule.filters.into_iter().filter_map(|filter| filter.kind).collect();
    let Kind::Rewrite(rewrite) = &kinds[0] else { panic!("{kinds:?}") };
    assert_eq!(rewrite.path.clone().and_then(|path| path.kind), Some(path_change::Kind::Prefix("/b".into())));
    let share = |kind: &Kind| match kind {
        Kind::Mirror(mirror) => (mirror.numerator, mirror.denominator),
        other => panic!("{other:?}"),
    };
    assert_eq!((share(&kinds[1]), share(&kinds[2])), ((1, 3), (1, 1)));
    assert_eq!((rule.backends[0].weight, rule.backends[1].weight), (0, 1));
    assert_eq!((rule.backends[0].versions[0].as_str(), rule.backends[0].tags[0].as_str()), ("2", "canary"));
    assert!(matches!(rule.backends[1].filters[0].kind, Some(Kind::ResponseHeaders(_))));
}

#[test]
fn times_retries_and_sessions() {
    let rule = http(
        r#"timeouts: {request: 10s, backendRequest: 500ms}
    retry: {attempts: 3, codes: [502, 503], backoff: 100ms}
    sessionPersistence: {sessionName: s, type: Cookie, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}"#,
    );
    let millis = |wire: Option<pbjson_types::Duration>| {
        wire.map(|wire| wire.seconds * 1_000 + i64::from(wire.nanos) / 1_000_000)
    };
    assert_eq!(
        (millis(rule.request_timeout), millis(rule.backend_request_timeout)),
        (Some(10_000), Some(500))
    );
    let retry = rule.retry.expect("a retry");
    assert_eq!((retry.attempts, retry.codes, millis(retry.backoff)), (3, vec![502, 503], Some(100)));
    let session = rule.session_persistence.expect("a session");
    assert_eq!((session.name.as_str(), session.header, session.permanent), ("s", false, true));
    let unnamed = http("sessionPersistence: {type: Header}").session_persistence.expect("a session");
    assert!(unnamed.header && unnamed.name.starts_with("waypost-default-r-0"), "{}", unnamed.name);
    assert_eq!(
        http("timeouts: {request: 0s}").request_timeout.map(|wire| wire.seconds),
        Some(0),
        "no limit at all"
    );
}
