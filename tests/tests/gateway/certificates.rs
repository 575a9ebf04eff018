//! Authorities and certificates for cases, and the resources that hold them.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};

/// Who signs certificates.
pub(crate) struct Authority {
    /// Its own certificate; PEM.
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key; PEM.
pub(crate) struct Identity {
    /// The certificate.
    pub(crate) chain: String,
    /// Its private key.
    pub(crate) key: String,
}

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate with these names: DNS names, or URIs where there is a colon.
    pub(crate) fn sign(&self, names: &[&str]) -> Identity {
        self.sign_until(names, 4096)
    }

    /// A certificate whose time is over.
    pub(crate) fn sign_expired(&self, names: &[&str]) -> Identity {
        self.sign_until(names, 2020)
    }

    fn sign_until(&self, names: &[&str], year: i32) -> Identity {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(year, 1, 1);
        params.subject_alt_names = names
            .iter()
            .map(|name| {
                let ascii = (*name).try_into().expect("ASCII");
                if name.contains(':') { SanType::URI(ascii) } else { SanType::DnsName(ascii) }
            })
            .collect();
        let key = KeyPair::generate().expect("a key");
        let chain = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { chain, key: key.serialize_pem() }
    }

    /// A ConfigMap of the default namespace with it.
    pub(crate) fn config_map(&self, name: &str) -> String {
        let pem = indented(&self.pem);
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata:\n  ca.crt: |\n{pem}"
        )
    }
}

impl Identity {
    /// A Secret with it.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> String {
        let (chain, key) = (indented(&self.chain), indented(&self.key));
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{chain}  tls.key: |\n{key}"
        )
    }
}

fn indented(pem: &str) -> String {
    pem.lines().map(|line| format!("    {line}\n")).collect()
}
