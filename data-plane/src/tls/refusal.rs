//! Why a client's TLS connection is refused: one word, the same in logs and metrics.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// Why a handshake with a client came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No listener takes the name that was asked for.
    NoListener,
    /// The listener has no certificate that can be used, or no authorities where clients need certificates.
    NotReady,
    /// The client showed no certificate and needs one.
    NoCertificate,
    /// The client's certificate has expired.
    Expired,
    /// The client's certificate is not valid yet.
    NotYetValid,
    /// None of the listener's authorities has signed the client's certificate.
    UnknownAuthority,
    /// The client's certificate is not for clients.
    Purpose,
    /// The client's certificate cannot be accepted for another reason.
    BadCertificate,
    /// There is no version of TLS that both speak.
    Version,
    /// There is no cipher suite, group or signature that both know.
    Parameters,
    /// The client speaks neither HTTP/2 nor HTTP/1.1.
    Protocol,
    /// The client does not trust the certificate that it was shown, or ended the handshake for another reason.
    ByClient,
    /// The handshake was not complete in time.
    Timeout,
    /// The client went away.
    Closed,
    /// Plain HTTP on a port for TLS.
    PlainHttp,
    /// What came is not TLS.
    Malformed,
}

impl Refusal {
    /// Every refusal, for metrics.
    pub(crate) const ALL: [Self; 16] = [
        Self::NoListener,
        Self::NotReady,
        Self::NoCertificate,
        Self::Expired,
        Self::NotYetValid,
        Self::UnknownAuthority,
        Self::Purpose,
        Self::BadCertificate,
        Self::Version,
        Self::Parameters,
        Self::Protocol,
        Self::ByClient,
        Self::Timeout,
        Self::Closed,
        Self::PlainHttp,
        Self::Malformed,
    ];

    /// The word.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::NoListener => "no_listener",
            Self::NotReady => "not_ready",
            Self::NoCertificate => "client_certificate_missing",
            Self::Expired => "client_certificate_expired",
            Self::NotYetValid => "client_certificate_not_yet_valid",
            Self::UnknownAuthority => "client_certificate_unknown_authority",
            Self::Purpose => "client_certificate_purpose",
            Self::BadCertificate => "client_certificate_invalid",
            Self::Version => "no_common_version",
            Self::Parameters => "no_common_parameters",
            Self::Protocol => "no_common_protocol",
            Self::ByClient => "refused_by_client",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::PlainHttp => "plain_http",
            Self::Malformed => "malformed",
        }
    }

    /// What a failed handshake says.
    pub(crate) fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::InvalidCertificate(why)) => Self::of_certificate(why),
            Some(Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon)) => {
                Self::BadCertificate
            }
            Some(Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls13RequiredForQuic
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13,
            )) => Self::Version,
            Some(Error::PeerIncompatible(_)) => Self::Parameters,
            Some(Error::NoApplicationProtocol) => Self::Protocol,
            Some(Error::AlertReceived(AlertDescription::ProtocolVersion)) => Self::Version,
            Some(Error::AlertReceived(_)) => Self::ByClient,
            Some(_) => Self::Malformed,
            None => Self::Closed,
        }
    }

    fn of_certificate(why: &CertificateError) -> Self {
        match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::Purpose
            }
            _ => Self::BadCertificate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_a_word_of_its_own() {
        let mut words = Refusal::ALL.map(Refusal::name).to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Refusal::ALL.len());
    }

    #[test]
    fn errors_of_the_library_become_reasons() {
        let of = |error: Error| Refusal::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(of(Error::NoCertificatesPresented), Refusal::NoCertificate);
        assert_eq!(of(Error::InvalidCertificate(CertificateError::Expired)), Refusal::Expired);
        assert_eq!(of(Error::InvalidCertificate(CertificateError::UnknownIssuer)), Refusal::UnknownAuthority);
        assert_eq!(of(Error::NoApplicationProtocol), Refusal::Protocol);
        assert_eq!(of(Error::AlertReceived(AlertDescription::UnknownCA)), Refusal::ByClient);
        assert_eq!(Refusal::of(&io::ErrorKind::ConnectionReset.into()), Refusal::Closed);
    }
}
