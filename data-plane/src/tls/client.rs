//! Our side of TLS towards a service's instances: what name is asked for, and which certificates are accepted.
//!
//! The certificate must be signed by one of the authorities and be for the host name, or, where alternative names
//! are given, for one of those (Gateway API, `BackendTLSPolicy`: the host name is only asked for then).

use std::{
    io,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, DnsName, ServerName, UnixTime},
    server::ParsedCertificate,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use webpki::EndEntityCert;

use super::{H2, HTTP1, material, provider};

/// How to speak TLS to the instances of a service.
#[derive(Debug)]
pub(crate) struct BackendTls(Result<Settings, String>);

#[derive(Debug)]
struct Settings {
    name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

/// Why an instance is not spoken to over TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeFailure {
    /// It is not what it should be, or speaks no TLS that we do.
    #[error("{0}")]
    Refused(io::Error),
    /// There are no settings by which it could be.
    #[error("its policy cannot be used: {0}")]
    Unusable(String),
    /// It does not offer HTTP/2.
    #[error("it does not offer HTTP/2 (ALPN \"h2\")")]
    NoHttp2,
}

impl BackendTls {
    /// Settings. No authorities: those of this machine.
    ///
    /// # Errors
    /// The host name or an alternative name is none, or there is no authority.
    pub(crate) fn of(
        hostname: &str,
        alternatives: &[String],
        authorities: Option<&[CertificateDer<'static>]>,
    ) -> Result<Self, String> {
        let roots = match authorities {
            Some(authorities) => Arc::new(material::store(authorities)),
            None => machine_roots(),
        };
        if roots.is_empty() {
            return Err("there is no authority whose certificates could be accepted".to_owned());
        }
        let name = ServerName::try_from(hostname.to_owned())
            .map_err(|_| format!("the hostname {hostname:?} is not a DNS name"))?;
        let accepted = alternatives.iter().map(|name| Accepted::of(name)).collect::<Result<Vec<_>, _>>()?;
        let verifier = Arc::new(Verifier { roots, accepted });
        let config = |protocol: &[u8]| -> Result<Arc<ClientConfig>, String> {
            let builder = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?;
            let verified = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&verifier) as _);
            let mut config = verified.with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            Ok(Arc::new(config))
        };
        Ok(Self(Ok(Settings { name, http1: config(HTTP1)?, http2: config(H2)? })))
    }

    /// No settings, and why.
    pub(crate) fn unusable(why: String) -> Self {
        Self(Err(why))
    }

    /// Shakes hands over a socket.
    pub(crate) async fn connect(
        &self,
        socket: TcpStream,
        http2: bool,
    ) -> Result<Box<TlsStream<TcpStream>>, HandshakeFailure> {
        let settings = self.0.as_ref().map_err(|why| HandshakeFailure::Unusable(why.clone()))?;
        let config = if http2 { &settings.http2 } else { &settings.http1 };
        let connector = TlsConnector::from(Arc::clone(config));
        let shaken = connector.connect(settings.name.clone(), socket).await;
        let stream = shaken.map_err(HandshakeFailure::Refused)?;
        if http2 && stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(HandshakeFailure::NoHttp2);
        }
        Ok(Box::new(stream))
    }
}

/// The authorities that this machine trusts, read once.
fn machine_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || Arc::new(material::store(&rustls_native_certs::load_native_certs().certs));
    Arc::clone(ROOTS.get_or_init(read))
}

/// A name of which a certificate must have one.
#[derive(Debug)]
enum Accepted {
    Dns(ServerName<'static>),
    /// What follows the asterisk, which stands for one label: `.example.com`.
    Wildcard(String),
    Uri(String),
}

impl Accepted {
    fn of(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Ok(Self::Uri(text.to_owned()));
        }
        let refuse = |_| format!("the alternative name {text:?} is neither a DNS name nor a URI");
        if let Some(domain) = text.strip_prefix("*.") {
            DnsName::try_from(domain).map_err(refuse)?;
            return Ok(Self::Wildcard(text[1..].to_ascii_lowercase()));
        }
        ServerName::try_from(text.to_owned()).map(Self::Dns).map_err(refuse)
    }

    fn is_of(&self, certificate: &CertificateDer<'_>) -> bool {
        match self {
            Self::Dns(name) => ParsedCertificate::try_from(certificate)
                .is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok()),
            // webpki verifies a name against a certificate; here it is the certificate's name that varies.
            Self::Wildcard(end) => EndEntityCert::try_from(certificate)
                .is_ok_and(|parsed| parsed.valid_dns_names().any(|name| is_within(name, end))),
            Self::Uri(uri) => EndEntityCert::try_from(certificate)
                .is_ok_and(|parsed| parsed.valid_uri_names().any(|name| name == uri)),
        }
    }
}

/// Whether a certificate's name is the end with one label before it, which may be an asterisk (RFC 9525, section 6.3).
fn is_within(name: &str, end: &str) -> bool {
    let label = name.len().checked_sub(end.len()).and_then(|at| name.split_at_checked(at));
    label.is_some_and(|(label, rest)| {
        !label.is_empty() && !label.contains('.') && rest.eq_ignore_ascii_case(end)
    })
}

/// Verifies an instance's certificate.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    /// None: the name that was asked for.
    accepted: Vec<Accepted>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = provider().signature_verification_algorithms;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms.all)?;
        if self.accepted.is_empty() {
            verify_server_name(&parsed, name)?;
        } else if !self.accepted.iter().any(|accepted| accepted.is_of(certificate)) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::{Accepted, is_within};

    #[test]
    fn an_asterisk_is_one_label() {
        for (name, fits) in [
            ("a.example.com", true),
            ("A.EXAMPLE.com", true),
            ("*.example.com", true),
            ("a.b.example.com", false),
            ("example.com", false),
            (".example.com", false),
            ("aexample.com", false),
            ("a.example.org", false),
            ("", false),
        ] {
            assert_eq!(is_within(name, ".example.com"), fits, "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_text() {
        for text in ["*.", "*", "a.*.example.com", "*.*.example.com", "a b"] {
            let error = Accepted::of(text).expect_err("it is no name");
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
