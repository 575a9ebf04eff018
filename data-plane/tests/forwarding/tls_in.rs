//! TLS with clients: which certificate they are shown, what they must show, and what becomes of those who do not.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::ExtendedKeyUsagePurpose;
use waypost_proto::v1::DeclaredEntry;
use waypost_proxy::serve::ServeConfig;

use crate::{
    log,
    secure::{Authority, TlsClient, agreed, http_listener, https_listener, listener_id, shown, with},
    support::{Client, Instance, Proxy, until},
};

/// A proxy whose own port has these listeners too, before one instance.
async fn proxy(entries: Vec<DeclaredEntry>) -> (Proxy, Instance) {
    let instance = Instance::mirror().await;
    let mut proxy = Proxy::new(ServeConfig::default(), &[instance.address]);
    proxy.declare(entries);
    (proxy, instance)
}

/// Asks for clients' certificates.
fn asking(entry: DeclaredEntry, authority: &str, lenient: bool) -> DeclaredEntry {
    with(entry, |listener| {
        listener.client_authorities = vec![format!("authorities/default/{authority}")];
        listener.client_may_be_anonymous = lenient;
    })
}

/// Waits until a refusal with this reason is counted.
async fn until_refused(proxy: &Proxy, reason: &str, count: u32) {
    let series = format!("reason=\"{reason}\"}} {count}");
    let counted =
        || proxy.metrics.render().lines().any(|line| line.contains("tls") && line.ends_with(&series));
    until(&format!("{count} × {reason}"), counted).await;
}

#[tokio::test]
async fn the_name_that_is_asked_for_picks_the_certificate() {
    let authority = Authority::new("ours");
    let (first, exact, wild) = (
        authority.server(&["first.example"]),
        authority.server(&["a.example"]),
        authority.server(&["*.b.example"]),
    );
    let (proxy, _instance) = proxy(vec![
        first.entry("first"),
        exact.entry("exact"),
        wild.entry("wild"),
        https_listener("https", 0, "", &["first", "exact", "wild"]),
    ])
    .await;
    let client = TlsClient::new(&authority, None);
    for (name, expected) in
        [("first.example", &first), ("a.example", &exact), ("A.Example", &exact), ("x.b.example", &wild)]
    {
        let stream = client.try_connect(proxy.address, name).await.expect("hands are shaken");
        assert_eq!(shown(&stream), expected.der(), "{name}");
        let response = client.try_get(proxy.address, name, "/api/").await.expect("an answer");
        assert_eq!(response.status, 200);
        assert!(response.text().contains("x-forwarded-proto: https"), "{}", response.text());
    }
    // A name that no certificate is for: the first one, which the client does not take for it.
    let refused = client.try_connect(proxy.address, "x.y.b.example").await.expect_err("not for this name");
    assert!(refused.to_string().contains("not valid for name"), "{refused}");
    until_refused(&proxy, "refused_by_client", 1).await;
    let stream =
        client.nameless().try_connect(proxy.address, "first.example").await.expect("hands are shaken");
    assert_eq!(shown(&stream), first.der(), "no name, the first certificate");
}

#[tokio::test]
async fn a_name_that_belongs_to_no_listener_is_refused() {
    log::keep();
    let authority = Authority::new("ours");
    let (proxy, _instance) = proxy(vec![
        authority.server(&["a.example"]).entry("a"),
        https_listener("https", 0, "a.example", &["a"]),
    ])
    .await;
    let client = TlsClient::new(&authority, None);
    let begun = Instant::now();
    let refused = client.try_connect(proxy.address, "b.example").await.expect_err("no listener");
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    assert!(client.nameless().try_connect(proxy.address, "a.example").await.is_err());
    until_refused(&proxy, "no_listener", 2).await;
    let port = format!("port={} ", proxy.address.port());
    let lines = log::lines(&["WARN", "reason=\"no_listener\"", &port]);
    assert!((1..=1 + begun.elapsed().as_secs()).contains(&(lines.len() as u64)), "one a second: {lines:?}");
    assert_eq!(client.try_get(proxy.address, "a.example", "/api/").await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_listener_without_certificate_refuses_and_starts_when_it_comes() {
    let authority = Authority::new("ours");
    let (mut proxy, _instance) = proxy(vec![https_listener("https", 0, "a.example", &["a"])]).await;
    let client = TlsClient::new(&authority, None);
    assert!(client.try_connect(proxy.address, "a.example").await.is_err());
    until_refused(&proxy, "not_ready", 1).await;
    let problems = |proxy: &Proxy| proxy.table().edge().problems().count();
    assert_eq!(problems(&proxy), 1);
    assert_eq!(proxy.get("/api/").await.status, 200, "plain HTTP is as it was");
    proxy.declare(vec![authority.server(&["a.example"]).entry("a")]);
    assert_eq!(client.try_get(proxy.address, "a.example", "/api/").await.expect("an answer").status, 200);
    assert_eq!(problems(&proxy), 0);
}

#[tokio::test]
async fn the_protocol_is_agreed_on() {
    let authority = Authority::new("ours");
    let (proxy, _instance) =
        proxy(vec![authority.server(&["a.example"]).entry("a"), https_listener("https", 0, "", &["a"])])
            .await;
    let client = TlsClient::new(&authority, None);
    for (offered, expected) in [
        (&["http/1.1"][..], Some("http/1.1")),
        (&["h2", "http/1.1"], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&[], None),
    ] {
        let stream = client.offering(offered).try_connect(proxy.address, "a.example").await.expect("agreed");
        assert_eq!(agreed(&stream).as_deref(), expected, "{offered:?}");
        if expected == Some("h2") {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (mut sender, connection) = handshake.await.expect("HTTP/2");
            tokio::spawn(connection);
            let request =
                Request::get("https://a.example/api/").body(Empty::<Bytes>::new()).expect("a request");
            assert_eq!(sender.send_request(request).await.expect("an answer").status(), StatusCode::OK);
        }
    }
    let refused =
        client.offering(&["spdy/3"]).try_connect(proxy.address, "a.example").await.expect_err("unknown");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    until_refused(&proxy, "no_common_protocol", 1).await;
}

#[tokio::test]
async fn versions_below_the_lowest_one_are_refused() {
    let authority = Authority::new("ours");
    let (mut proxy, _instance) =
        proxy(vec![authority.server(&["a.example"]).entry("a"), https_listener("https", 0, "", &["a"])])
            .await;
    let old = TlsClient::speaking(&authority, None, &[&rustls::version::TLS12]);
    assert_eq!(old.try_get(proxy.address, "a.example", "/api/").await.expect("1.2").status, 200);
    let strict = https_listener("https", 0, "", &["a"]);
    proxy.declare(vec![with(strict, |listener| listener.minimum_tls_version = "1.3".into())]);
    let refused = old.try_connect(proxy.address, "a.example").await.expect_err("too old");
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    until_refused(&proxy, "no_common_version", 1).await;
    let new = TlsClient::new(&authority, None);
    assert_eq!(new.try_get(proxy.address, "a.example", "/api/").await.expect("1.3").status, 200);
}

#[tokio::test]
async fn plain_http_where_there_is_only_tls_is_told_so() {
    let authority = Authority::new("ours");
    let port = crate::support::free_port().await;
    let (proxy, _instance) =
        proxy(vec![authority.server(&["a.example"]).entry("a"), https_listener("https", port, "", &["a"])])
            .await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    until("the port is open", || std::net::TcpStream::connect(address).is_ok()).await;
    let mut client = Client::connect(address).await;
    let response = client.get("a.example", "/").await.expect("an answer");
    assert_eq!((response.status, response.reason().as_deref()), (400, Some("bad_request")));
    assert!(response.text().contains("https://"), "{}", response.text());
    assert_eq!(client.rest().await.expect("a clean end"), b"");
    until_refused(&proxy, "plain_http", 1).await;

    let mut client = Client::connect(address).await;
    client.send_bytes(&[0x16, 3, 1, 0, 4, 9, 0, 0, 0]).await;
    client.rest().await.expect("an alert and the end");
    until_refused(&proxy, "malformed", 1).await;
}

#[tokio::test]
async fn a_certificate_is_replaced_under_load_and_no_request_fails() {
    let authority = Authority::new("ours");
    let old = authority.server(&["a.example"]);
    let (mut proxy, _instance) =
        proxy(vec![old.entry("a"), https_listener("https", 0, "a.example", &["a"])]).await;
    let (address, client) = (proxy.address, TlsClient::new(&authority, None));
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = Vec::new();
    for kept in [true, true, false, false] {
        let (client, stop, answered) = (client.clone(), Arc::clone(&stop), Arc::clone(&answered));
        load.push(tokio::spawn(async move {
            let mut wire = client.connect(address, "a.example").await;
            while !stop.load(Ordering::SeqCst) {
                if !kept {
                    wire = client.connect(address, "a.example").await;
                }
                let response = wire.get("a.example", "/api/").await.expect("an answer");
                assert_eq!(response.status, 200);
                answered.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    let mut latest = old;
    for _ in 0..10 {
        latest = authority.server(&["a.example"]);
        proxy.declare(vec![latest.entry("a")]);
        // Without a ticket of before, with which no certificate is shown at all.
        let stream = TlsClient::new(&authority, None).try_connect(address, "a.example").await;
        let stream = stream.expect("hands are shaken");
        assert_eq!(shown(&stream), latest.der(), "who comes now sees the new one");
        let before = answered.load(Ordering::SeqCst);
        until("more answers", || answered.load(Ordering::SeqCst) >= before + 20).await;
    }
    // A broken one changes nothing but for being told.
    let mut broken = authority.server(&["a.example"]);
    broken.key = authority.client().key;
    proxy.declare(vec![broken.entry("a")]);
    let stream = TlsClient::new(&authority, None).try_connect(address, "a.example").await;
    assert_eq!(shown(&stream.expect("hands are shaken")), latest.der());
    assert_eq!(proxy.table().edge().problems().count(), 1);
    stop.store(true, Ordering::SeqCst);
    for task in load {
        task.await.expect("no request has failed");
    }
}

#[tokio::test]
async fn clients_are_let_in_by_their_certificates_only() {
    let (authority, clients, strangers) =
        (Authority::new("ours"), Authority::new("clients"), Authority::new("strangers"));
    let usage = || ExtendedKeyUsagePurpose::ClientAuth;
    for (identity, reason) in [
        (Some(clients.client()), None),
        (None, Some("client_certificate_missing")),
        (Some(strangers.client()), Some("client_certificate_unknown_authority")),
        (Some(clients.sign(&["c"], usage(), (2020, 2021))), Some("client_certificate_expired")),
        (Some(clients.sign(&["c"], usage(), (2098, 2099))), Some("client_certificate_not_yet_valid")),
        (Some(clients.server(&["c"])), Some("client_certificate_purpose")),
    ] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            log::keep();
            let (proxy, instance) = proxy(vec![
                authority.server(&["a.example"]).entry("a"),
                clients.entry("clients"),
                asking(https_listener("https", 0, "a.example", &["a"]), "clients", false),
            ])
            .await;
            let client = TlsClient::speaking(&authority, identity.as_ref(), &[version]);
            let answer = client.try_get(proxy.address, "a.example", "/api/").await;
            let Some(reason) = reason else {
                assert_eq!(answer.expect("let in").status, 200);
                continue;
            };
            assert!(answer.is_err(), "{reason}: {answer:?}");
            until_refused(&proxy, reason, 1).await;
            let (word, port) = (format!("reason={reason:?}"), format!("port={} ", proxy.address.port()));
            until("the log says why", || log::lines(&["WARN", &word, &port, "peer=127.0.0.1"]).len() == 1)
                .await;
            assert_eq!(instance.accepted(), 0, "no request of it went anywhere");
        }
    }
}

#[tokio::test]
async fn clients_may_be_anonymous_where_the_listener_says_so() {
    let (authority, clients) = (Authority::new("ours"), Authority::new("clients"));
    let (proxy, _instance) = proxy(vec![
        authority.server(&["a.example"]).entry("a"),
        clients.entry("clients"),
        asking(https_listener("https", 0, "a.example", &["a"]), "clients", true),
    ])
    .await;
    let stranger = Authority::new("strangers").client();
    for identity in [None, Some(clients.client()), Some(stranger)] {
        let client = TlsClient::new(&authority, identity.as_ref());
        assert_eq!(client.try_get(proxy.address, "a.example", "/api/").await.expect("let in").status, 200);
    }
}

#[tokio::test]
async fn who_was_let_in_before_certificates_were_asked_for_is_not_let_in_after() {
    let (authority, clients) = (Authority::new("ours"), Authority::new("clients"));
    let (mut proxy, _instance) = proxy(vec![
        authority.server(&["a.example"]).entry("a"),
        clients.entry("clients"),
        https_listener("https", 0, "a.example", &["a"]),
    ])
    .await;
    // It keeps its session tickets.
    let client = TlsClient::new(&authority, None);
    let mut kept = client.connect(proxy.address, "a.example").await;
    assert_eq!(kept.get("a.example", "/api/").await.expect("an answer").status, 200);
    proxy.declare(vec![asking(https_listener("https", 0, "a.example", &["a"]), "clients", false)]);
    assert_eq!(kept.rest().await.expect("a clean end"), b"", "its connection ends");
    assert!(
        client.try_get(proxy.address, "a.example", "/api/").await.is_err(),
        "and no ticket opens another"
    );
    until_refused(&proxy, "client_certificate_missing", 1).await;

    let known = clients.client();
    let client = TlsClient::new(&authority, Some(&known));
    assert_eq!(client.try_get(proxy.address, "a.example", "/api/").await.expect("let in").status, 200);
    proxy.declare(vec![Authority::new("others").entry("clients")]);
    assert!(client.try_get(proxy.address, "a.example", "/api/").await.is_err(), "its authority is no more");
    until_refused(&proxy, "client_certificate_unknown_authority", 1).await;

    proxy.undeclare(&["authorities/default/clients".to_owned()]);
    assert!(client.try_get(proxy.address, "a.example", "/api/").await.is_err(), "nobody is known");
    until_refused(&proxy, "not_ready", 1).await;
}

/// Whether a handshake was cut short by a ticket is seen by the client.
#[tokio::test]
async fn a_session_goes_on_only_where_no_certificate_is_asked_for() {
    let (authority, clients) = (Authority::new("ours"), Authority::new("clients"));
    let (mut proxy, _instance) = proxy(vec![
        authority.server(&["a.example"]).entry("a"),
        clients.entry("clients"),
        https_listener("https", 0, "a.example", &["a"]),
    ])
    .await;
    let resumed = async |proxy: &Proxy, client: &TlsClient| {
        client.try_get(proxy.address, "a.example", "/api/").await.expect("let in");
        let stream = client.try_connect(proxy.address, "a.example").await.expect("let in");
        stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    };
    assert!(resumed(&proxy, &TlsClient::new(&authority, None)).await);
    proxy.declare(vec![asking(https_listener("https", 0, "a.example", &["a"]), "clients", false)]);
    let known = clients.client();
    // A certificate may expire, and a ticket would outlive it.
    assert!(!resumed(&proxy, &TlsClient::new(&authority, Some(&known))).await);
}

#[tokio::test]
async fn a_request_for_another_listeners_host_is_misdirected() {
    let (authority, clients) = (Authority::new("ours"), Authority::new("clients"));
    // One certificate for both, so that clients have reason to use one connection for both.
    let (proxy, instance) = proxy(vec![
        authority.server(&["a.example", "b.example"]).entry("both"),
        clients.entry("clients"),
        https_listener("a", 0, "a.example", &["both"]),
        asking(https_listener("b", 0, "b.example", &["both"]), "clients", false),
        https_listener("rest", 0, "*.rest.example", &["both"]),
        http_listener("plain", 0, "plain.example"),
    ])
    .await;
    let client = TlsClient::new(&authority, None);
    let mut wire = client.connect(proxy.address, "a.example").await;
    let port = proxy.address.port();
    for (host, status) in [
        ("a.example", 200),
        ("b.example", 421),
        ("B.Example.", 421),
        ("x.rest.example", 421),
        ("plain.example", 421),
        ("a.example", 200),
    ] {
        let response = wire.get(host, "/api/").await.expect("an answer");
        assert_eq!(response.status, status, "{host}");
        if status == 421 {
            assert_eq!(response.reason().as_deref(), Some("misdirected"), "{host}");
        }
    }
    assert_eq!(wire.get(&format!("a.example:{port}"), "/api/").await.expect("an answer").status, 200);
    assert_eq!(wire.get(&format!("b.example:{port}"), "/api/").await.expect("an answer").status, 421);
    let before = instance.accepted();

    let stream = client.offering(&["h2"]).try_connect(proxy.address, "a.example").await.expect("agreed");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("HTTP/2");
    tokio::spawn(connection);
    for (host, status) in [("b.example", 421), ("a.example", 200)] {
        let request =
            Request::get(format!("https://{host}/api/")).body(Empty::<Bytes>::new()).expect("a request");
        assert_eq!(
            sender.send_request(request).await.expect("an answer").status().as_u16(),
            status,
            "{host}"
        );
    }
    assert_eq!(instance.accepted(), before, "one pooled connection served all that was answered with 200");

    let mut plain = proxy.client().await;
    assert_eq!(plain.get("a.example", "/api/").await.expect("an answer").status, 400, "over TLS only");
    assert_eq!(plain.get("plain.example", "/api/").await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_listener_that_is_removed_ends_its_connections_after_their_answers() {
    let authority = Authority::new("ours");
    let (mut proxy, _instance) = proxy(vec![
        authority.server(&["a.example", "b.example"]).entry("both"),
        https_listener("a", 0, "a.example", &["both"]),
        https_listener("b", 0, "b.example", &["both"]),
    ])
    .await;
    let client = TlsClient::new(&authority, None);
    let mut of_a = client.connect(proxy.address, "a.example").await;
    let mut of_b = client.connect(proxy.address, "b.example").await;
    for (wire, host) in [(&mut of_a, "a.example"), (&mut of_b, "b.example")] {
        assert_eq!(wire.get(host, "/api/").await.expect("an answer").status, 200);
    }
    proxy.undeclare(&[listener_id("a")]);
    assert_eq!(of_a.rest().await.expect("a clean end"), b"");
    assert_eq!(
        of_b.get("b.example", "/api/").await.expect("an answer").status,
        200,
        "the other is as it was"
    );
}

#[tokio::test]
async fn a_client_that_takes_too_long_is_let_go() {
    let authority = Authority::new("ours");
    let instance = Instance::mirror().await;
    let mut proxy = Proxy::new(crate::support::hasty(), &[instance.address]);
    proxy.declare(vec![authority.server(&["a.example"]).entry("a"), https_listener("https", 0, "", &["a"])]);
    let mut slow = Client::connect(proxy.address).await;
    // A record's head that promises more than ever comes.
    slow.send_bytes(&[0x16, 3, 1, 1, 0]).await;
    let ended: io::Result<Vec<u8>> = slow.rest().await;
    assert!(ended.is_err() || ended.is_ok_and(|bytes| bytes.is_empty()));
    until_refused(&proxy, "timeout", 1).await;
}
