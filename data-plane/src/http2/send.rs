//! What is sent to a client: answers, within what it has allowed.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{
    connection::{Connection, NOISE_OF_DATA},
    frame::{self, Code, END_HEADERS, END_STREAM, HEAD, Head, kind},
    head::is_obsolete,
    streams::{Closed, Key},
};

/// What became of a part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All of it is sent.
    All,
    /// Some of it is, and more can be.
    Some,
    /// None of it can be sent now.
    Blocked(Blocked),
    /// Nobody wants it any more.
    Closed,
}

/// What has to grow first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// The window of the stream.
    Stream,
    /// That of the connection.
    Connection,
}

impl Connection {
    /// Sends an answer's head. `extra` are fields beside its own.
    pub(crate) fn send_head(
        &mut self,
        key: Key,
        status: StatusCode,
        headers: &HeaderMap,
        extra: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        ends: bool,
    ) {
        if self.streams.get(key).is_none_or(|stream| !stream.is_sending) {
            return;
        }
        let begun = self.begin_block();
        self.encoder.status(status, self.output.tail());
        self.fields(headers);
        for (name, value) in extra {
            self.encoder.field(&name, &value, self.output.tail());
        }
        self.end_block(key, begun, ends);
    }

    /// Says that a request's body is waited for.
    pub(crate) fn send_continue(&mut self, key: Key) {
        if self.streams.get(key).is_some_and(|stream| stream.is_sending && stream.is_receiving) {
            let begun = self.begin_block();
            self.encoder.status(StatusCode::CONTINUE, self.output.tail());
            self.end_block(key, begun, false);
        }
    }

    /// Sends what ends an answer.
    pub(crate) fn send_trailers(&mut self, key: Key, trailers: &HeaderMap) {
        if self.streams.get(key).is_none_or(|stream| !stream.is_sending) {
            return;
        }
        let begun = self.begin_block();
        self.fields(trailers);
        self.end_block(key, begun, true);
    }

    fn fields(&mut self, fields: &HeaderMap) {
        for (name, value) in fields {
            if !concerns_a_hop(name) {
                self.encoder.field(name, value, self.output.tail());
            }
        }
    }

    /// Sends as much of a part of an answer as fits into a frame. What is left is left in `data`.
    pub(crate) fn send_data(&mut self, key: Key, data: &mut Bytes, is_last: bool) -> Sent {
        let most = self.peer.frame.min(data.len()) as i64;
        let Some(stream) = self.streams.get(key).filter(|stream| stream.is_sending) else {
            return Sent::Closed;
        };
        let count = most.min(stream.send_window).min(self.send_window).max(0);
        if count == 0 && most > 0 {
            let of_stream = stream.send_window <= 0;
            return Sent::Blocked(if of_stream { Blocked::Stream } else { Blocked::Connection });
        }
        stream.send_window -= count;
        self.send_window -= count;
        let piece = data.split_to(count as usize);
        let ends = is_last && data.is_empty();
        stream.is_sending = !ends;
        let flags = if ends { END_STREAM } else { 0 };
        Head { length: piece.len(), kind: kind::DATA, flags, stream: key.id }.write(self.output.tail());
        self.output.push(piece);
        self.noise.earn(NOISE_OF_DATA);
        if ends {
            self.resets.earn(1);
            self.close_if_over(key);
        }
        if data.is_empty() { Sent::All } else { Sent::Some }
    }

    /// Whether a stream is not closed.
    pub(crate) fn is_open(&mut self, key: Key) -> bool {
        self.streams.get(key).is_some()
    }

    /// Gives a stream up.
    pub(crate) fn reset(&mut self, key: Key, code: Code) {
        if self.streams.get(key).is_some() {
            frame::rst_stream(key.id, code, self.output.tail());
            self.streams.remove(key, Closed::ResetHere);
        }
    }

    /// Notes that nobody wants what still comes of a request's body.
    pub(crate) fn stop_reading(&mut self, key: Key) {
        if let Some(stream) = self.streams.get(key) {
            stream.is_read = false;
            self.close_if_over(key);
        }
    }

    /// Closes a stream on which nothing more is to come. An answer that was whole before its request was is no fault of
    /// anybody's (RFC 9113, section 8.1).
    pub(super) fn close_if_over(&mut self, key: Key) {
        let Some(stream) = self.streams.get(key).filter(|stream| !stream.is_sending) else { return };
        if !stream.is_receiving {
            self.streams.remove(key, Closed::Over);
        } else if !stream.is_read {
            self.reset(key, Code::NO_ERROR);
        }
    }

    /// Begins headers; where they stand is needed for their end.
    fn begin_block(&mut self) -> usize {
        let tail = self.output.tail();
        let begun = tail.len();
        tail.extend_from_slice(&[0; HEAD]);
        self.encoder.begin(tail);
        begun
    }

    fn end_block(&mut self, key: Key, begun: usize, ends: bool) {
        let most = self.peer.frame;
        let tail = self.output.tail();
        let length = tail.len() - begun - HEAD;
        if length <= most {
            let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
            let head = Head { length, kind: kind::HEADERS, flags, stream: key.id };
            tail[begun..begun + HEAD].copy_from_slice(&head.bytes());
        } else {
            let block = tail.split_off(begun);
            write_block(key.id, &block[HEAD..], most, ends, tail);
        }
        if ends && let Some(stream) = self.streams.get(key) {
            stream.is_sending = false;
            self.resets.earn(1);
            self.close_if_over(key);
        }
    }
}

fn write_block(id: u32, block: &[u8], most: usize, ends: bool, out: &mut BytesMut) {
    let (mut rest, mut kind) = (block, kind::HEADERS);
    let mut flags = if ends { END_STREAM } else { 0 };
    loop {
        let (now, later) = rest.split_at(rest.len().min(most));
        if later.is_empty() {
            flags |= END_HEADERS;
        }
        Head { length: now.len(), kind, flags, stream: id }.write(out);
        out.extend_from_slice(now);
        if later.is_empty() {
            return;
        }
        (rest, kind, flags) = (later, kind::CONTINUATION, 0);
    }
}

/// Whether a field is one of those that HTTP/2 has no use for (RFC 9113, section 8.2.2).
fn concerns_a_hop(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE) || is_obsolete(name)
}
