//! What can go wrong for a program that uses the SDK.
//!
//! There are two cases, and they call for different things: a control plane has answered, and the answer
//! is an error ([`Error::Answer`]), or none has answered at all ([`Error::Unreachable`]).

use std::fmt;

use waypost_proto::error::{ErrorCode, Violation};

/// A failure.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What a control plane answered. Arguments that break a rule give the same error before they are
    /// sent, because both sides check by the same rules.
    #[error(transparent)]
    Answer(#[from] waypost_proto::error::Error),
    /// No control plane answered. A retry can help.
    #[error(
        "no control plane answered: {}; start one with `waypost-control-plane`, or name one that runs \
         (`--control-plane`, WAYPOST_CONTROL_PLANE, or `Client::connect`)",
        listed(attempts)
    )]
    Unreachable {
        /// Each address that was tried, in order, and what came of it.
        attempts: Vec<Attempt>,
    },
}

impl Error {
    /// The kind of failure, in the words of the contract.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Answer(error) => error.code,
            Self::Unreachable { .. } => ErrorCode::Unavailable,
        }
    }

    /// Whether the same call can succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.code(), ErrorCode::Unavailable | ErrorCode::ResourceExhausted)
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Answer(violation.into())
    }
}

/// A control plane that did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its address.
    pub address: String,
    /// What happened.
    pub reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.address, self.reason)
    }
}

/// One line for all attempts; an address that failed the same way twice is named once.
fn listed(attempts: &[Attempt]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for attempt in attempts {
        let line = attempt.to_string();
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_control_plane_is_named_with_the_way_out() {
        let attempt =
            |address: &str| Attempt { address: address.into(), reason: "connection refused".into() };
        let attempts = vec![attempt("http://a:1"), attempt("http://b:2"), attempt("http://a:1")];
        let text = Error::Unreachable { attempts }.to_string();
        assert_eq!(text.matches("http://a:1: connection refused").count(), 1);
        assert!(text.contains("http://b:2") && text.contains("--control-plane"), "{text}");
    }

    #[test]
    fn only_what_may_pass_is_retryable() {
        let answer = |code| Error::Answer(waypost_proto::error::Error::new(code, "x"));
        assert!(answer(ErrorCode::Unavailable).is_retryable());
        assert!(Error::Unreachable { attempts: Vec::new() }.is_retryable());
        for code in [ErrorCode::InvalidArgument, ErrorCode::NotFound, ErrorCode::StaleEpoch] {
            assert!(!answer(code).is_retryable());
        }
    }
}
