//! A copy of requests for another service (Gateway API, `HTTPRequestMirrorFilter`): to whom, and how often.
//!
//! ```text
//! request ─▶ due? ─▶ copy of the head ─────────────────────────────▶ instance of the mirror ─▶ answer, thrown away
//!     │                └ frames of the body, as the request's own instance takes them ┘
//!     └──────────────────────────────────────────────────────────────▶ instance ─▶ answer ─▶ client
//! ```
//!
//! The request itself never waits for its copy. What the copy's instance has not taken yet is held up to a bound;
//! beyond it the copy breaks off, and so it does where the client's body does. See `forward::mirror` for the sending.
//!
//! Deliberately absent: another `Host`. The copy is what the request's own instance gets, byte for byte; what a service
//! makes of it should not depend on whether anybody listens to its answer.

use waypost_proto::v1;

use super::RuleError;
use crate::table::declared::BackendRef;

/// Who gets copies of requests, and of how many.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    /// What it refers to, or why nothing can be sent to it.
    pub(crate) to: Result<BackendRef, String>,
    numerator: u64,
    /// Never 0.
    denominator: u64,
}

impl Mirror {
    /// Compiles a filter.
    ///
    /// # Errors
    /// There is no such share, or the service cannot be one.
    pub(crate) fn compile(wire: &v1::Mirror) -> Result<Self, RuleError> {
        let backend = wire.backend.clone().unwrap_or_default();
        let to = if backend.invalid.is_empty() {
            Ok(BackendRef::of(&backend)
                .map_err(|problem| RuleError::new("backend.service", problem.to_string()))?)
        } else {
            Err(backend.invalid)
        };
        if wire.denominator == 0 {
            return Err(RuleError::new("denominator", "must be at least 1"));
        }
        Ok(Self { to, numerator: wire.numerator.into(), denominator: wire.denominator.into() })
    }

    /// Whether a request is copied. `draw` gives a number below the one that it is given, each as often as any other.
    pub(crate) fn due(&self, draw: impl FnOnce(u64) -> u64) -> bool {
        self.numerator >= self.denominator || self.numerator > 0 && draw(self.denominator) < self.numerator
    }
}

#[cfg(test)]
mod tests;
