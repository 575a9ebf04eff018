//! What is told of one attempt: to the balancer, the limits, the breaker, the outlier detection and the cooldown.
//!
//! Deliberately absent: what each makes of it.

use super::{Failed, Target};
use crate::{
    forward::{
        answered::Answered,
        measure::{Measure, is_failure},
        retry::Failure,
        watch::Watch,
    },
    metrics,
    table::{Admission, InFlight, Refusal, Turn},
};

/// That one request may go to a service.
pub(super) struct Admitted<'a> {
    turn: Turn<'a>,
    by_breaker: Admission,
}

impl<'a> Admitted<'a> {
    /// Asks for it: for a turn first, as a breaker that is half open lets one request try, and that one must go.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn ask(target: &Target<'a>) -> Result<Self, Refusal> {
        let service = target.service;
        let turn = service.enter()?;
        Ok(Self { turn, by_breaker: service.admit()? })
    }
}

/// An attempt that is under way. Dropped without a word it was given up.
pub(super) struct Observed<'a> {
    measure: Measure,
    watch: Watch<'a>,
    admitted: Admitted<'a>,
}

impl<'a> Observed<'a> {
    pub(super) fn begin(target: &Target<'a>, in_flight: &InFlight, admitted: Admitted<'a>) -> Self {
        Self { measure: Measure::begin(target, in_flight), watch: Watch::begin(target), admitted }
    }

    /// Says what has become of it.
    pub(super) fn ended(
        self,
        attempted: &Result<Answered, Failed>,
        target: &Target<'_>,
        metrics: &metrics::Worker,
    ) {
        let Admitted { turn, by_breaker } = self.admitted;
        match attempted {
            Ok(answered) => {
                let failed = || is_failure(answered.status(), answered.headers());
                turn.answered(failed);
                self.measure.answered(answered.status(), answered.headers());
                if target.service.report(by_breaker, failed) {
                    metrics.breaker_opened();
                }
                self.watch.answered(answered, metrics);
                answered.in_flight().endpoint().report_success();
            }
            Err(Failed { failure, endpoint, reused }) => {
                self.measure.failed(failure, *reused);
                turn.failed(matches!(failure, Failure::Timeout | Failure::Late));
                if failure.is_the_servers(*reused) && target.service.report(by_breaker, || true) {
                    metrics.breaker_opened();
                }
                self.watch.failed(endpoint, failure, *reused, metrics);
                if matches!(failure, Failure::Connect(_)) || (matches!(failure, Failure::Closed) && !reused) {
                    endpoint.report_failure();
                }
            }
        }
    }
}
