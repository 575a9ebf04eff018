//! Bare heads: answers of which nothing has come but the head.
//!
//! Many servers write an answer's head and its body apart, uvicorn among them. One that is killed between the two leaves an
//! answer that can only break off, once its head has been passed on. So the head is held back until its body begins, where
//! the request may be sent again; the client waits for the body in any case.
//!
//! ```text
//! head ──── body begins ─▶ the answer
//!   ├────── end ─────────▶ failed: the request is sent again
//!   └────── head_hold ───▶ the answer, whose body comes later (a stream of events, say)
//! ```
//!
//! How long it takes to answer, and whether the service has room for another request, goes by when the head came.
//!
//! Deliberately absent: the same for bodies that have begun, which would have to be stored.

use futures_util::FutureExt;
use tokio::time::{Duration, Instant, timeout_at};

use super::{Attempts, Failed, observed::Observed};
use crate::{
    forward::{
        answered::Answered,
        body::AnswerFailure,
        draft::{Draft, Keeps},
        retry::Failure,
    },
    rule::Retry,
};

impl Attempts<'_> {
    /// After which answers there may be another attempt.
    pub(super) fn keeps(&self, retry: Option<&Retry>, last: bool) -> Keeps {
        if last {
            Keeps::None
        } else if retry.is_some() || self.hedge_after.is_some() {
            Keeps::All
        } else if self.holds_heads() {
            Keeps::Bare
        } else {
            Keeps::None
        }
    }

    /// Whether an answer waits for its body: it is one for the client, and its request may be sent again.
    pub(super) fn holds_back(&self, answered: &Answered, retry: Option<&Retry>, draft: &Draft) -> bool {
        answered.awaits_body()
            && self.holds_heads()
            && draft.may_send_again(&Failure::BrokenOff)
            && self.is_wanted(answered, retry, draft)
    }

    fn holds_heads(&self) -> bool {
        !self.is_copy && !self.worker.config.timeouts.head_hold.is_zero()
    }

    /// Waits until an answer's body has begun, or is not to be waited for any longer.
    ///
    /// # Errors
    /// The answer has ended before, or the time for the whole request; or the client's own body has, which it was to be for.
    pub(super) async fn begun(
        &self,
        bare: &mut Answered,
        observed: &mut Observed<'_>,
        draft: &Draft,
    ) -> Result<(), Failed> {
        // Over HTTP/2 it has mostly come with the head.
        let begun = match bare.begun().now_or_never() {
            Some(begun) => begun,
            None => {
                observed.head_came(bare);
                let until = Instant::now() + self.worker.config.timeouts.head_hold;
                let until = self.deadline.map_or(until, |deadline| deadline.min(until));
                // Boxed, so that it does not make every other request's future larger.
                match Box::pin(timeout_at(until, bare.begun())).await {
                    Ok(begun) => begun,
                    // The body would break off at once.
                    Err(_) if self.is_late_after(Duration::ZERO) => Err(AnswerFailure::Late),
                    Err(_) => Ok(()),
                }
            }
        };
        begun.map_err(|why| {
            let failure = match why {
                // Its head came in time: it is not to blame.
                AnswerFailure::Late => Failure::Hurried,
                _ => draft.body_failure().map_or(Failure::BrokenOff, Failure::Client),
            };
            Failed::of(failure, bare.in_flight(), false)
        })
    }
}
