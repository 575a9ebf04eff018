//! Authorities and certificates made for a test, the entries that bring them to a proxy, and clients that speak TLS.

use std::{io, net::SocketAddr, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream, server};
use waypost_proto::v1::{
    AuthoritiesEntry, BackendTlsEntry, CertificateEntry, DeclaredEntry, ListenerEntry, ListenerProtocol,
    declared_entry::Kind,
};

use crate::support::{Response, Wire, api, soon};

/// Who signs certificates.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key; PEM.
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate of a server with these names.
    pub(crate) fn server(&self, names: &[&str]) -> Identity {
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth, (2020, 2100))
    }

    /// A certificate of a client.
    pub(crate) fn client(&self) -> Identity {
        self.sign(&["client.example"], ExtendedKeyUsagePurpose::ClientAuth, (2020, 2100))
    }

    /// A certificate that is valid from the begin of one year to that of another one.
    pub(crate) fn sign(&self, names: &[&str], usage: ExtendedKeyUsagePurpose, years: (i32, i32)) -> Identity {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.sign_params(CertificateParams::new(names).expect("good names"), usage, years)
    }

    /// A certificate of a server that has a URI for a name (SPIFFE).
    pub(crate) fn server_with_uri(&self, uri: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
        self.sign_params(params, ExtendedKeyUsagePurpose::ServerAuth, (2020, 2100))
    }

    fn sign_params(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        years: (i32, i32),
    ) -> Identity {
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let chain = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { chain, key: key.serialize_pem() }
    }

    /// The entry that tells proxies of it.
    pub(crate) fn entry(&self, name: &str) -> DeclaredEntry {
        let kind = Kind::Authorities(AuthoritiesEntry { certificates: self.pem.clone().into() });
        DeclaredEntry { id: format!("authorities/default/{name}"), kind: Some(kind) }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("an authority");
        roots
    }
}

impl Identity {
    /// The entry that brings it to proxies.
    pub(crate) fn entry(&self, name: &str) -> DeclaredEntry {
        let kind = CertificateEntry { chain: self.chain.clone().into(), key: self.key.clone().into() };
        DeclaredEntry { id: format!("certificate/default/{name}"), kind: Some(Kind::Certificate(kind)) }
    }

    /// The certificate as it is shown.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("PEM")
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM")
    }

    /// How an instance shows it, with the protocols that it offers.
    pub(crate) fn acceptor(&self, protocols: &[&str]) -> TlsAcceptor {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.der()], self.key()).expect("a pair");
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The id of a listener.
pub(crate) fn listener_id(name: &str) -> String {
    format!("listener/default/edge/{name}")
}

/// A listener that speaks plain HTTP.
pub(crate) fn http_listener(name: &str, port: u16, hostname: &str) -> DeclaredEntry {
    listener(name, port, hostname, |entry| entry.protocol = ListenerProtocol::Http.into())
}

/// A listener that speaks TLS and shows these certificates.
pub(crate) fn https_listener(name: &str, port: u16, hostname: &str, certificates: &[&str]) -> DeclaredEntry {
    listener(name, port, hostname, |entry| {
        entry.protocol = ListenerProtocol::Https.into();
        entry.certificates = certificates.iter().map(|name| format!("certificate/default/{name}")).collect();
    })
}

fn listener(name: &str, port: u16, hostname: &str, set: impl FnOnce(&mut ListenerEntry)) -> DeclaredEntry {
    let mut entry = ListenerEntry {
        namespace: "default".into(),
        gateway: "edge".into(),
        name: name.into(),
        port: port.into(),
        hostname: hostname.into(),
        ..ListenerEntry::default()
    };
    set(&mut entry);
    DeclaredEntry { id: listener_id(name), kind: Some(Kind::Listener(entry)) }
}

/// An entry of a listener with something else about it.
pub(crate) fn with(mut entry: DeclaredEntry, set: impl FnOnce(&mut ListenerEntry)) -> DeclaredEntry {
    match &mut entry.kind {
        Some(Kind::Listener(listener)) => set(listener),
        other => panic!("{other:?} is no listener"),
    }
    entry
}

/// How to speak TLS to the instances of the one service.
pub(crate) fn backend_tls(hostname: &str, alternatives: &[&str], authorities: &[&str]) -> DeclaredEntry {
    let kind = Kind::BackendTls(BackendTlsEntry {
        service: Some(api().to_wire()),
        hostname: hostname.into(),
        subject_alt_names: alternatives.iter().map(ToString::to_string).collect(),
        authorities: authorities.iter().map(|name| format!("authorities/default/{name}")).collect(),
    });
    DeclaredEntry { id: "backendtls/default/api".into(), kind: Some(kind) }
}

/// A client of TLS.
#[derive(Clone)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// A client that trusts one authority, and shows a certificate where it has one.
    pub(crate) fn new(trusted: &Authority, identity: Option<&Identity>) -> Self {
        Self::speaking(trusted, identity, rustls::ALL_VERSIONS)
    }

    /// The same with some versions of TLS only.
    pub(crate) fn speaking(
        trusted: &Authority,
        identity: Option<&Identity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions);
        let builder = builder.expect("versions").with_root_certificates(trusted.roots());
        Self(Arc::new(match identity {
            Some(identity) => {
                builder.with_client_auth_cert(vec![identity.der()], identity.key()).expect("a pair")
            }
            None => builder.with_no_client_auth(),
        }))
    }

    /// The same, offering protocols.
    pub(crate) fn offering(&self, protocols: &[&str]) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    /// The same, without a word on which server is meant.
    pub(crate) fn nameless(&self) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.enable_sni = false;
        Self(Arc::new(config))
    }

    /// Shakes hands.
    pub(crate) async fn try_connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        soon("a handshake", TlsConnector::from(Arc::clone(&self.0)).connect(name, socket)).await
    }

    /// A connection over which HTTP/1.1 is spoken.
    pub(crate) async fn connect(&self, address: SocketAddr, name: &str) -> Wire<TlsStream<TcpStream>> {
        Wire::over(self.try_connect(address, name).await.expect("hands are shaken"))
    }

    /// One request over a connection of its own; none where it is refused. A server's refusal of a client's
    /// certificate comes after the client believes the handshake to be over (RFC 8446, section 4.4.2.4).
    pub(crate) async fn try_get(&self, address: SocketAddr, name: &str, path: &str) -> io::Result<Response> {
        let mut wire = Wire::over(self.try_connect(address, name).await?);
        wire.get(name, path).await
    }
}

/// The certificate that the other end has shown.
pub(crate) fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let shown = stream.get_ref().1.peer_certificates().expect("a certificate");
    shown[0].clone().into_owned()
}

/// The protocol that both ends have agreed on.
pub(crate) fn agreed(stream: &TlsStream<TcpStream>) -> Option<String> {
    let protocol = stream.get_ref().1.alpn_protocol()?;
    Some(String::from_utf8_lossy(protocol).into_owned())
}

/// An instance's side of a handshake; none where the proxy breaks it off.
pub(crate) async fn accept(acceptor: &TlsAcceptor, wire: Wire) -> Option<Wire<server::TlsStream<TcpStream>>> {
    acceptor.accept(wire.socket).await.ok().map(Wire::over)
}
