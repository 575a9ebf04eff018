//! What declared routes do for clients: answers that scripts from elsewhere may read, and instances that clients stay
//! with.

use waypost_proto::{
    instance::{Endpoint, Protocol},
    snapshot::Change,
    v1::{Cors, InstanceState, RouteFilter, RouteRule, RuleRoute, SessionPersistence, route_filter::Kind},
};

use super::saying;
use crate::{
    routes::{endpoint, entry, filter, proxy, rule, to},
    support::{Instance, Proxy, Response},
};

fn cors() -> RouteFilter {
    filter(Kind::Cors(Cors {
        allow_origins: vec!["https://app.example".to_owned()],
        allow_methods: vec!["PUT".to_owned()],
        ..Cors::default()
    }))
}

async fn ask(proxy: &Proxy, head: &str) -> Response {
    let mut client = proxy.client().await;
    client.send(&format!("{head}\r\nhost: a\r\n\r\n")).await;
    client.response().await
}

fn origin(response: &Response) -> Option<String> {
    response.field("access-control-allow-origin")
}

#[tokio::test]
async fn a_preflight_is_answered_for_the_instance() {
    let instance = Instance::mirror().await;
    let rule = RouteRule { filters: vec![cors()], ..rule("/", to("a", 1)) };
    let proxy = proxy(&[("a", "", instance.address)], rule);
    let head = "OPTIONS / HTTP/1.1\r\norigin: https://app.example\r\naccess-control-request-method: PUT";
    let response = ask(&proxy, head).await;
    assert_eq!((response.status, origin(&response).as_deref()), (200, Some("https://app.example")));
    assert_eq!(response.field("access-control-allow-methods").as_deref(), Some("PUT"));
    assert_eq!((response.body.len(), instance.accepted()), (0, 0));
}

#[tokio::test]
async fn answers_say_which_origin_may_read_them_and_so_do_the_proxy_s_own() {
    let instance = Instance::mirror().await;
    for (service, status) in [("a", 200), ("unknown", 500)] {
        let rule = RouteRule { filters: vec![cors()], ..rule("/", to(service, 1)) };
        let proxy = proxy(&[("a", "", instance.address)], rule);
        for (asking, allowed) in
            [("https://app.example", Some("https://app.example")), ("https://b.example", None)]
        {
            let response = ask(&proxy, &format!("GET / HTTP/1.1\r\norigin: {asking}")).await;
            assert_eq!((response.status, origin(&response).as_deref()), (status, allowed));
            assert_eq!(response.field("vary").as_deref(), Some("Origin"));
        }
    }
}

#[tokio::test]
async fn the_filter_of_one_backend_holds_for_its_answers() {
    let instance = Instance::mirror().await;
    let backend = waypost_proto::v1::RouteBackend { filters: vec![cors()], ..to("a", 1) };
    let proxy = proxy(&[("a", "", instance.address)], rule("/", backend));
    let response = ask(&proxy, "GET / HTTP/1.1\r\norigin: https://app.example").await;
    assert_eq!(origin(&response).as_deref(), Some("https://app.example"));
}

/// A rule that splits requests between two services, whose clients stay.
fn sticky(header: bool) -> RouteRule {
    let session = SessionPersistence { name: "session".to_owned(), header, ..SessionPersistence::default() };
    RouteRule {
        backends: vec![to("one", 1), to("two", 1)],
        session_persistence: Some(session),
        ..rule("/", to("one", 1))
    }
}

/// What a client sends back of an answer.
fn token(response: &Response, header: bool) -> Option<String> {
    if header {
        return Some(format!("session: {}", response.field("session")?));
    }
    let cookie = response.field("set-cookie")?;
    Some(format!("cookie: {}", cookie.split(';').next()?))
}

#[tokio::test]
async fn a_client_stays_with_its_instance_past_the_weights() {
    let (one, two, three) = (saying("one").await, saying("two").await, saying("three").await);
    for header in [false, true] {
        let instances = [("one", "", one.address), ("two", "", two.address), ("two", "", three.address)];
        let proxy = proxy(&instances, sticky(header));
        for _ in 0..4 {
            let first = ask(&proxy, "GET / HTTP/1.1").await;
            let token = token(&first, header).expect("a session begins");
            for _ in 0..8 {
                let next = ask(&proxy, &format!("GET / HTTP/1.1\r\n{token}")).await;
                assert_eq!(next.text(), first.text());
                assert_eq!(self::token(&next, header), None, "the client has it");
            }
        }
    }
}

#[tokio::test]
async fn a_client_whose_instance_is_gone_gets_another_one_and_stays_there() {
    let (one, two) = (saying("one").await, saying("two").await);
    let rule = RouteRule { backends: vec![to("a", 1)], ..sticky(false) };
    let mut proxy = proxy(&[("a", "", one.address), ("a", "", two.address)], rule);
    let first = ask(&proxy, "GET / HTTP/1.1").await;
    let before = token(&first, false).expect("a session begins");
    let (gone, other) = if first.text() == "one" { (one.address, "two") } else { (two.address, "one") };
    let draining = Endpoint { state: InstanceState::Draining, ..endpoint(&("a", "", gone), Protocol::Http1) };
    proxy.change(Change { instances: vec![draining], ..Change::default() });
    let moved = ask(&proxy, &format!("GET / HTTP/1.1\r\n{before}")).await;
    assert_eq!(moved.text(), other);
    let after = token(&moved, false).expect("another session begins");
    let stayed = ask(&proxy, &format!("GET / HTTP/1.1\r\n{after}")).await;
    assert_eq!((stayed.text().as_str(), token(&stayed, false)), (other, None));
}

#[tokio::test]
async fn a_client_stays_even_if_the_weight_is_set_to_0_as_long_as_its_instance_is_there() {
    let (one, two) = (saying("one").await, saying("two").await);
    let rule = RouteRule { backends: vec![to("one", 1), to("two", 0)], ..sticky(false) };
    let mut proxy = proxy(&[("one", "", one.address), ("two", "", two.address)], rule.clone());
    let first = ask(&proxy, "GET / HTTP/1.1").await;
    let token = token(&first, false).expect("a session begins");
    let switched = RouteRule { backends: vec![to("one", 0), to("two", 1)], ..rule };
    let route = RuleRoute { rules: vec![switched], ..RuleRoute::default() };
    proxy.change(Change { declared: vec![entry(route)], ..Change::default() });
    let again = format!("GET / HTTP/1.1\r\n{token}");
    assert_eq!(
        [ask(&proxy, &again).await.text(), ask(&proxy, "GET / HTTP/1.1").await.text()],
        ["one", "two"]
    );
    let state = InstanceState::Draining;
    let draining = Endpoint { state, ..endpoint(&("one", "", one.address), Protocol::Http1) };
    proxy.change(Change { instances: vec![draining], ..Change::default() });
    assert_eq!(ask(&proxy, &again).await.text(), "two", "nobody is left to stay with");
}

#[tokio::test]
async fn garbage_for_a_session_is_as_none() {
    let one = saying("one").await;
    let proxy =
        proxy(&[("one", "", one.address)], RouteRule { backends: vec![to("one", 1)], ..sticky(false) });
    let response = ask(&proxy, "GET / HTTP/1.1\r\ncookie: session=AAAA; session=%00").await;
    assert_eq!(response.text(), "one");
    assert!(token(&response, false).is_some(), "a session begins");
}
