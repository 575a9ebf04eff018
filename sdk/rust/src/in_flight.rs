//! How many requests are under way: a tower layer that counts them, for a server's load reports.
//!
//! A request counts from its head to the end of its answer's body, or until either is dropped. Deliberately absent:
//! connections that are upgraded (WebSockets), which are over for HTTP with their 101; and limits, which are the
//! proxies' matter.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

/// Counts the requests under way through every service that it is laid around. A clone counts into the same number.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<AtomicU64>);

impl InFlight {
    /// A counter at 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many requests are under way now.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn begin(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.0.clone())
    }
}

impl<S> Layer<S> for InFlight {
    type Service = InFlightService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        InFlightService { inner, in_flight: self.clone() }
    }
}

/// One request that counts until this is dropped.
#[derive(Debug)]
struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct InFlightService<S> {
    inner: S,
    in_flight: InFlight,
}

impl<S, Request, B> Service<Request> for InFlightService<S>
where
    S: Service<Request, Response = Response<B>>,
{
    type Response = Response<InFlightBody<B>>;
    type Error = S::Error;
    type Future = InFlightFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let counted = Some(self.in_flight.begin());
        InFlightFuture { answer: self.inner.call(request), counted }
    }
}

pin_project! {
    /// The answer of a service whose requests are counted.
    #[derive(Debug)]
    pub struct InFlightFuture<F> {
        #[pin]
        answer: F,
        counted: Option<Counted>,
    }
}

impl<F, B, E> Future for InFlightFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<InFlightBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context));
        let counted = this.counted.take();
        Poll::Ready(answer.map(|answer| answer.map(|body| InFlightBody { body, counted })))
    }
}

pin_project! {
    /// The body of a request that counts until it has ended.
    #[derive(Debug)]
    pub struct InFlightBody<B> {
        #[pin]
        body: B,
        counted: Option<Counted>,
    }
}

impl<B: Body> Body for InFlightBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            *this.counted = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use http_body_util::{BodyExt as _, StreamBody};
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    type Frames = VecDeque<Result<Frame<&'static [u8]>, &'static str>>;

    /// Answers with the frames of the request.
    fn counted(
        in_flight: &InFlight,
    ) -> impl Service<Frames, Response = Response<impl Body>, Error = Infallible> {
        let echo =
            |frames: Frames| async { Ok(Response::new(StreamBody::new(futures_util::stream::iter(frames)))) };
        in_flight.layer(service_fn(echo))
    }

    #[tokio::test]
    async fn a_request_counts_until_its_answer_has_ended() {
        let in_flight = InFlight::new();
        let frames = Frames::from([Ok(Frame::data(b"a".as_slice())), Ok(Frame::data(b"b".as_slice()))]);
        let answer = counted(&in_flight).oneshot(frames).await.expect("an answer");
        assert_eq!(in_flight.count(), 1, "the head is only the beginning");
        let mut body = std::pin::pin!(answer.into_body());
        assert!(body.frame().await.is_some());
        assert_eq!(in_flight.count(), 1, "there is more to come");
        assert!(body.frame().await.is_some() && body.frame().await.is_none());
        assert_eq!(in_flight.count(), 0);
    }

    #[tokio::test]
    async fn what_fails_or_is_given_up_counts_no_more() {
        let in_flight = InFlight::new();
        let broken = counted(&in_flight).oneshot(Frames::from([Err("broken")])).await.expect("an answer");
        let mut body = std::pin::pin!(broken.into_body());
        assert!(body.frame().await.expect("a frame").is_err());
        assert_eq!(in_flight.count(), 0, "its body failed");
        let dropped = counted(&in_flight).oneshot(Frames::new()).await.expect("an answer");
        assert_eq!(in_flight.count(), 1);
        drop(dropped);
        assert_eq!(in_flight.count(), 0, "nobody reads it any more");
        let never =
            in_flight.layer(service_fn(|()| std::future::pending::<Result<Response<String>, Infallible>>()));
        let unanswered = tokio::spawn(never.oneshot(()));
        while in_flight.count() == 0 {
            tokio::task::yield_now().await;
        }
        unanswered.abort();
        assert!(unanswered.await.expect_err("it never ends").is_cancelled());
        assert_eq!(in_flight.count(), 0, "nobody waits for it any more");
    }
}
