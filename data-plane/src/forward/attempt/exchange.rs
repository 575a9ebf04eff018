//! One attempt: a connection, the request over it, and the answer's head.
//!
//! Deliberately absent: which instance, and whether there is another attempt.

use std::sync::Arc;

use waypost_proto::instance::Protocol;

use super::{Attempts, Failed};
use crate::{
    forward::{
        answered::{self, Answered},
        body::AnswerSource,
        draft::Draft,
        retry::Failure,
    },
    headers,
    http1::{ExchangeError, ExchangeLimits},
    pool::{ConnectError, SendError},
    table::{EndpointState, InFlight, Target},
};

impl Attempts<'_> {
    /// Sends a request to an instance, and waits for its answer's head.
    pub(super) async fn attempt(
        &self,
        in_flight: InFlight,
        fresh: bool,
        target: &Target<'_>,
        draft: &mut Draft,
    ) -> Result<Answered, Failed> {
        if in_flight.endpoint().protocol() == Protocol::Http1 {
            self.over_http1(in_flight, fresh, target, draft).await
        } else {
            // Boxed, so that it does not make every other request's future larger.
            Box::pin(self.over_http2(in_flight, target, draft)).await
        }
    }

    async fn over_http1(
        &self,
        in_flight: InFlight,
        fresh: bool,
        target: &Target<'_>,
        draft: &mut Draft,
    ) -> Result<Answered, Failed> {
        let worker = self.worker;
        let endpoint = in_flight.endpoint();
        let limits =
            ExchangeLimits { answer: self.response_limit(), upload: worker.config.timeouts.stream_idle };
        loop {
            let idle = if fresh { None } else { worker.pools.idle_http1(endpoint) };
            let (mut connection, reused) = match idle {
                Some(connection) => (connection, true),
                None => {
                    let connected =
                        Box::pin(worker.pools.connect_http1(endpoint, target.service, fresh)).await;
                    connected.map_err(|error| self.not_connected(error, endpoint))?
                }
            };
            let upload = draft.upload(&mut connection.connection, target.strip);
            let gate = draft.gate();
            let on_continue = || {
                if let Some(gate) = &gate {
                    gate.open();
                }
            };
            let exchanged = connection.connection.exchange(upload, draft.room(), limits, on_continue).await;
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
        target: &Target<'_>,
        draft: &mut Draft,
    ) -> Result<Answered, Failed> {
        let endpoint = in_flight.endpoint();
        if draft.stream().is_some() {
            let failure =
                Failure::Protocol("it is registered with HTTP/2, and WebSocket needs HTTP/1.1".to_owned());
            return Err(Failed::of(failure, &in_flight, false));
        }
        let dialled = self.worker.pools.http2(endpoint, target.service).await;
        let dialled = dialled.map_err(|error| self.not_connected(error, endpoint))?;
        let (connection, reused) = (dialled.connection, dialled.reused);
        self.count_connection(reused);
        let speaks_grpc = endpoint.protocol() == Protocol::Grpc || self.rule.is_some_and(|rule| rule.grpc);
        // A call may take as long as it says itself.
        let is_call = speaks_grpc || headers::is_grpc(draft.headers());
        let own = if is_call { headers::grpc_timeout(draft.headers()) } else { None };
        let limit = self.response_limit().max(own.unwrap_or_default());
        let web = if speaks_grpc { draft.make_grpc() } else { None };
        let request = draft.request(target.strip, endpoint.tls().is_some(), web.as_ref());
        let source = draft.body().cloned();
        let is_sent = async || {
            if let Some(source) = &source {
                source.completed().await;
            }
        };
        let sent = connection.send(request, dialled.permit, limit, is_sent).await;
        let response = sent.map_err(|error| Failed::of(classify(error, draft), &in_flight, reused))?;
        draft.answer_began(response.status());
        let (mut parts, body) = response.into_parts();
        answered::check_head(&mut parts, false).map_err(|failure| Failed::of(failure, &in_flight, reused))?;
        let web = web.and_then(|web| web.answer(&mut parts.headers));
        let source = AnswerSource::Http2 { body, web };
        Ok(Answered::of(parts, source, in_flight))
    }

    fn not_connected(&self, error: ConnectError, endpoint: &Arc<EndpointState>) -> Failed {
        let failure = match error {
            ConnectError::Full(full) => Failure::Full(full),
            error => {
                self.worker.metrics.upstream_connect_failed();
                Failure::Connect(error)
            }
        };
        Failed { failure, endpoint: Arc::clone(endpoint), reused: false }
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

fn classify(error: SendError, draft: &mut Draft) -> Failure {
    if let Some(failure) = draft.body_failure() {
        return Failure::Client(failure);
    }
    match error {
        SendError::Unsent(request) => {
            draft.recover(*request);
            Failure::Unsent
        }
        SendError::Timeout => Failure::Timeout,
        SendError::Protocol(what) => Failure::Protocol(what.into()),
        SendError::Failed(error) if is_refusal(&error) => Failure::Refused,
        SendError::Failed(error) => match error.reason().filter(|_| error.is_reset()) {
            Some(reason) => Failure::Reset(reason),
            None => Failure::Closed,
        },
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
fn is_refusal(error: &h2::Error) -> bool {
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
        Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
        _ => false,
    }
}
