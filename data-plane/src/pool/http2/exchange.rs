//! One request over a shared connection: its head, its body, and the answer's head.

use std::{
    cell::RefCell,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_LENGTH};
use hyper::body::Body;

use super::{Http2Body, StreamPermit, streams::Load, upload::Upload};
use crate::{forward::RequestBody, http1::MOST_INTERIM};

/// One HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Http2 {
    /// Requests go over clones of it.
    sender: Rc<RefCell<SendRequest<Bytes>>>,
    load: Rc<Load>,
}

/// Why a request has no answer.
pub(crate) enum SendError {
    /// Nothing of it was sent. The request comes back.
    Unsent(Box<Request<RequestBody>>),
    /// Something of it may have been sent.
    Failed(h2::Error),
    /// The answer breaks a rule of HTTP.
    Protocol(&'static str),
    /// No answer came in time.
    Timeout,
}

impl Http2 {
    pub(super) fn new(sender: Rc<RefCell<SendRequest<Bytes>>>, load: Rc<Load>) -> Self {
        Self { sender, load }
    }

    /// Whether it takes requests: it was not closed, and the instance has not said that it will be.
    pub(super) fn is_open(&self) -> bool {
        takes_requests(&self.sender)
    }

    /// What it carries.
    pub(super) fn load(&self) -> &Rc<Load> {
        &self.load
    }

    /// Sends a request and waits for the answer's head. `limit` counts from when `is_sent` says so. Dropping the future, or
    /// the answer's body before its end, resets the stream.
    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
        mut permit: StreamPermit,
        limit: Duration,
        is_sent: impl AsyncFn(),
    ) -> Result<Response<Http2Body>, SendError> {
        let mut late = pin!(async {
            is_sent().await;
            tokio::time::sleep(limit).await;
        });
        let mut sender = self.sender.borrow().clone();
        let begun = match permit.try_begin(&mut sender) {
            Some(begun) => begun,
            // Boxed, so that it does not make every other request's future larger.
            None => tokio::select! {
                biased;
                begun = Box::pin(permit.begin(&mut sender)) => begun,
                () = late.as_mut() => return Err(SendError::Timeout),
            },
        };
        if begun.is_err() {
            return Err(SendError::Unsent(Box::new(request)));
        }
        let mut exchange = Exchange::begin(sender, request)?;
        let answered = tokio::select! {
            biased;
            answered = &mut exchange => answered,
            () = late => return Err(SendError::Timeout),
        };
        let (parts, stream) = answered?.into_parts();
        let body = Http2Body::new(stream, &parts, exchange.upload, permit);
        Ok(Response::from_parts(parts, body))
    }
}

/// A request that was sent, but for what is left of its body. Ready when the answer's head is there.
struct Exchange {
    answer: ResponseFuture,
    /// `None` once all was sent that will be.
    upload: Option<Upload>,
    /// How many interim answers there were.
    interim: u32,
}

impl Exchange {
    fn begin(mut sender: SendRequest<Bytes>, request: Request<RequestBody>) -> Result<Self, SendError> {
        let (parts, body) = request.into_parts();
        let mut head = Request::from_parts(parts, ());
        declare_length(&mut head, &body);
        let is_whole = body.is_end_stream();
        let (answer, stream) = sender.send_request(head, is_whole).map_err(SendError::Failed)?;
        let upload = (!is_whole).then(|| Upload::new(sender, stream, body));
        Ok(Self { answer, upload, interim: 0 })
    }
}

impl Future for Exchange {
    type Output = Result<Response<h2::RecvStream>, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { answer, upload, interim } = &mut *self;
        while let Poll::Ready(Some(Ok(head))) = answer.poll_informational(context) {
            *interim += 1;
            if *interim > MOST_INTERIM {
                return Poll::Ready(Err(SendError::Protocol("it goes on with interim answers")));
            }
            if let Some(sending) = upload
                && head.status() == StatusCode::CONTINUE
                && sending.is_held_back()
            {
                sending.let_pass();
            }
        }
        // First: a stream that is refused leaves the body as it was.
        let answered = Pin::new(&mut *answer).poll(context);
        if answered.is_ready() {
            return answered.map_err(SendError::Failed);
        }
        let Some(sending) = upload else { return Poll::Pending };
        ready!(Pin::new(sending).poll(context));
        *upload = None;
        // The end of the body may have been the stream's.
        Pin::new(answer).poll(context).map_err(SendError::Failed)
    }
}

/// Whether another request may be sent.
pub(super) fn takes_requests(sender: &RefCell<SendRequest<Bytes>>) -> bool {
    // Nothing is sent by this one, so that there is nothing to wait for.
    let ready = sender.borrow_mut().poll_ready(&mut Context::from_waker(Waker::noop()));
    matches!(ready, Poll::Ready(Ok(())))
}

/// Says how long a body is, where that is known and nobody has. A method that comes with a body by its definition says so
/// where there is none (RFC 9110, section 8.6).
fn declare_length(head: &mut Request<()>, body: &RequestBody) {
    let Some(length) = body.size_hint().exact() else { return };
    let has_body = !matches!(*head.method(), Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT);
    if length != 0 || has_body {
        head.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}
