//! Requests over sockets that take as little as they like.

use std::collections::VecDeque;

use http::HeaderValue;

use super::*;
use crate::headers::HopOptions;

/// A body that gives these frames.
#[derive(Default)]
struct Frames(VecDeque<Poll<Result<Frame<Bytes>, BodyFailure>>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        match self.0.pop_front() {
            Some(frame) => frame.map(Some),
            None => Poll::Ready(None),
        }
    }
}

/// A socket that takes a few bytes at a time, and fails after some.
struct Slow {
    taken: Vec<u8>,
    at_once: usize,
    fails_after: usize,
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.taken.len() >= self.fails_after {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(self.at_once);
        self.taken.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.poll_write(context, &all)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const HEAD: &str = "PUT / HTTP/1.1\r\nhost: a\r\ntrailer: x-sum\r\n";

/// Sends until there is an end, in steps of `at_once` bytes.
fn send(
    length: Length,
    frames: Frames,
    at_once: usize,
    fails_after: usize,
) -> (String, Result<(), UploadError>) {
    let (host, options) = (HeaderValue::from_static("a"), HopOptions::default());
    let headers = HeaderMap::from_iter([(http::header::TRAILER, HeaderValue::from_static("x-sum"))]);
    let (method, target) = (&Method::PUT, "/");
    let head = Head { method, target, host: &host, headers: &headers, options: &options, length };
    let mut upload = Upload::new(&head, frames, Vec::new());
    let mut socket = Slow { taken: Vec::new(), at_once, fails_after };
    let mut context = Context::from_waker(std::task::Waker::noop());
    for _ in 0..10 {
        if let Poll::Ready(ended) = upload.poll(&mut socket, &mut context) {
            return (String::from_utf8(socket.taken).expect("text"), ended);
        }
    }
    panic!("it does not end");
}

fn data(text: &'static str) -> Poll<Result<Frame<Bytes>, BodyFailure>> {
    Poll::Ready(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))
}

#[test]
fn a_request_is_whole_however_little_the_socket_takes() {
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("1"))]);
    for at_once in 1..100 {
        let frames = Frames([data("abc"), Poll::Pending, data(""), data("0123456789")].into());
        let (sent, ended) = send(Length::Exact(13), frames, at_once, usize::MAX);
        assert!(ended.is_ok());
        assert_eq!(sent, format!("{HEAD}content-length: 13\r\n\r\nabc0123456789"));

        let end = Poll::Ready(Ok(Frame::trailers(trailers.clone())));
        let frames = Frames([Poll::Pending, data("abc"), data(""), data("0123456789"), end].into());
        let (sent, ended) = send(Length::Chunked, frames, at_once, usize::MAX);
        assert!(ended.is_ok());
        let chunks = "3\r\nabc\r\na\r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\n";
        assert_eq!(sent, format!("{HEAD}transfer-encoding: chunked\r\n\r\n{chunks}"));
    }
    let (sent, _) = send(Length::None, Frames::default(), 7, usize::MAX);
    assert_eq!(sent, format!("{HEAD}\r\n"));
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_is_not_made_to_look_so() {
    for (length, frames) in [(5, vec![data("abc")]), (5, vec![data("abc"), data("def")])] {
        let (sent, ended) = send(Length::Exact(length), Frames(frames.into()), 100, usize::MAX);
        assert!(matches!(ended, Err(UploadError::Body(BodyFailure::Broken))), "{ended:?}");
        assert!(!sent.ends_with("abcdef") && !sent.ends_with("abcde"), "{sent}");
    }
    let broken = Poll::Ready(Err(BodyFailure::Stalled));
    let (sent, ended) = send(Length::Chunked, Frames([data("abc"), broken].into()), 100, usize::MAX);
    assert!(matches!(ended, Err(UploadError::Body(BodyFailure::Stalled))), "{ended:?}");
    assert!(sent.ends_with("abc\r\n"), "{sent}");
}

#[test]
fn it_is_known_whether_anything_was_sent_or_taken() {
    let waiting = || Frames([Poll::Pending, data("abc")].into());
    for (frames, fails_after, unsent) in
        [(waiting(), 0, true), (waiting(), 1, false), (Frames([data("abc")].into()), 0, false)]
    {
        let (_, ended) = send(Length::Exact(3), frames, 4, fails_after);
        assert_eq!(matches!(ended, Err(UploadError::Unsent)), unsent, "{ended:?}");
        assert_eq!(matches!(ended, Err(UploadError::Closed)), !unsent, "{ended:?}");
    }
}
