//! Hedged attempts: where an instance takes long to begin its answer, another one is asked as well, and the answer that comes
//! first counts (Dean and Barroso, "The Tail at Scale", 2013; gRFC A6).
//!
//! ```text
//! first ──── delay ────┬─────────────── a good head ─▶ the answer; the other one is dropped
//!                      └─▶ second ───── a good head ─▶ the answer; the other one is dropped
//!                                       a bad one, or none ─▶ the other one is waited for
//! ```
//!
//! It is for requests that may be sent twice: idempotent ones without a body, which could be read once only. The second one
//! is a retry by the service's budget and its limits, so that a service that is slow as a whole gets few more requests than
//! it would. Where a client is kept with an instance, no other one is asked.
//!
//! Whoever loses is dropped: its connection is closed, over HTTP/2 its stream is reset, and it is in flight no more. All
//! that is known of it is that it would have taken longer.
//!
//! Deliberately absent: a third request, and hedging of copies for mirrors.

use std::{pin::pin, time::Duration};

use tokio::time::timeout;

use super::{
    Attempts, Failed,
    observed::{Admitted, Observed},
};
use crate::{
    forward::{answered::Answered, draft::Draft, measure::is_failure},
    table::{EndpointId, InFlight, Place, Target},
};

/// What has become of an attempt, and who is to be told.
pub(super) type Ended<'a> = (Result<Answered, Failed>, Observed<'a>);

/// A second request that may be sent.
struct Hedge<'a> {
    in_flight: InFlight,
    observed: Observed<'a>,
    /// Counts it as a retry, where these are limited.
    place: Option<Place>,
}

/// Which of two was over first.
enum Early {
    First(Result<Answered, Failed>),
    Second(Result<Answered, Failed>),
}

impl Attempts<'_> {
    /// An attempt, and a second one beside it where the service's policy says so and the first takes long.
    pub(super) async fn attempt_hedged<'t>(
        &mut self,
        in_flight: InFlight,
        fresh: bool,
        target: &Target<'t>,
        draft: &mut Draft,
        mut observed: Observed<'t>,
    ) -> Ended<'t> {
        let Some((delay, mut copy)) = self.hedging(draft) else {
            let body = draft.body().cloned();
            let attempted = self.attempt_within(in_flight, fresh, target, draft);
            return (observed.through(attempted, body).await, observed);
        };
        let worker = self.worker;
        let metrics = &worker.metrics;
        let asked = in_flight.endpoint().id();
        let (ended, other) = {
            let mut first = pin!(self.attempt_within(in_flight, fresh, target, draft));
            if let Ok(attempted) = timeout(delay, first.as_mut()).await {
                return (attempted, observed);
            }
            let Some(hedge) = self.hedge(target, asked) else { return (first.await, observed) };
            metrics.hedged();
            let mut second = pin!(self.attempt_within(hedge.in_flight, false, target, &mut copy));
            let early = tokio::select! {
                biased;
                attempted = first.as_mut() => Early::First(attempted),
                attempted = second.as_mut() => Early::Second(attempted),
            };
            let held = |ended: Ended<'t>| {
                metrics.hedge_won();
                holding(ended, hedge.place)
            };
            match early {
                Early::First(attempted) if is_good(&attempted) => ((attempted, observed), None),
                Early::Second(attempted) if is_good(&attempted) => (held((attempted, hedge.observed)), None),
                Early::First(attempted) => {
                    let late = second.await;
                    let has_won = is_good(&late);
                    let (ended, other) = better((attempted, observed), (late, hedge.observed));
                    (if has_won { held(ended) } else { ended }, Some(other))
                }
                Early::Second(attempted) => {
                    let late = first.await;
                    let (ended, other) = better((attempted, hedge.observed), (late, observed));
                    (ended, Some(other))
                }
            }
        };
        if let Some((attempted, observed)) = other {
            observed.ended(&attempted, target, metrics);
            match attempted {
                Ok(answered) => answered.discard(worker),
                Err(failed) => self.tried.push(failed.endpoint.id()),
            }
        }
        ended
    }

    /// When a second request is to be sent, and what it would be.
    fn hedging(&self, draft: &Draft) -> Option<(Duration, Draft)> {
        let delay = self.hedge_after?;
        let stays = self.rule.is_some_and(|rule| rule.session.is_some());
        if stays || !draft.may_be_sent_twice_at_once() {
            return None;
        }
        Some((delay, draft.copied()?))
    }

    /// A second request to another instance than the one that was asked.
    fn hedge<'t>(&self, target: &Target<'t>, asked: EndpointId) -> Option<Hedge<'t>> {
        let metrics = &self.worker.metrics;
        let refused = || metrics.hedge_refused();
        let Ok(admitted) = Admitted::ask(target, false) else {
            refused();
            return None;
        };
        let tried = [&self.tried[..], &[asked]].concat();
        if !target.endpoints.has_ready(&tried) {
            return None;
        }
        // Before anybody is picked: a request that is not sent must not count as one that earns retries.
        let Ok(place) = target.service.retry() else {
            refused();
            return None;
        };
        let in_flight = target.endpoints.pick_by(self.key, &tried, &mut self.worker.rng.borrow_mut())?;
        Some(Hedge { observed: Observed::begin(target, &in_flight, admitted), in_flight, place })
    }
}

/// Whether an attempt has brought an answer that speaks of no failure.
fn is_good(attempted: &Result<Answered, Failed>) -> bool {
    attempted.as_ref().is_ok_and(|answered| !is_failure(answered.status(), answered.headers()))
}

/// Of two, the first of which was over first and was not good, the one that counts, and the other one. A bad answer is
/// better than none.
fn better<'a>(early: Ended<'a>, late: Ended<'a>) -> (Ended<'a>, Ended<'a>) {
    if early.0.is_err() || is_good(&late.0) { (late, early) } else { (early, late) }
}

/// Has an answer count as a retry's until its end.
fn holding<'a>((mut attempted, observed): Ended<'a>, place: Option<Place>) -> Ended<'a> {
    if let (Ok(answered), Some(place)) = (&mut attempted, place) {
        answered.hold(place);
    }
    (attempted, observed)
}
