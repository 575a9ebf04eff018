//! Attempts to get a request answered: pick an instance, connect, send, and again elsewhere where that is safe.
//!
//! Every instance is tried once. The exception is an instance that is the only one left and that closed the connection,
//! or over HTTP/2 reset or refused the request: it gets another try, over HTTP/1.1 with a new connection, as a server that
//! replaces its workers closes what the old ones have, new connections among them. Where a route, or the service's policy,
//! says how often to try, its instances are tried again when all have been.

mod bare;
mod exchange;
mod hedge;
mod observed;
mod unanswered;

use std::{cell::Cell, pin::pin, rc::Rc, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use self::observed::{Admitted, Observed};
use super::{answered::Answered, draft::Draft, retry::Failure};
use crate::{
    answer::Answer,
    rule::{Limits, NO_LIMIT, Retry, Rule, TimeLimit},
    serve::Worker,
    table::{EndpointId, EndpointState, InFlight, NoRetry, Place, Target, Traffic},
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
    /// When the client is told that there is no answer, or its answer breaks off, by the same.
    deadline: Option<Instant>,
    /// For how long the answer's body may pause, by the policy.
    idle: Option<TimeLimit>,
    /// Whether either says when to try again.
    has_retry: bool,
    /// Who is asked first.
    preferred: Option<Arc<EndpointState>>,
    /// What the service's policy sends to the same instance, where that goes by keys.
    key: Option<u64>,
    tried: Vec<EndpointId>,
    made: usize,
    last: Option<Failure>,
    /// What another try is to be paid for, until one is made.
    owed: Option<Owed>,
    /// An answer upon which to try again, until the next try has begun: better than none.
    spare: Option<Box<Answered>>,
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

/// What the last attempt has come to, as far as it says what the next one costs.
#[derive(Clone, Copy)]
struct Owed {
    /// Whether no instance has seen the request, or none has looked at it.
    is_free: bool,
    /// Whether the attempt went over a connection that was there before.
    reused: bool,
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
            deadline: None,
            idle: None,
            has_retry: false,
            preferred: None,
            key: None,
            tried: Vec::new(),
            made: 0,
            last: None,
            owed: None,
            spare: None,
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
        let deadline = rule.limits.request.map(|limit| Instant::from_std(self.began) + limit);
        Self { rule: Some(rule), limits: rule.limits, deadline, ..self }
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
        self.deadline = self.deadline.or(deadline);
        self.idle = traffic.waits.idle;
        self.tries(target, draft).await
    }

    async fn tries(&mut self, target: &Target<'_>, draft: &mut Draft) -> Option<Result<Answered, Answer>> {
        let retry = self.rule.and_then(|rule| rule.retry.as_ref());
        let retry = retry.or_else(|| target.service.traffic()?.retry.as_ref());
        self.has_retry = retry.is_some();
        let most = retry.and_then(|retry| retry.attempts).unwrap_or(self.worker.config.retries);
        loop {
            if let Some(owed) = self.owed.take() {
                // Nobody pays for a try that cannot be made.
                if self.back_to.is_none() && !target.endpoints.has_open(&self.tried) {
                    self.owed = Some(owed);
                    return None;
                }
                let pause = retry.map_or(Duration::ZERO, |retry| self.pause(retry));
                if self.is_late_after(pause) {
                    return Some(self.out_of_time(target));
                }
                if let Err(why) = self.pay(owed, target) {
                    self.worker.metrics.retry_refused();
                    return Some(self.not_again(why, target));
                }
                if !pause.is_zero() {
                    Box::pin(sleep(pause)).await;
                }
                // It would count against the try that it is to make room for.
                if target.service.limits_requests() {
                    self.let_go();
                }
            }
            let uploads = draft.body().is_some_and(|body| !body.is_complete());
            let admitted = match Admitted::ask(target, uploads) {
                Ok(admitted) => admitted,
                Err(refusal) => return Some(self.refused(refusal, target)),
            };
            let (in_flight, fresh) = self.pick(target)?;
            self.let_go();
            let observed = Observed::begin(target, &in_flight, admitted);
            if self.made > 0 {
                self.worker.metrics.retried();
            }
            self.made += 1;
            let last = self.made > most;
            draft.keep(self.keeps(retry, last));
            let is_plain = self.limits.attempt.is_none() && self.deadline.is_none();
            let (attempted, mut observed) =
                if is_plain && self.hedge_after.is_none() && !observed.waits_for_body() {
                    (self.attempt(in_flight, fresh, target, draft).await, observed)
                } else {
                    // Boxed, so that it does not make every other request's future larger.
                    Box::pin(self.attempt_hedged(in_flight, fresh, target, draft, observed)).await
                };
            let attempted = match attempted {
                Ok(mut answered) if !last && self.holds_back(&answered, retry, draft) => {
                    self.begun(&mut answered, &mut observed, draft).await.map(|()| answered)
                }
                attempted => attempted,
            };
            observed.ended(&attempted, target, &self.worker.metrics);
            match attempted {
                Ok(answered) if self.is_wanted(&answered, retry.filter(|_| !last), draft) => {
                    return Some(Ok(self.accept(answered)));
                }
                Ok(answered) => {
                    self.last = Some(Failure::Unwanted(answered.status()));
                    self.owed = Some(Owed { is_free: false, reused: false });
                    self.closed_by = None;
                    self.tried.push(answered.in_flight().endpoint().id());
                    self.spare = Some(Box::new(answered));
                }
                Err(_) if self.is_late_after(Duration::ZERO) => return Some(self.out_of_time(target)),
                Err(Failed { failure, .. }) if last || !draft.may_send_again(&failure) => {
                    return Some(Err(failure.answer(target.service.key())));
                }
                Err(Failed { failure, endpoint, reused }) => {
                    self.tried.push(endpoint.id());
                    self.owed = Some(Owed { is_free: self.is_free(&failure), reused });
                    self.closed_by = failure.is_of_the_connection().then_some(endpoint);
                    self.last = Some(failure);
                }
            }
        }
    }

    /// Whether another try costs nothing: no instance has seen the request, or one has refused it without a look, for the
    /// first time, as what is sent then is the first that counts (gRFC A6, "transparent retries"). So the end of an
    /// instance costs no client an error, however many requests it meets.
    fn is_free(&mut self, failure: &Failure) -> bool {
        failure.was_never_sent()
            || matches!(failure, Failure::Refused) && !std::mem::replace(&mut self.was_refused, true)
    }

    /// Pays for another try. Where all other instances cool down even what is free costs, since every request would be a
    /// storm of connections.
    fn pay(&mut self, owed: Owed, target: &Target<'_>) -> Result<(), NoRetry> {
        if owed.is_free && (owed.reused || target.endpoints.has_ready(&self.tried)) {
            target.service.note_free_retry();
            return Ok(());
        }
        // Its own place is free for the next one.
        self.retrying = None;
        self.retrying = target.service.retry()?;
        Ok(())
    }

    /// Whether an answer is the client's: it is not one upon which `retry` says to try again, or that cannot be.
    fn is_wanted(&self, answered: &Answered, retry: Option<&Retry>, draft: &Draft) -> bool {
        let status = answered.status();
        let unwanted = retry.is_some_and(|retry| retry.is_for(status));
        !unwanted || !draft.may_send_again(&Failure::Unwanted(status))
    }

    /// An answer for the client, within the limits that are declared.
    fn accept(&mut self, mut answered: Answered) -> Answered {
        if let Some(place) = self.retrying.take() {
            answered.hold(place);
        }
        if let Some(deadline) = self.deadline {
            answered.expire_at(deadline);
        }
        if let Some(idle) = self.idle {
            answered.pause_at_most(idle);
        }
        answered
    }

    /// Lets go of an answer that is not wanted any more.
    fn let_go(&mut self) {
        if let Some(spare) = self.spare.take() {
            spare.discard(self.worker);
        }
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

    /// An attempt within the limits that were declared, if any were.
    async fn attempt_within(
        &self,
        in_flight: InFlight,
        fresh: bool,
        target: &Target<'_>,
        draft: &mut Draft,
    ) -> Result<Answered, Failed> {
        let begun = Instant::now();
        let own = self.limits.attempt.map(|limit| begun + limit);
        let Some(until) = own.into_iter().chain(self.deadline).min() else {
            return self.attempt(in_flight, fresh, target, draft).await;
        };
        let endpoint = Arc::clone(in_flight.endpoint());
        let body = draft.body().cloned();
        let sent = Cell::new(begun);
        let attempted = {
            let mut attempt = pin!(timeout_at(until, self.attempt(in_flight, fresh, target, draft)));
            match body.as_ref().filter(|body| !body.is_complete()) {
                None => attempt.await,
                Some(body) => tokio::select! {
                    biased;
                    attempted = attempt.as_mut() => attempted,
                    () = body.completed() => {
                        sent.set(Instant::now());
                        attempt.await
                    }
                },
            }
        };
        attempted.unwrap_or_else(|_| {
            let is_own = own == Some(until);
            let limit = until - if is_own { begun } else { Instant::from_std(self.began) };
            let waits_for_client = body.is_some_and(|body| body.waits_for_client());
            let is_hurried = waits_for_client || (until - sent.get()) * 2 < limit;
            let failure = match (is_hurried, is_own && self.has_retry) {
                (true, _) => Failure::Hurried,
                (false, true) => Failure::Late,
                (false, false) => Failure::Timeout,
            };
            Err(Failed { failure, endpoint, reused: false })
        })
    }

    /// How long to wait before another try.
    fn pause(&self, retry: &Retry) -> Duration {
        retry.pause(self.made, || self.worker.rng.borrow_mut().f64())
    }

    /// Whether the client is told by then that there is no answer.
    fn is_late_after(&self, pause: Duration) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() + pause >= deadline)
    }

    /// How long the answer's head may take from when the request has been sent.
    fn response_limit(&self) -> Duration {
        if self.limits.are_declared { NO_LIMIT } else { self.worker.config.timeouts.response }
    }
}

impl Failed {
    fn of(failure: Failure, in_flight: &InFlight, reused: bool) -> Self {
        Self { failure, endpoint: Arc::clone(in_flight.endpoint()), reused }
    }
}
