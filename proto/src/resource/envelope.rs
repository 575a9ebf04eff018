//! The envelope of a manifest: `apiVersion`, `kind`, `metadata`.
//!
//! What a cluster adds (`status`, `managedFields`, …) is dropped, so that what `kubectl get -o yaml` prints can be
//! declared as it is.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    decode::Reader,
    finding::{FieldPath, Finding},
    key::{Kind, ResourceKey, nearest},
    tree::{Node, Value},
};

/// What a cluster adds to metadata.
const CLUSTERS_OWN: [&str; 10] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// The annotation in which kubectl keeps the manifest, and so a Secret's contents.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who and what a resource is.
pub(super) struct Envelope {
    pub(super) key: ResourceKey,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// What is wrong with it beside what is needed to name the resource.
    pub(super) findings: Vec<Finding>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Whether a field of a resource is the envelope's.
pub(super) fn is_part(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata" | "status")
}

/// Reads the envelope.
pub(super) fn read(node: &Node) -> Result<Envelope, Vec<Finding>> {
    if !matches!(node.value, Value::Map(_)) {
        let reason = "must be an object with apiVersion, kind and metadata";
        return Err(vec![Finding::error(FieldPath::root(), reason)]);
    }
    let kind = kind(node)?;
    let base = FieldPath::root().key("metadata");
    let Some(metadata) = node.get("metadata") else {
        return Err(vec![Finding::error(base.key("name"), "is required")]);
    };
    let mut body = metadata.to_json();
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|name, _| !CLUSTERS_OWN.contains(&name.as_str()));
    }
    let mut findings = Vec::new();
    let reader = Reader { node, kind, base: base.clone() };
    let Some(mut metadata) = reader.read::<Metadata>(body, &mut findings) else {
        let name = metadata.get("name").and_then(Node::text).unwrap_or_default();
        let namespace = metadata.get("namespace").and_then(Node::text).unwrap_or_default();
        let label = ResourceKey::new(kind, namespace, name).map(|key| key.to_string()).unwrap_or_default();
        for finding in &mut findings {
            finding.resource.clone_from(&label);
        }
        return Err(findings);
    };
    let key = ResourceKey::new(kind, &metadata.namespace, &metadata.name).map_err(|violation| {
        vec![Finding::error(base.key(&violation.field), violation.rule).value(violation.value)]
    })?;
    metadata.annotations.remove(LAST_APPLIED);
    Ok(Envelope { key, labels: metadata.labels, annotations: metadata.annotations, findings })
}

/// The kind, where group, version and kind are known.
fn kind(node: &Node) -> Result<Kind, Vec<Finding>> {
    let (kind_field, version_field) = (FieldPath::root().key("kind"), FieldPath::root().key("apiVersion"));
    let text = |name: &str, field: &FieldPath| {
        let found = node.get(name).and_then(Node::text);
        found.ok_or_else(|| vec![Finding::error(field.clone(), "is required, as text")])
    };
    let name = text("kind", &kind_field)?;
    let version = text("apiVersion", &version_field)?;
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
        let names: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        let finding =
            Finding::error(kind_field, format!("is no kind that can be declared: {}", names.join(", ")));
        let finding = finding.value(name);
        return Err(match nearest(name, names.iter().copied()) {
            Some(meant) => vec![finding.suggest(format!("did you mean \"{meant}\"?"))],
            None => vec![finding],
        });
    };
    let accepted: Vec<String> = kind.versions().iter().map(|version| with_group(kind, version)).collect();
    if accepted.iter().any(|accepted| accepted == version) {
        return Ok(kind);
    }
    let reason = format!("must be {} for kind {kind}", accepted.join(" or "));
    Err(vec![Finding::error(version_field, reason).value(version)])
}

fn with_group(kind: Kind, version: &str) -> String {
    if kind.group().is_empty() { version.to_owned() } else { format!("{}/{version}", kind.group()) }
}
