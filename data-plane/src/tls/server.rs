//! A listener's side of TLS: which certificate is shown, and what clients must show.
//!
//! Session tickets belong to a listener that asks for no certificates of clients. A new certificate leaves them as they
//! are; once clients' certificates are asked for they open nothing any more. Where those are asked for there are no
//! tickets: one would outlive the certificate that it was given out for.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::aws_lc_rs::Ticketer,
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use super::{Asterisk, Certificate, H2, HTTP1, Names, material, provider};

/// How a listener does TLS. A listener that cannot (no certificate is there) has none of it.
#[derive(Clone, Debug)]
pub(crate) struct ListenerTls {
    /// For handshakes.
    pub(crate) config: Arc<ServerConfig>,
    /// What clients must show. Connections of another demand end with the answer that they carry.
    pub(crate) demand: Arc<Demand>,
}

/// What a listener asks of its clients.
#[derive(Debug)]
pub(crate) struct Demand {
    /// Certificates of authorities, of which one must have signed the client's; none: clients need no certificate.
    authorities: Option<Vec<CertificateDer<'static>>>,
    may_be_anonymous: bool,
    only_tls13: bool,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    ticketer: Option<Arc<dyn ProducesTickets>>,
}

impl Demand {
    /// A demand. It is `before` where that asks for the same.
    ///
    /// # Errors
    /// Certificates are asked for, and there is no authority.
    pub(crate) fn of(
        authorities: Option<Vec<CertificateDer<'static>>>,
        may_be_anonymous: bool,
        only_tls13: bool,
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, String> {
        let same = |before: &&Arc<Self>| {
            before.authorities == authorities
                && before.may_be_anonymous == may_be_anonymous
                && before.only_tls13 == only_tls13
        };
        if let Some(before) = before.filter(same) {
            return Ok(Arc::clone(before));
        }
        let verifier =
            authorities.as_ref().map(|authorities| verifier(authorities, may_be_anonymous)).transpose()?;
        // Without randomness there are no tickets either, and every handshake is a full one.
        let ticketer = if verifier.is_none() { Ticketer::new().ok() } else { None };
        Ok(Arc::new(Self { authorities, may_be_anonymous, only_tls13, verifier, ticketer }))
    }
}

fn verifier(
    authorities: &[CertificateDer<'static>],
    lenient: bool,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = Arc::new(material::store(authorities));
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = if lenient { builder.allow_unauthenticated() } else { builder };
    let strict = builder.build().map_err(|error| error.to_string())?;
    Ok(if lenient { Arc::new(Lenient(strict)) } else { strict })
}

impl ListenerTls {
    /// Settings with these certificates, the first of which is shown where none fits.
    ///
    /// # Errors
    /// There is no certificate.
    pub(crate) fn of(certificates: &[Arc<Certificate>], demand: Arc<Demand>) -> Result<Self, String> {
        let resolver = Resolver::of(certificates).ok_or("none of its certificates is there")?;
        let versions: &[_] = if demand.only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = match &demand.verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if let Some(ticketer) = &demand.ticketer {
            config.ticketer = Arc::clone(ticketer);
        }
        Ok(Self { config: Arc::new(config), demand })
    }
}

/// Shows the certificate for the name that is asked for.
#[derive(Debug)]
struct Resolver {
    /// Several for a name where their keys are of different kinds.
    by_name: Names<Vec<Arc<CertifiedKey>>>,
    first: Arc<CertifiedKey>,
}

impl Resolver {
    fn of(certificates: &[Arc<Certificate>]) -> Option<Self> {
        let first = Arc::clone(&certificates.first()?.key);
        let mut by_name = Names::new(Asterisk::OneLabel);
        for certificate in certificates {
            for name in &certificate.names {
                by_name.entry(name, Vec::new).push(Arc::clone(&certificate.key));
            }
        }
        Some(Self { by_name, first })
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.by_name.find(&super::canonical(name)));
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let fits = named.and_then(|keys| keys.iter().find(usable).or(keys.first()));
        Some(Arc::clone(fits.unwrap_or(&self.first)))
    }
}

/// Lets in also who shows a certificate that does not verify, as who shows none (Gateway API,
/// `AllowInsecureFallback`). That the client has the certificate's key is made sure of all the same.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
