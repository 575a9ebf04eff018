//! A tree to a typed manifest: the envelope, then the fields by their types.
//!
//! serde stops at the first field that is wrong. Here that field is taken out and the rest is read again, so that
//! one answer names them all. What serde says is put into words for people who write manifests.

use serde::de::DeserializeOwned;

use super::{
    Manifest, Spec,
    envelope::{self, Envelope},
    finding::{FieldPath, Finding, Step},
    key::{Kind, nearest},
    material,
    strict::Strict,
    tree::{Node, Value},
    unsupported, validate,
};

/// How many fields of a resource are found wrong at most.
const MAX_FINDINGS: usize = 32;

/// Reads and checks a resource. Findings have the places of their fields.
pub(super) fn manifest(node: &Node) -> Result<Manifest, Vec<Finding>> {
    let mut findings = Vec::new();
    let envelope = match envelope::read(node) {
        Ok(envelope) => envelope,
        Err(found) => return Err(placed(node, found)),
    };
    findings.extend(envelope.findings.iter().cloned());
    let spec = typed(node, &envelope, &mut findings);
    if let Some(spec) = &spec {
        findings.extend(validate::spec(&envelope.key, spec));
    }
    let label = envelope.key.to_string();
    let manifest = match spec {
        Some(spec) if findings.is_empty() => {
            let made = Manifest::new(envelope.key, envelope.labels, envelope.annotations, spec);
            made.map_err(|reason| findings.push(Finding::error(FieldPath::root(), reason))).ok()
        }
        _ => None,
    };
    for finding in &mut findings {
        finding.resource.clone_from(&label);
        if matches!(node.get("stringData"), Some(text) if names_part(&finding.field, text)) {
            finding.field = moved(&finding.field, "stringData");
        }
    }
    manifest.ok_or_else(|| placed(node, findings))
}

fn placed(node: &Node, mut findings: Vec<Finding>) -> Vec<Finding> {
    for finding in &mut findings {
        (finding.line, finding.column) = node.place(&finding.field);
    }
    // In the order in which one reads the document; without places, as they were found.
    findings.sort_by_key(|finding| (finding.line, finding.column));
    findings
}

/// Whether a path `data.KEY` names a key of this part as well.
fn names_part(field: &FieldPath, part: &Node) -> bool {
    matches!(field.steps(), [Step::Key(data), Step::Key(key), ..] if data == "data" && part.get(key).is_some())
}

/// A path of another part: what is written in `stringData` is found in `data` when it is checked.
fn moved(field: &FieldPath, part: &str) -> FieldPath {
    let first = std::iter::once(Step::Key(part.to_owned()));
    first.chain(field.steps().iter().skip(1).cloned()).collect()
}

/// The fields of the kind; `None` where they cannot be read, and `findings` says why.
fn typed(node: &Node, envelope: &Envelope, findings: &mut Vec<Finding>) -> Option<Spec> {
    let kind = envelope.key.kind();
    if matches!(kind, Kind::Secret | Kind::ConfigMap) {
        let mut body = serde_json::Map::new();
        for entry in node.entries() {
            if !envelope::is_part(&entry.key) && entry.node.value != Value::Null {
                body.insert(entry.key.clone(), entry.node.to_json());
            }
        }
        let reader = Reader { node, kind, base: FieldPath::root() };
        let body = serde_json::Value::Object(body);
        return match kind {
            Kind::Secret => reader.read::<material::Secret>(body, findings).map(Spec::Secret),
            _ => reader.read::<material::ConfigMap>(body, findings).map(Spec::ConfigMap),
        };
    }
    for entry in node.entries() {
        if !envelope::is_part(&entry.key) && entry.key != "spec" {
            let names = ["apiVersion", "kind", "metadata", "spec", "status"];
            findings.push(unknown(kind, FieldPath::root().key(&entry.key), &entry.key, &names));
        }
    }
    let Some(spec) = node.get("spec").filter(|spec| spec.value != Value::Null) else {
        findings.push(Finding::error(FieldPath::spec(), "is required"));
        return None;
    };
    let reader = Reader { node, kind, base: FieldPath::spec() };
    let body = spec.to_json();
    match kind {
        Kind::BackendTlsPolicy => reader.read(body, findings).map(Spec::BackendTlsPolicy),
        Kind::BackendTrafficPolicy => {
            reader.read(body, findings).map(Box::new).map(Spec::BackendTrafficPolicy)
        }
        Kind::ExternalService => reader.read(body, findings).map(Spec::ExternalService),
        Kind::GrpcRoute => reader.read(body, findings).map(Spec::GrpcRoute),
        Kind::Gateway => reader.read(body, findings).map(Spec::Gateway),
        Kind::HttpRoute => reader.read(body, findings).map(Spec::HttpRoute),
        Kind::ReferenceGrant => reader.read(body, findings).map(Spec::ReferenceGrant),
        Kind::ConfigMap | Kind::Secret => None,
    }
}

fn unknown(kind: Kind, field: FieldPath, name: &str, names: &[&str]) -> Finding {
    if let Some(why) = unsupported::field(kind, name) {
        return Finding::error(field, why);
    }
    let finding = Finding::error(field, format!("there is no field \"{name}\" here"));
    match nearest(name, names.iter().copied()) {
        Some(meant) => finding.suggest(format!("did you mean \"{meant}\"?")),
        None if names.is_empty() => finding,
        None => finding.suggest(format!("the fields are {}", names.join(", "))),
    }
}

/// Reads a part of a document as a type.
pub(super) struct Reader<'a> {
    pub(super) node: &'a Node,
    pub(super) kind: Kind,
    pub(super) base: FieldPath,
}

impl Reader<'_> {
    /// Reads `body` and adds what is wrong with it to `findings`; `None` if anything was.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        mut body: serde_json::Value,
        findings: &mut Vec<Finding>,
    ) -> Option<T> {
        let mut removed: Vec<FieldPath> = Vec::new();
        loop {
            let error = match serde_path_to_error::deserialize::<_, T>(Strict(&body)) {
                Ok(value) => return removed.is_empty().then_some(value),
                Err(error) => error,
            };
            let steps: Vec<Step> = error.path().iter().filter_map(step).collect();
            let message = error.inner().to_string();
            let local: FieldPath = steps.iter().cloned().collect();
            // A field that was taken out for its fault is not missing, too.
            if missing(&message).is_some_and(|name| removed.contains(&local.key(name))) {
                return None;
            }
            // Nor is an object to blame, as a whole, for a field that was taken out of it.
            let lacks_some = removed.iter().any(|gone| gone.steps().starts_with(local.steps()));
            if !(lacks_some && is_of_the_whole(&message)) {
                findings.push(self.finding(&steps, &message));
            }
            if removed.len() >= MAX_FINDINGS || !remove(&mut body, &steps) {
                return None;
            }
            removed.push(local);
        }
    }

    fn finding(&self, steps: &[Step], message: &str) -> Finding {
        let field: FieldPath = self.base.steps().iter().chain(steps).cloned().collect();
        let names = quoted(message);
        let (first, rest) = match names.split_first() {
            Some((first, rest)) => (*first, rest),
            None => ("", &[][..]),
        };
        if message.starts_with("unknown field") {
            return unknown(self.kind, field, first, rest);
        }
        if message.starts_with("unknown variant") {
            let reason = unsupported::variant(first).unwrap_or_else(|| match rest {
                [only] => format!("must be {only}"),
                _ => format!("must be one of {}", rest.join(", ")),
            });
            let finding = Finding::error(field, reason).value(first);
            let meant = nearest(first, rest.iter().copied());
            return match meant {
                Some(meant) => finding.suggest(format!("did you mean \"{meant}\"?")),
                None => finding,
            };
        }
        if let Some(name) = missing(message) {
            return Finding::error(field.key(name), "is required");
        }
        let value = if self.kind == Kind::Secret { None } else { scalar(self.node, &field) };
        let finding = match message.rsplit_once(", expected ") {
            Some((found, expected)) if message.starts_with("invalid ") => {
                let finding = Finding::error(field, format!("must be {}", wanted(expected)));
                let unquoted =
                    expected == "a string" && (found.contains("integer") || found.contains("boolean"));
                if unquoted { finding.suggest("put it in quotes") } else { finding }
            }
            _ => Finding::error(field, message),
        };
        match value {
            Some(value) => finding.value(value),
            None => finding,
        }
    }
}

/// Whether a message is about how the fields of an object go together: it is none of serde's own.
fn is_of_the_whole(message: &str) -> bool {
    !["unknown ", "missing ", "invalid ", "duplicate "].iter().any(|start| message.starts_with(start))
}

/// The name of a field that is said to be missing.
fn missing(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// What stands between backquotes.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

fn step(segment: &serde_path_to_error::Segment) -> Option<Step> {
    match segment {
        serde_path_to_error::Segment::Seq { index } => Some(Step::Index(*index)),
        serde_path_to_error::Segment::Map { key } => Some(Step::Key(key.clone())),
        serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => None,
    }
}

/// Takes a key out, so that what else is wrong comes to light; `false` where there is none at the end of the path.
fn remove(body: &mut serde_json::Value, steps: &[Step]) -> bool {
    let Some((Step::Key(last), before)) = steps.split_last() else { return false };
    let inner = before.iter().try_fold(body, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(*index),
    });
    inner.and_then(serde_json::Value::as_object_mut).is_some_and(|object| object.remove(last).is_some())
}

/// A scalar, as a finding shows it.
fn scalar(node: &Node, field: &FieldPath) -> Option<String> {
    let inner = field.steps().iter().try_fold(node, |node, step| match (step, &node.value) {
        (Step::Key(key), Value::Map(_)) => node.get(key),
        (Step::Index(index), Value::List(items)) => items.get(*index),
        _ => None,
    })?;
    match &inner.value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

/// What serde expects, in words.
fn wanted(expected: &str) -> &str {
    match expected {
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "a string" | "string or map" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a list of keys with values",
        _ if expected.starts_with("struct ") => "an object with fields",
        _ => expected,
    }
}
