//! An answer's body on its way to the client.
//!
//! The body carries what must live as long as it does: the count of requests in flight to the endpoint, and the
//! connection that the bytes come from, which goes back to the pool at the end. Dropping the body early (the client
//! went away) closes the connection, since HTTP/1.1 knows no other way to say stop.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    http1::{Step, UploadTask},
    pool::{Http1, StreamPermit},
    serve::{IdleTimer, RequestScope},
    table::InFlight,
};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerFailure {
    /// The instance's answer broke off.
    #[error("the instance's answer broke off")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    /// The instance paused for too long.
    #[error("the instance's answer stalled")]
    Stalled,
}

/// The body of an answer.
pub(crate) enum ResponseBody {
    /// None, and a tunnel to follow.
    Switching,
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
    ended: bool,
    // Dropped last: the request is over when its connection is back in the pool.
    in_flight: InFlight,
    scope: RequestScope,
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
        incoming: Incoming,
        /// Its place there, given back with the body.
        _place: StreamPermit,
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
            Self::Http2 { incoming, .. } => {
                let frame = ready!(Pin::new(incoming).poll_frame(context));
                frame.map(|frame| frame.map_err(|error| AnswerFailure::Broken(error.into())))
            }
        })
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Http1 { connection, .. } => connection.connection.is_body_over(),
            Self::Http2 { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1 { connection, .. } => {
                connection.connection.body_left().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Self::Http2 { incoming, .. } => incoming.size_hint(),
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
    pub(super) fn new(source: AnswerSource, in_flight: InFlight, scope: RequestScope) -> Self {
        Self { source: Some(source), idle: IdleTimer::default(), ended: false, in_flight, scope }
    }

    fn is_over(&self) -> bool {
        self.ended || self.source.as_ref().is_none_or(AnswerSource::is_over)
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerFailure>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
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
            Poll::Pending => self
                .idle
                .poll_expired(context, self.scope.worker.config.timeouts.stream_idle)
                .map(|()| Some(Err(AnswerFailure::Stalled))),
        }
    }
}

impl Drop for InstanceBody {
    fn drop(&mut self) {
        if let Some(AnswerSource::Http1 { mut connection, .. }) = self.source.take()
            && connection.connection.end_exchange()
        {
            let worker = &self.scope.worker;
            worker.pools.keep_http1(self.in_flight.endpoint(), connection, worker.now());
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
            Self::Own { bytes, .. } if bytes.is_empty() => Poll::Ready(None),
            Self::Own { bytes, .. } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Instance(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Switching => true,
            Self::Own { bytes, .. } => bytes.is_empty(),
            Self::Instance(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Switching => SizeHint::with_exact(0),
            Self::Own { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Self::Instance(body) => {
                body.source.as_ref().map_or_else(SizeHint::default, AnswerSource::size_hint)
            }
        }
    }
}
