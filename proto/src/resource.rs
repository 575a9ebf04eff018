//! Declared resources: the Gateway API's manifests, typed and checked.
//!
//! A [`Manifest`] comes out of [`parse()`] (documents of people) or [`Manifest::from_json`] (what was stored); either
//! way its fields keep the rules of the Gateway API's CRDs. What depends on other resources is looked at by
//! [`check()`], for a whole set at once. `RESOURCES.md` beside this module lists kinds, fields and refusals.
//!
//! Deliberately absent: I/O, clocks, status conditions, and what proxies make of it.

use std::{collections::BTreeMap, fmt};

pub mod backend;
mod canonical;
pub mod check;
mod decode;
pub mod duration;
mod envelope;
pub mod filter;
pub mod finding;
pub mod gateway;
pub mod hostname;
pub mod key;
pub mod material;
mod parse;
pub mod pem;
pub mod policy;
pub mod route;
mod strict;
pub mod traffic;
mod tree;
mod unsupported;
mod validate;
mod yaml;

pub use self::{
    check::{check, lint, place},
    finding::{FieldPath, Finding, Severity},
    key::{Kind, ResourceKey},
    parse::{Parsed, parse},
    validate::text::whole as compile_regex,
};

/// The bytes that a manifest's JSON may have: a document's, escaped, with defaults filled in.
const MAX_JSON: usize = 8 * tree::MAX_DOCUMENT;

/// What a resource declares.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the type of its name")]
pub enum Spec {
    BackendTlsPolicy(policy::BackendTlsPolicy),
    BackendTrafficPolicy(Box<traffic::BackendTrafficPolicy>),
    ConfigMap(material::ConfigMap),
    ExternalService(policy::ExternalService),
    GrpcRoute(route::GrpcRoute),
    Gateway(gateway::Gateway),
    HttpRoute(route::HttpRoute),
    ReferenceGrant(policy::ReferenceGrant),
    Secret(material::Secret),
}

impl Spec {
    /// The kind that it belongs to.
    pub fn kind(&self) -> Kind {
        match self {
            Self::BackendTlsPolicy(_) => Kind::BackendTlsPolicy,
            Self::BackendTrafficPolicy(_) => Kind::BackendTrafficPolicy,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::ExternalService(_) => Kind::ExternalService,
            Self::GrpcRoute(_) => Kind::GrpcRoute,
            Self::Gateway(_) => Kind::Gateway,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::ReferenceGrant(_) => Kind::ReferenceGrant,
            Self::Secret(_) => Kind::Secret,
        }
    }

    /// What a policy is attached to; none for other kinds.
    pub fn targets(&self) -> &[policy::PolicyTarget] {
        match self {
            Self::BackendTlsPolicy(policy) => &policy.target_refs,
            Self::BackendTrafficPolicy(policy) => &policy.target_refs,
            _ => &[],
        }
    }
}

/// A resource that was declared, with fields that keep their rules.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    key: ResourceKey,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    spec: Spec,
    json: String,
}

impl Manifest {
    /// Reads what [`Self::json`] wrote.
    ///
    /// # Errors
    /// All that is wrong with it, as [`parse()`] would say it, without places.
    pub fn from_json(text: &str) -> Result<Self, Vec<Finding>> {
        let node = tree::load_json(text, MAX_JSON);
        let node = node.map_err(|fault| vec![Finding::error(fault.field, fault.reason)])?;
        decode::manifest(&node)
    }

    /// `spec` is of the kind of `key`, and keeps its rules.
    fn new(
        key: ResourceKey,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        spec: Spec,
    ) -> Result<Self, String> {
        let json = canonical::json(&key, &labels, &annotations, &spec);
        let json = json.map_err(|error| format!("cannot be written as JSON: {error}"))?;
        Ok(Self { key, labels, annotations, spec, json })
    }

    /// Its name.
    pub fn key(&self) -> &ResourceKey {
        &self.key
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Its annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// What it declares.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The manifest as JSON: defaults filled in, fields in one order, so that equal texts mean equal resources.
    pub fn json(&self) -> &str {
        &self.json
    }
}

/// Shows no more than the name: a Secret's JSON is not for logs.
impl fmt::Debug for Manifest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Manifest({})", self.key)
    }
}

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
