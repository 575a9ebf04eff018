//! An answer on its way to a client.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{
    HeaderName, HeaderValue, Response,
    header::{CONTENT_LENGTH, DATE},
};
use hyper::body::Body;

use super::{
    FULL,
    body::{Shared, code_of},
};
use crate::{
    forward::ResponseBody,
    http2::{Key, Sent},
    serve::Worker,
};

/// How many frames an answer may send before it is another's turn.
const FRAMES: usize = 4;

/// What is left of an answer whose head was sent.
pub(super) struct Answer {
    key: Key,
    body: ResponseBody,
    /// What there was no room for.
    held: Bytes,
    /// Whether nothing follows it.
    is_last: bool,
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing more of it will be sent.
    Over,
    /// It waits for a window.
    Blocked,
    /// It waits until the client has read more of what was written.
    HeldBack,
    /// It waits for more of itself.
    Paused,
    /// It would go on if it were alone.
    Yielded,
}

impl Answer {
    /// Sends a head. `None`: that was all of it.
    pub(super) fn begin(
        shared: &Shared,
        worker: &Rc<Worker>,
        key: Key,
        response: Response<ResponseBody>,
    ) -> Option<Self> {
        let (head, body) = response.into_parts();
        let is_over = body.is_end_stream();
        // Who has no clock leaves it to us to say when (RFC 9110, section 6.6.1).
        let date = (!head.headers.contains_key(DATE)).then(|| date(worker));
        let length = if is_over || head.headers.contains_key(CONTENT_LENGTH) {
            None
        } else {
            body.size_hint().exact()
        };
        let length = length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length)));
        let extra = date.into_iter().chain(length);
        shared.connection.borrow_mut().send_head(key, head.status, &head.headers, extra, is_over);
        (!is_over).then(|| Self { key, body, held: Bytes::new(), is_last: false })
    }

    /// Whose it is.
    pub(super) fn key(&self) -> Key {
        self.key
    }

    /// Sends what can be sent now.
    pub(super) fn go_on(&mut self, shared: &Shared, context: &mut Context<'_>) -> Progress {
        for _ in 0..FRAMES {
            if self.held.is_empty() && !self.is_last {
                if shared.connection.borrow_mut().output().remaining() >= FULL {
                    return Progress::HeldBack;
                }
                let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                    return Progress::Paused;
                };
                match frame.map(|frame| frame.map(hyper::body::Frame::into_data)) {
                    Some(Ok(Ok(data))) => {
                        self.is_last = self.body.is_end_stream();
                        self.held = data;
                        if self.held.is_empty() && !self.is_last {
                            continue;
                        }
                    }
                    Some(Ok(Err(frame))) => match frame.into_trailers() {
                        Ok(trailers) => {
                            shared.connection.borrow_mut().send_trailers(self.key, &trailers);
                            return Progress::Over;
                        }
                        Err(_) => continue,
                    },
                    Some(Err(error)) => {
                        shared.connection.borrow_mut().reset(self.key, code_of(&error));
                        return Progress::Over;
                    }
                    None => self.is_last = true,
                }
            }
            let mut connection = shared.connection.borrow_mut();
            if connection.output().remaining() >= FULL {
                return Progress::HeldBack;
            }
            match connection.send_data(self.key, &mut self.held, self.is_last) {
                Sent::All if self.is_last => return Progress::Over,
                Sent::All | Sent::Some => {}
                Sent::Blocked(_) => return Progress::Blocked,
                Sent::Closed => return Progress::Over,
            }
        }
        Progress::Yielded
    }
}

/// The time, as a field.
pub(super) fn date(worker: &Worker) -> (HeaderName, HeaderValue) {
    (DATE, worker.date())
}
