//! An answer's body on its way to the client.
//!
//! The body carries what must live as long as it does: the count of requests in flight to the endpoint, and the
//! connection that the bytes come from, which goes back to the pool at the end. Dropping the body early (the client
//! went away) closes the connection, since HTTP/1.1 knows no other way to say stop.

use std::{
    error::Error,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{grpc_web::WebAnswer, tunnel};
use crate::{
    http1::{Step, UploadTask},
    pool::{Http1, Http2Body},
    rule::TimeLimit,
    serve::{IdleTimer, RequestScope, Worker},
    table::{InFlight, Place},
};
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// How much of an answer that nobody gets is read off, so that its connection can be used again.
const DISCARD_BYTES: usize = 64 * 1024;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// Where the limit for pauses is set that holds where no policy says another one.
const OWN_IDLE: &str = "--stream-idle-timeout of the proxy";

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerFailure {
    /// The instance's answer broke off.
    #[error("the instance's answer broke off")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    /// The instance paused for too long.
    #[error("the instance's answer paused for {0}")]
    Stalled(TimeLimit),
    /// The answer took longer than its route gives a request.
    #[error("the answer took longer than its route allows")]
    Late,
}

/// The body of an answer.
pub(crate) enum ResponseBody {
    /// None, and a tunnel to follow.
    Switching,
    /// What comes through a tunnel that is a stream.
    Tunnel(tunnel::Received),
    /// One of the proxy's own.
    Own {
        /// All of it; empty once it was taken.
        bytes: Bytes,
        /// Ends the request when the body ends.
        _scope: RequestScope,
    },
    /// One that comes from an instance.
    Instance(InstanceBody),
}

/// A body that comes from an instance.
pub(crate) struct InstanceBody {
    /// `None` only while it is dropped.
    source: Option<AnswerSource>,
    idle: IdleTimer,
    /// When it has to be through.
    deadline: Option<Pin<Box<Sleep>>>,
    bounds: Option<Box<Bounds>>,
    ended: bool,
    // Dropped last: the request is over when its connection is back in the pool.
    in_flight: InFlight,
    scope: RequestScope,
}

/// What holds for an answer's body, where something was declared.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// When it has to be through.
    pub(super) deadline: Option<Instant>,
    /// How long it may pause; none: as the proxy says.
    pub(super) idle: Option<TimeLimit>,
    /// What counts it as a retry until it has ended: one place, or another one where it is the second of two.
    pub(super) retries: Vec<Place>,
}

/// Where an instance's body comes from.
pub(super) enum AnswerSource {
    /// An HTTP/1.1 connection, which this body reads.
    Http1 {
        connection: Box<Http1>,
        /// The client's body, where that is still on its way. What is left of it ends with this one.
        _upload: Option<UploadTask>,
    },
    /// A stream of an HTTP/2 connection.
    Http2 {
        body: Http2Body,
        /// How the client reads it, where that speaks gRPC-Web.
        web: Option<WebAnswer>,
    },
}

impl AnswerSource {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerFailure>>> {
        Poll::Ready(match self {
            Self::Http1 { connection, .. } => match ready!(connection.connection.poll_body(context)) {
                Ok(Step::Data(bytes)) => Some(Ok(Frame::data(bytes))),
                Ok(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Ok(Step::End) => None,
                Err(error) => Some(Err(AnswerFailure::Broken(error.into()))),
            },
            Self::Http2 { body, web } => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                let frame = frame.map(|frame| frame.map_err(|error| AnswerFailure::Broken(error.into())));
                match web {
                    Some(web) => frame.map(|frame| frame.map(|frame| web.frame(frame))),
                    None => frame,
                }
            }
        })
    }

    /// Whether a body is to follow the head that came, and nothing of it is known to be there.
    pub(super) fn awaits_body(&self) -> bool {
        match self {
            Self::Http1 { connection, .. } => connection.connection.awaits_body(),
            Self::Http2 { body, .. } => body.awaits_body(),
        }
    }

    /// Ready when something of the body is there, or its end.
    ///
    /// # Errors
    /// The connection or the stream ended before.
    pub(super) fn poll_begun(&mut self, context: &mut Context<'_>) -> Poll<Result<(), AnswerFailure>> {
        Poll::Ready(match self {
            Self::Http1 { connection, .. } => ready!(connection.connection.poll_begun(context))
                .map_err(|error| AnswerFailure::Broken(error.into())),
            Self::Http2 { body, .. } => {
                ready!(body.poll_begun(context)).map_err(|error| AnswerFailure::Broken(error.into()))
            }
        })
    }

    /// Reads off what is left of an answer that nobody gets, so that its connection can be used again: at once what is
    /// there, and the rest in a task of its own.
    pub(super) fn discard(mut self, in_flight: InFlight, worker: Rc<Worker>) {
        let mut discarded = Box::pin(async move {
            let drained = async {
                let mut read = 0;
                while let Some(Ok(frame)) = poll_fn(|context| self.poll_frame(context)).await {
                    read += frame.data_ref().map_or(0, Bytes::len);
                    if read > DISCARD_BYTES {
                        break;
                    }
                }
            };
            // What is not through in time is closed.
            let _ = timeout(DISCARD_TIME, drained).await;
            self.end(&in_flight, &worker);
        });
        if discarded.as_mut().now_or_never().is_none() {
            tokio::task::spawn_local(discarded);
        }
    }

    /// Keeps its connection, where that can be used again.
    fn end(self, in_flight: &InFlight, worker: &Worker) {
        if let Self::Http1 { mut connection, .. } = self
            && connection.connection.end_exchange()
        {
            worker.pools.keep_http1(in_flight.endpoint(), connection, worker.now());
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Http1 { connection, .. } => connection.connection.is_body_over(),
            Self::Http2 { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1 { connection, .. } => {
                connection.connection.body_left().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Self::Http2 { web: Some(_), .. } => SizeHint::default(),
            Self::Http2 { body, .. } => body.size_hint(),
        }
    }
}

impl ResponseBody {
    /// A body of the proxy's own.
    pub(crate) fn own(bytes: Bytes, scope: RequestScope) -> Self {
        Self::Own { bytes, _scope: scope }
    }
}

impl InstanceBody {
    pub(super) fn new(
        source: AnswerSource,
        in_flight: InFlight,
        bounds: Option<Box<Bounds>>,
        scope: RequestScope,
    ) -> Self {
        let deadline = bounds.as_ref().and_then(|bounds| bounds.deadline);
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        let (source, idle) = (Some(source), IdleTimer::default());
        Self { source, idle, deadline, bounds, ended: false, in_flight, scope }
    }

    /// How long it may pause.
    fn pause(&self) -> TimeLimit {
        let declared = self.bounds.as_ref().and_then(|bounds| bounds.idle);
        let own = self.scope.worker.config.timeouts.stream_idle;
        declared.unwrap_or(TimeLimit::new(own, OWN_IDLE))
    }

    fn is_over(&self) -> bool {
        self.ended || self.source.as_ref().is_none_or(AnswerSource::is_over)
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerFailure>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Some(Err(AnswerFailure::Late)));
        }
        match source.poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.progress();
                if let Some(data) = frame.data_ref() {
                    self.scope.worker.metrics.sent(data.len() as u64);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(last) => {
                self.ended = last.is_none();
                Poll::Ready(last)
            }
            Poll::Pending => {
                let limit = self.pause();
                let expired = self.idle.poll_expired(context, limit.length);
                expired.map(|()| Some(Err(AnswerFailure::Stalled(limit))))
            }
        }
    }
}

impl Drop for InstanceBody {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            source.end(&self.in_flight, &self.scope.worker);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = AnswerFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerFailure>>> {
        match &mut *self {
            Self::Switching => Poll::Ready(None),
            Self::Tunnel(received) => {
                received.poll_data(context).map(|data| data.map(|data| data.map(Frame::data)))
            }
            Self::Own { bytes, .. } if bytes.is_empty() => Poll::Ready(None),
            Self::Own { bytes, .. } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Instance(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Switching => true,
            Self::Tunnel(_) => false,
            Self::Own { bytes, .. } => bytes.is_empty(),
            Self::Instance(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Switching => SizeHint::with_exact(0),
            Self::Tunnel(_) => SizeHint::default(),
            Self::Own { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Self::Instance(body) => {
                body.source.as_ref().map_or_else(SizeHint::default, AnswerSource::size_hint)
            }
        }
    }
}
