//! Attempts to get a request answered: pick an instance, connect, send, and again elsewhere where that is safe.
//!
//! Every instance is tried once. The exception is an instance that is the only one and whose idle connection turned
//! out to be closed: that says nothing about the instance, so it gets a second try over a new connection. Where a
//! route says how often to try, its instances are tried again when all have been.

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use waypost_proto::{instance::Protocol, reason::Reason};

use super::{
    answered::{self, Answered},
    body::AnswerSource,
    draft::Draft,
    measure::Measure,
    retry::Failure,
};
use crate::{
    answer::Answer,
    http1::ExchangeError,
    pool::{ConnectError, SendError},
    rule::{Retry, Rule},
    serve::Worker,
    table::{EndpointId, EndpointState, InFlight, Target},
};

/// Longer than anybody waits, and short enough to be added to a time.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The attempts for one request.
pub(super) struct Attempts<'a> {
    worker: &'a Rc<Worker>,
    /// What a declared route says of them; none: the proxy's own rule.
    rule: Option<&'a Rule>,
    /// Who is asked first.
    preferred: Option<Arc<EndpointState>>,
    /// What the service's policy sends to the same instance, where that goes by keys.
    key: Option<u64>,
    tried: Vec<EndpointId>,
    made: usize,
    last: Option<Failure>,
    /// The endpoint whose idle connection was closed, until it had a second try.
    stale: Option<Arc<EndpointState>>,
}

/// An attempt that brought no answer.
struct Failed {
    failure: Failure,
    endpoint: Arc<EndpointState>,
    /// Whether it went over a connection that was there before.
    reused: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(worker: &'a Rc<Worker>) -> Self {
        Self {
            worker,
            rule: None,
            preferred: None,
            key: None,
            tried: Vec::new(),
            made: 0,
            last: None,
            stale: None,
        }
    }

    /// The same by a rule of a declared route.
    pub(super) fn by(self, rule: &'a Rule) -> Self {
        Self { rule: Some(rule), ..self }
    }

    /// Has an instance be asked first.
    pub(super) fn prefer(&mut self, instance: Arc<EndpointState>) {
        self.preferred = Some(instance);
    }

    /// Tries the target's instances. `None`: none is left.
    pub(super) async fn run(
        &mut self,
        target: &Target<'_>,
        draft: &mut Draft,
    ) -> Option<Result<Answered, Answer>> {
        if let Some(traffic) = target.service.traffic().filter(|_| self.made == 0) {
            let trusted = &self.worker.config.trusted_proxies;
            self.key = traffic.key.key(draft.headers(), draft.target().query(), trusted);
        }
        loop {
            let (in_flight, fresh) = self.pick(target)?;
            let measure = Measure::begin(target, &in_flight);
            if self.made > 0 {
                self.worker.metrics.retried();
            }
            self.made += 1;
            let attempted = match self.rule {
                None => self.attempt(in_flight, fresh, target.strip, draft).await,
                Some(rule) => Box::pin(self.attempt_by(rule, in_flight, fresh, draft)).await,
            };
            let Failed { failure, endpoint, reused } = match attempted {
                Ok(answered) => {
                    measure.answered(answered.status(), answered.headers());
                    answered.in_flight().endpoint().report_success();
                    match self.refuse(answered, draft) {
                        Ok(answered) => return Some(Ok(answered)),
                        Err(failed) => failed,
                    }
                }
                Err(failed) => {
                    measure.failed(&failed.failure, failed.reused);
                    failed
                }
            };
            if matches!(failure, Failure::Connect(_)) || (matches!(failure, Failure::Closed) && !reused) {
                endpoint.report_failure();
            }
            if self.made > self.most_retries() || !draft.may_send_again(&failure) {
                return Some(Err(failure.answer(target.service.key())));
            }
            self.tried.push(endpoint.id());
            self.stale = reused.then_some(endpoint);
            self.last = Some(failure);
            if let Some(retry) = self.rule.and_then(|rule| rule.retry.as_ref()) {
                Box::pin(self.pause(retry)).await;
            }
        }
    }

    /// Why there is no answer when no instance is left.
    pub(super) fn exhausted(&self, target: &Target<'_>) -> Answer {
        match &self.last {
            Some(failure) => failure.answer(target.service.key()),
            None => {
                let service = target.service.key();
                let detail = format!(
                    "service {service} has no instance that takes traffic; `waypost instances {service}` says in which \
                     state they are"
                );
                Answer::new(Reason::NoHealthyInstance, detail)
            }
        }
    }

    /// Lets instances be tried again, where a route says how often to try. Whether there are any.
    pub(super) fn forget(&mut self) -> bool {
        let has_retry = self.rule.is_some_and(|rule| rule.retry.is_some());
        let forgets = has_retry && !self.tried.is_empty();
        if forgets {
            self.tried.clear();
        }
        forgets
    }

    fn most_retries(&self) -> usize {
        let retry = self.rule.and_then(|rule| rule.retry.as_ref());
        retry.map_or(self.worker.config.retries, |retry| retry.attempts)
    }

    /// Passes an answer on, unless the route says to try again upon such.
    fn refuse(&self, answered: Answered, draft: &Draft) -> Result<Answered, Failed> {
        let status = answered.status();
        let failure = Failure::Unwanted(status);
        let unwanted =
            self.rule.and_then(|rule| rule.retry.as_ref()).is_some_and(|retry| retry.is_for(status))
                && self.made <= self.most_retries()
                && draft.may_send_again(&failure);
        if !unwanted {
            return Ok(answered);
        }
        let failed = Failed::of(failure, answered.in_flight(), false);
        answered.discard(self.worker);
        Err(failed)
    }

    fn pick(&mut self, target: &Target<'_>) -> Option<(InFlight, bool)> {
        if let Some(begun) = self.preferred.take().and_then(|preferred| preferred.begin()) {
            return Some((begun, false));
        }
        let picked = target.endpoints.pick_by(self.key, &self.tried, &mut self.worker.rng.borrow_mut());
        match picked {
            Some(in_flight) => Some((in_flight, false)),
            None => Some((self.stale.take()?.begin()?, true)),
        }
    }

    /// An attempt within the limits of a rule.
    async fn attempt_by(
        &self,
        rule: &Rule,
        in_flight: InFlight,
        fresh: bool,
        draft: &mut Draft,
    ) -> Result<Answered, Failed> {
        if let Some(retry) = &rule.retry {
            draft.restore();
            if self.made <= retry.attempts {
                draft.keep();
            }
        }
        let Some(limit) = rule.limits.attempt else { return self.attempt(in_flight, fresh, 0, draft).await };
        let endpoint = Arc::clone(in_flight.endpoint());
        let attempted = timeout(limit, self.attempt(in_flight, fresh, 0, draft)).await;
        attempted.unwrap_or_else(|_| {
            let failure = if rule.retry.is_some() { Failure::Late } else { Failure::Timeout };
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
        match self.rule {
            Some(rule) if rule.limits.are_declared => NO_LIMIT,
            _ => self.worker.config.timeouts.response,
        }
    }

    async fn attempt(
        &self,
        in_flight: InFlight,
        fresh: bool,
        strip: usize,
        draft: &mut Draft,
    ) -> Result<Answered, Failed> {
        if in_flight.endpoint().protocol() == Protocol::Http1 {
            self.over_http1(in_flight, fresh, strip, draft).await
        } else {
            // Boxed, so that it does not make every other request's future larger.
            Box::pin(self.over_http2(in_flight, strip, draft)).await
        }
    }

    async fn over_http1(
        &self,
        in_flight: InFlight,
        fresh: bool,
        strip: usize,
        draft: &mut Draft,
    ) -> Result<Answered, Failed> {
        let worker = self.worker;
        let endpoint = in_flight.endpoint();
        let limit = self.response_limit();
        loop {
            let idle = if fresh { None } else { worker.pools.idle_http1(endpoint) };
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => {
                    let connected = Box::pin(worker.pools.connect_http1(endpoint)).await;
                    connected.map_err(|error| self.not_connected(error, endpoint))?
                }
            };
            let upload = draft.upload(&mut connection.connection, strip);
            let gate = draft.gate();
            let on_continue = || {
                if let Some(gate) = &gate {
                    gate.open();
                }
            };
            let exchanged =
                connection.connection.exchange(upload, draft.headers_mut(), limit, on_continue).await;
            match exchanged {
                Ok((answer, rest)) => {
                    self.count_connection(reused);
                    return answered::accept_http1(answer, rest, connection, in_flight, draft)
                        .map_err(|(failure, in_flight)| Failed::of(failure, &in_flight, reused));
                }
                // It was closed while idle, and nothing was sent: that is not worth a word.
                Err(ExchangeError::Unsent) if reused => {}
                Err(error) => return Err(Failed::of(Failure::from(error), &in_flight, reused)),
            }
        }
    }

    async fn over_http2(
        &self,
        in_flight: InFlight,
        strip: usize,
        draft: &mut Draft,
    ) -> Result<Answered, Failed> {
        let endpoint = in_flight.endpoint();
        if draft.stream().is_some() {
            let failure =
                Failure::Protocol("it is registered with HTTP/2, and WebSocket needs HTTP/1.1".to_owned());
            return Err(Failed::of(failure, &in_flight, false));
        }
        let dialled = self.worker.pools.http2(endpoint).await;
        let dialled = dialled.map_err(|error| self.not_connected(error, endpoint))?;
        let (mut connection, reused) = (dialled.connection, dialled.reused);
        self.count_connection(reused);
        let speaks_grpc = endpoint.protocol() == Protocol::Grpc || self.rule.is_some_and(|rule| rule.grpc);
        let web = if speaks_grpc { draft.make_grpc() } else { None };
        let request = draft.request(strip, endpoint.tls().is_some(), web.as_ref());
        let body = draft.body().cloned();
        let is_sent = async || {
            if let Some(body) = &body {
                body.completed().await;
            }
        };
        let sent = connection.send(request, self.response_limit(), is_sent).await;
        let response = sent.map_err(|error| Failed::of(classify(error, draft), &in_flight, reused))?;
        draft.answer_began(response.status());
        let (mut parts, incoming) = response.into_parts();
        answered::check_head(&mut parts, false).map_err(|failure| Failed::of(failure, &in_flight, reused))?;
        let web = web.and_then(|web| web.answer(&mut parts.headers));
        let source = AnswerSource::Http2 { incoming, web, _place: dialled.permit };
        Ok(Answered::of(parts, source, in_flight))
    }

    fn not_connected(&self, error: ConnectError, endpoint: &Arc<EndpointState>) -> Failed {
        self.worker.metrics.upstream_connect_failed();
        Failed { failure: Failure::Connect(error), endpoint: Arc::clone(endpoint), reused: false }
    }

    fn count_connection(&self, reused: bool) {
        let metrics = &self.worker.metrics;
        if reused {
            metrics.upstream_reused();
        } else {
            metrics.upstream_connected();
        }
    }
}

impl Failed {
    fn of(failure: Failure, in_flight: &InFlight, reused: bool) -> Self {
        Self { failure, endpoint: Arc::clone(in_flight.endpoint()), reused }
    }
}

fn classify(error: SendError, draft: &mut Draft) -> Failure {
    if let Some(failure) = draft.body().and_then(|body| body.failure()) {
        return Failure::Client(failure);
    }
    match error {
        SendError::Unsent(request) => {
            draft.recover(*request);
            Failure::Unsent
        }
        SendError::Timeout => Failure::Timeout,
        SendError::Failed(error) if is_refusal(&error) => Failure::Refused,
        SendError::Failed(error) if error.is_parse() => Failure::Protocol(error.to_string()),
        SendError::Failed(_) => Failure::Closed,
    }
}

impl From<ExchangeError> for Failure {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Unsent => Self::Unsent,
            ExchangeError::Closed => Self::Closed,
            ExchangeError::Protocol(what) => Self::Protocol(what),
            ExchangeError::Timeout => Self::Timeout,
            ExchangeError::Client(failure) => Self::Client(failure),
        }
    }
}

/// Whether an HTTP/2 server says that it has not looked at a request (RFC 9113, section 8.7).
fn is_refusal(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let Some(error) = source.and_then(|source| source.downcast_ref::<h2::Error>()) else { return false };
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
        Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
        _ => false,
    }
}
