//! What entries come to.

use super::*;

fn listener(name: &str, port: u32, hostname: &str) -> Arc<DeclaredEntry> {
    tls_listener(name, port, hostname, &[], &[], ListenerProtocol::Http)
}

fn tls_listener(
    name: &str,
    port: u32,
    hostname: &str,
    certificates: &[&str],
    authorities: &[&str],
    protocol: ListenerProtocol,
) -> Arc<DeclaredEntry> {
    let names = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
    let entry = ListenerEntry {
        namespace: "default".into(),
        gateway: "edge".into(),
        name: name.into(),
        port,
        protocol: protocol.into(),
        hostname: hostname.into(),
        certificates: names(certificates),
        client_authorities: names(authorities),
        ..ListenerEntry::default()
    };
    Arc::new(DeclaredEntry { id: format!("listener/default/edge/{name}"), kind: Some(Kind::Listener(entry)) })
}

fn certificate(name: &str) -> Arc<DeclaredEntry> {
    let made = rcgen::generate_simple_self_signed([format!("{name}.example")]).expect("a certificate");
    let (chain, key) = (made.cert.pem().into(), made.signing_key.serialize_pem().into());
    let kind = Some(Kind::Certificate(CertificateEntry { chain, key }));
    Arc::new(DeclaredEntry { id: format!("certificate/default/{name}"), kind })
}

fn broken(name: &str) -> Arc<DeclaredEntry> {
    let kind = Some(Kind::Certificate(CertificateEntry {
        chain: b"x".as_slice().into(),
        key: b"y".as_slice().into(),
    }));
    Arc::new(DeclaredEntry { id: format!("certificate/default/{name}"), kind })
}

fn put(compiler: &mut EdgeCompiler, entries: &[Arc<DeclaredEntry>]) -> Edge {
    let ids: Vec<Arc<str>> = entries.iter().map(|entry| entry.id.as_str().into()).collect();
    compiler.update(ids.iter().zip(entries.iter().map(Some)));
    compiler.edge()
}

fn remove(compiler: &mut EdgeCompiler, id: &str) -> Edge {
    compiler.update([(&Arc::from(id), None)].into_iter());
    compiler.edge()
}

fn https(certificates: &[&str], authorities: &[&str]) -> Arc<DeclaredEntry> {
    tls_listener("https", 443, "", certificates, authorities, ListenerProtocol::Https)
}

#[test]
fn ports_are_those_of_listeners_and_the_own_one() {
    let mut compiler = EdgeCompiler::default();
    compiler.listen_on(8080);
    assert_eq!(compiler.edge().ports().collect::<Vec<_>>(), [OWN_PORT]);
    let edge =
        put(&mut compiler, &[listener("a", 80, ""), listener("b", 80, "b.example"), listener("c", 8080, "")]);
    assert_eq!(edge.ports().collect::<Vec<_>>(), [OWN_PORT, 80]);
    remove(&mut compiler, "listener/default/edge/a");
    assert_eq!(compiler.edge().ports().collect::<Vec<_>>(), [OWN_PORT, 80]);
    assert_eq!(remove(&mut compiler, "listener/default/edge/b").ports().collect::<Vec<_>>(), [OWN_PORT]);
}

#[test]
fn a_certificate_that_cannot_be_read_leaves_the_old_one() {
    let mut compiler = EdgeCompiler::default();
    let edge = put(&mut compiler, &[https(&["certificate/default/a"], &[]), certificate("a")]);
    let before =
        edge.port(443).and_then(|port| port.tls_site(None)).and_then(|site| site.tls.clone()).expect("TLS");
    let edge = put(&mut compiler, &[broken("a")]);
    let (id, problem) = edge.problems().next().expect("it is told");
    assert_eq!(id, "certificate/default/a");
    assert!(problem.contains("tls.crt"), "{problem}");
    let site = edge.port(443).and_then(|port| port.tls_site(None)).expect("a listener");
    assert!(Arc::ptr_eq(&site.tls.as_ref().expect("still TLS").demand, &before.demand));
    assert_eq!(put(&mut compiler, &[certificate("a")]).problems().count(), 0);
}

#[test]
fn a_listener_without_its_material_is_there_and_does_no_tls() {
    let mut compiler = EdgeCompiler::default();
    let edge = put(&mut compiler, &[https(&["certificate/default/a"], &[])]);
    assert!(edge.tls_port(443).expect("a TLS port").tls_site(None).expect("a listener").tls.is_none());
    assert_eq!(edge.problems().count(), 1);
    let edge = put(&mut compiler, &[certificate("a")]);
    assert!(edge.tls_port(443).expect("a TLS port").tls_site(None).expect("a listener").tls.is_some());
    assert_eq!(edge.problems().count(), 0);

    // Clients must be known, and nobody is.
    let edge = put(&mut compiler, &[https(&["certificate/default/a"], &["authorities/default/none"])]);
    assert!(edge.tls_port(443).expect("a TLS port").tls_site(None).expect("a listener").tls.is_none());
}

#[test]
fn a_policy_that_cannot_be_used_leaves_no_way_in_the_clear() {
    let mut compiler = EdgeCompiler::default();
    let service: ServiceKey = "shop".parse().expect("a name");
    let entry = BackendTlsEntry {
        service: Some(service.to_wire()),
        hostname: "shop.example".into(),
        authorities: vec!["authorities/default/none".into()],
        ..BackendTlsEntry::default()
    };
    let id = "backendtls/default/shop";
    let entry = Arc::new(DeclaredEntry { id: id.into(), kind: Some(Kind::BackendTls(entry)) });
    let changed = compiler.update([(&Arc::from(id), Some(&entry))].into_iter());
    assert_eq!(changed, Some(vec![service.clone()]));
    assert!(compiler.backend(&service).is_some());
    let changed = compiler.update([(&Arc::from(id), None)].into_iter());
    assert_eq!(changed, Some(vec![service.clone()]));
    assert!(compiler.backend(&service).is_none());
}
