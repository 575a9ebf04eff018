//! Whether the key of a Secret is that of its certificate, before a listener is asked to show both.
//!
//! Proxies look at it again: they refuse what does not fit, whoever stored it.
//!
//! Deliberately absent: whether the certificate is valid now, and for which names. It may be renewed later.

use std::sync::LazyLock;

use rustls::{
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use waypost_proto::resource::material::{Secret, TLS_CERTIFICATE, TLS_KEY, TLS_SECRET};

static PROVIDER: LazyLock<CryptoProvider> = LazyLock::new(aws_lc_rs::default_provider);

/// Why a Secret's certificate and key cannot be used together; `None` if they can, or if it is no TLS Secret.
pub(super) fn misfit(secret: &Secret) -> Option<String> {
    if secret.r#type != TLS_SECRET {
        return None;
    }
    let (chain, key) = (secret.data.get(TLS_CERTIFICATE)?, secret.data.get(TLS_KEY)?);
    fit(chain, key).err()
}

fn fit(chain: &[u8], key: &[u8]) -> Result<(), String> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("its certificate cannot be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("cannot be read: {error}"))?;
    match CertifiedKey::from_der(chain, key, &PROVIDER) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("is not the key of the certificate".to_owned()),
        Err(error) => Err(format!("cannot be used with the certificate: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_fits_its_own_certificate_alone() {
        let made =
            || rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).expect("a certificate");
        let (one, other) = (made(), made());
        let fits = |chain: &str, key: &str| fit(chain.as_bytes(), key.as_bytes());
        assert_eq!(fits(&one.cert.pem(), &one.signing_key.serialize_pem()), Ok(()));
        let refused = fits(&one.cert.pem(), &other.signing_key.serialize_pem());
        assert_eq!(refused, Err("is not the key of the certificate".to_owned()));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let refused = fits(garbage, &one.signing_key.serialize_pem()).expect_err("it is none");
        assert!(refused.starts_with("cannot be used with the certificate"), "{refused}");
    }
}
