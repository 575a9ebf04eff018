//! Ports that a table asks for, and what decides which listener a request came in by.

use std::{net::SocketAddr, time::Duration};

use waypost_proto::v1::{
    Attachment, DeclaredEntry, RouteBackend, RouteRule, RuleMatch, RulePath, RuleRoute, declared_entry::Kind,
};
use waypost_proxy::serve::{PortState, ServeConfig};

use crate::{
    log,
    secure::{Authority, TlsClient, http_listener, https_listener, listener_id},
    shutdown::held,
    support::{Client, Instance, Proxy, api, free_port, until},
};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A route to the one service for all that begins with a path.
pub(crate) fn route(name: &str, path: &str, listeners: &[&str], hostnames: &[&str]) -> DeclaredEntry {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let attachments = listeners
        .iter()
        .map(|listener| Attachment { listener: listener_id(listener), hostnames: owned(hostnames) });
    let matches = RuleMatch { path_kind: RulePath::Prefix.into(), path: path.into(), ..RuleMatch::default() };
    let backend = RouteBackend { service: Some(api().to_wire()), weight: 1, ..RouteBackend::default() };
    let rule = RouteRule { matches: vec![matches], backends: vec![backend], ..RouteRule::default() };
    let route = RuleRoute {
        namespace: "default".into(),
        name: name.into(),
        attachments: attachments.collect(),
        rules: vec![rule],
        ..RuleRoute::default()
    };
    DeclaredEntry { id: format!("httproute/default/{name}"), kind: Some(Kind::Route(route)) }
}

async fn until_open(proxy: &Proxy, port: u16) {
    let listening = proxy.listening();
    until(&format!("port {port} is open"), || listening.ports().get(&port) == Some(&PortState::Open)).await;
}

async fn status(port: u16, host: &str, path: &str) -> u16 {
    let mut client = Client::connect(at(port)).await;
    client.get(host, path).await.expect("an answer").status
}

#[tokio::test]
async fn a_port_opens_and_closes_while_requests_are_in_flight() {
    let (instance, release) = held().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let port = free_port().await;
    proxy.declare(vec![http_listener("web", port, ""), route("all", "/", &["web"], &[])]);
    until_open(&proxy, port).await;

    let (mut busy, mut idle, mut unused) =
        (Client::connect(at(port)).await, Client::connect(at(port)).await, Client::connect(at(port)).await);
    assert_eq!(idle.get("test", "/%00").await.expect("an answer").status, 400);
    busy.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    proxy.until_in_flight(instance.address, 1).await;

    proxy.undeclare(&[listener_id("web")]);
    until("the port is closed", || std::net::TcpStream::connect(at(port)).is_err()).await;
    assert!(proxy.listening().ports().is_empty());
    assert_eq!(idle.rest().await.expect("a clean end"), b"", "who was answered is told to go");
    assert_eq!(unused.rest().await.expect("a clean end"), b"", "and who asks for nothing is, too");
    proxy.until_in_flight(instance.address, 1).await;
    release.send_replace(true);
    let response = busy.response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert_eq!(response.field("connection").as_deref(), Some("close"));
    assert_eq!(proxy.get("/api/").await.status, 200, "the own port is as it was");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_tried_again() {
    log::keep();
    let instance = Instance::mirror().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let (port, other) = (free_port().await, free_port().await);
    let taken = std::net::TcpListener::bind(at(port)).expect("a free port");
    proxy.declare(vec![
        http_listener("taken", port, ""),
        http_listener("other", other, ""),
        route("all", "/", &["taken", "other"], &[]),
    ]);
    until_open(&proxy, other).await;
    assert_eq!(status(other, "test", "/").await, 200, "one port disturbs no other one");
    until("the taken one is told", || proxy.listening().ports().contains_key(&port)).await;
    let state = proxy.listening().ports().get(&port).cloned();
    assert!(matches!(&state, Some(PortState::Failed(why)) if why.contains("in use")), "{state:?}");
    assert_eq!(log::lines(&["ERROR", &at(port).to_string(), "in use", "again_s=1"]).len(), 1);
    until("the metric", || proxy.metrics.render().contains("ports_failed 1")).await;

    drop(taken);
    until_open(&proxy, port).await;
    assert_eq!(status(port, "test", "/").await, 200);
}

#[tokio::test]
async fn a_port_may_be_asked_for_again_at_once() {
    log::keep();
    let instance = Instance::mirror().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let (port, listening) = (free_port().await, proxy.listening());
    proxy.declare(vec![route("all", "/", &["web"], &[])]);
    for _ in 0..20 {
        proxy.declare(vec![http_listener("web", port, "")]);
        until_open(&proxy, port).await;
        assert_eq!(status(port, "test", "/").await, 200);
        proxy.undeclare(&[listener_id("web")]);
        until("it is given up", || listening.ports().is_empty()).await;
    }
    assert_eq!(log::lines(&["ERROR", &at(port).to_string()]), Vec::<String>::new());
}

#[tokio::test]
async fn a_shutdown_closes_all_ports() {
    let instance = Instance::mirror().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let port = free_port().await;
    proxy.declare(vec![http_listener("web", port, ""), route("all", "/", &["web"], &[])]);
    until_open(&proxy, port).await;
    let mut client = Client::connect(at(port)).await;
    assert_eq!(client.get("test", "/").await.expect("an answer").status, 200);
    assert!(proxy.shutdown(Duration::from_secs(60)).await.is_clean());
    assert!(std::net::TcpStream::connect(at(port)).is_err());
    assert_eq!(client.rest().await.expect("a clean end"), b"");
}

#[tokio::test]
async fn the_port_and_the_host_decide_which_routes_there_are() {
    let instance = Instance::mirror().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let (port, other) = (free_port().await, free_port().await);
    proxy.declare(vec![
        http_listener("any", port, ""),
        http_listener("wild", port, "*.example"),
        http_listener("exact", port, "a.example"),
        http_listener("other", other, ""),
        http_listener("own", proxy.address.port(), "own.example"),
        route("any", "/any", &["any"], &[]),
        route("wild", "/wild", &["wild"], &[]),
        route("exact", "/exact", &["exact"], &[]),
        route("other", "/other", &["other"], &["b.example"]),
        route("own", "/own", &["own"], &[]),
    ]);
    until_open(&proxy, port).await;
    until_open(&proxy, other).await;
    for (host, taken, not) in [
        ("a.example", "/exact", ["/wild", "/any", "/other", "/own", "/api/"]),
        ("A.Example:99", "/exact", ["/wild", "/any", "/other", "/own", "/api/"]),
        ("b.example", "/wild", ["/exact", "/any", "/other", "/own", "/api/"]),
        ("b.c.example", "/wild", ["/exact", "/any", "/other", "/own", "/api/"]),
        ("own", "/any", ["/exact", "/wild", "/other", "/own", "/api/"]),
    ] {
        assert_eq!(status(port, host, taken).await, 200, "{host}{taken}");
        for path in not {
            assert_eq!(status(port, host, path).await, 404, "{host}{path}");
        }
    }
    assert_eq!(status(other, "b.example", "/other").await, 200);
    assert_eq!(status(other, "a.example", "/other").await, 404, "the route's own hostnames decide as well");
    assert_eq!(status(other, "b.example", "/api/").await, 404, "automatic routes are at the own port");
    let own = proxy.address.port();
    assert_eq!(status(own, "own.example", "/own").await, 200);
    assert_eq!(status(own, "own.example", "/api/").await, 200);
    assert_eq!(status(own, "else.example", "/own").await, 404);
    assert_eq!(status(own, "else.example", "/api/").await, 200);
}

#[tokio::test]
async fn a_port_may_change_what_it_speaks_without_being_closed() {
    let (instance, authority) = (Instance::mirror().await, Authority::new("ours"));
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    let port = free_port().await;
    proxy.declare(vec![http_listener("web", port, ""), route("all", "/", &["web"], &[])]);
    until_open(&proxy, port).await;
    let mut before = Client::connect(at(port)).await;
    assert_eq!(before.get("a.example", "/").await.expect("an answer").status, 200);

    let certificate = authority.server(&["a.example"]).entry("a");
    proxy.declare(vec![certificate, https_listener("web", port, "", &["a"])]);
    let client = TlsClient::new(&authority, None);
    assert_eq!(client.try_get(at(port), "a.example", "/").await.expect("hands are shaken").status, 200);
    let refused = before.get("a.example", "/").await.expect("an answer");
    assert_eq!((refused.status, refused.reason().as_deref()), (400, Some("bad_request")), "no way round TLS");
}
