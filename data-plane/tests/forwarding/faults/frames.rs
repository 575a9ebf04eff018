//! An instance that speaks HTTP/2 frame by frame (RFC 9113), so that it can also say what no server would.
//!
//! Field sections are written without compression and not read at all: requests are told apart by their bodies.

use tokio::io::AsyncWriteExt;

use crate::support::Wire;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// Codes of errors (RFC 9113, section 7).
pub(super) const NO_ERROR: u32 = 0;
pub(super) const INTERNAL_ERROR: u32 = 2;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const CANCEL: u32 = 8;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// The client's side of the preface (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// One frame.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// One connection that a proxy has made.
pub(super) struct Frames {
    wire: Wire,
}

impl Frames {
    /// Greets, with settings: pairs of an identifier and a value. `None`: the peer is gone.
    pub(super) async fn greet(wire: Wire, settings: &[(u16, u32)]) -> Option<Self> {
        let mut frames = Self { wire };
        frames.bytes(PREFACE).await?;
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        frames.send(SETTINGS, 0, 0, &payload).await;
        Some(frames)
    }

    /// Reads up to the end of the next request: its stream, and its body. `None`: the peer is gone.
    pub(super) async fn request(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut body = Vec::new();
        loop {
            let Frame { kind, flags, stream, payload } = self.frame().await?;
            match kind {
                DATA => body.extend(payload),
                HEADERS => body.clear(),
                _ => continue,
            }
            if flags & END_STREAM != 0 {
                return Some((stream, body));
            }
        }
    }

    /// Reads up to the head of the next request: its stream. `None`: the peer is gone.
    pub(super) async fn begun(&mut self) -> Option<u32> {
        loop {
            let frame = self.frame().await?;
            if frame.kind == HEADERS {
                return Some(frame.stream);
            }
        }
    }

    async fn frame(&mut self) -> Option<Frame> {
        let head = self.bytes(9).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let payload = self.bytes(length as usize).await?;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
            let echo = if frame.kind == PING { &frame.payload[..] } else { &[] };
            self.send(frame.kind, ACK, 0, echo).await;
        }
        Some(frame)
    }

    async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        self.wire.try_exactly(count).await
    }

    /// Sends a frame. A peer that is gone is seen by the next read.
    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.raw(&frame).await;
    }

    /// Sends bytes as they are.
    pub(super) async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.wire.socket.write_all(bytes).await;
    }

    /// An answer's head, or trailers.
    pub(super) async fn fields(&mut self, flags: u8, stream: u32, fields: &[(&str, &str)]) {
        self.send(HEADERS, flags | END_HEADERS, stream, &section(fields)).await;
    }

    pub(super) async fn reset_stream(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub(super) async fn go_away(&mut self, last: u32, code: u32) {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await;
    }

    /// Answers a request with its body.
    pub(super) async fn answer(&mut self, stream: u32, body: &[u8]) {
        self.fields(0, stream, &[(":status", "200")]).await;
        self.send(DATA, END_STREAM, stream, body).await;
    }

    /// An answer's head that has fields of this size, in as many frames as that takes.
    pub(super) async fn long_fields(&mut self, stream: u32, size: usize) {
        let value = "x".repeat(size);
        let section = section(&[(":status", "200"), ("x-long", &value)]);
        let mut parts = section.chunks(16 * 1024).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
            self.send(kind, flags, stream, part).await;
            kind = CONTINUATION;
        }
    }

    /// Awaits that what was sent has been read. `None`: the peer is gone.
    pub(super) async fn heard(&mut self) -> Option<()> {
        self.send(PING, 0, 0, b"12345678").await;
        loop {
            let frame = self.frame().await?;
            if frame.kind == PING && frame.flags & ACK != 0 {
                return Some(());
            }
        }
    }

    /// Ends the connection in order.
    pub(super) async fn close(mut self) {
        let _ = self.wire.socket.shutdown().await;
        // What comes is read: a socket that is closed before that is reset.
        let _ = self.wire.rest().await;
    }

    /// Ends the connection with a reset.
    pub(super) fn reset(self) {
        self.wire.socket.set_zero_linger().expect("a TCP socket");
    }

    /// Says nothing more until the peer is gone.
    pub(super) async fn hang(&mut self) {
        while self.frame().await.is_some() {}
    }
}

/// A field section, each field a literal with a new name that is not indexed (RFC 7541, section 6.2.2).
pub(super) fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut section = Vec::new();
    for (name, value) in fields {
        section.push(0);
        for text in [name, value] {
            integer(&mut section, text.len());
            section.extend(text.as_bytes());
        }
    }
    section
}

/// A number with a prefix of seven bits (RFC 7541, section 5.1).
fn integer(section: &mut Vec<u8>, mut number: usize) {
    if number < 127 {
        return section.push(number as u8);
    }
    section.push(127);
    number -= 127;
    while number >= 128 {
        section.push((number % 128) as u8 | 128);
        number /= 128;
    }
    section.push(number as u8);
}
