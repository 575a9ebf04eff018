//! An answer's body on its way to the client.
//!
//! The body carries what must live as long as it does: the count of requests in flight to the endpoint, and the
//! connection that the bytes come from, which goes back to the pool at the end. Dropping the body early (the client
//! went away) closes the connection, since HTTP/1.1 knows no other way to say stop.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::task::AbortHandle;

use crate::{
    pool::{Http1, StreamPermit},
    serve::{IdleTimer, RequestScope},
    table::InFlight,
};

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerFailure {
    /// The instance's answer broke off.
    #[error("the instance's answer broke off")]
    Broken(#[source] hyper::Error),
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
    incoming: Incoming,
    /// `None` only while it is dropped.
    connection: Option<BodyConnection>,
    idle: IdleTimer,
    ended: bool,
    // Dropped last: the request is over when its connection is back in the pool.
    in_flight: InFlight,
    scope: RequestScope,
}

/// Where an instance's body comes from.
pub(super) enum BodyConnection {
    /// An HTTP/1.1 connection that this body drives.
    Driven(Box<Http1>),
    /// An HTTP/1.1 connection that a task drives, because the client's body is still on its way.
    Tasked {
        /// Ends the task with the body.
        _task: DropAborts,
    },
    /// A stream of an HTTP/2 connection.
    Stream {
        /// Its place there, given back with the body.
        _place: StreamPermit,
    },
}

/// Ends a task when dropped.
pub(super) struct DropAborts(AbortHandle);

impl BodyConnection {
    /// Leaves an HTTP/1.1 connection to a task of its own.
    pub(super) fn tasked(connection: Box<Http1>) -> Self {
        Self::Tasked { _task: DropAborts(tokio::task::spawn_local(connection.run()).abort_handle()) }
    }
}

impl Drop for DropAborts {
    fn drop(&mut self) {
        self.0.abort();
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
        incoming: Incoming,
        connection: BodyConnection,
        in_flight: InFlight,
        scope: RequestScope,
    ) -> Self {
        let idle = IdleTimer::default();
        Self { incoming, connection: Some(connection), idle, ended: false, in_flight, scope }
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerFailure>>> {
        let polled = match &mut self.connection {
            Some(BodyConnection::Driven(connection)) => connection.poll_body(&mut self.incoming, context),
            _ => Pin::new(&mut self.incoming).poll_frame(context),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.progress();
                if let Some(data) = frame.data_ref() {
                    self.scope.worker.metrics.sent(data.len() as u64);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(AnswerFailure::Broken(error)))),
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(None)
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
        let complete = self.ended || self.incoming.is_end_stream();
        if let Some(BodyConnection::Driven(mut connection)) = self.connection.take()
            && complete
            && (connection.is_ready() || connection.is_usable())
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
            Self::Instance(body) => body.ended || body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Switching => SizeHint::with_exact(0),
            Self::Own { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Self::Instance(body) => body.incoming.size_hint(),
        }
    }
}
