//! How long an instance takes to begin its answer, for the policies that want to know.
//!
//! Measured from the pick to the answer's head, with the connection and the request's body: what a client waits for. It
//! costs a look at the clock at either end, and nothing where the policy has no use for it.
//!
//! What counts as a failure is what Linkerd's penalty counts: 5xx, 429, the gRPC codes that speak of the server where they
//! come in the head, and no answer at all. Where nobody waited for the answer (the client is gone, a limit has passed) all
//! that is known is that it would have taken longer. An idle connection that turned out to be closed says nothing.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, StatusCode};

use super::retry::Failure;
use crate::table::{EndpointState, InFlight, Outcome, Target};

/// gRPC's unknown, deadline exceeded, resource exhausted, internal, unavailable and data loss.
const GRPC_FAILURES: [&str; 6] = ["2", "4", "8", "13", "14", "15"];

/// A request whose answer is waited for. Dropped without a word it was given up.
#[derive(Default)]
pub(super) struct Measure(Option<(Arc<EndpointState>, Instant)>);

impl Measure {
    /// Begins where the target's policy asks for it.
    pub(super) fn begin(target: &Target<'_>, in_flight: &InFlight) -> Self {
        let wanted = target.endpoints.measures_latency();
        Self(wanted.then(|| (Arc::clone(in_flight.endpoint()), Instant::now())))
    }

    /// There is an answer's head.
    pub(super) fn answered(mut self, status: StatusCode, headers: &HeaderMap) {
        if self.0.is_some() {
            self.end(if is_failure(status, headers) { Outcome::Failed } else { Outcome::Answered });
        }
    }

    /// There is none. `reused`: the connection was there before.
    pub(super) fn failed(mut self, failure: &Failure, reused: bool) {
        match failure {
            Failure::Unsent | Failure::Full(_) | Failure::Hurried => self.0 = None,
            Failure::Closed if reused => self.0 = None,
            Failure::Client(_) => {}
            _ => self.end(Outcome::Failed),
        }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some((endpoint, begun)) = self.0.take() {
            endpoint.report_latency(begun.elapsed(), outcome);
        }
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.end(Outcome::GivenUp);
    }
}

/// Whether an answer speaks of a failure of the server.
pub(super) fn is_failure(status: StatusCode, headers: &HeaderMap) -> bool {
    if is_failing(status) {
        return true;
    }
    headers.get("grpc-status").is_some_and(|code| GRPC_FAILURES.iter().any(|failure| code == *failure))
}

/// Whether its status alone does.
pub(super) fn is_failing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_speaks_of_the_server_is_a_failure() {
        let grpc = |code: &'static str| {
            HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static(code))])
        };
        for (status, headers, expected) in [
            (200, HeaderMap::new(), false),
            (404, HeaderMap::new(), false),
            (429, HeaderMap::new(), true),
            (500, HeaderMap::new(), true),
            (503, HeaderMap::new(), true),
            (200, grpc("0"), false),
            (200, grpc("5"), false),
            (200, grpc("14"), true),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(is_failure(status, &headers), expected, "{status} {headers:?}");
        }
    }
}
