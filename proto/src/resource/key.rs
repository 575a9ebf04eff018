//! What a resource is called: its kind, namespace and name.
//!
//! Kinds are read as people type them at a terminal (`httproutes`, `HTTPRoute`, `gw`); names follow RFC 1123, as
//! Kubernetes has them, so that what works here works there.
//!
//! Deliberately absent: resources without a namespace. None of the kinds here is of that sort.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{error::Violation, name::DEFAULT_NAMESPACE, v1};

/// The group of the Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The group of Waypost's own resources.
pub const WAYPOST_GROUP: &str = "waypost.dev";

const MAX_SUBDOMAIN: usize = 253;
const MAX_LABEL: usize = 63;
const NAME_RULE: &str = "must be 1 to 253 lower-case letters, digits, '-' or '.', with a letter or digit at both ends \
                         of each part between dots, for example \"shop\"";
const NAMESPACE_RULE: &str = "must be 1 to 63 lower-case letters, digits or '-', with a letter or digit at both ends, \
                              for example \"default\"";

/// What sort of resource it is.
///
/// In the order of their names, so that sorted keys are sorted as text, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// How to speak TLS to a service.
    BackendTlsPolicy,
    /// How requests to a service are shared among its instances, and what is done about those that fail.
    BackendTrafficPolicy,
    /// Text by key; certificates of authorities, for our purposes.
    ConfigMap,
    /// A service that does not register.
    ExternalService,
    /// Which gRPC calls go where.
    GrpcRoute,
    /// Where requests come in.
    Gateway,
    /// Which requests go where.
    HttpRoute,
    /// Lets references cross from one namespace into another.
    ReferenceGrant,
    /// Bytes by key; a certificate with its key, for our purposes.
    Secret,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::BackendTlsPolicy,
        Self::BackendTrafficPolicy,
        Self::ConfigMap,
        Self::ExternalService,
        Self::GrpcRoute,
        Self::Gateway,
        Self::HttpRoute,
        Self::ReferenceGrant,
        Self::Secret,
    ];

    /// The kind as manifests have it, for example `HTTPRoute`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::BackendTrafficPolicy => "BackendTrafficPolicy",
            Self::ConfigMap => "ConfigMap",
            Self::ExternalService => "ExternalService",
            Self::GrpcRoute => "GRPCRoute",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Secret => "Secret",
        }
    }

    /// The API group; empty for the core group.
    pub const fn group(self) -> &'static str {
        match self {
            Self::ConfigMap | Self::Secret => "",
            Self::BackendTrafficPolicy | Self::ExternalService => WAYPOST_GROUP,
            _ => GATEWAY_GROUP,
        }
    }

    /// The versions that are understood; the first is the one that canonical manifests have.
    pub const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Gateway | Self::HttpRoute => &["v1", "v1beta1"],
            Self::ReferenceGrant => &["v1beta1", "v1"],
            Self::BackendTlsPolicy => &["v1", "v1alpha3"],
            Self::BackendTrafficPolicy
            | Self::ConfigMap
            | Self::ExternalService
            | Self::GrpcRoute
            | Self::Secret => &["v1"],
        }
    }

    /// The `apiVersion` of canonical manifests, for example `gateway.networking.k8s.io/v1`.
    pub fn api_version(self) -> String {
        let version = self.versions()[0];
        if self.group().is_empty() { version.to_owned() } else { format!("{}/{version}", self.group()) }
    }

    /// What else a terminal takes for it, in lower case: the plural and, where there is one, a short name.
    pub const fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::BackendTlsPolicy => &["backendtlspolicies", "btlspolicy", "btls"],
            Self::BackendTrafficPolicy => &["backendtrafficpolicies", "btp"],
            Self::ConfigMap => &["configmaps", "cm"],
            Self::ExternalService => &["externalservices", "external", "es"],
            Self::GrpcRoute => &["grpcroutes", "grpc"],
            Self::Gateway => &["gateways", "gtw", "gw"],
            Self::HttpRoute => &["httproutes", "http", "hr"],
            Self::ReferenceGrant => &["referencegrants", "refgrant", "rg"],
            Self::Secret => &["secrets"],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Reads a kind in any case, its plural or its short name; `httproutes.gateway.networking.k8s.io` works as well.
impl FromStr for Kind {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let lower = text.to_ascii_lowercase();
        let found = Self::ALL.into_iter().find(|kind| {
            let plain = lower.strip_suffix(kind.group()).and_then(|rest| rest.strip_suffix('.'));
            let plain = plain.filter(|_| !kind.group().is_empty()).unwrap_or(&lower);
            plain.eq_ignore_ascii_case(kind.name()) || kind.aliases().contains(&plain)
        });
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            let meant = nearest(text, names.iter().copied());
            let hint = meant.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
            Violation::new("kind", text, format!("must be one of {}{hint}", names.join(", ")))
        })
    }
}

/// The candidate that is most like `text`, if one is like enough to have been meant.
pub(crate) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_lowercase();
    let scored =
        candidates.into_iter().map(|name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), name));
    scored
        .filter(|(score, _)| *score > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}

/// Whether it is a label as RFC 1123 has it, in lower case: what a namespace is called.
pub(crate) fn is_label(text: &str) -> bool {
    let edge =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

/// Whether it is a subdomain as RFC 1123 has it, in lower case: what a resource is called.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let edge =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = part.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
    };
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(part)
}

/// Names a resource. A clone shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    kind: Kind,
    namespace: Arc<str>,
    name: Arc<str>,
}

impl ResourceKey {
    /// Checks a namespace (empty means `default`) and a name.
    ///
    /// # Errors
    /// Names the field that breaks its rule: `namespace` or `name`.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Result<Self, Violation> {
        let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace };
        if !is_label(namespace) {
            return Err(Violation::new("namespace", namespace, NAMESPACE_RULE));
        }
        if !is_subdomain(name) {
            return Err(Violation::new("name", name, NAME_RULE));
        }
        Ok(Self { kind, namespace: Arc::from(namespace), name: Arc::from(name) })
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within kind and namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The wire form.
    pub fn to_wire(&self) -> v1::ResourceKey {
        v1::ResourceKey {
            kind: self.kind.name().to_owned(),
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
        }
    }

    /// Checks the wire form.
    ///
    /// # Errors
    /// Names the field that breaks its rule; a missing key is an empty kind.
    pub fn from_wire(wire: Option<&v1::ResourceKey>) -> Result<Self, Violation> {
        let empty = v1::ResourceKey::default();
        let wire = wire.unwrap_or(&empty);
        Self::new(wire.kind.parse()?, &wire.namespace, &wire.name)
    }
}

/// `Kind namespace/name`, for example `HTTPRoute default/shop`.
impl fmt::Display for ResourceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Reads what [`fmt::Display`] writes, and `Kind/name` and `Kind/namespace/name`.
impl FromStr for ResourceKey {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let Some((kind, rest)) = text.split_once([' ', '/']) else {
            return Err(Violation::new(
                "resource",
                text,
                "must be KIND/NAME or KIND/NAMESPACE/NAME, for example \"httproute/shop\"",
            ));
        };
        let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
        Self::new(kind.parse()?, namespace, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_as_people_type_them() {
        for text in ["HTTPRoute", "httproute", "httproutes", "hr", "HTTPRoutes.gateway.networking.k8s.io"] {
            assert_eq!(text.parse(), Ok(Kind::HttpRoute), "{text}");
        }
        assert_eq!("externalservice.waypost.dev".parse(), Ok(Kind::ExternalService));
        for text in ["btp", "BackendTrafficPolicies", "backendtrafficpolicy.waypost.dev"] {
            assert_eq!(text.parse(), Ok(Kind::BackendTrafficPolicy), "{text}");
        }
        let violation = "HTTPRoot".parse::<Kind>().expect_err("no such kind");
        assert!(violation.rule.ends_with("did you mean \"HTTPRoute\"?"), "{}", violation.rule);
        for text in ["", "Pod", ".", "secrets.", "gateway.networking.k8s.io"] {
            assert!(text.parse::<Kind>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn kinds_sort_as_their_names_do() {
        let names: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        assert!(names.is_sorted());
        assert!(Kind::ALL.is_sorted());
    }

    #[test]
    fn keys_read_back_what_they_print() {
        for kind in Kind::ALL {
            let key = ResourceKey::new(kind, "shop", "a.b-1").expect("a good name");
            assert_eq!(key.to_string().parse(), Ok(key.clone()));
            assert_eq!(ResourceKey::from_wire(Some(&key.to_wire())), Ok(key));
        }
        assert_eq!("gw/edge".parse(), ResourceKey::new(Kind::Gateway, "", "edge"));
        assert_eq!("gw/shop/edge".parse(), ResourceKey::new(Kind::Gateway, "shop", "edge"));
    }

    #[test]
    fn names_that_break_the_rule_are_refused_with_their_field() {
        for name in ["", "-a", "a-", "A", "a..b", "a.-b", "ä", "a/b", &"a".repeat(254)] {
            assert_eq!(ResourceKey::new(Kind::Secret, "", name).expect_err(name).field, "name");
        }
        for namespace in ["a.b", "A", "-", &"a".repeat(64)] {
            let refused = ResourceKey::new(Kind::Secret, namespace, "a").expect_err(namespace);
            assert_eq!(refused.field, "namespace");
        }
    }
}
