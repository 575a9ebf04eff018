//! Tells endpoints how they answered, for services whose policy says who is ejected for it (see [`crate::health`]).
//!
//! A failure of the server is what [`super::measure`] counts as one. That the client went away, and an idle connection
//! that turned out to be closed, say nothing.
//!
//! Deliberately absent: gRPC codes in trailers, which come when the answer has long been passed on.

use std::time::Instant;

use super::{answered::Answered, measure::is_failure, retry::Failure};
use crate::{
    health::OutlierRules,
    metrics,
    table::{EndpointState, Target},
};

/// One attempt, where somebody wants to know of it. Dropped without a word it was given up, and says nothing.
pub(super) struct Watch<'a>(Option<(&'a OutlierRules, Option<Instant>)>);

impl<'a> Watch<'a> {
    /// Begins where the service's policy asks for it. The clock is asked only where times are compared.
    pub(super) fn begin(target: &Target<'a>) -> Self {
        let rules = target.service.traffic().and_then(|traffic| traffic.health.outliers.as_ref());
        Self(rules.map(|rules| (rules, rules.times_answers().then(Instant::now))))
    }

    /// There is an answer's head.
    pub(super) fn answered(self, answered: &Answered, metrics: &metrics::Worker) {
        if self.0.is_some() {
            let failed = is_failure(answered.status(), answered.headers());
            self.tell(answered.in_flight().endpoint(), failed, metrics);
        }
    }

    /// There is none. `reused`: the connection was there before.
    pub(super) fn failed(
        self,
        endpoint: &EndpointState,
        failure: &Failure,
        reused: bool,
        metrics: &metrics::Worker,
    ) {
        if failure.is_the_servers(reused) {
            self.tell(endpoint, true, metrics);
        }
    }

    fn tell(self, endpoint: &EndpointState, failed: bool, metrics: &metrics::Worker) {
        let Some((rules, begun)) = self.0 else { return };
        let took = begun.map(|begun| begun.elapsed());
        if let Some(why) = endpoint.report_answer(failed, took, rules) {
            metrics.ejected(why);
        }
    }
}
