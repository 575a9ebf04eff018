//! What is told of one attempt: to the balancer, the limits, the breaker, the outlier detection and the cooldown.
//!
//! Deliberately absent: what each makes of it.

use std::{mem, pin::pin, rc::Rc};

use super::{Failed, Target};
use crate::{
    forward::{
        answered::Answered,
        measure::{Measure, is_failure},
        request_body::BodySource,
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
    /// Asks for it: for a turn first, as a breaker that is half open lets one request try, and that one must go. What
    /// `uploads` has its turn from when all of it was sent: a client that sends slowly says nothing of the service.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn ask(target: &Target<'a>, uploads: bool) -> Result<Self, Refusal> {
        let service = target.service;
        let turn = service.enter(uploads)?;
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

    /// Whether it has no turn yet.
    pub(super) fn waits_for_body(&self) -> bool {
        self.admitted.turn.is_due()
    }

    /// Waits for the attempt, which sends `body`, and begins its turn when all of that was sent.
    pub(super) async fn through<T>(
        &mut self,
        attempt: impl Future<Output = T>,
        body: Option<Rc<BodySource>>,
    ) -> T {
        let Some(body) = body.filter(|_| self.waits_for_body()) else { return attempt.await };
        let mut attempt = pin!(attempt);
        tokio::select! {
            biased;
            attempted = attempt.as_mut() => return attempted,
            () = body.completed() => self.admitted.turn.begin(),
        }
        attempt.await
    }

    /// Says that its answer's head has come, to whom only that matters: the head is held back from now on.
    pub(super) fn head_came(&mut self, answered: &Answered) {
        let (status, headers) = (answered.status(), answered.headers());
        mem::take(&mut self.admitted.turn).answered(|| is_failure(status, headers));
        mem::take(&mut self.measure).answered(status, headers);
        self.watch.head_came();
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
