//! A client's connection: what its bytes mean.
//!
//! ```text
//!   HEADERS        ┌──────────────── both open ────────────────┐        RST_STREAM, or a fault
//!  ─────────▶ open │ END_STREAM ▼                  ▼ answered  │ ──────────────────────────────▶ closed
//!                  └─ only the answer is to come   only the body is to come ── nobody reads it ──▶ closed
//! ```

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, request::Parts};

use super::{
    budget::Budget,
    frame::{self, Code, HEAD, Head, LARGEST, MOST, kind},
    heads::{self, Block},
    hpack::{Decoder, Encoder},
    output::Output,
    settings::{self, Settings},
    streams::{Closed, Key, Streams},
    windows,
};

/// How a client's connection begins (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What every connection begins with.
const INITIAL_WINDOW: u32 = 65_535;

/// Requests that a client takes back, or that have to be reset: at once, and in a second.
const RESETS: (u32, u32) = (1000, 200);
/// Frames that do nothing for anybody: at once, and in a second.
const NOISE: (u32, u32) = (10_000, 1000);
/// How many of these come with a piece of an answer.
pub(super) const NOISE_OF_DATA: u32 = 3;

/// The ping that says when a client knows that the connection ends.
const LEAVING: [u8; 8] = *b"leaving!";
/// The one that asks whether a client is there.
const ASKING: [u8; 8] = *b"there?..";

/// What a client may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How many requests at once.
    pub(crate) streams: u32,
    /// How much the headers of one may count for.
    pub(crate) header_bytes: usize,
}

/// What has come.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request's head.
    Request {
        key: Key,
        head: Box<Parts>,
        /// How long its body is, if that was said.
        length: Option<u64>,
        /// Whether it has no body.
        ends: bool,
        /// Whether there were more headers than there may be, so that none were kept.
        is_too_large: bool,
    },
    /// A part of its body.
    Data { key: Key, data: Bytes, ends: bool },
    /// What ends its body.
    Trailers { key: Key, trailers: HeaderMap },
    /// There is no more of it, and nothing can be answered.
    Reset { key: Key },
    /// More of an answer can be sent; `None`: of any.
    Room(Option<Key>),
}

/// The connection has come to a bad end. What is still to be written says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// What a rule was broken by.
pub(super) enum Fault {
    Connection(Code),
    Stream(u32, Code),
}

/// How far the connection is towards its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// The client was told, and may not know yet.
    Told,
    /// Requests that come now are not answered.
    Refusing,
    Failed,
}

/// A client's connection.
pub(crate) struct Connection {
    pub(super) limits: Limits,
    has_begun: bool,
    has_settings: bool,
    pub(super) peer: Settings,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) block: Option<Block>,
    pub(super) streams: Streams,
    /// The latest stream that the client has opened.
    pub(super) last: u32,
    pub(super) send_window: i64,
    /// How much of all bodies may come before it was read.
    pub(super) window: u32,
    /// How much of that may come still.
    pub(super) receive_window: u32,
    pub(super) unreleased: u32,
    pub(super) output: Output,
    pub(super) leaving: Leaving,
    /// Whether the client will open no more streams.
    is_left: bool,
    pub(super) resets: Budget,
    pub(super) noise: Budget,
}

impl Connection {
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        let window = windows::of_connection(limits.streams);
        let mut output = Output::default();
        frame::settings(&settings::own(&limits), output.tail());
        frame::window_update(0, window - INITIAL_WINDOW, output.tail());
        Self {
            limits,
            has_begun: false,
            has_settings: false,
            peer: Settings::default(),
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            block: None,
            streams: Streams::default(),
            last: 0,
            send_window: i64::from(INITIAL_WINDOW),
            window,
            receive_window: window,
            unreleased: 0,
            output,
            leaving: Leaving::No,
            is_left: false,
            resets: Budget::new(RESETS.0, RESETS.1, now),
            noise: Budget::new(NOISE.0, NOISE.1, now),
        }
    }

    /// What is to be written.
    pub(crate) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// How many streams are open.
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether nothing is under way, and nothing will be.
    pub(crate) fn is_over(&self) -> bool {
        let leaves = self.is_left || self.leaving == Leaving::Refusing;
        (leaves && self.streams.len() == 0) || self.leaving == Leaving::Failed
    }

    /// Says that the connection will end. Requests that are on their way meanwhile are answered.
    pub(crate) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Told;
            frame::goaway(LARGEST, Code::NO_ERROR, self.output.tail());
            frame::ping(false, LEAVING, self.output.tail());
        }
    }

    /// Answers no more requests than those that have come.
    pub(crate) fn refuse(&mut self) {
        if self.leaving == Leaving::Told {
            self.leaving = Leaving::Refusing;
            frame::goaway(self.last, Code::NO_ERROR, self.output.tail());
        }
    }

    /// Asks whether the client is there.
    pub(crate) fn ask(&mut self) {
        frame::ping(false, ASKING, self.output.tail());
    }

    /// Reads on, to the next event or as far as it goes.
    ///
    /// # Errors
    /// The client has broken a rule that the connection cannot go on without.
    pub(crate) fn receive(&mut self, input: &mut BytesMut, now: Instant) -> Result<Option<Event>, Failed> {
        if self.leaving == Leaving::Failed {
            return Err(Failed);
        }
        loop {
            match self.step(input, now) {
                Ok(Some(None)) => {}
                Ok(Some(event)) => return Ok(event),
                Ok(None) => return Ok(None),
                Err(Fault::Stream(id, code)) => match self.fault(id, code, now) {
                    Ok(None) => {}
                    Ok(event) => return Ok(event),
                    Err(code) => return Err(self.fail(code)),
                },
                Err(Fault::Connection(code)) => return Err(self.fail(code)),
            }
        }
    }

    fn fail(&mut self, code: Code) -> Failed {
        self.leaving = Leaving::Failed;
        frame::goaway(self.last, code, self.output.tail());
        Failed
    }

    /// Resets a stream by whose fault a rule was broken.
    fn fault(&mut self, id: u32, code: Code, now: Instant) -> Result<Option<Event>, Code> {
        frame::rst_stream(id, code, self.output.tail());
        let key = self.streams.find(id).map(|(key, _)| key);
        match key {
            Some(key) => self.streams.remove(key, Closed::ResetHere),
            None => self.streams.remember(id, Closed::ResetHere),
        }
        self.resets.spend(now).map_err(|_| Code::ENHANCE_YOUR_CALM)?;
        Ok(key.map(|key| Event::Reset { key }))
    }

    /// Reads one frame. The outer `None`: there is none yet.
    fn step(&mut self, input: &mut BytesMut, now: Instant) -> Result<Option<Option<Event>>, Fault> {
        if !self.has_begun {
            let compared = input.len().min(PREFACE.len());
            if input[..compared] != PREFACE[..compared] {
                return Err(Fault::Connection(Code::PROTOCOL_ERROR));
            }
            if compared < PREFACE.len() {
                return Ok(None);
            }
            input.advance(PREFACE.len());
            self.has_begun = true;
        }
        let Some(head) = Head::read(input) else { return Ok(None) };
        self.check(head)?;
        if input.len() < HEAD + head.length {
            return Ok(None);
        }
        if head.kind == kind::DATA {
            input.advance(HEAD);
            return self.data(head, input, now).map(Some);
        }
        let event = self.frame(head, &input[HEAD..HEAD + head.length], now);
        input.advance(HEAD + head.length);
        event.map(Some)
    }

    /// Looks at a frame's head.
    fn check(&mut self, head: Head) -> Result<(), Fault> {
        if head.length > MOST {
            return Err(Fault::Connection(Code::FRAME_SIZE_ERROR));
        }
        let is_first = !std::mem::replace(&mut self.has_settings, true);
        if is_first && (head.kind != kind::SETTINGS || head.has(frame::ACK)) {
            return Err(Fault::Connection(Code::PROTOCOL_ERROR));
        }
        let goes_on = head.kind == kind::CONTINUATION;
        let is_in_place = match &self.block {
            Some(block) => goes_on && block.stream == head.stream,
            None => !goes_on,
        };
        if is_in_place { Ok(()) } else { Err(Fault::Connection(Code::PROTOCOL_ERROR)) }
    }

    fn frame(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<Option<Event>, Fault> {
        match head.kind {
            kind::HEADERS => return self.headers(head, payload, now),
            kind::CONTINUATION => return self.continuation(head, payload, now),
            kind::WINDOW_UPDATE => return self.window_update(head, payload, now),
            kind::RST_STREAM => return self.rst_stream(head, payload, now),
            kind::SETTINGS => return self.settings(head, payload, now),
            _ => self.spend(now)?,
        }
        let is_in_place = match head.kind {
            kind::PRIORITY => head.stream != 0,
            kind::PING | kind::GOAWAY => head.stream == 0,
            kind::PUSH_PROMISE => false,
            _ => true,
        };
        let has_size = match head.kind {
            kind::PRIORITY => payload.len() == 5,
            kind::PING => payload.len() == 8,
            kind::GOAWAY => payload.len() >= 8,
            _ => true,
        };
        if !is_in_place || !has_size {
            let code = if is_in_place { Code::FRAME_SIZE_ERROR } else { Code::PROTOCOL_ERROR };
            return Err(Fault::Connection(code));
        }
        match head.kind {
            kind::PRIORITY if heads::dependency(payload) == Some(head.stream) => {
                return Err(Fault::Connection(Code::PROTOCOL_ERROR));
            }
            kind::GOAWAY => self.is_left = true,
            kind::PING => self.ping(head, payload),
            _ => {}
        }
        Ok(None)
    }

    fn ping(&mut self, head: Head, payload: &[u8]) {
        let Some(payload) = payload.first_chunk::<8>() else { return };
        if !head.has(frame::ACK) {
            frame::ping(true, *payload, self.output.tail());
        } else if *payload == LEAVING {
            self.refuse();
        }
    }

    fn settings(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<Option<Event>, Fault> {
        self.spend(now)?;
        if head.stream != 0 {
            return Err(Fault::Connection(Code::PROTOCOL_ERROR));
        }
        if head.has(frame::ACK) {
            let is_empty = payload.is_empty();
            return if is_empty { Ok(None) } else { Err(Fault::Connection(Code::FRAME_SIZE_ERROR)) };
        }
        let before = self.peer;
        self.peer.update(payload).map_err(Fault::Connection)?;
        frame::settings_ack(self.output.tail());
        if self.peer.table != before.table {
            self.encoder.resize(self.peer.table);
        }
        let more = i64::from(self.peer.window) - i64::from(before.window);
        if more == 0 {
            return Ok(None);
        }
        for (_, stream) in self.streams.iter_mut() {
            stream.send_window += more;
            if stream.send_window > i64::from(LARGEST) {
                return Err(Fault::Connection(Code::FLOW_CONTROL_ERROR));
            }
        }
        Ok(Some(Event::Room(None)))
    }

    fn window_update(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<Option<Event>, Fault> {
        self.spend(now)?;
        if payload.len() != 4 {
            return Err(Fault::Connection(Code::FRAME_SIZE_ERROR));
        }
        let more = frame::number(payload, 0).unwrap_or_default() & LARGEST;
        let code = if more == 0 { Code::PROTOCOL_ERROR } else { Code::FLOW_CONTROL_ERROR };
        let grow = |window: &mut i64| {
            *window += i64::from(more);
            more != 0 && *window <= i64::from(LARGEST)
        };
        if head.stream == 0 {
            let may_be = grow(&mut self.send_window);
            return if may_be { Ok(Some(Event::Room(None))) } else { Err(Fault::Connection(code)) };
        }
        if let Some((key, stream)) = self.streams.find(head.stream) {
            let may_be = grow(&mut stream.send_window);
            return if may_be {
                Ok(Some(Event::Room(Some(key))))
            } else {
                Err(Fault::Stream(head.stream, code))
            };
        }
        // It may have been sent before the client knew of the end.
        if self.was_opened(head.stream) { Ok(None) } else { Err(Fault::Connection(Code::PROTOCOL_ERROR)) }
    }

    fn rst_stream(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<Option<Event>, Fault> {
        if payload.len() != 4 {
            return Err(Fault::Connection(Code::FRAME_SIZE_ERROR));
        }
        if !self.was_opened(head.stream) {
            return Err(Fault::Connection(Code::PROTOCOL_ERROR));
        }
        let Some((key, _)) = self.streams.find(head.stream) else {
            self.spend(now)?;
            return Ok(None);
        };
        self.streams.remove(key, Closed::Over);
        self.resets.spend(now).map_err(|_| Fault::Connection(Code::ENHANCE_YOUR_CALM))?;
        Ok(Some(Event::Reset { key }))
    }

    /// Whether a client may speak of a stream: it has opened it, or has tried to when it did not know of the end yet.
    pub(super) fn was_opened(&self, id: u32) -> bool {
        id % 2 == 1 && (id <= self.last || self.leaving == Leaving::Refusing)
    }

    pub(super) fn spend(&mut self, now: Instant) -> Result<(), Fault> {
        self.noise.spend(now).map_err(|_| Fault::Connection(Code::ENHANCE_YOUR_CALM))
    }
}
