//! An instance's answer, from its head to the response that the client gets.

use std::{future::poll_fn, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, Version, response::Parts};
use tokio::time::Instant;
use waypost_proto::name::InstanceKey;

use super::{
    body::{AnswerFailure, AnswerSource, Bounds, InstanceBody, ResponseBody},
    draft::Draft,
    retry::Failure,
    websocket,
};
use crate::{
    headers,
    http1::{self, Upload},
    pool::Http1,
    rule::TimeLimit,
    serve::{RequestScope, Worker},
    socket::ServerSocket,
    table::{InFlight, Place},
    upgrade::Switched,
};

/// What an instance has answered.
pub(super) struct Answered {
    parts: Parts,
    rest: Rest,
    in_flight: InFlight,
    /// What holds for its body, where something does.
    bounds: Option<Box<Bounds>>,
}

/// What follows an answer's head.
enum Rest {
    Body(AnswerSource),
    Tunnel(Tunnel),
}

/// A connection that has switched protocols.
struct Tunnel {
    socket: ServerSocket,
    received: Bytes,
    /// The client's stream, where it becomes a WebSocket.
    stream: Option<Box<websocket::Stream>>,
    /// Counts the connection.
    place: Place,
}

impl Answered {
    pub(super) fn of(parts: Parts, source: AnswerSource, in_flight: InFlight) -> Self {
        Self { parts, rest: Rest::Body(source), in_flight, bounds: None }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.parts.status
    }

    /// Its fields.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Counts it as in flight to the instance.
    pub(super) fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Its fields.
    pub(super) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.parts.headers
    }

    /// Who has answered, and its fields.
    pub(super) fn instance_and_headers(&mut self) -> (&InstanceKey, &mut HeaderMap) {
        (self.in_flight.endpoint().key(), &mut self.parts.headers)
    }

    /// Has its body break off at a time, if it is not through by then.
    pub(super) fn expire_at(&mut self, deadline: Instant) {
        self.bounds().deadline = Some(deadline);
    }

    /// Has its body break off where it pauses for longer.
    pub(super) fn pause_at_most(&mut self, limit: TimeLimit) {
        self.bounds().idle = Some(limit);
    }

    /// Gives a place back when its body has ended.
    pub(super) fn hold(&mut self, place: Place) {
        self.bounds().retries.push(place);
    }

    /// Whether a body is to follow its head, and nothing of it is known to be there.
    pub(super) fn awaits_body(&self) -> bool {
        matches!(&self.rest, Rest::Body(source) if source.awaits_body())
    }

    /// Waits until something of its body is there, or its end.
    ///
    /// # Errors
    /// The connection or the stream ended before.
    pub(super) async fn begun(&mut self) -> Result<(), AnswerFailure> {
        match &mut self.rest {
            Rest::Body(source) => poll_fn(|context| source.poll_begun(context)).await,
            Rest::Tunnel(_) => Ok(()),
        }
    }

    fn bounds(&mut self) -> &mut Bounds {
        self.bounds.get_or_insert_default()
    }

    /// Lets go of it, and keeps its connection where it can.
    pub(super) fn discard(self, worker: &Rc<Worker>) {
        if let Rest::Body(source) = self.rest {
            source.discard(self.in_flight, Rc::clone(worker));
        }
    }

    /// The response, whose body ends the request.
    pub(super) fn into_response(self, scope: RequestScope) -> Response<ResponseBody> {
        let Self { parts, rest, in_flight, bounds } = self;
        scope.set_status(parts.status);
        if let Some(idle) = bounds.as_ref().and_then(|bounds| bounds.idle) {
            scope.client.allow_pause(idle.length);
        }
        let body = match rest {
            Rest::Body(source) => ResponseBody::Instance(InstanceBody::new(source, in_flight, bounds, scope)),
            Rest::Tunnel(Tunnel { socket, received, stream, place }) => {
                let client = Rc::clone(&scope.client);
                let switched = Switched { socket, received, in_flight, place, scope };
                match stream {
                    Some(stream) => ResponseBody::Tunnel(stream.run(switched)),
                    None => {
                        client.switch(switched);
                        ResponseBody::Switching
                    }
                }
            }
        };
        Response::from_parts(parts, body)
    }
}

/// Takes an answer over HTTP/1.1, and finds out what becomes of its connection.
pub(super) fn accept_http1(
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
    parts.headers = std::mem::take(draft.room().of(&answer));
    if let Some(reason) = answer.reason {
        parts.extensions.insert(reason);
    }
    if let Some(stream) = draft.stream()
        && let Err(what) = stream.check(parts.status, &parts.headers)
    {
        return Err((Failure::Protocol(what), in_flight));
    }
    connection.keep_alive = headers::keep_alive_timeout(&parts.headers).map(Duration::from_secs);
    if let Err(failure) = check_head(&mut parts, switched) {
        return Err((failure, in_flight));
    }
    draft.answer_began(parts.status);
    let rest = if switched {
        let Http1 { connection, place, .. } = *connection;
        let Some((socket, received)) = connection.into_socket() else {
            let failure =
                Failure::Protocol("a switch of protocols while the request is being sent".to_owned());
            return Err((failure, in_flight));
        };
        let stream = draft.stream().take();
        if stream.is_some() {
            websocket::Stream::open(&mut parts);
        }
        Rest::Tunnel(Tunnel { socket, received, stream, place })
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
    Ok(Answered { parts, rest, in_flight, bounds: None })
}

/// Fits the fields of an answer to the client.
///
/// # Errors
/// Its body cannot be passed on.
pub(super) fn check_head(parts: &mut Parts, switched: bool) -> Result<(), Failure> {
    headers::response(&mut parts.headers, parts.version, switched)
        .map_err(|_| Failure::Protocol("its transfer-encoding is not \"chunked\"".to_owned()))?;
    // hyper answers in the version that the client speaks.
    parts.version = Version::HTTP_11;
    Ok(())
}
