//! What an error of Redis means: whether to connect again, to try again, or to give up.
//!
//! Deliberately absent: what the errors of our scripts mean to a caller; they are answers, not errors.

use redis::{ErrorKind, RedisError};

use crate::store::StoreError;

/// Why a request was not answered.
#[derive(Debug)]
pub(super) enum Fault {
    /// This connection, or this server, is of no use any more: connect again.
    Broken(String),
    /// The server cannot answer just now: ask again.
    Busy(String),
    /// Asking again would not help.
    Final(StoreError),
}

impl Fault {
    /// What an error means.
    pub(super) fn of(error: &RedisError, in_cluster: bool) -> Self {
        let text = text(error);
        // Before version 7, an error inside a script is told within the text of another one.
        let is = |code: &str| error.code() == Some(code) || text.contains(&format!("-{code} "));
        let any = |codes: &[&str]| codes.iter().any(|code| is(code));
        if is("MOVED") && !in_cluster {
            let reason = "this server is a member of a Redis Cluster: write redis+cluster:// in the URL";
            return Self::Final(StoreError::Refused(reason.to_owned()));
        }
        if any(&["MOVED", "READONLY", "UNBLOCKED", "NOHISTORY", "CLUSTERDOWN", "MASTERDOWN"]) {
            return Self::Broken(text);
        }
        if any(&["LOADING", "BUSY", "TRYAGAIN", "ASK"]) {
            return Self::Busy(text);
        }
        if any(&["OOM", "MISCONF", "NOREPLICAS"]) {
            return Self::Final(StoreError::Unavailable(text));
        }
        if any(&["WRONGTYPE"]) {
            let entry = "the registry".to_owned();
            return Self::Final(StoreError::Malformed { entry, reason: text });
        }
        match error.kind() {
            ErrorKind::Io => Self::Broken(text),
            _ if error.is_unrecoverable_error() && error.code().is_none() && !is_login(error) => {
                Self::Broken(text)
            }
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => {
                let entry = "an answer".to_owned();
                Self::Final(StoreError::Malformed { entry, reason: text })
            }
            _ => Self::Final(StoreError::Refused(text)),
        }
    }

    /// The error of an operation that must give up now.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Broken(reason) | Self::Busy(reason) => StoreError::Unavailable(reason),
            Self::Final(error) => error,
        }
    }
}

/// Whether an error says that a script's text must be sent.
pub(super) fn is_no_script(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
}

/// Whether an error says that the registry is gone from the server.
pub(super) fn is_no_history(error: &RedisError) -> bool {
    error.code() == Some("NOHISTORY")
}

fn is_login(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig)
}

/// What the server said, in one line. It names users and commands, never passwords.
fn text(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}
