//! A request's body on its way to an instance, at the instance's pace.
//!
//! One frame is held while there is no room for it, and one more may wait in h2: the first one goes there whether there is
//! room or not, so that a body of one frame takes one step.
//!
//! An upload may outlive its answer. Nobody waits for it then, so that it has a limit of its own: it ends once nothing of it
//! was taken for as long as a body may pause.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream, client::SendRequest};
use hyper::body::Body;
use tokio::{task::JoinHandle, time::timeout};

use super::StreamPermit;
use crate::forward::RequestBody;

/// A body that is being sent. Ready when nothing more of it will be; what has become of the stream is the answer's to say.
pub(super) struct Upload {
    /// Says when the stream has begun, until it has.
    opening: Option<SendRequest<Bytes>>,
    stream: SendStream<Bytes>,
    body: RequestBody,
    /// What there was no room for, and whether it is the last.
    held: Option<(Bytes, bool)>,
    /// Whether a frame was sent.
    has_begun: bool,
    /// Whether the answer's head was there already.
    is_late: bool,
    /// How many frames were sent, for whoever watches.
    sent: Rc<Cell<u64>>,
}

/// The task of a body that is still being sent when its answer has begun.
pub(super) struct LateUpload {
    task: JoinHandle<()>,
    /// The stream's place, where the answer has ended first.
    permit: Rc<Cell<Option<StreamPermit>>>,
    /// How many frames were sent.
    sent: Rc<Cell<u64>>,
    /// For how long none may be.
    pause: Duration,
}

impl Upload {
    pub(super) fn new(opening: SendRequest<Bytes>, stream: SendStream<Bytes>, body: RequestBody) -> Self {
        let (opening, sent) = (Some(opening), Rc::default());
        Self { opening, stream, body, held: None, has_begun: false, is_late: false, sent }
    }

    /// Whether it waits for a 100.
    pub(super) fn is_held_back(&self) -> bool {
        self.body.is_held_back()
    }

    /// Notes that the 100 has come.
    pub(super) fn let_pass(&self) {
        self.body.let_pass();
    }

    /// Goes on in a task of its own.
    pub(super) fn go_on(mut self) -> LateUpload {
        self.is_late = true;
        let permit = Rc::default();
        let held = Rc::clone(&permit);
        let (sent, pause) = (Rc::clone(&self.sent), self.body.longest_pause());
        let task = tokio::task::spawn_local(async move {
            self.await;
            drop(held);
        });
        LateUpload { task, permit, sent, pause }
    }

    fn poll_held(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if self.held.is_some() && self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            }
        }
        Poll::Ready(match self.held.take() {
            Some((bytes, is_last)) => {
                self.sent.set(self.sent.get() + 1);
                self.stream.send_data(bytes, is_last)
            }
            None => Ok(()),
        })
    }

    /// Whether nobody wants more of it.
    fn is_stopped(&mut self, context: &mut Context<'_>) -> bool {
        // Before the answer's head a reset ends the wait for that, and there is no refusal yet.
        self.is_late && (self.stream.poll_reset(context).is_ready() || self.body.is_unwanted())
    }

    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if let Some(opening) = &mut self.opening {
            // A connection that takes no more requests may still carry this one.
            let _ = ready!(opening.poll_ready(context));
            self.opening = None;
        }
        loop {
            if let Some((_, is_last)) = self.held {
                ready!(self.poll_held(context))?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                return if self.is_stopped(context) { Poll::Ready(Ok(())) } else { Poll::Pending };
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Ok(()));
                }
                None => return Poll::Ready(self.stream.send_data(Bytes::new(), true)),
            };
            match frame.into_data() {
                Ok(data) => {
                    let is_last = self.body.is_end_stream();
                    if !self.has_begun || data.is_empty() {
                        self.has_begun = true;
                        self.stream.send_data(data, is_last)?;
                        if is_last {
                            return Poll::Ready(Ok(()));
                        }
                    } else {
                        // No more than this: what is reserved for one stream is not there for others.
                        self.stream.reserve_capacity(1);
                        self.held = Some((data, is_last));
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.stream.reserve_capacity(0);
                        return Poll::Ready(self.stream.send_trailers(trailers));
                    }
                }
            }
        }
    }
}

impl Future for Upload {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.poll_sent(context).map(|_| ())
    }
}

impl LateUpload {
    /// Notes that the answer was read to its end. The rest of the body goes its way, and keeps the stream's place meanwhile.
    pub(super) fn outlive(self, permit: StreamPermit) {
        if Rc::strong_count(&self.permit) > 1 {
            self.permit.set(Some(permit));
            tokio::task::spawn_local(watch(self.task, self.sent, self.pause));
        }
    }

    /// Ends it, and with it the stream.
    pub(super) fn abort(self) {
        self.task.abort();
    }
}

/// Ends an upload that makes no progress: of which the instance takes nothing, or to which the client adds nothing.
async fn watch(mut task: JoinHandle<()>, sent: Rc<Cell<u64>>, pause: Duration) {
    let mut before = sent.get();
    while timeout(pause, &mut task).await.is_err() {
        if sent.get() == before {
            return task.abort();
        }
        before = sent.get();
    }
}
