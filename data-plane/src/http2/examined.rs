//! The core as the fuzz targets have it (`tests/fuzz/src/http2.rs`, `tests/fuzz/src/hpack.rs`): bytes in, bytes out, plain
//! values in between, and the bounds that must hold whatever comes. The only way to the core from outside of this crate.
//!
//! Deliberately absent: what answers mean; the targets have a model of that.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    connection::{Connection, Event, Limits},
    frame::{Code, HEAD, LARGEST, MOST},
    head::Protocol,
    hpack::{Decoder, Encoder, Header, TABLE_SIZE},
    streams::Key,
    windows,
};

/// An event, to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A request's head.
    Request {
        /// Its stream.
        stream: u32,
        /// What it says.
        text: String,
        /// Whether it has no body.
        ends: bool,
    },
    /// A part of its body.
    Data {
        /// Its stream.
        stream: u32,
        /// The part.
        data: Bytes,
        /// Whether it is the last.
        ends: bool,
    },
    /// What ends its body.
    Trailers {
        /// Its stream.
        stream: u32,
        /// The trailers.
        trailers: HeaderMap,
    },
    /// There is no more of it.
    Reset {
        /// Its stream.
        stream: u32,
    },
    /// More can be sent of one answer, or of any.
    Room {
        /// Its stream.
        stream: Option<u32>,
    },
}

/// A client's connection under examination. Streams are named by their identifiers, also those that are closed.
pub struct Examined {
    connection: Connection,
    input: BytesMut,
    now: Instant,
    keys: BTreeMap<u32, Key>,
    has_failed: bool,
}

impl Examined {
    /// A connection with so many streams at once, and heads that count for so many bytes.
    pub fn new(streams: u32, header_bytes: usize) -> Self {
        let now = Instant::now();
        let connection = Connection::new(Limits { streams, header_bytes }, now);
        Self { connection, input: BytesMut::new(), now, keys: BTreeMap::new(), has_failed: false }
    }

    /// Takes bytes, and what they mean.
    pub fn receive(&mut self, bytes: &[u8]) -> Vec<Said> {
        self.input.extend_from_slice(bytes);
        let mut events = Vec::new();
        loop {
            match self.connection.receive(&mut self.input, self.now) {
                Ok(Some(event)) => events.push(self.said(event)),
                Ok(None) => return events,
                Err(_) => {
                    self.has_failed = true;
                    return events;
                }
            }
        }
    }

    fn said(&mut self, event: Event) -> Said {
        match event {
            Event::Request { key, head, length, ends, is_too_large } => {
                self.keys.insert(key.id, key);
                let protocol = head.extensions.get::<Protocol>();
                let text = format!(
                    "{} {} {:?} {protocol:?} {length:?} {is_too_large}",
                    head.method, head.uri, head.headers
                );
                Said::Request { stream: key.id, text, ends }
            }
            Event::Data { key, data, ends } => Said::Data { stream: key.id, data, ends },
            Event::Trailers { key, trailers } => Said::Trailers { stream: key.id, trailers },
            Event::Reset { key } => Said::Reset { stream: key.id },
            Event::Room(key) => Said::Room { stream: key.map(|key| key.id) },
        }
    }

    /// Whether a rule was broken that the connection does not go on without.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Takes what is to be written.
    pub fn written(&mut self) -> Bytes {
        let output = self.connection.output();
        output.copy_to_bytes(output.remaining())
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Sends an answer's head.
    pub fn send_head(&mut self, stream: u32, status: StatusCode, headers: &HeaderMap, ends: bool) {
        let Some(key) = self.keys.get(&stream) else { return };
        self.connection.send_head(*key, status, headers, [], ends);
    }

    /// Asks for a body.
    pub fn send_continue(&mut self, stream: u32) {
        let Some(key) = self.keys.get(&stream) else { return };
        self.connection.send_continue(*key);
    }

    /// Sends as much of a part of an answer as fits into a frame.
    pub fn send_data(&mut self, stream: u32, data: &mut Bytes, is_last: bool) {
        let Some(key) = self.keys.get(&stream) else { return };
        self.connection.send_data(*key, data, is_last);
    }

    /// Sends what ends an answer.
    pub fn send_trailers(&mut self, stream: u32, trailers: &HeaderMap) {
        let Some(key) = self.keys.get(&stream) else { return };
        self.connection.send_trailers(*key, trailers);
    }

    /// Gives a stream up.
    pub fn reset(&mut self, stream: u32, code: u32) {
        let Some(key) = self.keys.get(&stream) else { return };
        self.connection.reset(*key, Code(code));
    }

    /// Reads no more of a body.
    pub fn stop_reading(&mut self, stream: u32) {
        let Some(key) = self.keys.get(&stream) else { return };
        self.connection.stop_reading(*key);
    }

    /// Has read so much of a body: no more than has come of it.
    pub fn release(&mut self, stream: u32, count: usize) {
        let Some(key) = self.keys.get(&stream) else { return };
        self.connection.release(*key, count);
    }

    /// Says that the connection will end.
    pub fn leave(&mut self) {
        self.connection.leave();
    }

    /// Answers no more requests than those that have come.
    pub fn refuse(&mut self) {
        self.connection.refuse();
    }

    /// Asks whether the client is there.
    pub fn ask(&mut self) {
        self.connection.ask();
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        self.connection.open_streams()
    }

    /// Whether nothing is under way, and nothing will be.
    pub fn is_over(&self) -> bool {
        self.connection.is_over()
    }

    /// How much of bodies the connection's window counts as not read.
    pub fn unread(&self) -> usize {
        (self.connection.window - self.connection.receive_window - self.connection.unreleased) as usize
    }

    /// How much may come on the connection, and on those of its streams on which something still comes.
    pub fn may_come(&mut self) -> (usize, usize) {
        let streams = self.connection.streams.iter_mut();
        let receiving = streams.filter(|(_, stream)| stream.is_receiving);
        let on_streams = receiving.map(|(_, stream)| stream.receive_window as usize).sum();
        (self.connection.receive_window as usize, on_streams)
    }

    /// Whether a stream is open.
    pub fn is_open(&mut self, stream: u32) -> bool {
        self.keys.get(&stream).is_some_and(|key| self.connection.is_open(*key))
    }

    /// Holds the bounds of everything that a client can make grow.
    ///
    /// # Panics
    /// One is passed.
    pub fn assert_bounds(&mut self) {
        let connection = &mut self.connection;
        let limits = connection.limits;
        assert!(connection.streams.len() <= limits.streams as usize, "streams");
        assert!(connection.streams.places() <= limits.streams as usize, "places of streams");
        let block = connection.block.as_ref().map_or(0, |block| block.len());
        assert!(block <= limits.header_bytes + MOST, "headers that go on: {block}");
        let (kept, most) = connection.decoder.table_size();
        assert!(kept <= most && most <= TABLE_SIZE, "fields that came: {kept} of {most}");
        assert!(connection.receive_window + connection.unreleased <= connection.window, "the window");
        if self.has_failed {
            return;
        }
        assert!(self.input.len() < HEAD + MOST, "bytes that were not read: {}", self.input.len());
        let (kept, most) = connection.encoder.table_size();
        assert!(kept <= most && most <= TABLE_SIZE.min(connection.peer.table), "fields that went: {kept}");
        let largest = i64::from(LARGEST);
        assert!((0..=largest).contains(&connection.send_window), "{}", connection.send_window);
        let mut wide = 0;
        for (_, stream) in connection.streams.iter_mut() {
            assert!(stream.receive_window + stream.unreleased <= stream.window, "{stream:?}");
            wide += u32::from(stream.window > windows::FIRST);
            assert!((-largest..=largest).contains(&stream.send_window), "{stream:?}");
            assert!(stream.is_sending || stream.is_receiving, "an open stream: {stream:?}");
        }
        assert!(wide <= windows::MOST_WIDE, "{wide} wide windows");
    }
}

/// A header as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A part of control data, or a field: its name and its value.
    Header(String, Vec<u8>),
    /// What may be in no request.
    Malformed,
}

/// Both directions of header compression.
pub struct Blocks {
    decoder: Decoder,
    encoder: Encoder,
}

impl Blocks {
    /// As a connection begins with them.
    pub fn at_begin() -> Self {
        Self { decoder: Decoder::new(), encoder: Encoder::new() }
    }

    /// Reads a block. `None`: it cannot be.
    pub fn decode(&mut self, block: &[u8]) -> Option<Vec<Read>> {
        let mut headers = Vec::new();
        let read = self.decoder.decode(block, usize::MAX, |header| headers.push(read(header)));
        let (kept, most) = self.decoder.table_size();
        assert!(kept <= most && most <= TABLE_SIZE, "{kept} of {most}");
        read.is_ok().then_some(headers)
    }

    /// Takes over how large the other side allows the table to be.
    pub fn resize(&mut self, most: usize) {
        self.encoder.resize(most);
    }

    /// Writes a block.
    pub fn encode(&mut self, status: StatusCode, fields: &[(HeaderName, HeaderValue)]) -> Bytes {
        let mut out = BytesMut::new();
        self.encoder.begin(&mut out);
        self.encoder.status(status, &mut out);
        fields.iter().for_each(|(name, value)| self.encoder.field(name, value, &mut out));
        out.freeze()
    }
}

fn read(header: Header) -> Read {
    let of = |name: &str, value: &[u8]| Read::Header(name.to_owned(), value.to_vec());
    match header {
        Header::Method(method) => of(":method", method.as_str().as_bytes()),
        Header::Scheme(scheme) => of(":scheme", &scheme),
        Header::Authority(authority) => of(":authority", authority.as_str().as_bytes()),
        Header::NoAuthority => of(":authority", b""),
        Header::Path(path) => of(":path", path.as_str().as_bytes()),
        Header::Protocol(protocol) => of(":protocol", &protocol),
        Header::Field(name, value) => of(name.as_str(), value.as_bytes()),
        Header::Status | Header::Malformed(_) => Read::Malformed,
    }
}
