//! What went wrong, and what the process says and returns because of it.
//!
//! Every failure names the thing and the reason in `message`, and the way out in `way_out`. The exit code
//! tells scripts the kind apart. Deliberately absent: wording of the server's own refusals; those arrive
//! finished, with field, value and rule.

use std::{io, process::ExitCode};

use waypost_proto::error::{Error, ErrorCode};

/// The kinds of failure that scripts can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did not work.
    Failed = 1,
    /// A flag or a value is wrong; nothing was changed.
    Usage = 2,
    /// There is no such service, instance or resource.
    NotFound = 3,
    /// No control plane answers.
    Unreachable = 4,
    /// It did not happen in the time that was given.
    DeadlinePassed = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure of the whole command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// The process's exit code.
    pub(crate) exit: Exit,
    /// The thing and the reason.
    pub(crate) message: String,
    /// What to do next, where that is known.
    pub(crate) way_out: Option<String>,
    /// Nobody reads the output any more; that is said to nobody.
    pub(crate) broken_pipe: bool,
    /// All has been said; only the exit code is left.
    pub(crate) silent: bool,
}

impl Failure {
    /// A failure without advice.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), way_out: None, broken_pipe: false, silent: false }
    }

    /// An exit code after all has been said.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { silent: true, ..Self::new(exit, "") }
    }

    /// The same with advice.
    #[must_use]
    pub(crate) fn way_out(mut self, way_out: impl Into<String>) -> Self {
        self.way_out = Some(way_out.into());
        self
    }

    /// A refusal by the contract's error code.
    pub(crate) fn of_error(error: &Error) -> Self {
        let exit = match error.code {
            ErrorCode::InvalidArgument => Exit::Usage,
            ErrorCode::NotFound => Exit::NotFound,
            ErrorCode::Unavailable => Exit::Unreachable,
            ErrorCode::DeadlineExceeded => Exit::DeadlinePassed,
            ErrorCode::StaleEpoch
            | ErrorCode::FailedPrecondition
            | ErrorCode::ResourceExhausted
            | ErrorCode::Internal => Exit::Failed,
        };
        Self::new(exit, &error.message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self { broken_pipe, ..Self::new(Exit::Failed, format!("the output cannot be written: {error}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_refusal_has_its_exit_code() {
        let exits: Vec<u8> = ErrorCode::ALL
            .into_iter()
            .map(|code| Failure::of_error(&Error::new(code, "why")).exit as u8)
            .collect();
        assert_eq!(exits, [2, 3, 1, 1, 5, 1, 4, 1]);
    }
}
