//! Conditions: what the Gateway API says of a resource, each with a reason that programs can read.
//!
//! The types and reasons are the specification's own wherever it has a word; `NoReadyListeners` and `Waiting` are ours.
//!
//! Deliberately absent: which of them hold (see `outcome` and `status`).

use std::time::SystemTime;

use serde_json::{Value, json};

/// Who says so.
pub const CONTROLLER: &str = "waypost.dev/control-plane";

pub(super) const ACCEPTED: &str = "Accepted";
pub(super) const PROGRAMMED: &str = "Programmed";
pub(super) const RESOLVED_REFS: &str = "ResolvedRefs";
pub(super) const CONFLICTED: &str = "Conflicted";
/// Clients without a good certificate are let in (GEP-91).
pub(super) const INSECURE: &str = "InsecureFrontendValidationMode";

/// Something that holds of a resource or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// What, for example `Accepted`.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, in a word.
    pub reason: &'static str,
    /// Why, in a sentence.
    pub message: String,
}

/// Of which generation of a resource conditions speak, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) generation: u64,
    pub(super) since: SystemTime,
}

impl Condition {
    /// It holds. The reason is the type's own name unless the specification has another one.
    pub(super) fn holds(kind: &'static str, reason: &'static str) -> Self {
        Self { kind, holds: true, reason, message: String::new() }
    }

    /// It does not hold.
    pub(super) fn fails(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: false, reason, message: message.into() }
    }

    /// The same with a sentence.
    pub(super) fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// As the Gateway API writes it (`metav1.Condition`).
    pub(super) fn json(&self, observed: Observed) -> Value {
        json!({
            "type": self.kind,
            "status": if self.holds { "True" } else { "False" },
            "observedGeneration": observed.generation,
            "lastTransitionTime": humantime::format_rfc3339_seconds(observed.since).to_string(),
            "reason": self.reason,
            "message": self.message,
        })
    }
}

/// Several, as a list.
pub(super) fn list<'a>(conditions: impl IntoIterator<Item = &'a Condition>, observed: Observed) -> Value {
    conditions.into_iter().map(|condition| condition.json(observed)).collect()
}
