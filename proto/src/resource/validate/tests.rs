//! What is refused, and what is said of it.

use crate::resource::samples::{good, http_route, refused, resource};

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

#[track_caller]
fn refuses(text: &str, parts: &[&str]) {
    let said = refused(text);
    for part in parts {
        assert!(said.contains(part), "{text}\nmust be refused with {part:?}, and is with:\n{said}");
    }
}

fn matches(inner: &str) -> String {
    http_route(&format!("{{rules: [{{matches: [{{{inner}}}]}}]}}"))
}

fn filters(inner: &str) -> String {
    http_route(&format!("{{rules: [{{filters: [{inner}]}}]}}"))
}

fn listener(inner: &str) -> String {
    let spec =
        format!("{{gatewayClassName: waypost, listeners: [{{name: a, port: 80, protocol: HTTP, {inner}}}]}}");
    resource(GATEWAY_API, "Gateway", "edge", &spec)
}

#[test]
fn paths_that_no_request_can_have_are_refused() {
    for (value, part) in [
        ("cart", "must begin with '/'; for example \"/cart\""),
        ("/a//b", "must not contain \"//\""),
        ("/a/./b", "must not contain \"/./\""),
        ("/a/../b", "must not contain \"/../\""),
        ("/a/..", "must not end with"),
        ("/a%2fb", "must not contain \"%2F\""),
        ("/a%zz", "write \"%25\" for '%' (character 3)"),
        ("/a%2", "hexadecimal"),
        ("/a?b=c", "match a query with queryParams"),
        ("/a#b", "fragments"),
        ("/ä", "write \"%C3%A4\""),
        ("/a b", "write \"%20\""),
    ] {
        refuses(
            &matches(&format!("path: {{value: \"{value}\"}}")),
            &["spec.rules[0].matches[0].path.value", part],
        );
    }
    refuses(&matches(&format!("path: {{value: \"/{}\"}}", "a".repeat(1024))), &["at most 1024"]);
    for value in ["/", "/a/", "/a%20b", "/~a/*", "/a;b=c,d/@:!$&'()+"] {
        good(&matches(&format!("path: {{type: Exact, value: \"{value}\"}}")));
    }
}

#[test]
fn regular_expressions_must_compile_within_their_bounds() {
    for (value, part) in [
        ("(", "is not a regular expression: unclosed group"),
        ("a)|(b", "is not a regular expression"),
        ("(?x)a #", "is not a regular expression"),
        ("(?=a)b", "there is none in the syntax of Rust's regex, which takes linear time"),
        ("(?<n>a)\\\\k<n>", "write \"\\\\\" for a backslash"),
        ("(a)\\\\1", "there are none in the syntax of Rust's regex"),
        ("(a", "close it with \")\", or write \"\\(\" for the character"),
        ("a)", "write \"\\)\" for the character"),
        ("[a-z", "close it with \"]\""),
        ("*.html", "write \".*\" for any text"),
        ("a{2,1}", "its syntax is that of Rust's regex"),
        ("a{x}", "write \"{2}\" or \"{2,4}\""),
        ("(a{1000}){1000}", "exceeds size limit"),
        ("(a{1000}){1000}", "repeat less often"),
        ("", "must be 1 to 1024 bytes"),
    ] {
        refuses(&matches(&format!("path: {{type: RegularExpression, value: \"{value}\"}}")), &[part]);
        refuses(
            &matches(&format!("queryParams: [{{name: a, type: RegularExpression, value: \"{value}\"}}]")),
            &["queryParams[0].value"],
        );
    }
    let nested = format!("{}a{}", "(".repeat(200), ")".repeat(200));
    refuses(
        &matches(&format!("headers: [{{name: a, type: RegularExpression, value: \"{nested}\"}}]")),
        &["nest"],
    );
    good(&matches("path: {type: RegularExpression, value: \"/v[0-9]+/(a|b)\"}"));
    let regex = crate::resource::compile_regex("a|b").expect("a good one");
    assert!(regex.is_match("a") && !regex.is_match("ab") && !regex.is_match("b\n"));
}

#[test]
fn names_and_values_of_header_fields_must_be_possible() {
    for (name, part) in
        [("a b", "RFC 9110"), (":authority", "use hostnames"), ("", "RFC 9110"), ("ä", "RFC 9110")]
    {
        refuses(&matches(&format!("headers: [{{name: \"{name}\", value: a}}]")), &["headers[0].name", part]);
    }
    for value in ["", "a\\nb", " a", "ä", "\\0"] {
        refuses(&matches(&format!("headers: [{{name: a, value: \"{value}\"}}]")), &["headers[0].value"]);
    }
    refuses(&matches("headers: [{name: a, value: b}, {name: A, value: c}]"), &["headers[1]: is the same as"]);
    refuses(&matches("headers: [{name: a, value: 1}]"), &["must be text; put it in quotes"]);
    refuses(&matches("queryParams: [{name: a, value: b}, {name: a, value: c}]"), &["queryParams[1]"]);
    refuses(&matches("method: get"), &["\"get\" must be one of GET", "did you mean \"GET\"?"]);
}

#[test]
fn hostnames_are_dns_names_with_a_wildcard_at_most_in_front() {
    for (name, part) in [
        ("10.0.0.1", "not an address"),
        ("Example.com", "for example \"example.com\""),
        ("https://example.com/", "for example \"example.com\""),
        ("example.com:8080", "for example \"example.com\""),
        ("a.*.com", "'*' only as its whole first part"),
        ("*", "'*' only as its whole first part"),
        ("*.", "must be a DNS name"),
        ("a_b.com", "must be a DNS name"),
    ] {
        refuses(&http_route(&format!("{{hostnames: [\"{name}\"]}}")), &["spec.hostnames[0]", part]);
        refuses(&listener(&format!("hostname: \"{name}\"")), &["spec.listeners[0].hostname", part]);
    }
    good(&http_route("{hostnames: [localhost, '*.example.com', a-b.example.com]}"));
}

#[test]
fn filters_must_agree_with_themselves_and_each_other() {
    let redirect = "{type: RequestRedirect, requestRedirect: {scheme: https}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: a.b}}";
    refuses(
        &filters(&format!("{redirect}, {rewrite}")),
        &["filters[1]: URLRewrite and RequestRedirect exclude"],
    );
    refuses(&filters(&format!("{rewrite}, {rewrite}")), &["filters[1]: only one filter of type URLRewrite"]);
    refuses(
        &http_route(&format!("{{rules: [{{filters: [{redirect}], backendRefs: [{{name: a}}]}}]}}")),
        &["backendRefs: a rule that redirects has no backends"],
    );
    refuses(
        &filters("{type: URLRewrite, requestRedirect: {}}"),
        &["filters[0]: a filter has only the field of its type"],
    );
    refuses(
        &filters("{type: URLRewrite}"),
        &["filters[0]: a filter of this type needs the field \"urlRewrite\""],
    );
    refuses(&filters("{type: URLRewrit}"), &["did you mean \"URLRewrite\"?"]);
    refuses(
        &filters("{type: ExtensionRef, extensionRef: {}}"),
        &["\"ExtensionRef\" is not supported", "extensionRef: Waypost does not"],
    );
    let prefix = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /a}}}";
    refuses(
        &http_route(&format!("{{rules: [{{matches: [{{}}, {{}}], filters: [{prefix}]}}]}}")),
        &["exactly one match"],
    );
    refuses(
        &http_route(&format!(
            "{{rules: [{{matches: [{{path: {{type: Exact, value: /b}}}}], filters: [{prefix}]}}]}}"
        )),
        &[
            "urlRewrite.path.replacePrefixMatch: needs a rule with exactly one match, whose path is of type PathPrefix",
        ],
    );
    refuses(
        &filters("{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /}}}"),
        &["needs the field \"replaceFullPath\""],
    );
    refuses(
        &filters("{type: RequestRedirect, requestRedirect: {statusCode: 200, scheme: ftp, port: 0}}"),
        &["statusCode: \"200\" must be 301", "scheme: \"ftp\"", "port: \"0\""],
    );
    refuses(
        &http_route(&format!("{{rules: [{{backendRefs: [{{name: a, filters: [{redirect}]}}]}}]}}")),
        &["answers by itself"],
    );
}

#[test]
fn header_changes_must_not_frame_messages_or_undo_each_other() {
    let change = |inner: &str| {
        filters(&format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{inner}}}}}"))
    };
    refuses(&change("set: [{name: Transfer-Encoding, value: chunked}]"), &["frames the message"]);
    refuses(&change("set: [{name: Host, value: a}]"), &["URLRewrite filter"]);
    refuses(&change("remove: [a], add: [{name: A, value: b}]"), &["is removed and set or added"]);
    refuses(&change("remove: [a, A]"), &["remove[1]: is the same as"]);
    refuses(&change("set: [{name: a, value: \"b\\r\\nc: d\"}]"), &["set[0].value"]);
}

#[test]
fn mirrors_and_cors_have_their_ranges() {
    let mirror = |inner: &str| {
        filters(&format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: a}}, {inner}}}}}"))
    };
    refuses(&mirror("percent: 101"), &["percent: \"101\" must be 0 to 100"]);
    refuses(&mirror("percent: 1, fraction: {numerator: 1}"), &["exclude each other"]);
    refuses(
        &mirror("fraction: {numerator: 3, denominator: 2}"),
        &["must not be more than the denominator, 2"],
    );
    refuses(&mirror("fraction: {numerator: 0, denominator: 0}"), &["denominator: \"0\""]);
    let cors = |inner: &str| filters(&format!("{{type: CORS, cors: {{{inner}}}}}"));
    refuses(&cors("allowOrigins: ['*', 'https://a.example']"), &["must stand alone"]);
    refuses(&cors("allowOrigins: ['https://a.example/']"), &["for example \"https://a.example\""]);
    refuses(&cors("allowOrigins: [a.example]"), &["SCHEME://HOST"]);
    refuses(&cors("allowMethods: [get]"), &["must be one of GET"]);
    refuses(&cors("maxAge: 0"), &["maxAge"]);
    good(&cors("allowOrigins: ['http://localhost:3000', 'https://[::1]:1'], allowHeaders: ['*']"));
}

#[test]
fn rules_have_the_bounds_of_the_specification() {
    let rule = |inner: &str| http_route(&format!("{{rules: [{{{inner}}}]}}"));
    refuses(
        &http_route(&format!("{{rules: [{}]}}", "{},".repeat(17))),
        &["spec.rules: has 17, and at most 16"],
    );
    refuses(&http_route("{rules: []}"), &["spec.rules: needs at least 1"]);
    refuses(&rule(&format!("matches: [{}]", "{},".repeat(65))), &["matches: has 65, and at most 64"]);
    let full = format!("{{matches: [{}]}},", "{},".repeat(64));
    refuses(&http_route(&format!("{{rules: [{full}{full}{{}}]}}")), &["have 129 matches together"]);
    refuses(
        &rule("backendRefs: [{name: a, weight: 1000001}]"),
        &["weight: \"1000001\" must be 0 to 1000000"],
    );
    refuses(&rule("backendRefs: [{name: a, weight: -1}]"), &["weight: \"-1\" must be a whole number"]);
    refuses(&rule("backendRefs: [{name: a b}]"), &["backendRefs[0].name"]);
    refuses(&rule("backendRefs: [{name: a, kind: Pod}]"), &["\"Pod\" is no backend"]);
    refuses(
        &rule("backendRefs: [{name: a, group: waypost.dev, kind: ExternalService, tags: [b]}]"),
        &["has no tags"],
    );
    refuses(
        &rule("timeouts: {request: 1s, backendRequest: 2s}"),
        &["backendRequest: \"2s\" must not be longer"],
    );
    refuses(
        &rule("timeouts: {request: 1.5s}"),
        &["timeouts.request: \"1.5s\" must be one to four", "GEP-2257"],
    );
    good(&rule("timeouts: {request: 0s, backendRequest: 2s}"));
    refuses(
        &rule("retry: {codes: [200], attempts: 101}"),
        &["codes[0]: \"200\" must be 400 to 599", "attempts"],
    );
    refuses(
        &rule("sessionPersistence: {type: Header, cookieConfig: {}}"),
        &["cookieConfig: is for sessions"],
    );
    refuses(
        &rule("sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}"),
        &["absoluteTimeout: is required"],
    );
    refuses(
        &http_route("{rules: [{name: a}, {name: a}]}"),
        &["rules[1].name: is the same as spec.rules[0].name"],
    );
    refuses(&http_route("{useDefaultGateways: All}"), &["Waypost does not support it"]);
}

#[test]
fn references_to_gateways_must_differ() {
    let parents = |inner: &str| http_route(&format!("{{parentRefs: [{inner}]}}"));
    refuses(
        &parents("{name: a}, {name: a, sectionName: b}"),
        &["parentRefs[0]: names a Gateway that is named twice"],
    );
    refuses(&parents("{name: a, port: 1}, {name: a, port: 1}"), &["parentRefs[1]: is the same as"]);
    refuses(&parents("{name: a, kind: Service, group: ''}"), &["must be gateway.networking.k8s.io/Gateway"]);
    good(&parents("{name: a, sectionName: b}, {name: a, port: 1}, {name: a, namespace: c}"));
}

#[test]
fn grpc_routes_have_their_own_rules() {
    let rule = |inner: &str| resource(GATEWAY_API, "GRPCRoute", "a", &format!("{{rules: [{{{inner}}}]}}"));
    refuses(&rule("matches: [{method: {}}]"), &["needs a service, a method, or both"]);
    refuses(&rule("matches: [{method: {service: a/b}}]"), &["must be a service's name"]);
    refuses(&rule("matches: [{method: {method: a.b}}]"), &["must be a method's name"]);
    refuses(&rule("filters: [{type: RequestRedirect, requestRedirect: {}}]"), &["a GRPCRoute cannot have"]);
    refuses(&rule("timeouts: {request: 1s}"), &["for HTTPRoute only"]);
}

#[test]
fn gateways_must_be_possible_here() {
    let gateway = |inner: &str| resource(GATEWAY_API, "Gateway", "edge", inner);
    refuses(
        &gateway("{gatewayClassName: istio, listeners: []}"),
        &["use \"waypost\"", "listeners: needs at least 1"],
    );
    refuses(&gateway("{gatewayClassName: waypost}"), &["spec.listeners: is required"]);
    refuses(&listener("tls: {}"), &["tls: is for listeners of protocol HTTPS"]);
    let protocol = |inner: &str| listener("").replace("protocol: HTTP, ", inner);
    refuses(&protocol("protocol: HTTPS"), &["tls: is required"]);
    refuses(&protocol("protocol: HTTPS, tls: {}"), &["certificateRefs: needs at least 1"]);
    refuses(&protocol("protocol: HTTPS, tls: {mode: Passthrough}"), &["TLS ends at the proxy"]);
    refuses(&protocol("protocol: TCP"), &["listeners speak HTTP or HTTPS"]);
    refuses(
        &protocol(
            "protocol: HTTPS, tls: {certificateRefs: [{name: a, kind: Pod}], options: {waypost.dev/min: '1'}}",
        ),
        &["must be Secret", "the option is \"waypost.dev/minimum-tls-version\""],
    );
    refuses(&listener("allowedRoutes: {kinds: [{kind: TCPRoute}]}"), &["must be HTTPRoute or GRPCRoute"]);
    refuses(&listener("allowedRoutes: {namespaces: {from: Selector}}"), &["is required with from: Selector"]);
    refuses(
        &listener("allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}"),
        &["\"team\" is no label of a namespace"],
    );
    let twice = "{name: a, port: 80, protocol: HTTP}, {name: a, port: 80, protocol: HTTP}";
    refuses(
        &gateway(&format!("{{gatewayClassName: waypost, listeners: [{twice}]}}")),
        &["listeners[1].name: is the same as", "listeners[1]: is the same as"],
    );
    refuses(
        &gateway("{gatewayClassName: waypost, addresses: []}"),
        &["proxies bind the address of their own"],
    );
}

#[test]
fn policies_grants_and_material_must_be_usable() {
    let policy = |inner: &str| resource(GATEWAY_API, "BackendTLSPolicy", "a", inner);
    refuses(
        &policy("{targetRefs: [{group: '', kind: Service, name: a}], validation: {hostname: a.b}}"),
        &["validation: needs either caCertificateRefs or wellKnownCACertificates"],
    );
    refuses(
        &policy("{targetRefs: [], validation: {hostname: '*.a', wellKnownCACertificates: System}}"),
        &["targetRefs: needs at least 1", "validation.hostname"],
    );
    refuses(
        &policy("{targetRefs: [{group: '', kind: Service, name: a, sectionName: b}]}"),
        &["no named ports"],
    );
    let grant = |inner: &str| resource(GATEWAY_API, "ReferenceGrant", "a", inner);
    refuses(&grant("{from: [], to: []}"), &["from: needs at least 1", "to: needs at least 1"]);
    refuses(
        &grant("{from: [{group: '', kind: HTTPRoute}], to: [{group: '', kind: Service}]}"),
        &["namespace: is required"],
    );
    let external = |inner: &str| resource("waypost.dev/v1", "ExternalService", "a", inner);
    refuses(&external("{addresses: ['a']}"), &["addresses[0]", "HOST:PORT"]);
    refuses(&external("{addresses: ['a:1', 'a:1'], protocol: tcp}"), &["must be one of http1, http2, grpc"]);
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ntype: kubernetes.io/tls\nstringData: {tls.crt: x}\n";
    refuses(secret, &["stringData[\"tls.crt\"]: holds no certificate", "data[\"tls.key\"]: is required"]);
    refuses(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {ca.crt: x, 'a/b': c}\n",
        &["data[\"ca.crt\"]: holds no certificate", "\"a/b\" must be 1 to 253"],
    );
}

#[test]
fn the_envelope_must_name_a_resource() {
    refuses(
        "apiVersion: v2\nkind: Secret\nmetadata: {name: a}",
        &["apiVersion: \"v2\" must be v1 for kind Secret"],
    );
    refuses("apiVersion: v1\nkind: Secret", &["metadata.name: is required"]);
    refuses("apiVersion: v1\nkind: Secret\nmetadata: {name: A}", &["metadata.name: \"A\" must be 1 to 253"]);
    refuses("apiVersion: v1\nkind: Secret\nmetadata: {generateName: a}", &["use \"name\""]);
    refuses("apiVersion: v1\nkind: Secret\nmetadata: {name: a, lables: {}}", &["did you mean \"labels\"?"]);
    refuses(
        &http_route("{rules: [{}]}").replace("spec:", "specs:"),
        &["did you mean \"spec\"?", "spec: is required"],
    );
}
