//! Whether a request that got no answer may be sent again.
//!
//! The rule is RFC 9110's (section 9.2.2): what may have been done is done again only where the method is
//! idempotent. On top of it, a body that has begun to be sent is gone. What a route says (`HTTPRouteRetry`) adds to the
//! failures that are tried again, and leaves this rule as it is.

use http::StatusCode;
use waypost_proto::{name::ServiceKey, reason::Reason};

use super::request_body::BodyFailure;
use crate::{
    answer::Answer,
    pool::{ConnectError, Full},
};

/// Why an attempt brought no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no connection: nothing was sent.
    Connect(ConnectError),
    /// There was none, as the service's policy allows no more. No other instance would change that.
    Full(Full),
    /// The connection ended before anything of the request was sent.
    Unsent,
    /// The instance said that it has not looked at the request.
    Refused,
    /// The connection ended before there was an answer.
    Closed,
    /// The answer ended after its head, before anything of its body had come.
    BrokenOff,
    /// The instance reset the HTTP/2 stream; or this end did, upon what it sent.
    Reset(h2::Reason),
    /// What came is not HTTP, or not an answer to this request.
    Protocol(String),
    /// No answer came in time.
    Timeout,
    /// No answer came in the time that the route gives an attempt, and the route says to try again.
    Late,
    /// The answer is one upon which the route says to try again.
    Unwanted(StatusCode),
    /// No answer came in time, of which the instance had less than half: the client took long to send its body, or other tries
    /// took the rest.
    Hurried,
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
            Self::Closed | Self::BrokenOff | Self::Reset(_) | Self::Late | Self::Unwanted(_) => {
                replay.idempotent && !replay.body_begun
            }
            // It may be at work, or is answered; asking again would make it worse.
            Self::Full(_) | Self::Protocol(_) | Self::Timeout | Self::Hurried | Self::Client(_) => false,
        }
    }

    /// Whether the instance has seen nothing of the request.
    pub(super) fn was_never_sent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Unsent)
    }

    /// Whether the connection was closed, or the stream, which says nothing of the next one.
    pub(super) fn is_of_the_connection(&self) -> bool {
        matches!(self, Self::Unsent | Self::Refused | Self::Closed | Self::BrokenOff | Self::Reset(_))
    }

    /// Whether it speaks of the server, and not of the client or of a connection that had been idle for too long
    /// (`reused`: it was there before).
    pub(super) fn is_the_servers(&self, reused: bool) -> bool {
        match self {
            Self::Full(_) | Self::Unsent | Self::Refused | Self::Hurried | Self::Client(_) => false,
            Self::Closed => !reused,
            _ => true,
        }
    }

    /// What the client is told of a failure that is the last one.
    pub(super) fn answer(&self, service: &ServiceKey) -> Answer {
        let (reason, detail) = match self {
            Self::Connect(error) if error.is_tls() => (
                Reason::UpstreamTls,
                format!(
                    "no TLS with an instance of service {service}: {error}; its certificate and the policy for the service \
                 must fit"
                ),
            ),
            Self::Connect(error) => (
                Reason::UpstreamConnect,
                format!(
                    "no connection to an instance of service {service}: {error}; `waypost instances {service}` says which \
                 there are"
                ),
            ),
            Self::Full(full) => {
                (Reason::Overloaded, format!("nothing was sent to service {service}: {full}; try again"))
            }
            Self::Unsent | Self::Refused => (
                Reason::UpstreamClosed,
                format!(
                    "an instance of service {service} closed the connection before it took the request; it has not acted \
                 on it"
                ),
            ),
            Self::Closed => (
                Reason::UpstreamClosed,
                format!(
                    "an instance of service {service} closed the connection before it answered; whether it has acted on \
                 the request is not known"
                ),
            ),
            Self::BrokenOff => (
                Reason::UpstreamClosed,
                format!(
                    "an answer of an instance of service {service} broke off between its head and its body; whether it has acted \
                 on the request is not known"
                ),
            ),
            Self::Protocol(what) => (
                Reason::UpstreamProtocol,
                format!("the answer of an instance of service {service} is not to be understood: {what}"),
            ),
            Self::Reset(reason) => (
                Reason::UpstreamClosed,
                format!(
                    "the request to an instance of service {service} was reset before it was answered (HTTP/2: {reason}); \
                     whether it has acted on the request is not known"
                ),
            ),
            Self::Timeout => (
                Reason::UpstreamTimeout,
                format!("an instance of service {service} did not answer in time; it may still be at work"),
            ),
            Self::Late => (
                Reason::UpstreamTimeout,
                format!(
                    "an instance of service {service} did not answer within the time that the route gives it"
                ),
            ),
            Self::Unwanted(status) => (
                Reason::NoHealthyInstance,
                format!(
                    "an instance of service {service} answered with {status}, and none is left to be asked again"
                ),
            ),
            Self::Hurried => (
                Reason::UpstreamTimeout,
                format!(
                    "there was no answer in the time that service {service} has for one, most of which the request's body took; \
                     send it faster, or give it more time"
                ),
            ),
            Self::Client(BodyFailure::Broken) => {
                (Reason::BadRequest, "the request's body broke off or is malformed; send it whole".to_owned())
            }
            Self::Client(BodyFailure::Stalled) => {
                (Reason::ClientTimeout, "the request's body stalled for too long; send it faster".to_owned())
            }
        };
        Answer::new(reason, detail)
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
        let connect = || Failure::Connect(ConnectError::Shared { why: "refused".to_owned(), tls: false });
        for (failure, allowed) in [
            (connect(), [true, true, false, false]),
            (Failure::Unsent, [true, true, false, false]),
            (Failure::Refused, [true, true, false, false]),
            (Failure::Closed, [true, false, false, false]),
            (Failure::BrokenOff, [true, false, false, false]),
            (Failure::Reset(h2::Reason::INTERNAL_ERROR), [true, false, false, false]),
            (Failure::Late, [true, false, false, false]),
            (Failure::Unwanted(StatusCode::SERVICE_UNAVAILABLE), [true, false, false, false]),
            (Failure::Protocol(String::new()), [false; 4]),
            (Failure::Full(Full::Pending { most: 1 }), [false; 4]),
            (Failure::Timeout, [false; 4]),
            (Failure::Hurried, [false; 4]),
            (Failure::Client(BodyFailure::Broken), [false; 4]),
        ] {
            let decided = [get, post, put_begun, post_begun].map(|replay| failure.may_retry(replay));
            assert_eq!(decided, allowed, "{failure:?}");
        }
    }
}
