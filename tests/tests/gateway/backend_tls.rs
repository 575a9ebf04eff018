//! BackendTLSPolicy: how backends are verified that speak TLS.

use std::{net::SocketAddr, sync::Arc};

use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use waypost_proto::instance::Protocol;
use waypost_sdk::{Registered, Registration};
use waypost_tests::{
    gateway::{Ask, Scene, grpc_route, http_route, resource},
    service::SampleService,
};

use crate::{
    case::{Case, case},
    certificates::{Authority, Identity},
};

/// All cases of BackendTLSPolicy.
pub(super) const CASES: &[&[Case]] = &[&[
    case!(Extended "BackendTLSPolicy"
        "a backend with a policy is spoken to over TLS, and asked for `hostname` (SNI)" spoken),
    case!(Extended "BackendTLSPolicy"
        "a certificate of another authority is not accepted: the request gets 502" wrong_authority),
    case!(Extended "BackendTLSPolicy"
        "a certificate for another name than `hostname` is not accepted" wrong_name),
    case!(Extended "BackendTLSPolicySANValidation"
        "with `subjectAltNames`, the certificate must have one of them, and need not have `hostname`" alt_names),
    case!(Extended "BackendTLSPolicySANValidation"
        "`*.example.com` in `subjectAltNames` is any name of one label more, or the same in the certificate" wildcard),
    case!(Extended "BackendTLSPolicy" "a gRPC backend is spoken to over TLS, with `h2` by ALPN" grpc),
    case!(Implementation "BackendTLSPolicyExternalService"
        "a policy may be for an ExternalService" external),
    case!(Extended "BackendTLSPolicy" "a backend that speaks no TLS gets no request in the clear" cleartext),
    case!(Extended "BackendTLSPolicy"
        "authorities that are not there are refused" no_authorities),
    case!(Extended "BackendTLSPolicy" "of two policies for one service the older one holds: Conflicted" conflict),
    case!(Extended "BackendTLSPolicy"
        "a policy that is removed: the backend is spoken to in the clear again" removed),
]];

const POLICY: (&str, &str, &str) = ("BackendTLSPolicy", "default", "vault");

/// A sample service behind TLS.
struct Vault {
    _service: SampleService,
    registered: Option<Registered>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Vault {
    /// Registered as `vault`, without ALPN.
    async fn start(scene: &Scene, identity: &Identity) -> Self {
        Self::serve(identity, &[]).await.registered(scene, Protocol::Http1).await
    }

    /// Known to nobody.
    async fn serve(identity: &Identity, alpn: &[&[u8]]) -> Self {
        let service = SampleService::start("vault").await;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.chain.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(chain.expect("a chain"), key)
            .expect("an identity");
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), service.address));
        Self { _service: service, registered: None, address, accepting }
    }

    async fn registered(mut self, scene: &Scene, protocol: Protocol) -> Self {
        let registration = Registration::new("vault", self.address.to_string()).id("vault");
        let registered = scene.cluster.client().register(registration.protocol(protocol)).await;
        self.registered = Some(registered.expect("registered"));
        scene.cluster.converged().await;
        self
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Ends TLS in front of a service.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, service: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A proxy that does not accept the certificate, or goes away, is no concern of the service.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Ok(mut service) = TcpStream::connect(service).await else { return };
            let _ = copy_bidirectional(&mut stream, &mut service).await;
        });
    }
}

fn route() -> String {
    http_route("shop", "rules: [{backendRefs: [{name: vault}]}]")
}

fn policy(validation: &str) -> String {
    named("vault", validation)
}

fn named(name: &str, validation: &str) -> String {
    let authorities = "caCertificateRefs: [{group: '', kind: ConfigMap, name: inside}]";
    let spec = format!(
        "targetRefs: [{{group: '', kind: Service, name: vault}}]\nvalidation: {{{authorities}, {validation}}}"
    );
    resource("BackendTLSPolicy", "default", name, &spec)
}

/// What a request gets of a backend with this certificate under this policy, where `trusted` has signed.
async fn gets(scene: &Scene, trusted: &Authority, identity: &Identity, validation: &str) -> String {
    let vault = Vault::start(scene, identity).await;
    scene.apply(&(trusted.config_map("inside") + &policy(validation) + &route())).await;
    let who = scene.who("a.example", "/").await;
    drop(vault);
    who
}

async fn spoken(scene: &Scene) {
    let authority = Authority::new();
    let identity = authority.sign(&["vault.internal"]);
    assert_eq!(gets(scene, &authority, &identity, "hostname: vault.internal").await, "vault");
    scene.condition(POLICY, "/ancestors/0", ("Accepted", "True", "Accepted")).await;
    scene.condition(POLICY, "/ancestors/0", ("ResolvedRefs", "True", "ResolvedRefs")).await;
}

async fn wrong_authority(scene: &Scene) {
    let identity = Authority::new().sign(&["vault.internal"]);
    let who = gets(scene, &Authority::new(), &identity, "hostname: vault.internal").await;
    assert_eq!(who, "502 upstream_tls");
}

async fn wrong_name(scene: &Scene) {
    let authority = Authority::new();
    let identity = authority.sign(&["other.internal"]);
    assert_eq!(gets(scene, &authority, &identity, "hostname: vault.internal").await, "502 upstream_tls");
}

async fn alt_names(scene: &Scene) {
    let authority = Authority::new();
    let vault = Vault::start(scene, &authority.sign(&["other.internal", "spiffe://example.com/vault"])).await;
    for (names, who) in [
        ("{type: Hostname, hostname: other.internal}", "vault"),
        ("{type: URI, uri: 'spiffe://example.com/vault'}", "vault"),
        ("{type: Hostname, hostname: none.internal}, {type: Hostname, hostname: other.internal}", "vault"),
        ("{type: Hostname, hostname: vault.internal}", "502 upstream_tls"),
        ("{type: URI, uri: 'spiffe://example.com/else'}", "502 upstream_tls"),
    ] {
        let validation = format!("hostname: vault.internal, subjectAltNames: [{names}]");
        scene.apply(&(authority.config_map("inside") + &policy(&validation) + &route())).await;
        assert_eq!(scene.who("a.example", "/").await, who, "{names}");
    }
    drop(vault);
}

async fn wildcard(scene: &Scene) {
    let authority = Authority::new();
    for (name, who) in [
        ("a.example.com", "vault"),
        ("*.example.com", "vault"),
        ("a.b.example.com", "502 upstream_tls"),
        ("example.com", "502 upstream_tls"),
    ] {
        let validation =
            "hostname: vault.internal, subjectAltNames: [{type: Hostname, hostname: '*.example.com'}]";
        assert_eq!(gets(scene, &authority, &authority.sign(&[name]), validation).await, who, "{name}");
    }
}

async fn grpc(scene: &Scene) {
    let authority = Authority::new();
    let calls = grpc_route("calls", "rules: [{backendRefs: [{name: vault}]}]");
    scene.apply(&(authority.config_map("inside") + &policy("hostname: vault.internal") + &calls)).await;
    for (alpn, who) in [(&[&b"h2"[..]][..], "vault"), (&[], "")] {
        let vault = Vault::serve(&authority.sign(&["vault.internal"]), alpn).await;
        let vault = vault.registered(scene, Protocol::Grpc).await;
        let answer = scene.send(&Ask::call("a.example", "/a.B/C")).await;
        assert_eq!(answer.header("x-instance"), who);
        let trailer = answer.trailers.get("grpc-status").map(|status| status.as_bytes());
        assert_eq!(trailer, (!who.is_empty()).then_some(&b"0"[..]));
        drop(vault);
    }
}

async fn external(scene: &Scene) {
    let authority = Authority::new();
    let vault = Vault::serve(&authority.sign(&["vault.internal"]), &[]).await;
    let external =
        resource("ExternalService", "default", "outside", &format!("addresses: ['{}']", vault.address));
    let backend = "{group: waypost.dev, kind: ExternalService, name: outside}";
    let route = http_route("shop", &format!("rules: [{{backendRefs: [{backend}]}}]"));
    let policy = |name: &str| {
        let at = "{group: '', kind: Service, name: vault}";
        policy(&format!("hostname: {name}")).replace(at, backend)
    };
    scene.apply(&(authority.config_map("inside") + &external + &policy("vault.internal") + &route)).await;
    assert_eq!(scene.who("a.example", "/").await, "vault");
    scene.condition(POLICY, "/ancestors/0", ("Accepted", "True", "Accepted")).await;
    scene.apply(&policy("other.internal")).await;
    assert_eq!(scene.who("a.example", "/").await, "502 upstream_tls");
}

async fn cleartext(scene: &Scene) {
    let plain = scene.register("vault", "plain", |it| it).await;
    let authority = Authority::new();
    scene.apply(&(authority.config_map("inside") + &policy("hostname: vault.internal") + &route())).await;
    let answer = scene.get("a.example", "/", &[("x-remember", "clear")]).await;
    assert_eq!(answer.who(), "502 upstream_tls");
    assert_eq!(plain.service.remembered("clear"), []);
    drop(plain);
}

async fn no_authorities(scene: &Scene) {
    let why = scene.refused(&policy("hostname: vault.internal")).await;
    assert!(why.contains("caCertificateRefs[0].name: \"inside\" is no ConfigMap"), "{why}");
}

async fn conflict(scene: &Scene) {
    let authority = Authority::new();
    let vault = Vault::start(scene, &authority.sign(&["vault.internal"])).await;
    scene.apply(&(authority.config_map("inside") + &policy("hostname: vault.internal") + &route())).await;
    scene.apply(&named("another", "hostname: other.internal")).await;
    assert_eq!(scene.who("a.example", "/").await, "vault");
    let another = ("BackendTLSPolicy", "default", "another");
    scene.condition(another, "/ancestors/0", ("Accepted", "False", "Conflicted")).await;
    scene.condition(POLICY, "/ancestors/0", ("Accepted", "True", "Accepted")).await;
    drop(vault);
}

async fn removed(scene: &Scene) {
    let plain = scene.register("vault", "plain", |it| it).await;
    let authority = Authority::new();
    scene.apply(&(authority.config_map("inside") + &policy("hostname: vault.internal") + &route())).await;
    assert_eq!(scene.who("a.example", "/").await, "502 upstream_tls");
    scene.delete("BackendTLSPolicy", "default", "vault").await;
    assert_eq!(scene.who("a.example", "/").await, "plain");
    drop(plain);
}
