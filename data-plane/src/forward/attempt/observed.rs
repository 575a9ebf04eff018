//! What is told of one attempt: to the balancer, the breaker, the outlier detection and the cooldown.
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
    table::{Admission, InFlight},
};

/// An attempt that is under way. Dropped without a word it was given up.
pub(super) struct Observed<'a> {
    measure: Measure,
    watch: Watch<'a>,
    admitted: Admission,
}

impl<'a> Observed<'a> {
    pub(super) fn begin(target: &Target<'a>, in_flight: &InFlight, admitted: Admission) -> Self {
        Self { measure: Measure::begin(target, in_flight), watch: Watch::begin(target), admitted }
    }

    /// Says what has become of it.
    pub(super) fn ended(
        self,
        attempted: &Result<Answered, Failed>,
        target: &Target<'_>,
        metrics: &metrics::Worker,
    ) {
        match attempted {
            Ok(answered) => {
                self.measure.answered(answered.status(), answered.headers());
                target.service.report(self.admitted, || is_failure(answered.status(), answered.headers()));
                self.watch.answered(answered, metrics);
                answered.in_flight().endpoint().report_success();
            }
            Err(Failed { failure, endpoint, reused }) => {
                self.measure.failed(failure, *reused);
                if failure.is_the_servers(*reused) {
                    target.service.report(self.admitted, || true);
                }
                self.watch.failed(endpoint, failure, *reused, metrics);
                if matches!(failure, Failure::Connect(_)) || (matches!(failure, Failure::Closed) && !reused) {
                    endpoint.report_failure();
                }
            }
        }
    }
}
