//! ReferenceGrant, BackendTLSPolicy and ExternalService: what routes rely on beside Gateways.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::backend::{AuthoritiesRef, BackendKind};

/// Lets references from some namespaces into its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceGrant {
    /// Who may refer; at least one.
    pub from: Vec<GrantFrom>,
    /// To what; at least one.
    pub to: Vec<GrantTo>,
}

impl ReferenceGrant {
    /// Whether it lets resources of a group, kind and namespace refer to one of its own namespace.
    pub fn permits(&self, from: (&str, &str, &str), to: (&str, &str, &str)) -> bool {
        let (group, kind, namespace) = from;
        let (to_group, to_kind, to_name) = to;
        self.from.iter().any(|it| it.group == group && it.kind == kind && it.namespace == namespace)
            && self.to.iter().any(|it| {
                it.group == to_group
                    && it.kind == to_kind
                    && it.name.as_ref().is_none_or(|name| name == to_name)
            })
    }
}

/// Who may refer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantFrom {
    /// The API group; empty for the core group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
}

/// What may be referred to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantTo {
    /// The API group; empty for the core group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The name; absent means all of the kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// How to speak TLS to services (GEP-1897).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTlsPolicy {
    /// Which services; at least one.
    pub target_refs: Vec<PolicyTarget>,
    /// How their certificates are verified.
    pub validation: BackendValidation,
    /// Options of others, which have no effect.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// A service of the policy's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTarget {
    /// The API group; empty for the core group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
}

impl PolicyTarget {
    /// What it leads to; `None` where that is no backend here.
    pub fn backend_kind(&self) -> Option<BackendKind> {
        BackendKind::of(&self.group, &self.kind)
    }
}

/// How a service's certificate is verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendValidation {
    /// Who must have signed it; either these or `well_known_ca_certificates`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<AuthoritiesRef>,
    /// The machine's authorities.
    #[serde(rename = "wellKnownCACertificates", skip_serializing_if = "Option::is_none")]
    pub well_known_ca_certificates: Option<WellKnownAuthorities>,
    /// The name to ask for and, without `subject_alt_names`, to verify.
    pub hostname: String,
    /// Names of which the certificate must have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// Authorities that need no reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WellKnownAuthorities {
    /// The machine's.
    System,
}

/// A name that a certificate must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenAltName", into = "WrittenAltName")]
pub enum SubjectAltName {
    /// A DNS name.
    Hostname(String),
    /// A URI, for example a SPIFFE id.
    Uri(String),
}

impl SubjectAltName {
    /// The name or URI.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Hostname(text) | Self::Uri(text) => text,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum AltNameType {
    Hostname,
    #[serde(rename = "URI")]
    Uri,
}

/// A name as it is written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenAltName {
    r#type: AltNameType,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
}

impl TryFrom<WrittenAltName> for SubjectAltName {
    type Error = &'static str;

    fn try_from(written: WrittenAltName) -> Result<Self, &'static str> {
        match (written.r#type, written.hostname, written.uri) {
            (AltNameType::Hostname, Some(name), None) => Ok(Self::Hostname(name)),
            (AltNameType::Uri, None, Some(uri)) => Ok(Self::Uri(uri)),
            (AltNameType::Hostname, ..) => Err("type Hostname needs the field \"hostname\" and no other"),
            (AltNameType::Uri, ..) => Err("type URI needs the field \"uri\" and no other"),
        }
    }
}

impl From<SubjectAltName> for WrittenAltName {
    fn from(name: SubjectAltName) -> Self {
        match name {
            SubjectAltName::Hostname(name) => {
                Self { r#type: AltNameType::Hostname, hostname: Some(name), uri: None }
            }
            SubjectAltName::Uri(uri) => Self { r#type: AltNameType::Uri, hostname: None, uri: Some(uri) },
        }
    }
}

/// A service that does not register: `waypost.dev/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalService {
    /// Where it is, `host:port` each (see [`crate::address::Address`]); at least one.
    pub addresses: Vec<String>,
    /// What it speaks.
    #[serde(default)]
    pub protocol: ExternalProtocol,
}

/// What an external service speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExternalProtocol {
    /// HTTP/1.1, with upgrades.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC: HTTP/2 with prior knowledge.
    Grpc,
}
