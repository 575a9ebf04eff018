//! Documents of people to manifests: all of them, or all that is wrong with them.

use std::{collections::HashMap, sync::Arc};

use super::{
    Manifest, decode,
    finding::{FieldPath, Finding},
    tree::{Fault, Node, Value},
    yaml,
};
use crate::v1;

/// How many findings an answer has.
const MAX_FINDINGS: usize = 200;
/// How deep lists of resources may lie in each other.
const MAX_LISTS: usize = 4;

/// A resource out of a document.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The resource.
    pub manifest: Arc<Manifest>,
    /// Where its document comes from.
    pub source: String,
    /// The line in which it begins, from 1; 0 if it is not known.
    pub line: u32,
    document: Node,
}

impl Parsed {
    /// Adds to a finding of this resource where its field stands.
    pub fn place(&self, finding: &mut Finding) {
        finding.source.clone_from(&self.source);
        (finding.line, finding.column) = self.document.place(&finding.field);
    }
}

/// Reads documents: YAML or JSON, several in a text, `List`s of resources.
///
/// # Errors
/// All that is wrong, each with its place; then nothing of the set can be declared.
pub fn parse(documents: &[v1::Document]) -> Result<Vec<Parsed>, Vec<Finding>> {
    let mut parsed: Vec<Parsed> = Vec::new();
    let mut findings = Vec::new();
    for document in documents {
        let (nodes, faults) = yaml::load(&document.text);
        let unreadable = !faults.is_empty();
        findings.extend(faults.into_iter().map(|fault| from_fault(fault, &document.source)));
        if unreadable {
            continue;
        }
        for node in nodes {
            one(node, &document.source, 0, &mut parsed, &mut findings);
        }
    }
    let mut first: HashMap<&super::ResourceKey, &Parsed> = HashMap::new();
    for resource in &parsed {
        if let Some(earlier) = first.insert(resource.manifest.key(), resource) {
            let at = format!("{}:{}", earlier.source, earlier.line);
            let reason = format!("the resource is there twice; it stands at {at} already");
            let mut finding = Finding::error(FieldPath::root(), reason).of(resource.manifest.key());
            resource.place(&mut finding);
            findings.push(finding);
        }
    }
    findings.truncate(MAX_FINDINGS);
    if findings.is_empty() { Ok(parsed) } else { Err(findings) }
}

fn from_fault(fault: Fault, source: &str) -> Finding {
    let mut finding = Finding::error(fault.field, fault.reason);
    source.clone_into(&mut finding.source);
    (finding.line, finding.column) = (fault.line, fault.column);
    finding
}

fn one(mut node: Node, source: &str, depth: usize, parsed: &mut Vec<Parsed>, findings: &mut Vec<Finding>) {
    if is_list(&node) && depth < MAX_LISTS {
        let Value::Map(entries) = &mut node.value else { return };
        for entry in entries.drain(..).filter(|entry| entry.key == "items") {
            if let Value::List(items) = entry.node.value {
                for item in items {
                    one(item, source, depth + 1, parsed, findings);
                }
            }
        }
        return;
    }
    match decode::manifest(&node) {
        Ok(manifest) => parsed.push(Parsed {
            manifest: Arc::new(manifest),
            source: source.to_owned(),
            line: node.line,
            document: node,
        }),
        Err(found) => findings.extend(found.into_iter().map(|mut finding| {
            source.clone_into(&mut finding.source);
            finding
        })),
    }
}

/// `kind: List`, and `HTTPRouteList` and the like, as clusters answer with.
fn is_list(node: &Node) -> bool {
    let kind = node.get("kind").and_then(Node::text).unwrap_or_default();
    kind.ends_with("List") && matches!(node.get("items").map(|items| &items.value), Some(Value::List(_)))
}
