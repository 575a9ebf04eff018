//! Whether a request that got no answer may be sent again.
//!
//! The rule is RFC 9110's (section 9.2.2): what may have been done is done again only where the method is
//! idempotent. On top of it, a body that has begun to be sent is gone.

use super::request_body::BodyFailure;
use crate::pool::ConnectError;

/// Why an attempt brought no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no connection: nothing was sent.
    Connect(ConnectError),
    /// The connection ended before anything of the request was sent.
    Unsent,
    /// The instance said that it has not looked at the request.
    Refused,
    /// The connection ended before there was an answer.
    Closed,
    /// What came is not HTTP, or not an answer to this request.
    Protocol(String),
    /// No answer came in time.
    Timeout,
    /// The client's own body ended early.
    Client(BodyFailure),
}

/// What of a request decides whether it may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replay {
    /// Whether doing it twice is as good as once.
    pub(super) idempotent: bool,
    /// Whether some of its body is gone.
    pub(super) body_begun: bool,
}

impl Failure {
    /// Whether the request may be sent again.
    pub(super) fn may_retry(&self, replay: Replay) -> bool {
        match self {
            Self::Connect(_) | Self::Unsent | Self::Refused => !replay.body_begun,
            Self::Closed => replay.idempotent && !replay.body_begun,
            // It may be at work, or is answered; asking again would make it worse.
            Self::Protocol(_) | Self::Timeout | Self::Client(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_been_done_is_sent_again() {
        let get = Replay { idempotent: true, body_begun: false };
        let post = Replay { idempotent: false, body_begun: false };
        let put_begun = Replay { idempotent: true, body_begun: true };
        let post_begun = Replay { idempotent: false, body_begun: true };
        let connect = || Failure::Connect(ConnectError::Shared("refused".to_owned()));
        for (failure, allowed) in [
            (connect(), [true, true, false, false]),
            (Failure::Unsent, [true, true, false, false]),
            (Failure::Refused, [true, true, false, false]),
            (Failure::Closed, [true, false, false, false]),
            (Failure::Protocol(String::new()), [false; 4]),
            (Failure::Timeout, [false; 4]),
            (Failure::Client(BodyFailure::Broken), [false; 4]),
        ] {
            let decided = [get, post, put_begun, post_begun].map(|replay| failure.may_retry(replay));
            assert_eq!(decided, allowed, "{failure:?}");
        }
    }
}
