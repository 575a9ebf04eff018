//! A client's HTTP/2 connection: what bytes mean does not depend on the pieces in which they come, nothing grows beyond its
//! bounds, and what is sent is in order.
//!
//! The client and the server of a round do whatever the input says. Beside the core stands a [`Client`] that knows the rules
//! from the other side: what it was allowed to send, what it has allowed, and where the connection's end is.

mod client;
mod steps;

use std::{collections::BTreeMap, time::Duration};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use waypost_proxy::http2::examined::{Examined, Said};

use self::{
    client::{
        Client, DATA, END_STREAM, PADDED, PREFACE, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, framed,
    },
    steps::{Act, Step, Which, block, fitting, headers_of},
};

/// How many streams a client may have at once, and how much its heads may count for.
const STREAMS: u32 = 4;
const HEADER_BYTES: usize = 1024;
/// Of what a round has at most.
const MANY: usize = 96;
/// What one frame may be answered with at most: two windows, or an end.
const ANSWERED: usize = 64;

/// A connection, what is at its other end, and what was seen of it.
struct Round {
    examined: Examined,
    client: Client,
    /// How much of each body has come and was not read.
    unread: BTreeMap<u32, usize>,
    seen: Vec<(Vec<Said>, bool, Bytes)>,
    /// Streams on which there was a request, and the next that there is none on.
    known: Vec<u32>,
    next: u32,
}

impl Round {
    fn new() -> Self {
        let examined = Examined::new(STREAMS, HEADER_BYTES);
        let (client, unread) = (Client::new(), BTreeMap::new());
        let mut round = Self { examined, client, unread, seen: Vec::new(), known: Vec::new(), next: 1 };
        let hello = round.examined.written();
        round.client.take(&hello);
        round.client.assert_greeted();
        round.receive(PREFACE, &[]);
        round.receive(&framed(SETTINGS, 0, 0, &[]), &[]);
        round
    }

    /// The stream that is meant. `None`: there was no request yet.
    fn resolve(&mut self, which: Which) -> Option<u32> {
        Some(match which {
            Which::Next => {
                let next = self.next;
                self.next += 2;
                next
            }
            Which::Known(number) => {
                let count = self.known.len();
                let back = usize::from(number) % count.clamp(1, 2 * STREAMS as usize);
                return count.checked_sub(back + 1).map(|at| self.known[at]);
            }
            Which::None => 0,
            Which::Any(id) => id,
        })
    }

    /// What the client sends in a step; nothing where the server does something.
    fn bytes(&mut self, step: &Step) -> Option<Vec<u8>> {
        Some(match step {
            Step::Frame { kind, flags, stream, payload, fits } => {
                let payload = if *fits { fitting(*kind, payload.clone()) } else { payload.clone() };
                // Those of a stream, which are about one where they fit.
                let is_of_stream = matches!(*kind, PRIORITY | RST_STREAM);
                let stream = if *fits && is_of_stream { Which::Known(*flags) } else { *stream };
                framed(*kind, *flags, self.resolve(stream)?, &payload)
            }
            Step::Headers { stream, ends, is_request, fields, block: rest, frames } => {
                headers_of(self.resolve(*stream)?, *ends, &block(*is_request, fields, rest), *frames)
            }
            Step::Data { stream, flags, length, padding } => {
                let mut payload = vec![7; usize::from(*length)];
                if flags & PADDED != 0
                    && let Some(first) = payload.first_mut()
                {
                    *first = *padding;
                }
                framed(DATA, flags & (PADDED | END_STREAM), self.resolve(*stream)?, &payload)
            }
            Step::Window { stream, more } => {
                framed(WINDOW_UPDATE, 0, self.resolve(*stream)?, &more.to_be_bytes())
            }
            Step::Bytes(bytes) => bytes.clone(),
            Step::Act { .. } => return None,
        })
    }

    /// Has the core read bytes, in pieces of these lengths.
    fn receive(&mut self, bytes: &[u8], pieces: &[u8]) {
        let mut events = Vec::new();
        // Of what is long, pieces are too, so that there are not too many.
        let unit = 1 + bytes.len() / 512;
        let mut pieces = pieces.iter().cycle().map(|length| usize::from(*length).max(1) * unit);
        let mut rest = bytes;
        while !rest.is_empty() && !self.examined.has_failed() {
            let (piece, later) = rest.split_at(pieces.next().unwrap_or(usize::MAX).min(rest.len()));
            events.extend(self.examined.receive(piece));
            self.examined.assert_bounds();
            rest = later;
        }
        let has_failed = self.examined.has_failed();
        let written = self.examined.written();
        let frames = self.client.sent(bytes, has_failed);
        assert!(written.len() <= frames * ANSWERED, "{} bytes for {frames} frames", written.len());
        if has_failed {
            Client::assert_ended(&written);
            assert!(
                self.examined.receive(bytes).is_empty() && self.examined.written().is_empty(),
                "it has ended"
            );
            self.seen.push((events, has_failed, written));
            return;
        }
        for event in &events {
            self.client.heard(event);
            match event {
                Said::Data { stream, data, .. } => *self.unread.entry(*stream).or_default() += data.len(),
                Said::Request { stream, .. } => {
                    self.unread.insert(*stream, 0);
                    self.known.push(*stream);
                }
                _ => {}
            }
        }
        self.client.take(&written);
        self.seen.push((events, has_failed, written));
    }

    fn act(&mut self, stream: u32, act: &Act) {
        let examined = &mut self.examined;
        match act {
            Act::Head { status, fields, ends } => {
                let status = StatusCode::from_u16(*status).expect("a status");
                examined.send_head(stream, status, &headers(*fields), *ends);
            }
            Act::Continue => examined.send_continue(stream),
            Act::Data { length, is_last } => {
                let mut data = Bytes::from(vec![9; usize::from(*length)]);
                examined.send_data(stream, &mut data, *is_last);
            }
            Act::Trailers => examined.send_trailers(stream, &headers(2)),
            Act::Reset(code) => examined.reset(stream, *code),
            Act::StopReading => examined.stop_reading(stream),
            Act::Release(part) => {
                let unread = self.unread.entry(stream).or_default();
                let count = *unread * usize::from(*part) / 255;
                *unread -= count;
                examined.release(stream, count);
            }
            Act::Leave => examined.leave(),
            Act::Refuse => examined.refuse(),
            Act::Ask => examined.ask(),
            Act::Pass(milliseconds) => examined.pass(Duration::from_millis((*milliseconds).into())),
        }
        examined.assert_bounds();
        let written = self.examined.written();
        self.client.take(&written);
        self.seen.push((Vec::new(), false, written));
    }

    /// What must hold between any two steps.
    fn assert_consistent(&mut self) {
        let unread: usize = self.unread.values().sum();
        assert_eq!(self.examined.unread(), unread, "what was not read is what the window is short of");
        let examined = &mut self.examined;
        let of_closed = self.unread.iter().filter(|(stream, _)| !examined.is_open(**stream));
        let of_closed: usize = of_closed.map(|(_, count)| count).sum();
        let (in_all, on_streams) = examined.may_come();
        assert!(on_streams <= in_all + of_closed, "what one stream holds keeps nothing from another");
        self.client.assert_answered();
        if self.examined.is_over() {
            assert_eq!(self.examined.open_streams(), 0, "nothing is under way");
        }
    }
}

/// Fields of an answer: those that stay the same, those that do not, and some that are not sent over HTTP/2.
fn headers(bits: u8) -> HeaderMap {
    let all = [
        ("content-type", "text/plain".to_owned()),
        ("x-a", "1".to_owned()),
        ("content-length", bits.to_string()),
        ("set-cookie", "a=b".to_owned()),
        ("connection", "close".to_owned()),
        ("x-large", "~".repeat(usize::from(bits) * 100)),
    ];
    let mut headers = HeaderMap::new();
    for (bit, (name, value)) in all.into_iter().enumerate() {
        if bits & 1 << bit != 0 {
            headers.append(name, HeaderValue::try_from(value).expect("a value"));
        }
    }
    headers
}

fn play(steps: &[Step], pieces: &[u8]) -> Vec<(Vec<Said>, bool, Bytes)> {
    let mut round = Round::new();
    for step in steps.iter().take(MANY) {
        match step {
            Step::Act { stream, act } => {
                let Some(stream) = round.resolve(*stream) else { continue };
                round.act(stream, act);
            }
            step => {
                let Some(bytes) = round.bytes(step) else { continue };
                round.receive(&bytes, pieces);
            }
        }
        if round.examined.has_failed() {
            break;
        }
        round.assert_consistent();
    }
    round.seen
}

/// Holds the promise for what a client and a server do.
pub fn run(bytes: &[u8]) {
    let Ok((pieces, steps)) = <(Vec<u8>, Vec<Step>)>::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return;
    };
    assert_eq!(play(&steps, &pieces), play(&steps, &[]), "in pieces, and in one");
}
