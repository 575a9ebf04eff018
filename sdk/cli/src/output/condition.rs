//! Status conditions as the Gateway API has them: found wherever a status holds them, and summed up.

use serde_json::Value;

use super::table::{Cell, Colour};

/// The conditions of which `True` is bad (GEP-1364).
const NEGATIVE: [&str; 4] = ["Conflicted", "Detached", "OverlappingTLSConfig", "PartiallyInvalid"];

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Of what: a listener or a parent; empty for the resource itself.
    pub(crate) of: String,
    /// `Accepted` and the like.
    pub(crate) kind: String,
    /// `True`, `False` or `Unknown`.
    pub(crate) status: String,
    /// In a word.
    pub(crate) reason: String,
    /// In a sentence.
    pub(crate) message: String,
}

impl Condition {
    fn of(of: &str, condition: &Value) -> Self {
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Self {
            of: of.to_owned(),
            kind: text("type"),
            status: text("status"),
            reason: text("reason"),
            message: text("message"),
        }
    }

    /// Whether it is as one wants it.
    pub(crate) fn is_good(&self) -> bool {
        let wanted = if NEGATIVE.contains(&&*self.kind) { "False" } else { "True" };
        self.status == wanted
    }
}

/// All conditions of a status: its own, then those of its listeners, parents and ancestors.
pub(crate) fn all(status: &Value) -> Vec<Condition> {
    let of = |name: &str, holder: &Value| -> Vec<Condition> {
        let conditions = holder["conditions"].as_array().into_iter().flatten();
        conditions.map(|condition| Condition::of(name, condition)).collect()
    };
    let mut found = of("", status);
    for listener in status["listeners"].as_array().into_iter().flatten() {
        let name = listener["name"].as_str().unwrap_or_default();
        found.extend(of(&format!("listener {name}"), listener));
    }
    for (list, reference) in [("parents", "parentRef"), ("ancestors", "ancestorRef")] {
        for holder in status[list].as_array().into_iter().flatten() {
            found.extend(of(&named(&holder[reference]), holder));
        }
    }
    found
}

/// `good`, or what is not, in a cell; empty where there are no conditions.
pub(crate) fn summary(status: &Value) -> Cell {
    let conditions = all(status);
    let mut bad: Vec<String> = conditions
        .iter()
        .filter(|condition| !condition.is_good())
        .map(|condition| format!("{}={} ({})", condition.kind, condition.status, condition.reason))
        .collect();
    bad.dedup();
    match (conditions.is_empty(), bad.is_empty()) {
        (true, _) => "".into(),
        (false, true) => Cell::coloured("good", Some(Colour::Green)),
        (false, false) => Cell::coloured(bad.join(", "), Some(Colour::Red)),
    }
}

/// `Gateway namespace/name, listener http`.
fn named(reference: &Value) -> String {
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let kind = if text("kind").is_empty() { "Gateway" } else { text("kind") };
    let mut name = match text("namespace") {
        "" | "default" => format!("{kind} {}", text("name")),
        namespace => format!("{kind} {namespace}/{}", text("name")),
    };
    if !text("sectionName").is_empty() {
        name.push_str(&format!(", listener {}", text("sectionName")));
    }
    name
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_found_wherever_a_status_has_them() {
        let condition =
            |kind: &str, status: &str| json!({ "type": kind, "status": status, "reason": "Because" });
        let gateway = json!({
            "conditions": [condition("Accepted", "True")],
            "listeners": [{ "name": "http", "conditions": [condition("Conflicted", "False")] }],
        });
        assert_eq!(summary(&gateway), Cell::coloured("good", Some(Colour::Green)));
        let route = json!({ "parents": [{
            "parentRef": { "name": "edge", "sectionName": "http" },
            "conditions": [condition("Accepted", "True"), condition("ResolvedRefs", "False")],
        }]});
        assert_eq!(all(&route)[1].of, "Gateway edge, listener http");
        assert_eq!(summary(&route), Cell::coloured("ResolvedRefs=False (Because)", Some(Colour::Red)));
        assert_eq!(summary(&Value::Null), "".into());
    }
}
