//! The core of HTTP/2: its rules, and the attacks on them.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use proptest::prelude::*;

use super::{
    frame::{self, END_HEADERS, END_STREAM, HEAD, Head, LARGEST, PADDED, PRIORITISED, kind},
    send::Blocked,
    windows::{self, FIRST, MOST_WIDE, UPDATE, WIDE},
    *,
};

const LIMITS: Limits = Limits { streams: 10, header_bytes: 16 << 10 };

/// A client that knows what it does.
struct Client {
    connection: Connection,
    now: Instant,
}

/// What an event says, to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Request(u32, String, bool),
    TooLarge(u32),
    Data(u32, Bytes, bool),
    Trailers(u32, HeaderMap),
    Reset(u32),
    Room(Option<u32>),
}

fn said(event: &Event) -> Said {
    match event {
        Event::Request { key, is_too_large: true, .. } => Said::TooLarge(key.id),
        Event::Request { key, head, ends, .. } => {
            let fields: Vec<_> =
                head.headers.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
            let fields = fields.join(" ");
            Said::Request(
                key.id,
                format!("{} {} {fields}", head.method, head.uri).trim_end().to_owned(),
                *ends,
            )
        }
        Event::Data { key, data, ends } => Said::Data(key.id, data.clone(), *ends),
        Event::Trailers { key, trailers } => Said::Trailers(key.id, trailers.clone()),
        Event::Reset { key } => Said::Reset(key.id),
        Event::Room(key) => Said::Room(key.map(|key| key.id)),
    }
}

fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    Head { length: payload.len(), kind, flags, stream }.write(&mut out);
    out.extend_from_slice(payload);
    out.to_vec()
}

/// Headers as literals, neither compressed nor kept.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

fn head(id: u32, fields: &[(&str, &str)], ends: bool) -> Vec<u8> {
    let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
    framed(kind::HEADERS, flags, id, &block(fields))
}

impl Client {
    fn new() -> Self {
        let now = Instant::now();
        let mut client = Self { connection: Connection::new(LIMITS, now), now };
        let mut hello = PREFACE.to_vec();
        hello.extend(framed(kind::SETTINGS, 0, 0, &[]));
        assert_eq!(client.send(&hello), Ok(vec![]));
        client.take();
        client
    }

    fn events(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Failed> {
        let (mut input, mut events) = (BytesMut::from(bytes), Vec::new());
        while let Some(event) = self.connection.receive(&mut input, self.now)? {
            events.push(event);
        }
        assert!(input.is_empty(), "all was read");
        Ok(events)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Vec<Said>, Failed> {
        Ok(self.events(bytes)?.iter().map(said).collect())
    }

    /// Opens a stream.
    fn open(&mut self, id: u32, fields: &[(&str, &str)], ends: bool) -> Key {
        match self.events(&head(id, fields, ends)).expect("it is in order").as_slice() {
            [Event::Request { key, .. }] => *key,
            other => panic!("no request: {other:?}"),
        }
    }

    /// What was answered: kind, flags, stream and payload of each frame.
    fn take(&mut self) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let output = self.connection.output();
        let mut bytes = output.copy_to_bytes(output.remaining());
        let mut frames = Vec::new();
        while let Some(head) = Head::read(&bytes) {
            bytes.advance(HEAD);
            frames.push((head.kind, head.flags, head.stream, bytes.split_to(head.length).to_vec()));
        }
        assert!(bytes.is_empty(), "frames are whole");
        frames
    }

    /// Which code a stream was reset with.
    fn reset_of(&mut self, id: u32) -> Option<Code> {
        let of = |frame: &(u8, u8, u32, Vec<u8>)| {
            (frame.0 == kind::RST_STREAM && frame.2 == id)
                .then(|| Code(frame::number(&frame.3, 0).unwrap_or(99)))
        };
        self.take().iter().find_map(of)
    }

    /// What the connection ends with.
    fn end(&mut self, bytes: &[u8]) -> Option<Code> {
        let failed = self.send(bytes).is_err();
        let frames = self.take();
        let last = frames.last().filter(|frame| frame.0 == kind::GOAWAY)?;
        assert!(failed && self.connection.is_over());
        frame::number(&last.3, 4).map(Code)
    }
}

#[test]
fn a_request_comes_with_its_body_and_its_trailers() {
    let mut client = Client::new();
    let bytes = [
        head(1, &[POST.as_slice(), &[("content-length", "3"), ("te", "trailers")]].concat(), false),
        framed(kind::DATA, PADDED, 1, b"\x02abc\0\0"),
        head(1, &[("x-sum", "6")], true),
        head(3, &GET, true),
    ]
    .concat();
    let request = "POST http://a/ content-length=\"3\" te=\"trailers\"".to_owned();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("6"));
    let expected = vec![
        Said::Request(1, request, false),
        Said::Data(1, Bytes::from_static(b"abc"), false),
        Said::Trailers(1, trailers),
        Said::Request(3, "GET http://a/".to_owned(), true),
    ];
    assert_eq!(client.send(&bytes), Ok(expected));
    assert_eq!(client.connection.open_streams(), 2);
}

#[test]
fn malformed_requests_are_reset_and_others_go_on() {
    let without = |name| GET.iter().copied().filter(|(known, _)| *known != name).collect::<Vec<_>>();
    let with = |more: &[(&'static str, &'static str)]| [GET.as_slice(), more].concat();
    let cases = [
        (without(":method"), "no method"),
        (without(":scheme"), "no scheme"),
        (without(":path"), "no path"),
        (with(&[(":path", "/twice")]), "a path twice"),
        (with(&[(":status", "200")]), "a status"),
        (with(&[(":unknown", "1")]), "unknown control data"),
        (with(&[("x", "1"), (":protocol", "websocket")]), "control data after fields"),
        (with(&[(":protocol", "websocket")]), "a protocol without CONNECT"),
        (with(&[("Upper", "1")]), "upper case"),
        (with(&[("connection", "close")]), "a field of one hop"),
        (with(&[("keep-alive", "1")]), "a field of one hop"),
        (with(&[("transfer-encoding", "chunked")]), "a field of one hop"),
        (with(&[("te", "gzip")]), "a te of another kind"),
        (with(&[("content-length", "1")]), "a body that does not come"),
        (with(&[("content-length", "x")]), "a length that is none"),
        (with(&[("x", " 1")]), "a blank before a value"),
        (with(&[("x", "1\n2")]), "a line feed in a value"),
        (with(&[("", "1")]), "an empty name"),
        (vec![(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "a")], "an empty path"),
        (
            vec![(":method", "GET"), (":scheme", "http"), (":path", "x"), (":authority", "a")],
            "a relative path",
        ),
        (vec![(":method", "GET"), (":scheme", "http"), (":path", "*"), (":authority", "a")], "all of it"),
        (vec![(":method", "CONNECT"), (":path", "/"), (":authority", "a")], "CONNECT with a path"),
        (vec![(":method", "CONNECT")], "CONNECT to nobody"),
    ];
    let mut client = Client::new();
    for (at, (fields, why)) in cases.into_iter().enumerate() {
        let id = at as u32 * 2 + 1;
        assert_eq!(client.send(&head(id, &fields, true)), Ok(vec![]), "{why}");
        assert_eq!(client.reset_of(id), Some(Code::PROTOCOL_ERROR), "{why}");
    }
    client.open(101, &[(":method", "CONNECT"), (":authority", "a:1")], false);
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a"),
    ];
    let events = client.events(&head(103, &connect, false)).expect("it is in order");
    let Some(Event::Request { head: parts, .. }) = events.first() else { panic!("{events:?}") };
    assert_eq!(parts.extensions.get::<Protocol>(), Some(&Protocol(Bytes::from_static(b"websocket"))));
    assert_eq!(parts.method, Method::CONNECT);
}

#[test]
fn bodies_and_trailers_that_break_a_rule_are_reset() {
    let with_length = [POST.as_slice(), &[("content-length", "3")]].concat();
    let cases = [
        (&with_length[..], framed(kind::DATA, 0, 1, b"abcd"), Code::PROTOCOL_ERROR, "more than was said"),
        (&with_length, framed(kind::DATA, END_STREAM, 1, b"ab"), Code::PROTOCOL_ERROR, "less than was said"),
        (&with_length, head(1, &[("x", "1")], true), Code::PROTOCOL_ERROR, "less, with trailers"),
        (&POST, head(1, &[("x", "1")], false), Code::PROTOCOL_ERROR, "trailers that do not end it"),
        (&POST, head(1, &[(":path", "/")], true), Code::PROTOCOL_ERROR, "control data in trailers"),
        (
            &POST,
            framed(kind::WINDOW_UPDATE, 0, 1, &[0; 4]),
            Code::PROTOCOL_ERROR,
            "a window that does not grow",
        ),
        (
            &POST,
            framed(kind::WINDOW_UPDATE, 0, 1, &LARGEST.to_be_bytes()),
            Code::FLOW_CONTROL_ERROR,
            "too large",
        ),
    ];
    for (request, bytes, code, why) in cases {
        let mut client = Client::new();
        client.open(1, request, false);
        assert_eq!(client.send(&bytes), Ok(vec![Said::Reset(1)]), "{why}");
        assert_eq!(client.reset_of(1), Some(code), "{why}");
        assert_eq!(
            client.send(&framed(kind::DATA, 0, 1, b"late")),
            Ok(vec![]),
            "what comes late is no fault: {why}"
        );
        client.open(3, &GET, true);
    }
}

#[test]
fn frames_that_no_connection_survives_are_named() {
    let sized = |kind, stream, length| framed(kind, 0, stream, &vec![0; length]);
    let cases = [
        (framed(kind::DATA, 0, 1, b"x"), Code::PROTOCOL_ERROR, "data of a stream that was never opened"),
        (sized(kind::DATA, 0, 1), Code::PROTOCOL_ERROR, "data of no stream"),
        (
            framed(kind::HEADERS, END_HEADERS, 2, &block(&GET)),
            Code::PROTOCOL_ERROR,
            "a stream of the server's",
        ),
        (framed(kind::HEADERS, END_HEADERS | PADDED, 1, &[9, 1]), Code::PROTOCOL_ERROR, "too much padding"),
        (
            framed(kind::HEADERS, END_HEADERS | PRIORITISED, 1, &[0; 3]),
            Code::PROTOCOL_ERROR,
            "half a priority",
        ),
        (framed(kind::HEADERS, END_HEADERS, 1, &[0xff, 0xff]), Code::COMPRESSION_ERROR, "no headers"),
        (
            framed(kind::HEADERS, END_HEADERS, 1, &[0x3f, 0xe2, 0x1f]),
            Code::COMPRESSION_ERROR,
            "too large a table",
        ),
        (framed(kind::CONTINUATION, END_HEADERS, 1, &[]), Code::PROTOCOL_ERROR, "the rest of nothing"),
        (
            [framed(kind::HEADERS, 0, 1, &[]), sized(kind::PING, 0, 8)].concat(),
            Code::PROTOCOL_ERROR,
            "a ping between",
        ),
        (
            [framed(kind::HEADERS, 0, 1, &[]), sized(kind::CONTINUATION, 3, 1)].concat(),
            Code::PROTOCOL_ERROR,
            "another",
        ),
        (sized(kind::PRIORITY, 0, 5), Code::PROTOCOL_ERROR, "a priority of no stream"),
        (sized(kind::PRIORITY, 1, 4), Code::FRAME_SIZE_ERROR, "half a priority"),
        (
            framed(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0]),
            Code::PROTOCOL_ERROR,
            "a stream that depends on itself",
        ),
        (sized(kind::RST_STREAM, 0, 4), Code::PROTOCOL_ERROR, "a reset of no stream"),
        (sized(kind::RST_STREAM, 1, 4), Code::PROTOCOL_ERROR, "a reset of a stream that was never opened"),
        (sized(kind::RST_STREAM, 1, 3), Code::FRAME_SIZE_ERROR, "half a reset"),
        (sized(kind::SETTINGS, 1, 0), Code::PROTOCOL_ERROR, "settings of a stream"),
        (sized(kind::SETTINGS, 0, 5), Code::FRAME_SIZE_ERROR, "half a setting"),
        (framed(kind::SETTINGS, 1, 0, &[0; 6]), Code::FRAME_SIZE_ERROR, "settings that only say yes"),
        (framed(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), Code::PROTOCOL_ERROR, "a push that is neither"),
        (
            framed(kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
            Code::FLOW_CONTROL_ERROR,
            "too large a window",
        ),
        (framed(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 9]), Code::PROTOCOL_ERROR, "too small a frame"),
        (sized(kind::PUSH_PROMISE, 1, 4), Code::PROTOCOL_ERROR, "a client that pushes"),
        (sized(kind::PING, 1, 8), Code::PROTOCOL_ERROR, "a ping of a stream"),
        (sized(kind::PING, 0, 7), Code::FRAME_SIZE_ERROR, "half a ping"),
        (sized(kind::GOAWAY, 1, 8), Code::PROTOCOL_ERROR, "an end of a stream"),
        (sized(kind::WINDOW_UPDATE, 0, 3), Code::FRAME_SIZE_ERROR, "half a window"),
        (sized(kind::WINDOW_UPDATE, 0, 4), Code::PROTOCOL_ERROR, "a window that does not grow"),
        (
            sized(kind::WINDOW_UPDATE, 1, 4),
            Code::PROTOCOL_ERROR,
            "a window of a stream that was never opened",
        ),
        (
            framed(kind::WINDOW_UPDATE, 0, 0, &LARGEST.to_be_bytes()),
            Code::FLOW_CONTROL_ERROR,
            "too large a window",
        ),
        (sized(99, 0, frame::MOST + 1), Code::FRAME_SIZE_ERROR, "too large a frame"),
    ];
    for (bytes, code, why) in cases {
        assert_eq!(Client::new().end(&bytes), Some(code), "{why}");
    }
}

#[test]
fn a_connection_begins_with_its_preface_and_settings() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[PREFACE, &framed(kind::PING, 0, 0, &[0; 8])].concat()] {
        let now = Instant::now();
        let mut client = Client { connection: Connection::new(LIMITS, now), now };
        let mut input = BytesMut::from(bytes);
        assert!(client.connection.receive(&mut input, now).is_err());
        assert_eq!(client.take().last().map(|frame| frame.0), Some(kind::GOAWAY));
    }
}

#[test]
fn identifiers_are_not_used_again() {
    let mut client = Client::new();
    let key = client.open(5, &GET, true);
    assert_eq!(client.end(&head(3, &GET, true)), Some(Code::PROTOCOL_ERROR), "one that was passed over");
    let mut client = Client::new();
    client.open(5, &GET, true);
    client.connection.send_head(key, StatusCode::OK, &HeaderMap::new(), [], true);
    assert_eq!(client.connection.open_streams(), 0);
    assert_eq!(client.end(&head(5, &GET, true)), Some(Code::STREAM_CLOSED), "one that is closed");
    let mut client = Client::new();
    client.open(5, &GET, true);
    assert_eq!(client.send(&framed(kind::DATA, 0, 5, b"x")), Ok(vec![Said::Reset(5)]), "one that has ended");
    assert_eq!(client.reset_of(5), Some(Code::STREAM_CLOSED));
}

#[test]
fn no_more_streams_are_open_than_were_allowed() {
    let mut client = Client::new();
    for id in 0..LIMITS.streams {
        client.open(id * 2 + 1, &GET, true);
    }
    assert_eq!(client.send(&head(101, &GET, true)), Ok(vec![]));
    assert_eq!(client.reset_of(101), Some(Code::REFUSED_STREAM));
    assert_eq!(client.send(&framed(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8])), Ok(vec![Said::Reset(1)]));
    client.open(103, &GET, true);
}

#[test]
fn an_answer_flows_within_both_windows() {
    let mut client = Client::new();
    let small = framed(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]);
    assert_eq!(client.send(&small), Ok(vec![Said::Room(None)]));
    let key = client.open(1, &GET, true);
    client.connection.send_head(key, StatusCode::OK, &HeaderMap::new(), [], false);
    let mut data = Bytes::from(vec![7; 15]);
    assert_eq!(client.connection.send_data(key, &mut data, true), Sent::Some);
    assert_eq!(client.connection.send_data(key, &mut data, true), Sent::Blocked(Blocked::Stream));
    let frames: Vec<_> = client.take().into_iter().map(|frame| (frame.0, frame.1, frame.3.len())).collect();
    assert_eq!(frames, [(kind::SETTINGS, 1, 0), (kind::HEADERS, END_HEADERS, 1), (kind::DATA, 0, 10)]);
    // The window may become less than nothing.
    assert!(client.send(&framed(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 5])).is_ok());
    let more = |count: u32| framed(kind::WINDOW_UPDATE, 0, 1, &count.to_be_bytes());
    assert_eq!(client.send(&more(5)), Ok(vec![Said::Room(Some(1))]));
    assert_eq!(client.connection.send_data(key, &mut data, true), Sent::Blocked(Blocked::Stream));
    assert!(client.send(&more(5)).is_ok());
    assert_eq!(client.connection.send_data(key, &mut data, true), Sent::All);
    assert_eq!(client.take().last().map(|frame| (frame.0, frame.1)), Some((kind::DATA, END_STREAM)));
    assert_eq!(client.connection.open_streams(), 0);
}

#[test]
fn the_connections_window_holds_for_all() {
    let mut client = Client::new();
    assert!(client.send(&framed(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0xff, 0xff])).is_ok());
    let keys = [client.open(1, &GET, true), client.open(3, &GET, true)];
    let mut data = Bytes::from(vec![7; 65_535]);
    while !data.is_empty() {
        assert_ne!(client.connection.send_data(keys[0], &mut data, false), Sent::Closed);
    }
    let mut more = Bytes::from_static(b"x");
    assert_eq!(client.connection.send_data(keys[1], &mut more, true), Sent::Blocked(Blocked::Connection));
    let grown = framed(kind::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
    assert_eq!(client.send(&grown), Ok(vec![Said::Room(None)]));
    assert_eq!(client.connection.send_data(keys[1], &mut more, true), Sent::All);
}

/// Fills a stream's window up to what is left of it.
fn fill(client: &mut Client, id: u32, count: u32) {
    for _ in 0..count / 16_384 {
        assert_eq!(client.send(&framed(kind::DATA, 0, id, &[1; 16_384])).map(|said| said.len()), Ok(1));
    }
}

#[test]
fn what_nobody_has_read_is_bounded_and_comes_back_when_it_was() {
    let mut client = Client::new();
    let keys = [client.open(1, &POST, false), client.open(3, &POST, false)];
    fill(&mut client, 1, FIRST);
    client.take();
    client.connection.release(keys[0], 16_384);
    assert_eq!(client.take(), [], "too little to speak of");
    client.connection.release(keys[0], 16_384);
    let widened = |client: &mut Client| {
        let frames = client.take().into_iter();
        frames.map(|frame| (frame.0, frame.2, frame::number(&frame.3, 0))).collect::<Vec<_>>()
    };
    let more = Some(WIDE - FIRST + 32_768);
    assert_eq!(widened(&mut client), [(kind::WINDOW_UPDATE, 1, more)], "one that is read gets more");
    fill(&mut client, 1, WIDE - FIRST + 32_768);
    client.connection.release(keys[0], WIDE as usize / 2);
    let updates =
        [(kind::WINDOW_UPDATE, 0, Some(WIDE / 2 + 32_768)), (kind::WINDOW_UPDATE, 1, Some(WIDE / 2))];
    assert_eq!(widened(&mut client), updates);
    // What is not wanted is no burden to others.
    client.connection.stop_reading(keys[1]);
    assert_eq!(client.send(&framed(kind::DATA, 0, 3, &[1; 100])), Ok(vec![]));
    fill(&mut client, 1, WIDE / 2);
    assert_eq!(client.send(&framed(kind::DATA, 0, 1, b"x")), Ok(vec![Said::Reset(1)]));
    assert_eq!(client.reset_of(1), Some(Code::FLOW_CONTROL_ERROR));
}

#[test]
fn bodies_that_nobody_reads_leave_others_their_windows_and_all_have_a_bound() {
    let mut client = Client::new();
    let few = MOST_WIDE + 1;
    assert!(LIMITS.streams > few);
    for number in 0..LIMITS.streams {
        let id = number * 2 + 1;
        let key = client.open(id, &POST, false);
        fill(&mut client, id, FIRST);
        client.connection.release(key, FIRST as usize);
        let window = if number < MOST_WIDE { WIDE } else { FIRST };
        // To the last byte, though none of those before is read.
        fill(&mut client, id, window);
    }
    let held = MOST_WIDE * WIDE + (LIMITS.streams - MOST_WIDE) * FIRST;
    assert_eq!(held + UPDATE, windows::of_connection(LIMITS.streams));
    // A window that was given up is another's.
    assert!(client.send(&framed(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8])).is_ok());
    let key = client.open(101, &POST, false);
    fill(&mut client, 101, FIRST);
    client.take();
    client.connection.release(key, FIRST as usize);
    let updates = client.take().into_iter().filter(|frame| frame.2 == 101);
    let more: Vec<_> = updates.map(|frame| frame::number(&frame.3, 0)).collect();
    assert_eq!(more, [Some(WIDE)]);
}

#[test]
fn an_answer_before_the_body_asks_for_no_more_of_it() {
    let mut client = Client::new();
    let key = client.open(1, &POST, false);
    client.connection.send_head(key, StatusCode::OK, &HeaderMap::new(), [], true);
    assert_eq!(client.connection.open_streams(), 1, "somebody reads it still");
    assert_eq!(
        client.send(&framed(kind::DATA, 0, 1, b"x")),
        Ok(vec![Said::Data(1, Bytes::from_static(b"x"), false)])
    );
    client.connection.stop_reading(key);
    assert_eq!(client.reset_of(1), Some(Code::NO_ERROR));
    assert_eq!(client.connection.open_streams(), 0);
}

#[test]
fn headers_that_are_too_many_are_read_and_not_kept() {
    let mut client = Client::new();
    let long = "x".repeat(100);
    let many: Vec<_> = GET.into_iter().chain((0..200).map(|_| ("x-long", long.as_str()))).collect();
    let text = block(&many);
    let (first, rest) = text.split_at(frame::MOST);
    let flags = END_STREAM;
    let bytes =
        [framed(kind::HEADERS, flags, 1, first), framed(kind::CONTINUATION, END_HEADERS, 1, rest)].concat();
    assert_eq!(client.send(&bytes), Ok(vec![Said::TooLarge(1)]));
    // One field in the table, and then a byte for each time that it is meant.
    let mut bomb = vec![0x40, 1, b'x', 0x7f, 0x80 | 0x50, 0x1e];
    bomb.extend(vec![b'a'; 127 + 0x50 + (0x1e << 7)]);
    bomb.truncate(4000);
    let value = bomb.len() - 6;
    bomb[4..6].copy_from_slice(&[0x80 | ((value - 127) & 0x7f) as u8, ((value - 127) >> 7) as u8]);
    bomb.extend(vec![0x80 | 62; 10_000]);
    assert_eq!(
        client.send(&framed(kind::HEADERS, END_HEADERS | END_STREAM, 3, &bomb)),
        Ok(vec![Said::TooLarge(3)])
    );
    client.open(5, &GET, true);
}

#[test]
fn headers_without_an_end_are_not_gathered() {
    let mut client = Client::new();
    let mut bytes = framed(kind::HEADERS, 0, 1, &[]);
    for _ in 0..4 {
        bytes.extend(framed(kind::CONTINUATION, 0, 1, &vec![0; frame::MOST]));
    }
    assert_eq!(client.end(&bytes), Some(Code::ENHANCE_YOUR_CALM));
    let bytes = [framed(kind::HEADERS, 0, 1, &[]), framed(kind::CONTINUATION, 0, 1, &[])].concat();
    assert_eq!(Client::new().end(&bytes), Some(Code::ENHANCE_YOUR_CALM));
}

#[test]
fn floods_end_the_connection_and_work_does_not() {
    let floods = [
        (framed(kind::PING, 0, 0, &[0; 8]), "pings"),
        (framed(kind::SETTINGS, 0, 0, &[]), "settings"),
        (framed(kind::DATA, 0, 1, &[]), "empty data"),
        (framed(kind::DATA, PADDED, 1, &[0]), "empty data with padding"),
        (framed(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), "small windows"),
        (framed(kind::PRIORITY, 0, 3, &[0; 5]), "priorities"),
        (framed(99, 0, 0, &[]), "unknown frames"),
    ];
    for (frame, why) in floods {
        let mut client = Client::new();
        client.open(1, &POST, false);
        let sent = (0..20_000).take_while(|_| client.send(&frame).is_ok()).count();
        assert!((5_000..15_000).contains(&sent), "{why}: {sent}");
        assert_eq!(
            client.take().last().map(|frame| frame.3[7]),
            Some(Code::ENHANCE_YOUR_CALM.0 as u8),
            "{why}"
        );
    }
    let mut client = Client::new();
    for id in 0..20_000 {
        let key = client.open(id * 2 + 1, &GET, true);
        for _ in 0..5 {
            assert!(client.send(&framed(kind::PING, 0, 0, &[0; 8])).is_ok(), "one who works may ping");
        }
        client.connection.send_head(key, StatusCode::OK, &HeaderMap::new(), [], true);
        client.take();
    }
}

#[test]
fn requests_that_are_taken_back_at_once_have_a_limit_that_comes_back() {
    let mut client = Client::new();
    let mut id = 1;
    let mut until_the_end = |client: &mut Client| {
        let mut count = 0;
        loop {
            let bytes = [head(id, &GET, true), framed(kind::RST_STREAM, 0, id, &[0, 0, 0, 8])].concat();
            id += 2;
            if count == 1000 || client.send(&bytes).is_err() {
                return count;
            }
            count += 1;
        }
    };
    assert_eq!(until_the_end(&mut client), 1000);
    client.now += Duration::from_secs(1);
    assert_eq!(until_the_end(&mut client), 200);
    assert_eq!(client.take().last().map(|frame| frame.3[7]), Some(Code::ENHANCE_YOUR_CALM.0 as u8));
}

#[test]
fn a_connection_ends_after_the_requests_that_were_on_their_way() {
    let mut client = Client::new();
    client.open(1, &GET, true);
    client.connection.leave();
    let frames = client.take();
    let kinds: Vec<_> = frames.iter().map(|frame| frame.0).collect();
    assert_eq!(kinds, [kind::GOAWAY, kind::PING]);
    assert_eq!(frame::number(&frames[0].3, 0), Some(LARGEST));
    let late = client.open(3, &GET, true);
    assert!(client.send(&framed(kind::PING, 1, 0, &frames[1].3)).is_ok());
    assert_eq!(client.take().first().and_then(|frame| frame::number(&frame.3, 0)), Some(3));
    assert_eq!(client.send(&head(5, &GET, true)), Ok(vec![]), "the client knows");
    let was = client.connection.receive_window + client.connection.unreleased;
    let on_its_way = [
        head(7, &POST, false),
        framed(kind::DATA, 0, 7, b"a body"),
        framed(kind::WINDOW_UPDATE, 0, 7, &[0, 0, 0, 1]),
        head(7, &[("x-sum", "1")], true),
        framed(kind::RST_STREAM, 0, 7, &[0, 0, 0, 8]),
    ];
    assert_eq!(client.send(&on_its_way.concat()), Ok(vec![]), "what it could not know yet is no fault");
    assert_eq!(client.connection.receive_window + client.connection.unreleased, was, "and costs no window");
    assert_eq!(client.take(), []);
    client.connection.reset(late, Code::CANCEL);
    assert!(!client.connection.is_over());
    assert_eq!(client.send(&framed(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8])), Ok(vec![Said::Reset(1)]));
    assert!(client.connection.is_over());
}

#[test]
fn large_heads_go_on_in_further_frames() {
    let mut client = Client::new();
    let key = client.open(1, &GET, true);
    let mut headers = HeaderMap::new();
    headers.insert("x-large", HeaderValue::try_from("~".repeat(40_000)).expect("it is a value"));
    headers.insert("connection", HeaderValue::from_static("close"));
    client.connection.send_head(key, StatusCode::OK, &headers, [], true);
    let frames: Vec<_> = client.take().into_iter().map(|frame| (frame.0, frame.1, frame.3.len())).collect();
    let last = frames.last().expect("there are some");
    assert_eq!(frames[0], (kind::HEADERS, END_STREAM, 16_384));
    assert_eq!((frames.len(), last.0, last.1), (3, kind::CONTINUATION, END_HEADERS));
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![0_u32..8, any::<u32>()];
    let field = prop_oneof![Just(("x".to_owned(), "y".to_owned())), ("[a-z:-]{1,8}", "[ -~]{0,20}"),];
    let request =
        (0_u32..20, any::<bool>(), prop::collection::vec(field, 0..4)).prop_map(|(id, ends, more)| {
            let more: Vec<_> = more.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            head(id * 2 + 1, &[POST.as_slice(), &more].concat(), ends)
        });
    let other = (0_u8..11, any::<u8>(), id, prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, flags, id, payload)| framed(kind, flags, id, &payload));
    let settings = framed(kind::SETTINGS, 0, 0, &[]);
    let frames = prop::collection::vec(prop_oneof![2 => request, 1 => other], 0..20);
    frames.prop_map(move |frames| [PREFACE, &settings, &frames.concat()].concat())
}

/// Everything that bytes give when they come in pieces.
fn all(bytes: &[u8], pieces: &[usize]) -> (Vec<Said>, bool, Vec<u8>) {
    let now = Instant::now();
    let mut connection = Connection::new(LIMITS, now);
    let (mut input, mut events, mut failed, mut rest) = (BytesMut::new(), Vec::new(), false, bytes);
    let mut pieces = pieces.iter().copied();
    while !rest.is_empty() && !failed {
        let (piece, later) = rest.split_at(pieces.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
        input.extend_from_slice(piece);
        rest = later;
        loop {
            match connection.receive(&mut input, now) {
                Ok(Some(event)) => events.push(said(&event)),
                Ok(None) => break,
                Err(Failed) => {
                    failed = true;
                    break;
                }
            }
        }
    }
    let output = connection.output();
    let written = output.copy_to_bytes(output.remaining());
    (events, failed, written.to_vec())
}

proptest! {
    #[test]
    fn bytes_mean_the_same_in_whatever_pieces_they_come(
        bytes in frames(),
        pieces in prop::collection::vec(1_usize..60, 0..200),
    ) {
        prop_assert_eq!(all(&bytes, &[]), all(&bytes, &pieces));
    }

    #[test]
    fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        all(&[PREFACE, &framed(kind::SETTINGS, 0, 0, &[]), &bytes].concat(), &[]);
        all(&bytes, &[]);
    }
}
