//! The client's side of an HTTP/2 connection, as far as rules go: it knows what each side may send, and holds the other one
//! to it. It reads frames and headers by itself, so that what our side gets wrong is not got wrong twice.
//!
//! Deliberately absent: sending anything; what is sent is made up.

use std::collections::{BTreeMap, BTreeSet};

use loona_hpack::Decoder;
use waypost_proxy::http2::examined::Said;

/// How a connection begins.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a frame may carry unless something else was agreed upon.
pub(super) const LARGEST_FRAME: usize = 16_384;
/// The largest window.
const LARGEST: i64 = (1 << 31) - 1;
/// The windows that all begins with.
const WINDOW: i64 = 65_535;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

const HEADER_TABLE_SIZE: u16 = 1;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;

/// A frame as bytes.
pub(super) fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// What the client knows of the connection.
pub(super) struct Client {
    /// How much of answers the other side may send, on each stream and in all.
    allows: BTreeMap<u32, i64>,
    allows_in_all: i64,
    /// What a stream begins with.
    allows_at_first: i64,
    largest_frame: usize,
    /// The same for bodies, as the other side has allowed them.
    may: BTreeMap<u32, i64>,
    may_in_all: i64,
    may_at_first: i64,
    /// Settings and pings that were not answered yet.
    unanswered: usize,
    /// Bytes that are no whole frame yet.
    rest: Vec<u8>,
    decoder: Decoder<'static>,
    /// The stream and the headers that are not whole, and whether they end the stream.
    block: Option<(u32, Vec<u8>, bool)>,
    /// Streams on which the other side has said all that it will.
    ended: BTreeSet<u32>,
    /// The last stream that will be answered.
    last: Option<u32>,
    has_settings: bool,
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl Client {
    pub(super) fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(4096);
        Self {
            allows: BTreeMap::new(),
            allows_in_all: WINDOW,
            allows_at_first: WINDOW,
            largest_frame: LARGEST_FRAME,
            may: BTreeMap::new(),
            may_in_all: WINDOW,
            may_at_first: WINDOW,
            unanswered: 0,
            rest: Vec::new(),
            decoder,
            block: None,
            ended: BTreeSet::new(),
            last: None,
            has_settings: false,
        }
    }

    /// The other side has said first what it allows.
    pub(super) fn assert_greeted(&self) {
        assert!(self.has_settings && self.may_in_all > WINDOW);
    }

    /// All that asks for an answer has one.
    pub(super) fn assert_answered(&self) {
        assert_eq!(self.unanswered, 0, "settings and pings are answered");
    }

    /// The last that is said where a rule was broken is why.
    pub(super) fn assert_ended(mut written: &[u8]) {
        let mut last = None;
        while let Some((frame, later)) = next(written) {
            (last, written) = (Some(frame.kind), later);
        }
        assert_eq!((last, written), (Some(GOAWAY), &[][..]), "the end is said last");
    }

    /// Notes what was sent; how many frames were whole with it. Where the other side has failed, not all of it was read.
    pub(super) fn sent(&mut self, bytes: &[u8], has_failed: bool) -> usize {
        let bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut left = &all[..];
        let mut count = 1;
        while let Some((frame, later)) = next(left) {
            left = later;
            count += 1;
            if !has_failed {
                self.sent_frame(&frame);
            }
        }
        self.rest = left.to_vec();
        count
    }

    fn sent_frame(&mut self, frame: &Frame<'_>) {
        let number = || u32::from_be_bytes(frame.payload[..4].try_into().expect("four bytes"));
        match frame.kind {
            DATA => {
                let count = frame.payload.len() as i64;
                self.may_in_all -= count;
                assert!(self.may_in_all >= 0, "more than the connection's window was taken");
                *self.may.entry(frame.stream).or_insert(self.may_at_first) -= count;
            }
            SETTINGS if frame.flags & ACK == 0 => {
                self.unanswered += 1;
                for (name, value) in settings(frame.payload) {
                    match name {
                        HEADER_TABLE_SIZE => {
                            self.decoder.set_max_allowed_table_size(4096.min(value as usize));
                        }
                        INITIAL_WINDOW_SIZE => {
                            let more = i64::from(value) - self.allows_at_first;
                            self.allows.values_mut().for_each(|window| *window += more);
                            self.allows_at_first += more;
                        }
                        MAX_FRAME_SIZE => self.largest_frame = value as usize,
                        _ => {}
                    }
                }
            }
            PING if frame.flags & ACK == 0 => self.unanswered += 1,
            WINDOW_UPDATE if frame.stream == 0 => {
                self.allows_in_all += i64::from(number() & 0x7fff_ffff);
                assert!(self.allows_in_all <= LARGEST, "a window that is too large was taken");
            }
            WINDOW_UPDATE => {
                if let Some(window) = self.allows.get_mut(&frame.stream) {
                    *window += i64::from(number() & 0x7fff_ffff);
                }
            }
            _ => {}
        }
    }

    /// Notes what the other side has understood.
    pub(super) fn heard(&mut self, event: &Said) {
        match event {
            Said::Request { stream, .. } => {
                assert!(self.last.is_none_or(|last| *stream <= last), "a request beyond the last one");
                assert!(self.allows.insert(*stream, self.allows_at_first).is_none(), "twice: {stream}");
                self.may.entry(*stream).or_insert(self.may_at_first);
            }
            Said::Data { stream, .. } => {
                assert!(self.may[stream] >= 0, "more than the window of {stream} was taken");
            }
            _ => {}
        }
    }

    /// Reads what the other side has written.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while let Some((frame, later)) = next(bytes) {
            bytes = later;
            self.take_frame(&frame);
        }
        assert!(bytes.is_empty(), "frames are whole");
    }

    fn take_frame(&mut self, frame: &Frame<'_>) {
        assert!(frame.payload.len() <= self.largest_frame, "a frame of {}", frame.payload.len());
        assert!(self.has_settings || frame.kind == SETTINGS, "settings come first");
        assert_eq!(self.block.is_some(), frame.kind == CONTINUATION, "headers go on where they began");
        let number =
            |at: usize| u32::from_be_bytes(frame.payload[at..at + 4].try_into().expect("four bytes"));
        match frame.kind {
            DATA | HEADERS => {
                assert!(!self.ended.contains(&frame.stream), "{} has ended", frame.stream);
                if frame.kind == DATA {
                    self.take_data(frame);
                } else {
                    self.block = Some((frame.stream, Vec::new(), frame.flags & END_STREAM != 0));
                    self.take_block(frame);
                }
            }
            CONTINUATION => self.take_block(frame),
            RST_STREAM => {
                assert_eq!(frame.payload.len(), 4);
                self.ended.insert(frame.stream);
            }
            SETTINGS if frame.flags & ACK == 0 => {
                self.has_settings = true;
                for (name, value) in settings(frame.payload) {
                    if name == INITIAL_WINDOW_SIZE {
                        self.may_at_first = i64::from(value);
                    }
                }
            }
            SETTINGS => self.unanswered = self.unanswered.checked_sub(1).expect("settings that were sent"),
            PING if frame.flags & ACK != 0 => {
                self.unanswered = self.unanswered.checked_sub(1).expect("a ping that was sent");
            }
            PING => assert_eq!(frame.payload.len(), 8),
            GOAWAY => {
                assert!(self.last.is_none_or(|last| number(0) <= last), "the end is not put off");
                self.last = Some(number(0));
            }
            WINDOW_UPDATE => {
                let window = match frame.stream {
                    0 => &mut self.may_in_all,
                    stream => self.may.get_mut(&stream).expect("a stream that was opened"),
                };
                *window += i64::from(number(0));
                assert!(number(0) > 0 && *window <= LARGEST, "a window of {window}");
            }
            kind => panic!("a frame of kind {kind}"),
        }
    }

    fn take_data(&mut self, frame: &Frame<'_>) {
        let count = frame.payload.len() as i64;
        let window = self.allows.get_mut(&frame.stream).expect("an answer to a request");
        assert!(count == 0 || (count <= *window && count <= self.allows_in_all), "more than was allowed");
        *window -= count;
        self.allows_in_all -= count;
        if frame.flags & END_STREAM != 0 {
            self.ended.insert(frame.stream);
        }
    }

    fn take_block(&mut self, frame: &Frame<'_>) {
        let Some((stream, mut block, ends)) = self.block.take() else { return };
        assert_eq!(stream, frame.stream);
        assert!(self.allows.contains_key(&stream), "an answer to a request");
        block.extend_from_slice(frame.payload);
        if frame.flags & END_HEADERS == 0 {
            self.block = Some((stream, block, ends));
            return;
        }
        let fields = self.decoder.decode(&block).expect("headers that can be read");
        for (name, value) in &fields {
            assert!(!name.is_empty() && !name.iter().any(u8::is_ascii_uppercase), "{name:?}");
            assert!(!matches!(&**name, b"connection" | b"transfer-encoding"), "{name:?} {value:?}");
        }
        if ends {
            self.ended.insert(stream);
        }
    }
}

/// The frame that bytes begin with, and what follows it.
fn next(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<9>()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let (payload, rest) = rest.split_at_checked(length)?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Some((Frame { kind: head[3], flags: head[4], stream, payload }, rest))
}

fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    let (entries, _) = payload.as_chunks::<6>();
    entries.iter().map(|[a, b, value @ ..]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value)))
}
