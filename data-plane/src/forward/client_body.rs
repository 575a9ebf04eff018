//! A request's body as its client's connection gives it, whichever version of HTTP that speaks.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::serve::Http2Body;

/// A client's body.
pub(crate) enum ClientBody {
    /// None.
    Empty,
    /// One that hyper reads.
    Http1(Incoming),
    /// One that comes by a stream.
    Http2(Http2Body),
}

/// It did not come to its end: the client went away, or broke a rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BrokenOff;

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(context).map_err(|_| BrokenOff),
            Self::Http2(body) => Pin::new(body).poll_frame(context).map_err(|_| BrokenOff),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
