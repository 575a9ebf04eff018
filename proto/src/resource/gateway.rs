//! A Gateway: the listeners at which requests come in.
//!
//! Deliberately absent: `addresses` (proxies bind the address of their own listener), listeners of other protocols
//! than HTTP and HTTPS, TLS that is passed through.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    backend::{AuthoritiesRef, CertificateRef},
    key::{GATEWAY_GROUP, Kind},
};

/// The only class of Gateways that this control plane serves.
pub const GATEWAY_CLASS: &str = "waypost";
/// The Gateway of the default namespace that is always there, for routes without `parentRefs`.
pub const IMPLICIT_GATEWAY: &str = "waypost";
/// Its listener, which is the proxy's own.
pub const IMPLICIT_LISTENER: &str = "http";
/// The option of a listener's TLS that names the lowest version: `1.2` or `1.3`.
pub const MINIMUM_TLS_VERSION: &str = "waypost.dev/minimum-tls-version";
/// The label that every namespace has: its own name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Where requests come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// [`GATEWAY_CLASS`].
    pub gateway_class_name: String,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// Labels and annotations for what a Gateway creates; there is nothing of that sort here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infrastructure: Option<Infrastructure>,
    /// TLS of all listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<GatewayTls>,
}

impl Gateway {
    /// How clients of this listener are verified: the listener's own rule, else that for its port, else the default.
    pub fn frontend_validation<'a>(&'a self, listener: &'a Listener) -> Option<&'a FrontendValidation> {
        if listener.protocol != ListenerProtocol::Https {
            return None;
        }
        if let Some(own) = listener.tls.as_ref().and_then(|tls| tls.frontend_validation.as_ref()) {
            return Some(own);
        }
        let frontend = self.tls.as_ref()?.frontend.as_ref()?;
        let port = frontend.per_port.iter().find(|entry| entry.port == listener.port);
        port.map_or(&frontend.default, |entry| &entry.tls).validation.as_ref()
    }
}

/// Labels and annotations for what a Gateway creates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Infrastructure {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// TLS of all listeners of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayTls {
    /// Towards clients (GEP-91).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<FrontendTls>,
}

/// How clients are verified, by port (GEP-91).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTls {
    /// At all ports that `per_port` does not name.
    pub default: FrontendTlsRule,
    /// At some ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_port: Vec<PortTls>,
}

/// How clients of one port are verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortTls {
    /// The port.
    pub port: u16,
    /// How.
    pub tls: FrontendTlsRule,
}

/// How clients are verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTlsRule {
    /// Absent: clients need no certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<FrontendValidation>,
}

/// Whose clients are let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendValidation {
    /// Who must have signed their certificates; at least one.
    pub ca_certificate_refs: Vec<AuthoritiesRef>,
    /// What happens without a valid certificate.
    #[serde(default)]
    pub mode: FrontendValidationMode,
}

/// What happens to a client without a valid certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrontendValidationMode {
    /// It is refused.
    #[default]
    AllowValidOnly,
    /// It is let in all the same.
    AllowInsecureFallback,
}

/// A port with a hostname.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Unique in the Gateway.
    pub name: String,
    /// The hostnames that it takes: absent means any, `*.example.com` any below that domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The port, never 0.
    pub port: u16,
    /// What is spoken.
    pub protocol: ListenerProtocol,
    /// For HTTPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

impl Listener {
    /// Whether routes of this kind may attach.
    pub fn allows_kind(&self, kind: Kind) -> bool {
        let kinds = &self.allowed_routes.kinds;
        matches!(kind, Kind::HttpRoute | Kind::GrpcRoute)
            && (kinds.is_empty()
                || kinds.iter().any(|allowed| allowed.group == kind.group() && allowed.kind == kind.name()))
    }

    /// Whether routes of `namespace` may attach to this listener of a Gateway in `gateway_namespace`.
    pub fn allows_namespace(&self, gateway_namespace: &str, namespace: &str) -> bool {
        let rule = &self.allowed_routes.namespaces;
        match rule.from {
            FromNamespaces::All => true,
            FromNamespaces::None => false,
            FromNamespaces::Same => gateway_namespace == namespace,
            FromNamespaces::Selector => {
                rule.selector.as_ref().is_some_and(|selector| selector.selects(namespace))
            }
        }
    }

    /// The lowest version of TLS that is asked for: `1.2`, `1.3`, or nothing.
    pub fn minimum_tls_version(&self) -> Option<&str> {
        self.tls.as_ref()?.options.get(MINIMUM_TLS_VERSION).map(String::as_str)
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ListenerProtocol {
    /// HTTP over cleartext.
    Http,
    /// HTTP over TLS, which ends here.
    Https,
}

impl ListenerProtocol {
    /// The protocol as manifests have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
        }
    }
}

/// A listener's TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// Where TLS ends.
    #[serde(default)]
    pub mode: TlsMode,
    /// Secrets with a certificate and its key; at least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate_refs: Vec<CertificateRef>,
    /// How clients are verified; absent means as the Gateway says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend_validation: Option<FrontendValidation>,
    /// [`MINIMUM_TLS_VERSION`]; options of others have no effect.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// Where TLS ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMode {
    /// Here.
    #[default]
    Terminate,
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedRoutes {
    /// Of which namespaces.
    #[serde(default)]
    pub namespaces: RouteNamespaces,
    /// Of which kinds; empty means HTTPRoute and GRPCRoute.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<RouteGroupKind>,
}

/// A kind of routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteGroupKind {
    /// The API group.
    #[serde(default = "gateway_group")]
    pub group: String,
    /// The kind.
    pub kind: String,
}

fn gateway_group() -> String {
    GATEWAY_GROUP.to_owned()
}

/// Which namespaces' routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteNamespaces {
    /// By which rule.
    #[serde(default)]
    pub from: FromNamespaces,
    /// With `from: Selector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// By which rule namespaces are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNamespaces {
    /// All of them.
    All,
    /// Those that a selector selects.
    Selector,
    /// The Gateway's own.
    #[default]
    Same,
    /// No routes at all.
    None,
}

/// Selects namespaces by their labels, of which there is one: [`NAMESPACE_NAME_LABEL`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels with their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// What else must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelExpression>,
}

impl LabelSelector {
    /// Whether it selects a namespace; an empty selector selects all.
    pub fn selects(&self, namespace: &str) -> bool {
        let value = |label: &str| (label == NAMESPACE_NAME_LABEL).then_some(namespace);
        self.match_labels.iter().all(|(label, wanted)| value(label) == Some(wanted))
            && self.match_expressions.iter().all(|expression| {
                let found = value(&expression.key);
                let listed = found.is_some_and(|found| expression.values.iter().any(|value| value == found));
                match expression.operator {
                    LabelOperator::In => listed,
                    LabelOperator::NotIn => !listed,
                    LabelOperator::Exists => found.is_some(),
                    LabelOperator::DoesNotExist => found.is_none(),
                }
            })
    }
}

/// What must hold of a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelExpression {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: LabelOperator,
    /// With what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabelOperator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}
