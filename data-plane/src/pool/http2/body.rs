//! The body of an answer over HTTP/2.
//!
//! It ends well only where the instance has said that it does (RFC 9113, section 8.1): a stream or a connection that ends
//! otherwise is an error. Dropped before, it resets the stream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, StatusCode, header::CONTENT_LENGTH, response::Parts};
use hyper::body::{Body, Frame, SizeHint};

use super::{
    StreamPermit,
    upload::{LateUpload, Upload},
};

/// What an instance answers over a stream.
pub(crate) struct Http2Body {
    stream: RecvStream,
    /// The first data, where it was waited for and is yet to be passed on.
    first: Option<Bytes>,
    /// Bytes to come, where that is known.
    left: Option<u64>,
    /// Bytes that were passed on and may be sent anew.
    unreleased: usize,
    /// Whether the data, or all of it, was read.
    state: State,
    /// The request's body, where that is still on its way.
    upload: Option<LateUpload>,
    /// Its place on the connection. `None` only while it is dropped.
    permit: Option<StreamPermit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Over,
    Broken,
}

impl Http2Body {
    /// What follows a head. `upload` goes on beside it.
    pub(super) fn new(
        stream: RecvStream,
        head: &Parts,
        upload: Option<Upload>,
        permit: StreamPermit,
    ) -> Self {
        // What comes after such a head all the same is dropped with the stream.
        let has_none = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let (left, state) = match length(&head.headers) {
            length if has_none => (length.or(Some(0)), State::Over),
            None if stream.is_end_stream() => (Some(0), State::Over),
            length => (length, State::Data),
        };
        let upload = upload.map(Upload::go_on);
        Self { stream, first: None, left, unreleased: 0, state, upload, permit: Some(permit) }
    }

    /// Whether a body is to follow the head that came, and nothing of it was read yet.
    pub(crate) fn awaits_body(&self) -> bool {
        self.state == State::Data && self.first.is_none() && !self.stream.is_end_stream()
    }

    /// Ready when something of the body is there, or its end.
    ///
    /// # Errors
    /// The stream ended before.
    pub(crate) fn poll_begun(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while self.awaits_body() {
            match ready!(self.poll_data(context)) {
                Some(Ok(data)) => self.first = (!data.is_empty()).then_some(data),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => self.state = State::Trailers,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let polled = self.stream.poll_data(context);
        // Once all was read, what it has taken of the windows comes back with its end.
        if !matches!(polled, Poll::Ready(None | Some(Err(_)))) && self.unreleased > 0 {
            let _ = self.stream.flow_control().release_capacity(self.unreleased);
            self.unreleased = 0;
        }
        if let Poll::Ready(Some(Ok(data))) = &polled {
            self.unreleased = data.len();
            self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        }
        polled
    }

    fn poll_any(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.state == State::Data {
            match ready!(self.poll_data(context)) {
                Some(data) => return Poll::Ready(Some(data.map(Frame::data))),
                None => self.state = State::Trailers,
            }
        }
        if self.state == State::Trailers {
            let trailers = ready!(self.stream.poll_trailers(context))?;
            self.state = State::Over;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(None)
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let polled = ready!(self.poll_any(context));
        Poll::Ready(match polled {
            Some(Err(error)) => {
                self.state = State::Broken;
                // It is told to the client, to whom this one would mean that all is well.
                let is_harmless = error.reason() == Some(Reason::NO_ERROR);
                Some(Err(if is_harmless { Reason::INTERNAL_ERROR.into() } else { error }))
            }
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && (self.state == State::Over || self.stream.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        self.left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + first))
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        // The stream may stay for long, and has what was read already no more use for.
        let _ = self.stream.flow_control().release_capacity(self.unreleased);
        match self.permit.take() {
            Some(permit) if self.is_end_stream() => upload.outlive(permit),
            _ => upload.abort(),
        }
    }
}

/// How long an answer says that it is, unless it says so in two ways. h2 holds it to that.
fn length(headers: &HeaderMap) -> Option<u64> {
    let mut fields = headers.get_all(CONTENT_LENGTH).iter();
    let field = fields.next()?;
    if fields.next().is_some() {
        return None;
    }
    let text = field.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}
