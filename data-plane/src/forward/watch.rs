//! Tells endpoints how they answered: all of them for what the control plane is told, and those of services whose policy
//! says who is ejected for it (see [`crate::health`]) in more detail.
//!
//! A failure of the server is what [`super::measure`] counts as one. That the client went away, and an idle connection
//! that turned out to be closed, say nothing.
//!
//! Deliberately absent: gRPC codes in trailers, which come when the answer has long been passed on.

use std::time::{Duration, Instant};

use waypost_proto::instance::Protocol;

use super::{
    answered::Answered,
    measure::{is_failing, is_failure},
    retry::Failure,
};
use crate::{
    health::OutlierRules,
    metrics,
    table::{EndpointState, Target},
};

/// One attempt, with the rules by which the endpoint may be ejected. Dropped without a word it was given up, and says nothing.
pub(super) struct Watch<'a>(Option<(&'a OutlierRules, Option<Clock>)>);

/// How long an answer's head takes.
enum Clock {
    Runs(Instant),
    Stands(Duration),
}

impl Clock {
    fn elapsed(&self) -> Duration {
        match self {
            Self::Runs(since) => since.elapsed(),
            Self::Stands(took) => *took,
        }
    }
}

impl<'a> Watch<'a> {
    /// Begins where the service's policy asks for it. The clock is asked only where times are compared.
    pub(super) fn begin(target: &Target<'a>) -> Self {
        let rules = target.service.traffic().and_then(|traffic| traffic.health.outliers.as_ref());
        Self(rules.map(|rules| (rules, rules.times_answers().then(|| Clock::Runs(Instant::now())))))
    }

    /// There is an answer's head, and more is to be seen before anything is said.
    pub(super) fn head_came(&mut self) {
        if let Some((_, Some(clock))) = &mut self.0 {
            *clock = Clock::Stands(clock.elapsed());
        }
    }

    /// There is an answer's head.
    pub(super) fn answered(self, answered: &Answered, metrics: &metrics::Worker) {
        let endpoint = answered.in_flight().endpoint();
        // Fields are looked at only where they may say more.
        let failed = if self.0.is_some() || endpoint.protocol() == Protocol::Grpc {
            is_failure(answered.status(), answered.headers())
        } else {
            is_failing(answered.status())
        };
        endpoint.note_answer(failed);
        self.tell(endpoint, failed, metrics);
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
            endpoint.note_answer(true);
            self.tell(endpoint, true, metrics);
        }
    }

    fn tell(self, endpoint: &EndpointState, failed: bool, metrics: &metrics::Worker) {
        let Some((rules, clock)) = self.0 else { return };
        let took = clock.map(|clock| clock.elapsed());
        if let Some(why) = endpoint.report_answer(failed, took, rules) {
            metrics.ejected(why);
        }
    }
}
