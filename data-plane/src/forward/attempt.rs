//! Attempts to get a request answered: pick an instance, connect, send, and again elsewhere where that is safe.
//!
//! Every instance is tried once. The exception is an instance that is the only one left and that closed the connection,
//! or over HTTP/2 reset or refused the request: it gets another try, over HTTP/1.1 with a new connection, as a server that
//! replaces its workers closes what the old ones have, new connections among them. Where a route, or the service's policy,
//! says how often to try, its instances are tried again when all have been.

mod exchange;
mod hedge;
mod observed;

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};
use waypost_proto::reason::Reason;

use self::observed::{Admitted, Observed};
use super::{answered::Answered, draft::Draft, retry::Failure};
use crate::{
    answer::Answer,
    rule::{Limits, NO_LIMIT, Retry, Rule},
    serve::Worker,
    table::{EndpointId, EndpointState, InFlight, NoRetry, Place, Refusal, Target, Traffic},
};

/// The attempts for one request.
pub(super) struct Attempts<'a> {
    worker: &'a Rc<Worker>,
    /// What a declared route says of them; none: the proxy's own rule.
    rule: Option<&'a Rule>,
    /// When the request came.
    began: std::time::Instant,
    /// What the rule says, or else the service's policy.
    limits: Limits,
    /// Whether either says when to try again.
    has_retry: bool,
    /// Who is asked first.
    preferred: Option<Arc<EndpointState>>,
    /// What the service's policy sends to the same instance, where that goes by keys.
    key: Option<u64>,
    tried: Vec<EndpointId>,
    made: usize,
    last: Option<Failure>,
    /// The endpoint that closed the connection, or reset or refused the request, last of all.
    closed_by: Option<Arc<EndpointState>>,
    /// Who is asked again, over HTTP/1.1 with a new connection.
    back_to: Option<Arc<EndpointState>>,
    /// Counts the retry that is under way, where the service's policy limits them.
    retrying: Option<Place>,
    /// Whether an instance has refused it without a look.
    was_refused: bool,
    /// After so long without an answer's head a second instance is asked.
    hedge_after: Option<Duration>,
    /// Whether it is for a copy of a request, whose answer nobody waits for.
    is_copy: bool,
}

/// An attempt that brought no answer.
struct Failed {
    failure: Failure,
    endpoint: Arc<EndpointState>,
    /// Whether it went over a connection that was there before.
    reused: bool,
}

impl<'a> Attempts<'a> {
    /// None yet, for a request that came at `began`.
    pub(super) fn new(worker: &'a Rc<Worker>, began: std::time::Instant) -> Self {
        Self {
            worker,
            rule: None,
            began,
            limits: Limits::default(),
            has_retry: false,
            preferred: None,
            key: None,
            tried: Vec::new(),
            made: 0,
            last: None,
            closed_by: None,
            back_to: None,
            retrying: None,
            was_refused: false,
            hedge_after: None,
            is_copy: false,
        }
    }

    /// The same by a rule of a declared route.
    pub(super) fn by(self, rule: &'a Rule) -> Self {
        Self { rule: Some(rule), limits: rule.limits, ..self }
    }

    /// The same for a copy, whose answer nobody waits for.
    pub(super) fn of_copy(self) -> Self {
        Self { is_copy: true, ..self }
    }

    /// Has an instance be asked first.
    pub(super) fn prefer(&mut self, instance: Arc<EndpointState>) {
        self.preferred = Some(instance);
    }

    /// Asks the proxy itself, before anything is sent, whether it has time for a request to this target.
    ///
    /// # Errors
    /// It has not; the answer.
    pub(super) fn admit(&self, target: &Target<'_>) -> Result<(), Answer> {
        let is_first = self.made == 0;
        let admit = || self.worker.shedder.admit(target.service.priority(), &self.worker.metrics);
        if is_first { admit() } else { Ok(()) }
    }

    /// Tries the target's instances. `None`: none is left.
    pub(super) async fn run(
        &mut self,
        target: &Target<'_>,
        draft: &mut Draft,
    ) -> Option<Result<Answered, Answer>> {
        match target.service.traffic() {
            None => self.tries(target, draft).await,
            // Boxed, so that it does not make every other request's future larger.
            Some(traffic) => Box::pin(self.run_by(traffic, target, draft)).await,
        }
    }

    /// The same for a service that has a policy.
    async fn run_by(
        &mut self,
        traffic: &Traffic,
        target: &Target<'_>,
        draft: &mut Draft,
    ) -> Option<Result<Answered, Answer>> {
        if self.made == 0 {
            let trusted = &self.worker.config.trusted_proxies;
            self.key = traffic.key.key(draft.headers(), draft.target().query(), trusted);
        }
        self.hedge_after = traffic.hedge_after.filter(|_| !self.is_copy);
        // A rule's own limit is kept by whoever has the rule.
        let has_own = self.rule.is_some_and(|rule| rule.limits.are_declared);
        if !has_own {
            self.limits = traffic.limits;
        }
        let limit = traffic.limits.request.filter(|_| !has_own);
        let deadline = limit.map(|limit| Instant::from_std(self.began) + limit);
        let outcome = match deadline {
            None => self.tries(target, draft).await,
            Some(deadline) => match timeout_at(deadline, self.tries(target, draft)).await {
                Ok(outcome) => outcome,
                Err(_) => return Some(Err(late(target, limit.unwrap_or_default()))),
            },
        };
        let mut outcome = outcome?;
        if let Ok(answered) = &mut outcome {
            if let Some(deadline) = deadline {
                answered.expire_at(deadline);
            }
            if let Some(idle) = traffic.waits.idle {
                answered.pause_at_most(idle);
            }
        }
        Some(outcome)
    }

    async fn tries(&mut self, target: &Target<'_>, draft: &mut Draft) -> Option<Result<Answered, Answer>> {
        let retry = self.rule.and_then(|rule| rule.retry.as_ref());
        let retry = retry.or_else(|| target.service.traffic()?.retry.as_ref());
        self.has_retry = retry.is_some();
        let most = retry.and_then(|retry| retry.attempts).unwrap_or(self.worker.config.retries);
        let is_plain = self.limits.attempt.is_none() && self.hedge_after.is_none();
        loop {
            let admitted = match Admitted::ask(target) {
                Ok(admitted) => admitted,
                Err(refusal) => return Some(Err(self.refused(refusal, target))),
            };
            let (in_flight, fresh) = self.pick(target)?;
            let observed = Observed::begin(target, &in_flight, admitted);
            if self.made > 0 {
                self.worker.metrics.retried();
            }
            self.made += 1;
            let last = self.made > most;
            draft.keep((retry.is_some() || self.hedge_after.is_some()) && !last);
            let (attempted, observed) = if is_plain {
                (self.attempt(in_flight, fresh, target, draft).await, observed)
            } else {
                // Boxed, so that it does not make every other request's future larger.
                Box::pin(self.attempt_hedged(in_flight, fresh, target, draft, observed)).await
            };
            observed.ended(&attempted, target, &self.worker.metrics);
            let attempted =
                attempted.and_then(|answered| self.refuse(answered, retry.filter(|_| !last), draft));
            let Failed { failure, endpoint, reused } = match attempted {
                Ok(mut answered) => {
                    if let Some(place) = self.retrying.take() {
                        answered.hold(place);
                    }
                    return Some(Ok(answered));
                }
                Err(failed) => failed,
            };
            if last || !draft.may_send_again(&failure) {
                return Some(Err(failure.answer(target.service.key())));
            }
            self.tried.push(endpoint.id());
            if let Err(why) = self.again(&failure, reused, target) {
                self.worker.metrics.retry_refused();
                return Some(Err(failure.answer(target.service.key()).explained(&not_again(why))));
            }
            self.closed_by = failure.is_of_the_connection().then_some(endpoint);
            self.last = Some(failure);
            if let Some(retry) = retry {
                Box::pin(self.pause(retry)).await;
            }
        }
    }

    /// Asks for another try. It costs nothing where no instance has seen the request, and once where one has refused it
    /// without a look, as what is sent then is the first that counts (gRFC A6, "transparent retries"): so the end of an
    /// instance costs no client an error, however many requests it meets. Where all other instances cool down it does
    /// cost, since every request would be a storm of connections.
    fn again(&mut self, failure: &Failure, reused: bool, target: &Target<'_>) -> Result<(), NoRetry> {
        let is_free = failure.was_never_sent()
            || matches!(failure, Failure::Refused) && !std::mem::replace(&mut self.was_refused, true);
        if is_free && (reused || target.endpoints.has_ready(&self.tried)) {
            target.service.note_free_retry();
            return Ok(());
        }
        // Its own place is free for the next one.
        self.retrying = None;
        self.retrying = target.service.retry()?;
        Ok(())
    }

    /// Why there is no answer when no instance is left.
    pub(super) fn exhausted(&self, target: &Target<'_>) -> Answer {
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

    /// Lets instances be tried again: all, where it was declared how often to try, and else the one that closed the
    /// connection last of all. Whether there are any.
    pub(super) fn go_back(&mut self) -> bool {
        // Others that were tried may be better than the one that has just failed.
        let has_others = self.has_retry && self.tried.len() > 1;
        self.back_to = self.closed_by.take().filter(|_| !has_others);
        let forgets = self.has_retry && !self.tried.is_empty();
        if forgets {
            self.tried.clear();
        }
        forgets || self.back_to.is_some()
    }

    /// Why nothing is sent to a service that its policy protects.
    fn refused(&self, refusal: Refusal, target: &Target<'_>) -> Answer {
        let service = target.service.key();
        // Where there was a try, what became of it says more.
        if let Some(failure) = &self.last {
            return failure.answer(service);
        }
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

    /// Passes an answer on, unless it was declared to try again upon such, and `retry` is there.
    fn refuse(&self, answered: Answered, retry: Option<&Retry>, draft: &Draft) -> Result<Answered, Failed> {
        let status = answered.status();
        let failure = Failure::Unwanted(status);
        let unwanted = retry.is_some_and(|retry| retry.is_for(status)) && draft.may_send_again(&failure);
        if !unwanted {
            return Ok(answered);
        }
        let failed = Failed::of(failure, answered.in_flight(), false);
        answered.discard(self.worker);
        Err(failed)
    }

    fn pick(&mut self, target: &Target<'_>) -> Option<(InFlight, bool)> {
        let preferred = self.preferred.take();
        if let Some(begun) = preferred.and_then(|preferred| target.endpoints.begin_at(&preferred)) {
            return Some((begun, false));
        }
        if let Some(begun) = self.back_to.take().and_then(|endpoint| target.endpoints.begin_again(&endpoint))
        {
            return Some((begun, true));
        }
        let picked = target.endpoints.pick_by(self.key, &self.tried, &mut self.worker.rng.borrow_mut());
        picked.map(|in_flight| (in_flight, false))
    }

    /// An attempt within the limit that was declared, if one was.
    async fn attempt_within(
        &self,
        in_flight: InFlight,
        fresh: bool,
        target: &Target<'_>,
        draft: &mut Draft,
    ) -> Result<Answered, Failed> {
        let Some(limit) = self.limits.attempt else {
            return self.attempt(in_flight, fresh, target, draft).await;
        };
        let endpoint = Arc::clone(in_flight.endpoint());
        let attempted = timeout(limit, self.attempt(in_flight, fresh, target, draft)).await;
        attempted.unwrap_or_else(|_| {
            let failure = if self.has_retry { Failure::Late } else { Failure::Timeout };
            Err(Failed { failure, endpoint, reused: false })
        })
    }

    async fn pause(&self, retry: &Retry) {
        let pause = retry.pause(self.made, || self.worker.rng.borrow_mut().f64());
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }

    /// How long the answer's head may take from when the request has been sent.
    fn response_limit(&self) -> Duration {
        if self.limits.are_declared { NO_LIMIT } else { self.worker.config.timeouts.response }
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

/// What is said when a service's policy gives a request no more time.
fn late(target: &Target<'_>, limit: Duration) -> Answer {
    let service = target.service.key();
    let detail = format!(
        "there was no answer within {limit:?}, which is all that the policy of service {service} gives a request"
    );
    Answer::new(Reason::UpstreamTimeout, detail)
}

impl Failed {
    fn of(failure: Failure, in_flight: &InFlight, reused: bool) -> Self {
        Self { failure, endpoint: Arc::clone(in_flight.endpoint()), reused }
    }
}
