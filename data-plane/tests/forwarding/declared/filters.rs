//! What filters of declared routes do to requests and answers on their way.

use waypost_proto::v1::{
    HeaderChange, HeaderField, PathChange, Redirect, Rewrite, RouteBackend, RouteFilter, RouteRule,
    path_change, route_filter::Kind,
};

use crate::{
    routes::{filter, proxy, rule, to},
    support::{Instance, Proxy, Response, field},
};

fn header(name: &str, value: &str) -> HeaderField {
    HeaderField { name: name.to_owned(), value: value.to_owned() }
}

fn change(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderChange {
    let fields = |fields: &[(&str, &str)]| fields.iter().map(|(name, value)| header(name, value)).collect();
    HeaderChange {
        set: fields(set),
        add: fields(add),
        remove: remove.iter().map(|&name| name.to_owned()).collect(),
    }
}

fn prefix(replacement: &str) -> Option<PathChange> {
    Some(PathChange { kind: Some(path_change::Kind::Prefix(replacement.to_owned())) })
}

fn full(replacement: &str) -> Option<PathChange> {
    Some(PathChange { kind: Some(path_change::Kind::Full(replacement.to_owned())) })
}

/// A rule for `/foo` with filters of its own and of its backend.
fn filtered(of_rule: Vec<Kind>, of_backend: Vec<Kind>) -> RouteRule {
    let filters = |kinds: Vec<Kind>| -> Vec<RouteFilter> { kinds.into_iter().map(filter).collect() };
    let backend = RouteBackend { filters: filters(of_backend), ..to("a", 1) };
    RouteRule { filters: filters(of_rule), ..rule("/foo", backend) }
}

async fn ask(proxy: &Proxy, head: &str) -> Response {
    let mut client = proxy.client().await;
    client.send(&format!("{head}\r\n\r\n")).await;
    client.response().await
}

/// The request as an instance gets it through the filters.
async fn seen(of_rule: Vec<Kind>, of_backend: Vec<Kind>, head: &str) -> String {
    let instance = Instance::mirror().await;
    let proxy = proxy(&[("a", "", instance.address)], filtered(of_rule, of_backend));
    let response = ask(&proxy, head).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.text()
}

#[tokio::test]
async fn a_request_header_modifier_sets_adds_and_removes() {
    let all = change(&[("x-set", "rule")], &[("x-add", "rule")], &["x-gone"]);
    let its = change(&[("x-set", "backend")], &[("x-add", "backend")], &[]);
    let head =
        "GET /foo HTTP/1.1\r\nhost: a\r\nx-set: client\r\nx-add: client\r\nX-Gone: client\r\nx-kept: client";
    let seen = seen(vec![Kind::RequestHeaders(all)], vec![Kind::RequestHeaders(its)], head).await;
    let fields = ["x-set", "x-add", "x-gone", "x-kept"].map(|name| field(&seen, name).unwrap_or_default());
    assert_eq!(fields, ["backend", "client, rule, backend", "", "client"]);
}

#[tokio::test]
async fn a_response_header_modifier_sets_adds_and_removes() {
    let instance = Instance::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-set: a\r\nx-add: a\r\nx-gone: a\r\n\r\n",
    )
    .await;
    let all = change(&[("x-set", "rule")], &[("x-add", "rule")], &["x-gone"]);
    let its = change(&[("x-set", "backend")], &[("x-add", "backend")], &[]);
    let rule = filtered(vec![Kind::ResponseHeaders(all)], vec![Kind::ResponseHeaders(its)]);
    let proxy = proxy(&[("a", "", instance.address)], rule);
    for _ in 0..2 {
        let response = proxy.get("/foo").await;
        let fields = ["x-set", "x-add", "x-gone"].map(|name| response.field(name).unwrap_or_default());
        assert_eq!(fields, ["rule", "a, backend, rule", ""], "the rule has the last word");
    }
}

#[tokio::test]
async fn a_url_rewrite_replaces_the_host_and_the_prefix() {
    let rewrite = Rewrite { hostname: "in.example".to_owned(), path: prefix("/xyz/") };
    let seen =
        seen(vec![Kind::Rewrite(rewrite)], vec![], "GET /foo/bar?x=/foo HTTP/1.1\r\nhost: out.example:80")
            .await;
    assert!(seen.starts_with("GET /xyz/bar?x=/foo HTTP/1.1\r\nhost: in.example\r\n"), "{seen}");
    assert_eq!(field(&seen, "x-forwarded-host").as_deref(), Some("out.example:80"));
}

#[tokio::test]
async fn a_url_rewrite_replaces_the_full_path_and_the_backend_s_own_counts() {
    let rewrite = |path| Kind::Rewrite(Rewrite { hostname: String::new(), path });
    let head = "GET /foo/bar?x=1 HTTP/1.1\r\nhost: a";
    let seen_by_rule = seen(vec![rewrite(full("/all"))], vec![], head).await;
    assert!(seen_by_rule.starts_with("GET /all?x=1 HTTP/1.1\r\nhost: a\r\n"), "{seen_by_rule}");
    let seen_by_backend = seen(vec![rewrite(full("/all"))], vec![rewrite(prefix(""))], head).await;
    assert!(seen_by_backend.starts_with("GET /bar?x=1 "), "{seen_by_backend}");
}

#[tokio::test]
async fn a_request_redirect_answers_for_the_listener_s_port_and_asks_no_instance() {
    let instance = Instance::mirror().await;
    let to = |redirect: Redirect| {
        let marked = change(&[("x-marked", "yes")], &[], &[]);
        let rule = filtered(vec![Kind::Redirect(redirect), Kind::ResponseHeaders(marked)], vec![]);
        proxy(&[("a", "", instance.address)], rule)
    };
    let plain = Redirect { status: 302, ..Redirect::default() };
    let moved = to(Redirect { hostname: "b.example".to_owned(), path: prefix("/new"), ..plain.clone() });
    let secured = to(Redirect { scheme: "https".to_owned(), status: 301, ..plain.clone() });
    let method_kept = to(Redirect { port: 80, status: 308, ..plain });
    let here = moved.address.port();
    for (proxy, status, location) in [
        (&moved, 302, format!("http://b.example:{here}/new/bar?x=1")),
        (&secured, 301, "https://a.example/foo/bar?x=1".to_owned()),
        (&method_kept, 308, "http://a.example/foo/bar?x=1".to_owned()),
    ] {
        let head = "POST /foo/bar?x=1 HTTP/1.1\r\nhost: a.example:8080\r\ncontent-length: 0";
        let response = ask(proxy, head).await;
        assert_eq!((response.status, response.field("location")), (status, Some(location)));
        assert_eq!(response.field("x-marked").as_deref(), Some("yes"));
        assert_eq!((response.body.len(), response.reason()), (0, None));
    }
    assert_eq!(instance.accepted(), 0);
}

#[tokio::test]
async fn a_rule_may_redirect_without_a_backend() {
    let redirect = Kind::Redirect(Redirect { status: 303, path: full("/login"), ..Redirect::default() });
    let rule = RouteRule { backends: Vec::new(), ..filtered(vec![redirect], vec![]) };
    let proxy = proxy(&[], rule);
    let response = ask(&proxy, "GET /foo HTTP/1.0").await;
    assert_eq!((response.status, response.field("location").as_deref()), (303, Some("/login")));
}
