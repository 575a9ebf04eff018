//! References from one resource to another: to backends, to TLS material, to Gateways.
//!
//! What a reference leaves out is filled in when it is read, as the API server of Kubernetes does it; only an absent
//! namespace stays absent, since it means the namespace of the resource that refers.

use serde::{Deserialize, Serialize};

use super::{
    filter::Filter,
    key::{GATEWAY_GROUP, WAYPOST_GROUP},
};

pub(super) fn service() -> String {
    "Service".to_owned()
}

pub(super) fn secret() -> String {
    "Secret".to_owned()
}

fn gateway() -> String {
    "Gateway".to_owned()
}

fn gateway_group() -> String {
    GATEWAY_GROUP.to_owned()
}

fn one() -> u32 {
    1
}

/// What a backend reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendKind {
    /// A service that is registered.
    Service,
    /// A declared one.
    ExternalService,
}

impl BackendKind {
    /// The kind that a group and a kind name; `None` where it is no backend here.
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        match (group, kind) {
            ("", "Service") => Some(Self::Service),
            (WAYPOST_GROUP, "ExternalService") => Some(Self::ExternalService),
            _ => None,
        }
    }
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// The API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// The kind.
    #[serde(default = "service")]
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace; absent means the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Has no effect: instances register with their ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its share of the requests, 0 to 1,000,000, relative to the others'.
    #[serde(default = "one")]
    pub weight: u32,
    /// What is done with its requests only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Waypost's own: only instances of these versions; empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
    /// Waypost's own: only instances with one of these tags; empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

impl BackendRef {
    /// What it leads to; `None` where that is no backend here.
    pub fn backend_kind(&self) -> Option<BackendKind> {
        BackendKind::of(&self.group, &self.kind)
    }
}

/// Who gets a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MirrorBackend {
    /// The API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// The kind.
    #[serde(default = "service")]
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace; absent means the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Has no effect: instances register with their ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Waypost's own: only instances of these versions; empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
    /// Waypost's own: only instances with one of these tags; empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

impl MirrorBackend {
    /// What it leads to; `None` where that is no backend here.
    pub fn backend_kind(&self) -> Option<BackendKind> {
        BackendKind::of(&self.group, &self.kind)
    }
}

/// Where a route's requests come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// The API group.
    #[serde(default = "gateway_group")]
    pub group: String,
    /// The kind.
    #[serde(default = "gateway")]
    pub kind: String,
    /// The Gateway's namespace; absent means the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The Gateway's name.
    pub name: String,
    /// Only the listener of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Only listeners at this port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A Secret, or a ConfigMap with certificates of authorities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRef {
    /// The API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// The kind.
    #[serde(default = "secret")]
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace; absent means that of the resource that refers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Certificates of authorities: a ConfigMap or a Secret with the key `ca.crt`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthoritiesRef {
    /// The API group; empty for the core group.
    pub group: String,
    /// `ConfigMap` or `Secret`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace; absent means that of the resource that refers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}
