//! Fields, before and after, in a table.

use super::*;

const HOST_SENT: HeaderValue = HeaderValue::from_static("shop.example");
const PEER: HeaderValue = HeaderValue::from_static("192.0.2.7");

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name: HeaderName = name.parse().expect(name);
        headers.append(name, HeaderValue::from_str(value).expect(value));
    }
    headers
}

/// All lines, sorted, so that they can be compared whatever their order.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    lines
}

fn sender(trusted: bool, version: Version) -> Sender<'static> {
    static ADDRESS: HeaderValue = PEER;
    Sender { address: &ADDRESS, trusted, tls: false, version }
}

/// What a request's fields become, without those that every request gets.
fn passed(sent: &[(&str, &str)]) -> Vec<String> {
    let mut headers = fields(sent);
    request(&mut headers, &sender(false, Version::HTTP_11), &HOST_SENT).expect("a known coding");
    let added = [
        "via: 1.1 waypost",
        "x-forwarded-for: 192.0.2.7",
        "x-forwarded-host: shop.example",
        "x-forwarded-proto: http",
    ];
    let lines = lines(&headers);
    for line in added {
        assert!(lines.iter().any(|have| have == line), "{line} is missing in {lines:?}");
    }
    lines.into_iter().filter(|line| !added.contains(&line.as_str())).collect()
}

#[test]
fn what_concerns_one_hop_ends_here() {
    let nothing: [&str; 0] = [];
    assert_eq!(passed(&[("connection", "keep-alive"), ("keep-alive", "timeout=5")]), nothing);
    assert_eq!(
        passed(&[("connection", "close, X-Secret"), ("x-secret", "1"), ("accept", "*/*")]),
        ["accept: */*"]
    );
    assert_eq!(passed(&[("connection", "x-a"), ("connection", "x-b"), ("x-a", "1"), ("x-b", "2")]), nothing);
    assert_eq!(
        passed(&[("proxy-authorization", "Basic x"), ("proxy-connection", "keep-alive"), ("proxy-x", "1")]),
        nothing
    );
    assert_eq!(passed(&[("te", "gzip;q=1"), ("transfer-encoding", "chunked")]), nothing);
    assert_eq!(passed(&[("upgrade", "websocket")]), nothing, "without Connection it asks for nothing");
    assert_eq!(passed(&[("trailer", "x-sum")]), ["trailer: x-sum"]);
}

#[test]
fn a_client_cannot_have_needed_fields_removed() {
    let kept =
        passed(&[("connection", "host, content-length"), ("host", "shop.example"), ("content-length", "3")]);
    assert_eq!(kept, ["content-length: 3", "host: shop.example"]);
}

#[test]
fn a_client_is_not_believed_about_who_it_is() {
    let forged = [
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "bank.example"),
        ("x-forwarded-port", "443"),
        ("x-real-ip", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("x-waypost-reason", "none"),
        ("x-waypost-anything", "1"),
    ];
    let nothing: [&str; 0] = [];
    assert_eq!(passed(&forged), nothing);
}

#[test]
fn a_trusted_proxy_is_believed_and_extended() {
    let mut headers = fields(&[
        ("x-forwarded-for", "198.51.100.1"),
        ("x-forwarded-for", "198.51.100.2"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=198.51.100.1"),
        ("x-forwarded-port", "443"),
        ("x-waypost-reason", "none"),
    ]);
    request(&mut headers, &sender(true, Version::HTTP_2), &HOST_SENT).expect("a known coding");
    assert_eq!(
        lines(&headers),
        [
            "forwarded: for=198.51.100.1, for=192.0.2.7;proto=http",
            "via: 2 waypost",
            "x-forwarded-for: 198.51.100.1, 198.51.100.2, 192.0.2.7",
            "x-forwarded-host: shop.example",
            "x-forwarded-port: 443",
            "x-forwarded-proto: https",
        ]
    );
}

#[test]
fn an_ipv6_client_is_quoted_where_the_grammar_asks_for_it() {
    let element = forwarded_element(&HeaderValue::from_static("2001:db8::1"), false);
    assert_eq!(element, "for=\"[2001:db8::1]\";proto=http");
    let element = forwarded_element(&HeaderValue::from_static("192.0.2.7"), true);
    assert_eq!(element, "for=192.0.2.7;proto=https");
}

#[test]
fn via_is_extended() {
    let kept = passed(&[("via", "1.0 fred")]);
    assert_eq!(kept, ["via: 1.0 fred"]);
}

#[test]
fn cookies_that_http2_split_become_one() {
    assert_eq!(passed(&[("cookie", "a=1"), ("cookie", "b=2")]), ["cookie: a=1; b=2"]);
}

#[test]
fn an_upgrade_is_taken_out() {
    let mut headers = fields(&[("connection", "Upgrade, x-hop"), ("upgrade", "websocket"), ("x-hop", "1")]);
    let options = request(&mut headers, &sender(false, Version::HTTP_11), &HOST_SENT).expect("no coding");
    assert_eq!(options.upgrade.as_ref().map(HeaderValue::as_bytes), Some(&b"websocket"[..]));
    assert!(!headers.contains_key(UPGRADE) && !headers.contains_key(CONNECTION), "{headers:?}");
    for_http2(&mut headers, &options);
    assert!(
        !headers.contains_key(UPGRADE) && !headers.contains_key(CONNECTION) && !headers.contains_key(HOST)
    );
}

#[test]
fn an_upgrade_to_http2_is_not_passed_on() {
    for version in [Version::HTTP_10, Version::HTTP_2] {
        let mut headers = fields(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        let options = request(&mut headers, &sender(false, version), &HOST_SENT).expect("no coding");
        assert_eq!(options.upgrade, None, "{version:?} cannot be upgraded");
    }
    let mut headers =
        fields(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAA")]);
    let options = request(&mut headers, &sender(false, Version::HTTP_11), &HOST_SENT).expect("no coding");
    assert_eq!(options.upgrade, None);
    assert!(!headers.contains_key("http2-settings") && !headers.contains_key(UPGRADE));
}

#[test]
fn trailers_are_asked_for_only_where_the_client_takes_them() {
    for (te, taken) in [("trailers", true), ("gzip, Trailers;q=0.5", true), ("gzip", false)] {
        let mut headers = fields(&[("te", te)]);
        let options = request(&mut headers, &sender(false, Version::HTTP_11), &HOST_SENT).expect("no coding");
        assert_eq!(options.trailers, taken, "{te}");
        for_http2(&mut headers, &options);
        assert_eq!(headers.get(TE).is_some(), taken);
    }
}

#[test]
fn a_coding_that_is_not_known_is_refused_both_ways() {
    for coding in ["gzip, chunked", "chunked, chunked", "gzip", "identity", "chunked;x"] {
        let mut headers = fields(&[("transfer-encoding", coding)]);
        let refused = request(&mut headers, &sender(false, Version::HTTP_11), &HOST_SENT);
        assert_eq!(refused, Err(UnknownCoding), "{coding}");
        let mut headers = fields(&[("transfer-encoding", coding)]);
        assert_eq!(response(&mut headers, Version::HTTP_11, false), Err(UnknownCoding), "{coding}");
    }
}

#[test]
fn an_expectation_is_passed_on_but_not_from_http10() {
    for (version, expected) in [(Version::HTTP_11, true), (Version::HTTP_10, false)] {
        let mut headers = fields(&[("expect", "100-Continue")]);
        let options = request(&mut headers, &sender(false, version), &HOST_SENT).expect("no coding");
        assert_eq!((options.expects_continue, headers.contains_key(EXPECT)), (expected, expected));
    }
}

#[test]
fn an_answer_loses_what_concerns_one_hop() {
    let mut headers = fields(&[
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("transfer-encoding", "chunked"),
        ("content-length", "7"),
        ("upgrade", "h2c"),
        ("server", "unit"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-waypost-reason", "no_route"),
    ]);
    assert_eq!(keep_alive_timeout(&headers), Some(5));
    response(&mut headers, Version::HTTP_11, false).expect("a known coding");
    assert_eq!(
        lines(&headers),
        [
            "server: unit",
            "set-cookie: a=1",
            "set-cookie: b=2",
            "via: 1.1 waypost",
            "x-waypost-reason: no_route"
        ]
    );
}

#[test]
fn a_switch_keeps_its_protocol() {
    let mut headers = fields(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
    response(&mut headers, Version::HTTP_11, true).expect("no coding");
    assert_eq!(lines(&headers), ["connection: upgrade", "upgrade: websocket", "via: 1.1 waypost"]);
}

#[test]
fn a_keep_alive_without_a_time_says_nothing() {
    for value in ["max=5", "timeout=x", "timeout"] {
        assert_eq!(keep_alive_timeout(&fields(&[("keep-alive", value)])), None, "{value}");
    }
    assert_eq!(keep_alive_timeout(&fields(&[("keep-alive", "max=5, Timeout = 60")])), Some(60));
}

#[test]
fn a_call_says_how_long_it_may_take() {
    let limit = |value: &'static str| grpc_timeout(&fields(&[("grpc-timeout", value)]));
    let millis = |value| limit(value).map(|limit| limit.as_millis());
    assert_eq!(
        ["2H", "3M", "4S", "5m", "6000u", "99999999n"].map(millis),
        [7_200_000, 180_000, 4000, 5, 6, 99].map(Some)
    );
    for value in ["", "S", "5", "5 S", "-5S", "+5S", "5s", "123456789S", "5µ"] {
        assert_eq!(limit(value), None, "{value}");
    }
}
