//! Attempts to get a request answered: pick an instance, connect, send, and again elsewhere where that is safe.
//!
//! Every instance is tried once. The exception is an instance that is the only one and whose idle connection turned
//! out to be closed: that says nothing about the instance, so it gets a second try over a new connection.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode, Version, response::Parts};
use tokio::net::TcpStream;
use waypost_proto::{instance::Protocol, reason::Reason};

use super::{
    body::{AnswerSource, InstanceBody, ResponseBody},
    draft::Draft,
    request_body::BodyFailure,
    retry::Failure,
};
use crate::{
    answer::Answer,
    headers,
    http1::{self, ExchangeError, Upload},
    pool::{ConnectError, Http1, SendError},
    serve::RequestScope,
    table::{EndpointId, EndpointState, InFlight, Target},
    upgrade::Switched,
};

/// The attempts for one request.
pub(super) struct Attempts<'a> {
    scope: &'a RequestScope,
    tried: Vec<EndpointId>,
    made: usize,
    last: Option<Failure>,
    /// The endpoint whose idle connection was closed, until it had a second try.
    stale: Option<Arc<EndpointState>>,
}

/// What an instance has answered.
pub(super) struct Answered {
    parts: Parts,
    rest: Rest,
    in_flight: InFlight,
}

/// What follows an answer's head.
enum Rest {
    Body(AnswerSource),
    Tunnel(TcpStream, Bytes),
}

/// An attempt that brought no answer.
struct Failed {
    failure: Failure,
    endpoint: Arc<EndpointState>,
    /// Whether it went over a connection that was there before.
    reused: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(scope: &'a RequestScope) -> Self {
        Self { scope, tried: Vec::new(), made: 0, last: None, stale: None }
    }

    /// Tries the target's instances. `None`: none is left.
    pub(super) async fn run(
        &mut self,
        target: &Target<'_>,
        draft: &mut Draft,
    ) -> Option<Result<Answered, Answer>> {
        loop {
            let (in_flight, fresh) = self.pick(target)?;
            if self.made > 0 {
                self.scope.worker.metrics.retried();
            }
            self.made += 1;
            let Failed { failure, endpoint, reused } =
                match self.attempt(in_flight, fresh, target.strip, draft).await {
                    Ok(answered) => {
                        answered.in_flight.endpoint().report_success();
                        return Some(Ok(answered));
                    }
                    Err(failed) => failed,
                };
            if matches!(failure, Failure::Connect(_)) || (matches!(failure, Failure::Closed) && !reused) {
                endpoint.report_failure();
            }
            let again = self.made <= self.scope.worker.config.retries && draft.may_send_again(&failure);
            if !again {
                return Some(Err(answer(&failure, target)));
            }
            self.tried.push(endpoint.id());
            self.stale = reused.then_some(endpoint);
            self.last = Some(failure);
        }
    }

    /// Why there is no answer when no instance is left.
    pub(super) fn exhausted(&self, target: &Target<'_>) -> Answer {
        match &self.last {
            Some(failure) => answer(failure, target),
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

    fn pick(&mut self, target: &Target<'_>) -> Option<(InFlight, bool)> {
        let picked = target.endpoints.pick(&self.tried, &mut self.scope.worker.rng.borrow_mut());
        match picked {
            Some(in_flight) => Some((in_flight, false)),
            None => Some((self.stale.take()?.begin()?, true)),
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
        let worker = &self.scope.worker;
        let endpoint = in_flight.endpoint();
        let limit = worker.config.timeouts.response;
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
                    return accept_http1(answer, rest, connection, in_flight, draft)
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
        let worker = &self.scope.worker;
        let endpoint = in_flight.endpoint();
        let dialled = worker.pools.http2(endpoint).await;
        let dialled = dialled.map_err(|error| self.not_connected(error, endpoint))?;
        let (mut connection, reused) = (dialled.connection, dialled.reused);
        self.count_connection(reused);
        let request = draft.request(strip);
        let body = draft.body().cloned();
        let is_sent = async || {
            if let Some(body) = &body {
                body.completed().await;
            }
        };
        let sent = connection.send(request, worker.config.timeouts.response, is_sent).await;
        let response = sent.map_err(|error| Failed::of(classify(error, draft), &in_flight, reused))?;
        draft.answer_began();
        let (mut parts, incoming) = response.into_parts();
        check_head(&mut parts, false).map_err(|failure| Failed::of(failure, &in_flight, reused))?;
        let source = AnswerSource::Http2 { incoming, _place: dialled.permit };
        Ok(Answered { parts, rest: Rest::Body(source), in_flight })
    }

    fn not_connected(&self, error: ConnectError, endpoint: &Arc<EndpointState>) -> Failed {
        self.scope.worker.metrics.upstream_connect_failed();
        Failed { failure: Failure::Connect(error), endpoint: Arc::clone(endpoint), reused: false }
    }

    fn count_connection(&self, reused: bool) {
        let metrics = &self.scope.worker.metrics;
        if reused {
            metrics.upstream_reused();
        } else {
            metrics.upstream_connected();
        }
    }
}

impl Answered {
    /// The response, whose body ends the request.
    pub(super) fn into_response(self, scope: RequestScope) -> Response<ResponseBody> {
        let Self { parts, rest, in_flight } = self;
        scope.set_status(parts.status);
        let body = match rest {
            Rest::Body(source) => ResponseBody::Instance(InstanceBody::new(source, in_flight, scope)),
            Rest::Tunnel(socket, received) => {
                let client = std::rc::Rc::clone(&scope.client);
                client.switch(Switched { socket, received, in_flight, scope });
                ResponseBody::Switching
            }
        };
        Response::from_parts(parts, body)
    }
}

impl Failed {
    fn of(failure: Failure, in_flight: &InFlight, reused: bool) -> Self {
        Self { failure, endpoint: Arc::clone(in_flight.endpoint()), reused }
    }
}

/// Takes an answer over HTTP/1.1, and finds out what becomes of its connection.
fn accept_http1(
    answer: http1::Answer,
    upload: Option<Upload>,
    mut connection: Box<Http1>,
    in_flight: InFlight,
    draft: &mut Draft,
) -> Result<Answered, (Failure, InFlight)> {
    let switched = answer.status == StatusCode::SWITCHING_PROTOCOLS;
    if switched && !draft.wants_upgrade() {
        let failure = Failure::Protocol("a switch of protocols that nobody asked for".to_owned());
        return Err((failure, in_flight));
    }
    let mut parts = Response::new(()).into_parts().0;
    (parts.status, parts.version) = (answer.status, answer.version);
    parts.headers = std::mem::take(draft.headers_mut());
    if let Some(reason) = answer.reason {
        parts.extensions.insert(reason);
    }
    connection.keep_alive = headers::keep_alive_timeout(&parts.headers).map(Duration::from_secs);
    if let Err(failure) = check_head(&mut parts, switched) {
        return Err((failure, in_flight));
    }
    draft.answer_began();
    let rest = if switched {
        let Some((socket, received)) = connection.connection.into_socket() else {
            let failure =
                Failure::Protocol("a switch of protocols while the request is being sent".to_owned());
            return Err((failure, in_flight));
        };
        Rest::Tunnel(socket, received)
    } else {
        let upload = upload.and_then(|rest| {
            if draft.body().is_some_and(|body| body.is_held_back()) {
                connection.connection.leave_unsent();
                return None;
            }
            connection.connection.send_aside(rest)
        });
        Rest::Body(AnswerSource::Http1 { connection, _upload: upload })
    };
    Ok(Answered { parts, rest, in_flight })
}

fn check_head(parts: &mut Parts, switched: bool) -> Result<(), Failure> {
    headers::response(&mut parts.headers, parts.version, switched)
        .map_err(|_| Failure::Protocol("its transfer-encoding is not \"chunked\"".to_owned()))?;
    // hyper answers in the version that the client speaks.
    parts.version = Version::HTTP_11;
    Ok(())
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

fn answer(failure: &Failure, target: &Target<'_>) -> Answer {
    let service = target.service.key();
    let (reason, detail) = match failure {
        Failure::Connect(error) => (
            Reason::UpstreamConnect,
            format!(
                "no connection to an instance of service {service}: {error}; `waypost instances {service}` says which \
                 there are"
            ),
        ),
        Failure::Unsent | Failure::Refused | Failure::Closed => (
            Reason::UpstreamClosed,
            format!(
                "an instance of service {service} closed the connection before it answered; whether it has acted on \
                 the request is not known"
            ),
        ),
        Failure::Protocol(what) => (
            Reason::UpstreamProtocol,
            format!("the answer of an instance of service {service} is not to be understood: {what}"),
        ),
        Failure::Timeout => (
            Reason::UpstreamTimeout,
            format!("an instance of service {service} did not answer in time; it may still be at work"),
        ),
        Failure::Client(BodyFailure::Broken) => {
            (Reason::BadRequest, "the request's body broke off or is malformed; send it whole".to_owned())
        }
        Failure::Client(BodyFailure::Stalled) => {
            (Reason::ClientTimeout, "the request's body stalled for too long; send it faster".to_owned())
        }
    };
    Answer::new(reason, detail)
}
