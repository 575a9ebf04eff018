//! GEP-1767, sentence by sentence, and its conformance tests' cases.

use std::time::Duration;

use proptest::prelude::*;
use regex::Regex;

use super::*;

fn lines(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn wire(origins: &[&str]) -> v1::Cors {
    v1::Cors { allow_origins: texts(origins), ..v1::Cors::default() }
}

fn preflight(wire: &v1::Cors, fields: &[(&'static str, &str)]) -> HeaderMap {
    Cors::compile(wire).unwrap().preflight(&Method::OPTIONS, &lines(fields)).unwrap()
}

fn marked(wire: &v1::Cors, request: &[(&'static str, &str)], answer: &[(&'static str, &str)]) -> HeaderMap {
    let cors = Cors::compile(wire).unwrap();
    let mut answer = lines(answer);
    cors.mark(&cors.caller(&lines(request)), &mut answer);
    answer
}

#[track_caller]
fn has(headers: &HeaderMap, name: &str, wanted: Option<&str>) {
    let found: Vec<_> = headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(found, Vec::from_iter(wanted), "{name} in {headers:?}");
}

/// The conformance tests' first route.
fn multiple_origins_methods_headers() -> v1::Cors {
    v1::Cors {
        allow_origins: texts(&["https://www.foo.com", "https://*.bar.com"]),
        allow_methods: texts(&["GET", "OPTIONS"]),
        allow_headers: texts(&["x-header-1", "x-header-2"]),
        expose_headers: texts(&["x-header-3", "x-header-4"]),
        allow_credentials: true,
        max_age: Some(time::wire_duration(Duration::from_secs(3600))),
    }
}

fn wildcards(credentials: bool) -> v1::Cors {
    v1::Cors {
        allow_origins: texts(&["*"]),
        allow_methods: texts(&["*"]),
        allow_headers: texts(&["*"]),
        allow_credentials: credentials,
        ..v1::Cors::default()
    }
}

const WANTED: [(&str, &str); 2] =
    [("access-control-request-method", "PUT"), ("access-control-request-headers", "x-header-1, x-header-2")];

#[test]
fn cors_preflight_request_from_an_exact_matching_or_wildcard_matching_origin_should_be_allowed() {
    for origin in ["https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"] {
        let answer =
            preflight(&multiple_origins_methods_headers(), &[("origin", origin), WANTED[0], WANTED[1]]);
        has(&answer, "access-control-allow-origin", Some(origin));
        has(&answer, "access-control-allow-methods", Some("GET, OPTIONS"));
        has(&answer, "access-control-allow-headers", Some("x-header-1, x-header-2"));
        has(&answer, "access-control-expose-headers", Some("x-header-3, x-header-4"));
        has(&answer, "access-control-max-age", Some("3600"));
        has(&answer, "access-control-allow-credentials", Some("true"));
    }
}

#[test]
fn cors_preflight_request_from_a_non_matching_origin_should_not_be_allowed() {
    let answer =
        preflight(&multiple_origins_methods_headers(), &[("origin", "https://foobar.com"), WANTED[0]]);
    assert!(MARKS.iter().all(|name| !answer.contains_key(name)), "{answer:?}");
    assert!(varies_by_origin(&answer));
}

#[test]
fn simple_request_from_a_matching_origin_should_be_allowed_and_from_another_one_not() {
    for (origin, allowed) in
        [("https://www.foo.com", true), ("https://www.bar.com", true), ("https://foobar.com", false)]
    {
        let answer = marked(&multiple_origins_methods_headers(), &[("origin", origin)], &[]);
        has(&answer, "access-control-allow-origin", allowed.then_some(origin));
        has(&answer, "access-control-allow-credentials", allowed.then_some("true"));
        has(&answer, "access-control-expose-headers", allowed.then_some("x-header-3, x-header-4"));
        has(&answer, "vary", Some("Origin"));
    }
}

#[test]
fn cors_preflight_request_should_be_allowed_by_allow_methods_with_wildcard_and_not_receive_credentials() {
    let filter = v1::Cors { allow_methods: texts(&["*"]), ..wire(&["https://www.foo.com"]) };
    let answer = preflight(&filter, &[("origin", "https://www.foo.com"), WANTED[0]]);
    has(&answer, "access-control-allow-origin", Some("https://www.foo.com"));
    has(&answer, "access-control-allow-methods", Some("*"));
    has(&answer, "access-control-allow-credentials", None);
}

#[test]
fn request_from_a_wildcard_origin_containing_a_port_should_return_header_with_wildcard_or_the_requested_origin()
 {
    let filter = v1::Cors { allow_methods: texts(&["PUT"]), ..wire(&["*"]) };
    for origin in ["https://foobar.com", "https://foobar.com:12345"] {
        let answer = preflight(&filter, &[("origin", origin), WANTED[0]]);
        has(&answer, "access-control-allow-origin", Some("*"));
        has(&answer, "access-control-allow-methods", Some("PUT"));
        has(&marked(&filter, &[("origin", origin)], &[]), "access-control-allow-origin", Some("*"));
    }
}

#[test]
fn preflight_requesting_auth_and_specific_method_and_headers_should_be_allowed_and_always_echo_the_origin() {
    let answer = preflight(&wildcards(true), &[("origin", "https://other.foo.com"), WANTED[0], WANTED[1]]);
    has(&answer, "access-control-allow-origin", Some("https://other.foo.com"));
    has(&answer, "access-control-allow-methods", Some("PUT"));
    has(&answer, "access-control-allow-headers", Some("x-header-1, x-header-2"));
    has(&answer, "access-control-allow-credentials", Some("true"));
}

#[test]
fn preflight_requesting_auth_should_hide_auth_headers_on_unauth_path() {
    let answer = preflight(&wildcards(false), &[("origin", "https://other.foo.com"), WANTED[0], WANTED[1]]);
    has(&answer, "access-control-allow-origin", Some("*"));
    has(&answer, "access-control-allow-methods", Some("*"));
    // `*` would leave out `Authorization`.
    has(&answer, "access-control-allow-headers", Some("x-header-1, x-header-2"));
    has(&answer, "access-control-allow-credentials", None);
}

#[test]
fn simple_request_with_credentials_auth_should_always_echo_the_origin() {
    for (credentials, said) in [(true, Some("true")), (false, None)] {
        for carried in [("authorization", "Bearer test"), ("cookie", "foo=bar")] {
            let request = [("origin", "https://other.foo.com"), carried];
            let answer = marked(&wildcards(credentials), &request, &[]);
            has(&answer, "access-control-allow-origin", Some("https://other.foo.com"));
            has(&answer, "access-control-allow-credentials", said);
            has(&answer, "vary", Some("Origin"));
        }
    }
}

#[test]
fn without_request_headers_the_gateway_will_omit_allow_headers_instead_of_the_wildcard() {
    let request = [("origin", "https://a.example"), WANTED[0]];
    has(&preflight(&wildcards(true), &request), "access-control-allow-headers", None);
    has(&preflight(&wildcards(false), &request), "access-control-allow-headers", Some("*"));
}

#[test]
fn what_a_preflight_asks_for_is_said_again_only_if_it_can_be_names() {
    for (wanted, said) in
        [("A, b", Some("A, b")), ("a,b", Some("a,b")), ("a b", None), ("a,,b", None), ("a;b", None)]
    {
        let request =
            [("origin", "https://a.example"), WANTED[0], ("access-control-request-headers", wanted)];
        has(&preflight(&wildcards(true), &request), "access-control-allow-headers", said);
    }
    let request = [("origin", "https://a.example"), ("access-control-request-method", "P/T")];
    has(&preflight(&wildcards(true), &request), "access-control-allow-methods", None);
}

#[test]
fn the_default_value_of_access_control_max_age_is_5_seconds() {
    let request = [("origin", "https://a.example"), WANTED[0]];
    has(&preflight(&wire(&["*"]), &request), "access-control-max-age", Some("5"));
}

#[test]
fn lists_that_are_not_configured_are_not_said() {
    let answer = preflight(&wire(&["*"]), &[("origin", "https://a.example"), WANTED[0]]);
    for name in [ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_EXPOSE_HEADERS] {
        assert!(!answer.contains_key(name), "{answer:?}");
    }
}

#[test]
fn a_preflight_is_options_with_origin_and_access_control_request_method() {
    let cors = Cors::compile(&wire(&["*"])).unwrap();
    let origin = ("origin", "https://a.example");
    assert!(cors.preflight(&Method::OPTIONS, &lines(&[origin, WANTED[0]])).is_some());
    assert!(cors.preflight(&Method::GET, &lines(&[origin, WANTED[0]])).is_none());
    assert!(cors.preflight(&Method::OPTIONS, &lines(&[WANTED[0]])).is_none());
    assert!(cors.preflight(&Method::OPTIONS, &lines(&[origin])).is_none());
}

#[test]
fn the_wildcard_is_not_used_in_expose_headers_when_the_request_is_credentialed() {
    let filter = v1::Cors { expose_headers: texts(&["*"]), ..wire(&["*"]) };
    let answer = [
        ("content-encoding", "gzip"),
        ("content-type", "a/b"),
        ("set-cookie", "a=b"),
        ("kuma-revision", "1"),
    ];
    let origin = ("origin", "https://foo.example");
    has(&marked(&filter, &[origin], &answer), "access-control-expose-headers", Some("*"));
    for filter in [filter.clone(), v1::Cors { allow_credentials: true, ..filter }] {
        let answer = marked(&filter, &[origin, ("cookie", "foo=bar")], &answer);
        has(&answer, "access-control-expose-headers", Some("content-encoding, kuma-revision"));
    }
}

#[test]
fn what_the_instance_says_of_origins_is_replaced_and_the_rest_stays() {
    let said = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-origin", "https://old.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "DELETE"),
        ("access-control-expose-headers", "x-secret"),
        ("access-control-max-age", "9"),
        ("x-other", "1"),
        ("vary", "Accept-Encoding"),
    ];
    let filter = wire(&["https://a.example"]);
    for (origin, allowed) in [("https://a.example", true), ("https://b.example", false)] {
        let answer = marked(&filter, &[("origin", origin)], &said);
        has(&answer, "access-control-allow-origin", allowed.then_some(origin));
        for gone in ["credentials", "methods", "headers"] {
            has(&answer, &format!("access-control-allow-{gone}"), None);
        }
        has(&answer, "access-control-expose-headers", None);
        has(&answer, "access-control-max-age", None);
        has(&answer, "x-other", Some("1"));
        assert_eq!(answer.get_all(VARY).iter().collect::<Vec<_>>(), ["Accept-Encoding", "Origin"]);
    }
}

#[test]
fn caches_are_told_that_an_answer_depends_on_the_origin_even_where_there_is_none() {
    let one = wire(&["https://a.example"]);
    has(&marked(&one, &[], &[]), "vary", Some("Origin"));
    has(&marked(&one, &[], &[("vary", "accept, ORIGIN")]), "vary", Some("accept, ORIGIN"));
    has(&marked(&one, &[], &[("vary", "*")]), "vary", Some("*"));
    has(&marked(&wire(&["*"]), &[("origin", "https://a.example")], &[]), "vary", None);
    has(&marked(&wildcards(true), &[], &[]), "vary", Some("Origin"));
}

#[test]
fn an_opaque_origin_may_read_only_what_everybody_may() {
    has(&marked(&wire(&["*"]), &[("origin", "null")], &[]), "access-control-allow-origin", Some("*"));
    let one = wire(&["https://*"]);
    has(&marked(&one, &[("origin", "null")], &[]), "access-control-allow-origin", None);
}

#[test]
fn two_origins_are_none() {
    let request = [("origin", "https://a.example"), ("origin", "https://a.example")];
    has(&marked(&wire(&["https://a.example"]), &request, &[]), "access-control-allow-origin", None);
}

#[test]
fn port_80_is_assumed_for_http_and_port_443_for_https() {
    for (declared, asking, allowed) in [
        ("https://a.example", "https://a.example:443", true),
        ("https://a.example:443", "https://a.example", true),
        ("http://a.example", "http://a.example:80", true),
        ("http://a.example", "https://a.example", false),
        ("https://a.example", "https://a.example:80", false),
        ("https://a.example:8443", "https://a.example", false),
        ("https://*.example:8443", "https://a.example:8443", true),
        ("https://A.Example", "https://a.example", true),
        ("https://a.example", "https://A.example", false),
        ("https://*.example", "https://example", false),
        ("https://*.example", "https://.example", false),
        ("https://*.example", "https://aexample", false),
        ("https://*.example", "https://a.example.evil", false),
        ("https://*.example", "https://evil/.example", false),
        ("https://*.example", "https://user@a.example", false),
        ("https://*.example", "https://*.example", false),
        ("https://*", "https://a.b.example", true),
        ("https://*", "https://a.example:8443", false),
        ("http://[::1]:8080", "http://[::1]:8080", true),
        ("http://[::1]", "http://[::1]", true),
        ("app://a", "app://a", true),
        ("app://a", "app://a:1", false),
        ("https://a.example", "https://a.example/", false),
        ("https://a.example", "https://a.example:", false),
        ("https://a.example", "https://a.example:+443", false),
        ("https://a.example", "", false),
    ] {
        let origins = Origins::compile(&texts(&[declared])).unwrap();
        assert_eq!(origins.takes(asking.as_bytes()), allowed, "{declared} {asking}");
    }
}

#[test]
fn what_cannot_be_an_origin_a_method_or_a_name_is_refused() {
    for origin in
        ["a.example", "https://", "https://a*b", "https://*.*.a", "https://a/b", "https://a:0", "://a"]
    {
        let refused = Cors::compile(&wire(&["https://fine.example", origin])).unwrap_err();
        assert_eq!(refused, CorsError::Origin(origin.to_owned()));
    }
    let filter = v1::Cors { allow_methods: texts(&["G T"]), ..wire(&["*"]) };
    assert_eq!(Cors::compile(&filter).unwrap_err(), CorsError::Method("G T".to_owned()));
    let filter = v1::Cors { expose_headers: texts(&["x y"]), ..wire(&["*"]) };
    assert_eq!(Cors::compile(&filter).unwrap_err(), CorsError::HeaderName("x y".to_owned()));
}

fn origin(wild: bool) -> impl Strategy<Value = String> {
    let host = if wild { r"(\*|\*\.)?(a|b)?(\.(a|b)){0,2}" } else { r"\.?(a|b)?(\.(a|b)){0,3}" };
    (r"https?", host, r"(:(80|443|81))?").prop_map(|(scheme, host, port)| format!("{scheme}://{host}{port}"))
}

/// What is declared, as a regular expression with the port always written.
fn model(declared: &str) -> Regex {
    let full = with_port(declared);
    Regex::new(&format!("^{}$", regex::escape(&full).replace(r"\*", "[^:/]+"))).unwrap()
}

fn with_port(origin: &str) -> String {
    match (origin.matches(':').count(), origin.starts_with("https")) {
        (2, _) => origin.to_owned(),
        (_, true) => format!("{origin}:443"),
        (_, false) => format!("{origin}:80"),
    }
}

proptest! {
    #[test]
    fn origins_are_taken_as_a_naive_model_takes_them(
        declared in proptest::collection::vec(origin(true), 0..4),
        asking in origin(false),
    ) {
        let sound: Vec<String> =
            declared.into_iter().filter(|text| Origins::compile(std::slice::from_ref(text)).is_ok()).collect();
        let origins = Origins::compile(&sound).unwrap();
        let expected = !asking.contains("://:")
            && !asking.ends_with("://")
            && sound.iter().any(|text| model(text).is_match(&with_port(&asking)));
        prop_assert_eq!(origins.takes(asking.as_bytes()), expected, "{:?} {}", sound, asking);
    }

    #[test]
    fn credentials_and_the_wildcard_are_never_said_together(
        all in any::<[bool; 4]>(),
        credentials in any::<bool>(),
        cookie in any::<bool>(),
        origin in origin(false),
    ) {
        let list = |all: bool, one: &str| texts(&[if all { "*" } else { one }]);
        let filter = v1::Cors {
            allow_origins: list(all[0], "https://*.a"),
            allow_methods: list(all[1], "PUT"),
            allow_headers: list(all[2], "x-a"),
            expose_headers: list(all[3], "x-b"),
            allow_credentials: credentials,
            max_age: None,
        };
        let mut request = vec![("origin", origin.as_str()), WANTED[0]];
        request.extend(cookie.then_some(("cookie", "a=b")));
        for answer in [preflight(&filter, &request), marked(&filter, &request, &[("x-c", "1")])] {
            let wildcard = MARKS.iter().any(|name| answer.get(name).is_some_and(|value| *value == ALL));
            prop_assert!(!(wildcard && answer.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS)), "{:?}", answer);
        }
    }
}
