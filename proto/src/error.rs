//! The one table of error codes, and what each becomes on gRPC and on HTTP.
//!
//! An [`Error`] says whose fault it is ([`ErrorCode`]), what is wrong in a sentence that also says the way
//! out, and, for bad input, each field with its value and the rule that it breaks. gRPC carries the same as
//! `google.rpc.ErrorInfo` and `google.rpc.BadRequest`, HTTP as problem details (RFC 9457).

use std::fmt;

use serde::{Deserialize, Serialize};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// The domain of Waypost's `google.rpc.ErrorInfo`.
const DOMAIN: &str = "waypost";

/// What kind of failure it is, and so whose fault and whether a retry can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The caller's: a field breaks a rule. A retry cannot help.
    InvalidArgument,
    /// The caller's: there is no such thing.
    NotFound,
    /// The caller's: a newer registration has taken its place.
    StaleEpoch,
    /// The caller's: the thing is not in a state that allows this.
    FailedPrecondition,
    /// Nobody's: it did not happen in the time that was given.
    DeadlineExceeded,
    /// The caller's: a limit is reached.
    ResourceExhausted,
    /// Ours, for now: a retry can help.
    Unavailable,
    /// Ours: a defect.
    Internal,
}

impl ErrorCode {
    /// Every code, for documentation and tests.
    pub const ALL: [Self; 8] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::StaleEpoch,
        Self::FailedPrecondition,
        Self::DeadlineExceeded,
        Self::ResourceExhausted,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The code's name on every surface.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::StaleEpoch => "stale_epoch",
            Self::FailedPrecondition => "failed_precondition",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The gRPC status code.
    pub fn grpc(self) -> Code {
        match self {
            Self::InvalidArgument => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::StaleEpoch | Self::FailedPrecondition => Code::FailedPrecondition,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::ResourceExhausted => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }

    /// The HTTP status code.
    pub fn http(self) -> http::StatusCode {
        match self {
            Self::InvalidArgument => http::StatusCode::BAD_REQUEST,
            Self::NotFound => http::StatusCode::NOT_FOUND,
            Self::StaleEpoch | Self::FailedPrecondition => http::StatusCode::CONFLICT,
            Self::DeadlineExceeded => http::StatusCode::GATEWAY_TIMEOUT,
            Self::ResourceExhausted => http::StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => http::StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn from_grpc(code: Code, name: Option<&str>) -> Self {
        if let Some(known) = Self::ALL.into_iter().find(|known| Some(known.name()) == name) {
            return known;
        }
        match code {
            Code::InvalidArgument | Code::OutOfRange => Self::InvalidArgument,
            Code::NotFound => Self::NotFound,
            Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => Self::FailedPrecondition,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::Unavailable | Code::Cancelled => Self::Unavailable,
            _ => Self::Internal,
        }
    }
}

/// A field of a request that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The field, as its path in the request.
    pub field: String,
    /// The value, as it came.
    pub value: String,
    /// The rule that it breaks.
    pub rule: String,
}

impl Violation {
    /// A violation.
    pub fn new(field: impl Into<String>, value: impl fmt::Display, rule: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.to_string(), rule: rule.into() }
    }

    /// The same, with the field's path put under `parent`.
    #[must_use]
    pub fn under(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} = {:?}: {}", self.field, self.value, self.rule)
    }
}

/// A failure that a caller may read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// What kind of failure it is.
    pub code: ErrorCode,
    /// What is wrong and what to do next.
    pub message: String,
    /// The fields that break a rule, for [`ErrorCode::InvalidArgument`].
    pub violations: Vec<Violation>,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error {
    /// A failure without fields.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), violations: Vec::new() }
    }

    /// Bad input. `violations` is not empty.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let listed: Vec<String> = violations.iter().map(Violation::to_string).collect();
        Self { code: ErrorCode::InvalidArgument, message: listed.join("; "), violations }
    }

    /// The body of an HTTP answer, as RFC 9457 has it (`application/problem+json`).
    pub fn problem(&self) -> Problem {
        Problem {
            kind: format!("urn:waypost:error:{}", self.code.name()),
            title: self.code.name().replace('_', " "),
            status: self.code.http().as_u16(),
            detail: self.message.clone(),
            code: self.code.name().to_owned(),
            violations: self.violations.clone(),
        }
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::invalid(vec![violation])
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut details = ErrorDetails::with_error_info(error.code.name(), DOMAIN, []);
        if !error.violations.is_empty() {
            let fields = error.violations.iter().map(|violation| {
                FieldViolation::new(&violation.field, format!("{:?}: {}", violation.value, violation.rule))
            });
            details.set_bad_request(fields.collect::<Vec<_>>());
        }
        Self::with_error_details(error.code.grpc(), error.message, details)
    }
}

impl From<&Status> for Error {
    fn from(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let name = info.as_ref().filter(|info| info.domain == DOMAIN).map(|info| info.reason.as_str());
        Self::new(ErrorCode::from_grpc(status.code(), name), status.message())
    }
}

/// Problem details (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// This occurrence in words.
    pub detail: String,
    /// The error code or, from a proxy, the reason.
    pub code: String,
    /// The fields that break a rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_the_way_over_grpc() {
        for code in ErrorCode::ALL {
            let sent = Error::new(code, "what is wrong");
            assert_eq!(Error::from(&Status::from(sent.clone())), sent);
        }
    }

    #[test]
    fn bad_input_names_field_value_and_rule_on_both_surfaces() {
        let error = Error::invalid(vec![Violation::new("weight", 70_000, "must be at most 65535")]);
        let status = Status::from(error.clone());
        let fields =
            status.get_details_bad_request().expect("the status has field violations").field_violations;
        assert_eq!(fields[0].field, "weight");
        assert_eq!(fields[0].description, "\"70000\": must be at most 65535");
        assert_eq!(error.problem().violations[0].value, "70000");
        assert_eq!(error.problem().status, 400);
    }
}
