//! What the client gets where nothing more is tried: an instance's answer upon which another try was wanted, if there is one,
//! and else the reason why there is none.
//!
//! Deliberately absent: whether anything more is tried.

use waypost_proto::reason::Reason;

use super::Attempts;
use crate::{
    answer::Answer,
    forward::answered::Answered,
    table::{NoRetry, Refusal, Target},
};

impl Attempts<'_> {
    /// What there is when a service that its policy protects gets no more.
    pub(super) fn refused(&mut self, refusal: Refusal, target: &Target<'_>) -> Result<Answered, Answer> {
        // It was for a try that is not made.
        self.retrying = None;
        // Where there was a try, what became of it says more.
        let tried = self.last.as_ref().map(|failure| failure.answer(target.service.key()));
        self.spare_or(tried.unwrap_or_else(|| protected(&refusal, target)))
    }

    /// What there is when a request that may be sent again is not.
    pub(super) fn not_again(&mut self, why: NoRetry, target: &Target<'_>) -> Result<Answered, Answer> {
        self.spare_or(self.nobody_left(target).explained(&not_again(why)))
    }

    /// What there is when the request's time is up, or would be before the next try.
    pub(super) fn out_of_time(&mut self, target: &Target<'_>) -> Result<Answered, Answer> {
        self.spare_or(self.late(target))
    }

    /// The answer upon which another try was wanted, or else this one.
    pub(in crate::forward) fn spare_or(&mut self, own: Answer) -> Result<Answered, Answer> {
        match self.spare.take() {
            Some(spare) => Ok(self.accept(*spare)),
            None => Err(own),
        }
    }

    /// Why there is no answer when no instance is left.
    pub(in crate::forward) fn nobody_left(&self, target: &Target<'_>) -> Answer {
        let service = target.service.key();
        if let Some(failure) = &self.last {
            return failure.answer(service);
        }
        if let Some(most) = target.endpoints.is_full_at(&self.tried) {
            let detail = format!(
                "every instance of service {service} that takes traffic has {most} requests under way, which is all that its \
                 policy allows (circuitBreaker.maxRequestsPerInstance); try again"
            );
            return Answer::new(Reason::Overloaded, detail);
        }
        let detail = format!(
            "service {service} has no instance that takes traffic; `waypost instances {service}` says in which state they \
             are"
        );
        Answer::new(Reason::NoHealthyInstance, detail)
    }

    fn late(&self, target: &Target<'_>) -> Answer {
        let of_rule = self.rule.and_then(|rule| Some((rule.limits.request?, rule)));
        let (limit, whose) = match of_rule {
            Some((limit, rule)) => (limit, rule.route_id.to_string()),
            None => {
                let limit = target.service.traffic().and_then(|traffic| traffic.limits.request);
                (limit.unwrap_or_default(), format!("the policy of service {}", target.service.key()))
            }
        };
        let detail =
            format!("there was no answer within {limit:?}, which is all that {whose} gives a request");
        Answer::new(Reason::UpstreamTimeout, detail)
    }
}

/// Why nothing is sent to a service that its policy protects.
fn protected(refusal: &Refusal, target: &Target<'_>) -> Answer {
    let service = target.service.key();
    match refusal {
        Refusal::Open(lasts) => Answer::new(
            Reason::CircuitOpen,
            format!(
                "too many requests to service {service} failed, so none is sent for another {lasts:?} (its policy's \
                 circuitBreaker); then one request tries"
            ),
        ),
        Refusal::Full(most) => Answer::new(
            Reason::Overloaded,
            format!(
                "{most} requests to service {service} are under way, which is all that its policy allows \
                 (circuitBreaker.maxRequests); try again"
            ),
        ),
        Refusal::Slow(limit) => Answer::new(
            Reason::Overloaded,
            format!(
                "{limit} requests wait for service {service}, and with more of them all would wait for longer (its \
                 policy's adaptiveConcurrency: the limit is {limit} now); try again"
            ),
        ),
    }
}

/// Why a request that may be sent again is not.
fn not_again(why: NoRetry) -> String {
    match why {
        NoRetry::Budget => {
            "it was not sent again, as too many requests to this service were lately (its retry budget)"
                .to_owned()
        }
        NoRetry::Full(most) => format!(
            "it was not sent again, as {most} retries to this service are under way, which is all that its policy allows \
             (circuitBreaker.maxRetries)"
        ),
    }
}
