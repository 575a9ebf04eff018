//! Why an entry of declared routing cannot be compiled.

use crate::rule::RuleError;

/// Why an entry of declared routing cannot be compiled: it asks for what this version does not know.
#[derive(Debug, thiserror::Error)]
pub enum DeclaredError {
    /// The listener's port is none.
    #[error("{0} is no port")]
    Port(u32),
    /// A path is compared in a way that is not known.
    #[error("paths cannot be compared in the way numbered {0}")]
    PathKind(i32),
    /// A path does not begin with a slash.
    #[error("the path {0:?} does not begin with a slash")]
    Path(String),
    /// A gRPC method's name cannot be one.
    #[error("{0:?} is no gRPC method")]
    GrpcMethod(String),
    /// A method cannot be one.
    #[error("{0:?} is no method")]
    Method(String),
    /// A header field's name cannot be one.
    #[error("{0:?} is no name of a header field")]
    HeaderName(String),
    /// A regular expression is malformed or too large.
    #[error("the regular expression {pattern:?} cannot be used")]
    Regex {
        /// What was given.
        pattern: String,
        /// Why.
        #[source]
        source: Box<regex::Error>,
    },
    /// A rule cannot be carried out.
    #[error("rule {place} cannot be carried out")]
    Rule {
        /// Its place in the route, from 0.
        place: usize,
        /// Why.
        #[source]
        source: Box<RuleError>,
    },
}
