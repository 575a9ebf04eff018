//! The one JSON text of a manifest.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Spec, key::ResourceKey, material};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Canonical<'a, T> {
    api_version: String,
    kind: &'static str,
    metadata: Metadata<'a>,
    spec: &'a T,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
    namespace: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// A Secret or ConfigMap, whose fields lie beside its metadata.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Flat<'a, T> {
    api_version: String,
    kind: &'static str,
    metadata: Metadata<'a>,
    #[serde(flatten)]
    fields: &'a T,
}

/// Writes a manifest: fields in one order, no blanks.
pub(super) fn json(
    key: &ResourceKey,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    spec: &Spec,
) -> Result<String, serde_json::Error> {
    let metadata = Metadata { name: key.name(), namespace: key.namespace(), labels, annotations };
    match spec {
        Spec::BackendTlsPolicy(spec) => structured(key, metadata, spec),
        Spec::BackendTrafficPolicy(spec) => structured(key, metadata, spec),
        Spec::ExternalService(spec) => structured(key, metadata, spec),
        Spec::GrpcRoute(spec) => structured(key, metadata, spec),
        Spec::Gateway(spec) => structured(key, metadata, spec),
        Spec::HttpRoute(spec) => structured(key, metadata, spec),
        Spec::ReferenceGrant(spec) => structured(key, metadata, spec),
        Spec::ConfigMap(fields) => flat::<material::ConfigMap>(key, metadata, fields),
        Spec::Secret(fields) => flat::<material::Secret>(key, metadata, fields),
    }
}

fn structured<T: Serialize>(
    key: &ResourceKey,
    metadata: Metadata<'_>,
    spec: &T,
) -> Result<String, serde_json::Error> {
    let (api_version, kind) = (key.kind().api_version(), key.kind().name());
    serde_json::to_string(&Canonical { api_version, kind, metadata, spec })
}

fn flat<T: Serialize>(
    key: &ResourceKey,
    metadata: Metadata<'_>,
    fields: &T,
) -> Result<String, serde_json::Error> {
    let (api_version, kind) = (key.kind().api_version(), key.kind().name());
    serde_json::to_string(&Flat { api_version, kind, metadata, fields })
}
