//! Faults of instances that speak HTTP/2.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use waypost_proto::instance::Protocol;

use super::{
    Counts, Got,
    Sees::{self, Bare, BreaksOff, Closed, Own, Refused, Whole},
    Speaks, all_meet, answered, ask, calm,
    frames::*,
    impatient,
};
use crate::support::{Instance, Proxy, soon};

/// What an instance does for the request that meets its fault, one after the other; then it goes on as if nothing had been.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// Fields of an answer, in a HEADERS frame with flags.
    Fields(u8, &'static [(&'static str, &'static str)]),
    /// A part of an answer's body, with flags.
    Data(u8, &'static str),
    /// RST_STREAM with a code.
    ResetStream(u32),
    /// GOAWAY with a code; whether the request's stream is among those that are served.
    GoAway(bool, u32),
    /// Any frame, on the request's stream or on another one.
    Frame(u8, u8, Option<u32>, &'static [u8]),
    /// Bytes that are no frame.
    Raw(&'static [u8]),
    /// Fields of this size.
    LongFields(usize),
    /// Awaits that the proxy has read what was sent.
    Heard,
    /// The end of the connection.
    Close,
    /// The connection is reset.
    Reset,
    /// Nothing more.
    Hang,
}
use Step::*;

/// An answer's head, and one that is all of an answer.
const HEAD: Step = Fields(0, &[(":status", "200")]);
const EMPTY: Step = Fields(END_STREAM, &[(":status", "200")]);
const HINTS: Step = Fields(0, &[(":status", "103"), ("link", "a")]);

/// Plays the steps; `None`: the connection is over.
async fn play(mut frames: Frames, stream: u32, steps: &[Step]) -> Option<Frames> {
    for step in steps {
        match *step {
            Fields(flags, fields) => frames.fields(flags, stream, fields).await,
            Data(flags, text) => frames.send(DATA, flags, stream, text.as_bytes()).await,
            ResetStream(code) => frames.reset_stream(stream, code).await,
            GoAway(served, code) => {
                frames.go_away(if served { stream } else { stream - 2.min(stream) }, code).await;
            }
            Frame(kind, flags, on, payload) => frames.send(kind, flags, on.unwrap_or(stream), payload).await,
            Raw(bytes) => frames.raw(bytes).await,
            LongFields(size) => frames.long_fields(stream, size).await,
            Heard => frames.heard().await?,
            Close => {
                frames.close().await;
                return None;
            }
            Reset => {
                frames.reset();
                return None;
            }
            Hang => {
                frames.hang().await;
                return None;
            }
        }
    }
    Some(frames)
}

/// An instance that answers each request with its body, and plays the steps for the one that meets its fault.
pub(super) async fn instance(steps: Vec<Step>, counts: Counts) -> Instance {
    Instance::start(move |wire, _| {
        let (steps, counts) = (steps.clone(), counts.clone());
        async move {
            let Some(mut frames) = Frames::greet(wire, &[]).await else { return };
            while let Some((stream, body)) = frames.request().await {
                if counts.request() {
                    let Some(rest) = play(frames, stream, &steps).await else { return };
                    frames = rest;
                } else {
                    frames.answer(stream, &body).await;
                }
            }
        }
    })
    .await
}

async fn each(faults: Vec<(&'static str, Sees, Vec<Step>)>) {
    all_meet(Protocol::Http2, &calm(), faults, instance).await;
}

const PROTOCOL: Sees = Own(502, "upstream_protocol");
const TIMEOUT: Sees = Own(504, "upstream_timeout");

#[tokio::test]
async fn a_stream_that_is_reset_is_no_answer() {
    each(vec![
        ("an error before the head", Closed, vec![ResetStream(INTERNAL_ERROR)]),
        ("a cancellation before the head", Closed, vec![ResetStream(CANCEL)]),
        ("no error before the head", Closed, vec![ResetStream(NO_ERROR)]),
        ("calm before the head", Closed, vec![ResetStream(ENHANCE_YOUR_CALM)]),
        ("an error after a 103", Closed, vec![HINTS, ResetStream(INTERNAL_ERROR)]),
        ("a refusal", Refused, vec![ResetStream(REFUSED_STREAM)]),
        ("an error after the head", Bare, vec![HEAD, ResetStream(INTERNAL_ERROR)]),
        (
            "an error after a part of no length",
            Bare,
            vec![HEAD, Data(0, ""), Heard, ResetStream(INTERNAL_ERROR)],
        ),
        ("an error in the body", BreaksOff, vec![HEAD, Data(0, "ab"), ResetStream(INTERNAL_ERROR)]),
        ("a cancellation in the body", BreaksOff, vec![HEAD, Data(0, "ab"), ResetStream(CANCEL)]),
        ("a refusal in the body", BreaksOff, vec![HEAD, Data(0, "ab"), ResetStream(REFUSED_STREAM)]),
        (
            "an error after the end",
            Whole(200, "ab"),
            vec![HEAD, Data(END_STREAM, "ab"), ResetStream(INTERNAL_ERROR)],
        ),
        (
            "an error after an empty end",
            Whole(200, ""),
            vec![HEAD, Data(END_STREAM, ""), ResetStream(INTERNAL_ERROR)],
        ),
        ("trailers and no body", Whole(200, ""), vec![HEAD, Fields(END_STREAM, &[("a", "b")])]),
        (
            "no error after the end",
            Whole(200, "ab"),
            vec![HEAD, Data(END_STREAM, "ab"), ResetStream(NO_ERROR)],
        ),
    ])
    .await;
}

#[tokio::test]
async fn no_error_is_no_end_of_an_answer() {
    each(vec![
        ("no error after the head", Bare, vec![HEAD, ResetStream(NO_ERROR)]),
        ("no error in the body", BreaksOff, vec![HEAD, Data(0, "ab"), ResetStream(NO_ERROR)]),
        (
            "gone without an error in the body",
            BreaksOff,
            vec![HEAD, Data(0, "ab"), GoAway(false, NO_ERROR), Close],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_connection_that_goes_away_serves_the_streams_that_it_says() {
    each(vec![
        (
            "it answers first",
            Whole(200, "ab"),
            vec![GoAway(true, NO_ERROR), HEAD, Data(END_STREAM, "ab"), Close],
        ),
        ("it does not answer", Closed, vec![GoAway(true, NO_ERROR), Close]),
        ("it is reset", Closed, vec![GoAway(true, NO_ERROR), Reset]),
        ("it has an error", Closed, vec![GoAway(true, INTERNAL_ERROR), Close]),
        ("in the body", BreaksOff, vec![HEAD, Data(0, "ab"), GoAway(true, NO_ERROR), Close]),
        (
            "in the body, with an error",
            BreaksOff,
            vec![HEAD, Data(0, "ab"), GoAway(true, INTERNAL_ERROR), Close],
        ),
        ("it has not looked", Refused, vec![GoAway(false, NO_ERROR), Close]),
        ("it has not looked, and stays", Refused, vec![GoAway(false, NO_ERROR), Hang]),
    ])
    .await;
}

#[tokio::test]
async fn a_connection_that_ends_is_no_end_of_an_answer() {
    each(vec![
        ("closed before the head", Closed, vec![Close]),
        ("reset before the head", Closed, vec![Reset]),
        ("closed in the head", Closed, vec![Raw(&[0, 0, 20, HEADERS, END_HEADERS, 0, 0, 0, 1, 0x88]), Close]),
        ("closed before the rest of the head", Closed, vec![Frame(HEADERS, 0, None, &[0x88]), Close]),
        ("closed after the head", Bare, vec![HEAD, Close]),
        ("closed in the body", BreaksOff, vec![HEAD, Data(0, "ab"), Close]),
        ("reset in the body", BreaksOff, vec![HEAD, Data(0, "ab"), Heard, Reset]),
        (
            "closed before the trailers",
            BreaksOff,
            vec![
                Fields(
                    0,
                    &[(":status", "200"), ("content-type", "application/grpc"), ("trailer", "grpc-status")],
                ),
                Data(0, "ab"),
                Close,
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_of_another_length_than_it_says_breaks_off() {
    let head = Fields(0, &[(":status", "200"), ("content-length", "4")]);
    each(vec![
        ("too short", Bare, vec![head, Data(END_STREAM, "ab")]),
        ("too long", Bare, vec![head, Data(END_STREAM, "abcdef")]),
        ("too short, with trailers", BreaksOff, vec![head, Data(0, "ab"), Fields(END_STREAM, &[("a", "b")])]),
        (
            "no trailers where some were named",
            Whole(200, "ab"),
            vec![Fields(0, &[(":status", "200"), ("trailer", "a")]), Data(END_STREAM, "ab")],
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_answer_is_none() {
    each(vec![
        ("no status", Closed, vec![Fields(END_STREAM, &[("a", "b")])]),
        ("a status that is none", Closed, vec![Fields(END_STREAM, &[(":status", "abc")])]),
        (
            "a field of one connection",
            Closed,
            vec![Fields(END_STREAM, &[(":status", "200"), ("connection", "close")])],
        ),
        ("a name in capitals", Closed, vec![Fields(END_STREAM, &[(":status", "200"), ("A", "b")])]),
        ("a body before the head", Closed, vec![Data(END_STREAM, "ab")]),
        (
            "a length that is no number",
            Closed,
            vec![Fields(0, &[(":status", "200"), ("content-length", "x")])],
        ),
        ("an interim answer that ends", Closed, vec![Fields(END_STREAM, &[(":status", "103")])]),
        ("a head that is too large", Closed, vec![LongFields(200_000)]),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_http2_ends_the_connection() {
    each(vec![
        ("HTTP/1.1", Closed, vec![Raw(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")]),
        ("a frame beyond the largest", Closed, vec![Raw(&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1])]),
        ("a body on no stream", Closed, vec![Frame(DATA, 0, Some(0), b"ab")]),
        ("fields that cannot be read", Closed, vec![Frame(HEADERS, END_HEADERS, None, &[0xff; 16])]),
        (
            "an answer on a stream that nobody began",
            Closed,
            vec![Frame(HEADERS, END_HEADERS, Some(99), &[0x88])],
        ),
        ("a push", Closed, vec![Frame(PUSH_PROMISE, END_HEADERS, None, &[0, 0, 0, 2, 0x88])]),
        ("more of no head", Closed, vec![Frame(CONTINUATION, END_HEADERS, None, &[0x88])]),
        (
            "a window that overflows",
            Closed,
            vec![
                Frame(WINDOW_UPDATE, 0, Some(0), &[0x7f, 0xff, 0xff, 0xff]),
                Frame(WINDOW_UPDATE, 0, Some(0), &[0x7f, 0xff, 0xff, 0xff]),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_instance_that_hangs_is_given_up() {
    let faults = vec![
        ("before the head", TIMEOUT, vec![]),
        ("after a 103", TIMEOUT, vec![HINTS]),
        ("after the head", BreaksOff, vec![HEAD]),
        ("in the body", BreaksOff, vec![HEAD, Data(0, "ab")]),
    ];
    all_meet(Protocol::Http2, &impatient(), faults, instance).await;
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    each(vec![
        ("an empty answer", Whole(200, ""), vec![EMPTY]),
        ("204", Whole(204, ""), vec![Fields(END_STREAM, &[(":status", "204")])]),
        ("101", Closed, vec![Fields(END_STREAM, &[(":status", "101")])]),
    ])
    .await;
}

#[tokio::test]
async fn what_follows_an_answer_without_a_body_is_dropped() {
    each(vec![("204", Whole(204, ""), vec![Fields(0, &[(":status", "204")]), Data(END_STREAM, "ab")])]).await;
}

#[tokio::test]
async fn interim_answers_are_skipped() {
    each(vec![("some", Whole(200, "ab"), [vec![HINTS; 30], vec![HEAD, Data(END_STREAM, "ab")]].concat())])
        .await;
}

#[tokio::test]
async fn a_flood_of_interim_answers_is_no_answer() {
    each(vec![("a flood", PROTOCOL, [vec![HINTS; 3000], vec![HEAD, Data(END_STREAM, "ab")]].concat())]).await;
}

#[tokio::test]
async fn a_connection_that_ends_while_idle_costs_nothing() {
    for (what, steps) in [
        ("closed", vec![EMPTY, Close]),
        ("reset", vec![EMPTY, Heard, Reset]),
        ("gone", vec![EMPTY, GoAway(true, NO_ERROR), Close]),
        ("gone with an error", vec![EMPTY, GoAway(true, ENHANCE_YOUR_CALM), Close]),
        ("an answer that nobody asked for", vec![EMPTY, Frame(HEADERS, END_HEADERS, Some(99), &[0x88])]),
        ("garbage", vec![EMPTY, Raw(b"HTTP/1.1 408 Request Timeout\r\n\r\n")]),
    ] {
        let counts = Counts::default();
        let instance = instance(steps, counts.clone()).await;
        let proxy = Proxy::speaking(Protocol::Http2, calm(), &[instance.address]);
        counts.armed.store(true, Ordering::SeqCst);
        let empty = Got::Whole { status: 200, reason: None, body: String::new() };
        assert_eq!(soon(what, ask(proxy.address, Speaks::Http1, "POST", 1)).await, empty, "{what}");
        // The first may be sent before the end was seen, and is then sent again.
        for number in 2..5 {
            let got = soon(what, ask(proxy.address, Speaks::Http1, "GET", number)).await;
            assert!(matches!(got, Got::Whole { status: 200, .. }), "{what}: {got:?}");
        }
        assert_eq!(ask(proxy.address, Speaks::Http2, "POST", 5).await, answered(5), "{what}");
    }
}

/// The instance takes no byte of the body, or not even the request, and says nothing.
#[tokio::test]
async fn an_instance_that_never_takes_the_body_is_given_up() {
    const INITIAL_WINDOW: (u16, u32) = (4, 0);
    const MOST_STREAMS: (u16, u32) = (3, 0);
    for setting in [INITIAL_WINDOW, MOST_STREAMS] {
        let instance = Instance::start(move |wire, _| async move {
            let Some(mut frames) = Frames::greet(wire, &[setting]).await else { return };
            frames.hang().await;
        })
        .await;
        let proxy = Proxy::speaking(Protocol::Http2, impatient(), &[instance.address]);
        let asked = [Speaks::Http1, Speaks::Http2].map(async |speaks| {
            match soon("an end", ask(proxy.address, speaks, "POST", 1)).await {
                Got::Whole { status: 504, reason, .. } => {
                    assert_eq!(reason.as_deref(), Some("upstream_timeout"));
                }
                // A client that speaks HTTP/1.1 is cut off where nothing moves.
                got => assert_eq!((got, speaks), (Got::BrokenOff, Speaks::Http1)),
            }
        });
        join_all(asked).await;
        proxy.until_in_flight(instance.address, 0).await;
    }
}
