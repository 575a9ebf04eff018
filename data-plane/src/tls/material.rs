//! Certificates, keys and authorities, read from PEM.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use webpki::EndEntityCert;

/// Why material cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Material {
    /// The chain is no PEM, or has no certificate.
    #[error("tls.crt holds no certificate that can be read: {0}")]
    Chain(String),
    /// The key is no PEM, or none that is known.
    #[error("tls.key holds no private key that can be read: {0}")]
    Key(String),
    /// The key is not the certificate's, or of a kind that is not known.
    #[error("tls.crt and tls.key cannot be used together: {0}")]
    Pair(String),
    /// There is no authority in it.
    #[error("ca.crt holds no certificate of an authority that can be read: {0}")]
    Authorities(String),
}

/// A certificate with its key, ready to be shown.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// The DNS names that it is for, in lower case; with wildcards.
    pub(super) names: Vec<String>,
}

impl Certificate {
    /// Reads a chain, the certificate itself first, and its key.
    ///
    /// # Errors
    /// Either cannot be read, or they do not fit.
    pub(crate) fn of(chain: &[u8], key: &[u8]) -> Result<Self, Material> {
        let chain = certificates(chain).map_err(Material::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| Material::Key(error.to_string()))?;
        let leaf = EndEntityCert::try_from(&chain[0]).map_err(|error| Material::Chain(error.to_string()))?;
        let names = leaf.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let key = CertifiedKey::from_der(chain, key, &super::provider())
            .map_err(|error| Material::Pair(error.to_string()))?;
        Ok(Self { key: Arc::new(key), names })
    }
}

/// Reads certificates of authorities.
///
/// # Errors
/// There is none, or one cannot be read.
pub(crate) fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Material> {
    let all = certificates(pem).map_err(Material::Authorities)?;
    let mut store = RootCertStore::empty();
    for certificate in &all {
        store.add(certificate.clone()).map_err(|error| Material::Authorities(error.to_string()))?;
    }
    Ok(all)
}

/// A store of authorities that were read before.
pub(super) fn store<'a>(all: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(all.into_iter().cloned());
    store
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| error.to_string())?;
    if all.is_empty() { Err("there is no CERTIFICATE block".to_owned()) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_knows_its_names() {
        let (chain, key) = made(&["A.example", "*.b.example"]);
        let read = Certificate::of(chain.as_bytes(), key.as_bytes()).expect("both fit");
        assert_eq!(read.names, ["a.example", "*.b.example"]);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let ((chain, key), (_, other)) = (made(&["a"]), made(&["a"]));
        let of = |chain: &str, key: &str| {
            Certificate::of(chain.as_bytes(), key.as_bytes()).expect_err("bad").to_string()
        };
        assert!(of("", &key).starts_with("tls.crt holds no certificate"));
        assert!(of(&key, &key).contains("no CERTIFICATE block"));
        assert!(of(&chain, "x").starts_with("tls.key holds no private key"));
        assert!(of(&chain, &other).contains("together"));
        let broken = chain.replace("MII", "AAA");
        assert!(of(&broken, &key).contains("tls.crt"));
        assert!(authorities(broken.as_bytes()).expect_err("bad").to_string().starts_with("ca.crt"));
        assert_eq!(authorities(chain.as_bytes()).expect("one").len(), 1);
    }
}
