//! What is found wrong, or odd, in declared resources: where, what, and what would be right.

use std::fmt;

use super::key::ResourceKey;
use crate::{
    error::{Error, Violation},
    v1,
};

/// Whether something can be declared in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// No: nothing of the set is declared.
    Error,
    /// Yes, though it is likely not what was meant.
    Warning,
}

/// A step from a value into it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// The value of a key.
    Key(String),
    /// An element, counted from 0.
    Index(usize),
}

/// Which field of a resource, for example `spec.rules[0].backendRefs[0].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldPath(Vec<Step>);

impl FieldPath {
    /// The resource itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// `spec`.
    pub fn spec() -> Self {
        Self::root().key("spec")
    }

    /// A field of it.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        self.step(Step::Key(name.to_owned()))
    }

    /// A field of it by a path of plain names, for example `path.value`.
    #[must_use]
    pub fn keys(&self, names: &str) -> Self {
        names.split('.').fold(self.clone(), |path, name| path.key(name))
    }

    /// An element of it.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// A field's element.
    #[must_use]
    pub fn item(&self, name: &str, index: usize) -> Self {
        self.key(name).index(index)
    }

    /// The steps from the resource.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl FromIterator<Step> for FieldPath {
    fn from_iter<T: IntoIterator<Item = Step>>(steps: T) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(formatter, "[{index}]")?,
                Step::Key(key) if key.is_empty() || key.contains(['.', '[', '/', ' ']) => {
                    write!(formatter, "[{key:?}]")?;
                }
                Step::Key(key) if position == 0 => formatter.write_str(key)?,
                Step::Key(key) => write!(formatter, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it stands in the way.
    pub severity: Severity,
    /// Where the document comes from; empty if that is not known.
    pub source: String,
    /// The line, from 1; 0 if it is not known.
    pub line: u32,
    /// The column, from 1; 0 if it is not known.
    pub column: u32,
    /// Which resource, as `Kind namespace/name`; empty if that cannot be read.
    pub resource: String,
    /// Which field.
    pub field: FieldPath,
    /// The value, if it helps to see it; never what a Secret holds.
    pub value: String,
    /// What is the matter, as what is said of the value or, where there is none, of the field.
    pub reason: String,
    /// What would be right; empty if that is not known.
    pub suggestion: String,
}

/// The letters of a value that a finding shows.
const SHOWN: usize = 80;

impl Finding {
    /// Something that stands in the way.
    pub fn error(field: FieldPath, reason: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            source: String::new(),
            line: 0,
            column: 0,
            resource: String::new(),
            field,
            value: String::new(),
            reason: reason.into(),
            suggestion: String::new(),
        }
    }

    /// Something odd.
    pub fn warning(field: FieldPath, reason: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(field, reason) }
    }

    /// The same, with the value; a long one is cut.
    #[must_use]
    pub fn value(mut self, value: impl fmt::Display) -> Self {
        self.value = value.to_string();
        if let Some((end, _)) = self.value.char_indices().nth(SHOWN) {
            self.value.truncate(end);
            self.value.push('…');
        }
        self
    }

    /// The same, with what would be right.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = suggestion.into();
        self
    }

    /// The same, of a resource.
    #[must_use]
    pub fn of(mut self, key: &ResourceKey) -> Self {
        self.resource = key.to_string();
        self
    }

    /// The reason with the value in front.
    pub(super) fn sentence(&self) -> String {
        if self.value.is_empty() { self.reason.clone() } else { format!("{:?} {}", self.value, self.reason) }
    }

    /// The wire form.
    pub fn to_wire(&self) -> v1::ResourceFinding {
        v1::ResourceFinding {
            source: self.source.clone(),
            line: self.line,
            column: self.column,
            resource: self.resource.clone(),
            field: self.field.to_string(),
            reason: self.sentence(),
            suggestion: self.suggestion.clone(),
        }
    }

    /// As a violation of a request: its field says where, its rule what would be right.
    pub fn to_violation(&self) -> Violation {
        let field = self.field.to_string();
        let parts = [self.position(), self.resource.clone(), field];
        let place: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let hint = if self.suggestion.is_empty() { String::new() } else { format!("; {}", self.suggestion) };
        Violation::new(place.join(": "), &self.value, format!("{}{hint}", self.reason))
    }

    /// `source:line:column`, as far as it is known.
    fn position(&self) -> String {
        match (self.line, self.column) {
            (0, _) => self.source.clone(),
            (line, 0) => format!("{}:{line}", self.source),
            (line, column) => format!("{}:{line}:{column}", self.source),
        }
    }
}

/// One line: where, of what, what, and what would be right.
impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [self.position(), self.resource.clone(), self.field.to_string()] {
            if !part.is_empty() {
                write!(formatter, "{part}: ")?;
            }
        }
        formatter.write_str(&self.sentence())?;
        if self.suggestion.is_empty() { Ok(()) } else { write!(formatter, "; {}", self.suggestion) }
    }
}

/// The answer to a request whose documents cannot be declared. `findings` has at least one error.
pub fn refusal(findings: &[Finding]) -> Error {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let message: Vec<String> = errors.clone().map(Finding::to_string).collect();
    let violations = errors.map(Finding::to_violation).collect();
    Error { message: message.join("\n"), ..Error::invalid(violations) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_manifest() {
        let path = FieldPath::spec().item("rules", 0).keys("timeouts.request");
        assert_eq!(path.to_string(), "spec.rules[0].timeouts.request");
        assert_eq!(FieldPath::root().key("data").key("tls.crt").to_string(), "data[\"tls.crt\"]");
    }

    #[test]
    fn a_finding_says_where_what_and_what_would_be_right() {
        let mut finding = Finding::error(FieldPath::spec().key("port"), "must be 1 to 65535")
            .value(0)
            .suggest("for example 8080");
        finding.source = "a.yaml".to_owned();
        (finding.line, finding.column) = (3, 9);
        finding.resource = "Gateway default/edge".to_owned();
        assert_eq!(
            finding.to_string(),
            "a.yaml:3:9: Gateway default/edge: spec.port: \"0\" must be 1 to 65535; for example 8080"
        );
        assert_eq!(finding.to_wire().reason, "\"0\" must be 1 to 65535");
        let violation = finding.to_violation();
        assert_eq!(violation.field, "a.yaml:3:9: Gateway default/edge: spec.port");
        assert_eq!(refusal(&[finding]).code, crate::error::ErrorCode::InvalidArgument);
        assert_eq!(Finding::error(FieldPath::root(), "").value("ä".repeat(100)).value.chars().count(), 81);
    }
}
