//! Certificates and keys in PEM (RFC 7468): whether there are any.
//!
//! Deliberately absent: X.509 itself. Whether a key fits its certificate is for those who speak TLS.

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// How many certificates a text holds; `None` where there is none, or one that is damaged.
pub fn certificates(pem: &[u8]) -> Option<usize> {
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        // A certificate is a SEQUENCE in DER, whatever else it is.
        if !certificate.ok()?.as_ref().starts_with(&[0x30]) {
            return None;
        }
        found += 1;
    }
    (found > 0).then_some(found)
}

/// Whether a text holds a private key.
pub fn is_private_key(pem: &[u8]) -> bool {
    PrivateKeyDer::from_pem_slice(pem).is_ok()
}
