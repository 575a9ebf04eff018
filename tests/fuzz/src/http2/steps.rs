//! What a client and a server do on a connection, made up out of bytes: mostly what means something, so that rounds get far.

use arbitrary::{Arbitrary, Unstructured};

use super::client::{
    CONTINUATION, END_HEADERS, GOAWAY, HEADERS, LARGEST_FRAME, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, framed,
};

/// What most requests have.
const REQUEST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];
const FIELDS: [(&str, &str); 12] = [
    ("x-a", "1"),
    ("x-b", "2"),
    ("te", "trailers"),
    ("content-length", "3"),
    ("content-length", "70000"),
    ("x-c", ""),
    (":path", "*"),
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":status", "200"),
    ("connection", "close"),
    ("X-Upper", ""),
];

/// What happens next.
#[derive(Debug)]
pub(super) enum Step {
    /// The client sends a frame, whatever it says; mostly as long as its kind asks for.
    Frame { kind: u8, flags: u8, stream: Which, payload: Vec<u8>, fits: bool },
    /// Headers, in so many frames.
    Headers { stream: Which, ends: bool, is_request: bool, fields: Vec<u8>, block: Vec<u8>, frames: u8 },
    /// A part of a body.
    Data { stream: Which, flags: u8, length: u16, padding: u8 },
    /// More of an answer may be sent.
    Window { stream: Which, more: u32 },
    /// Bytes that are no frames.
    Bytes(Vec<u8>),
    /// The server does something.
    Act { stream: Which, act: Act },
}

/// Which stream it is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// One that was not there before.
    Next,
    /// One of those on which there was a request, the latest first.
    Known(u8),
    None,
    Any(u32),
}

#[derive(Debug)]
pub(super) enum Act {
    Head {
        status: u16,
        fields: u8,
        ends: bool,
    },
    Continue,
    Data {
        length: u16,
        is_last: bool,
    },
    Trailers,
    Reset(u32),
    StopReading,
    /// Reads a part of what has come; 255: all of it.
    Release(u8),
    Leave,
    Refuse,
    Ask,
    Pass(u16),
}

impl Arbitrary<'_> for Step {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(match input.int_in_range(0..=15)? {
            0 => Self::Frame {
                kind: input.int_in_range(2..=8)?,
                flags: if input.ratio(1, 4)? { input.arbitrary()? } else { 0 },
                stream: if input.ratio(3, 4)? { Which::None } else { known(input)? },
                payload: payload(input)?,
                fits: !input.ratio(1, 16)?,
            },
            1..=4 => Self::Headers {
                stream: if input.ratio(1, 8)? { known(input)? } else { Which::Next },
                ends: input.ratio(1, 4)?,
                is_request: !input.ratio(1, 8)?,
                fields: if input.ratio(1, 2)? { input.arbitrary()? } else { Vec::new() },
                block: if input.ratio(1, 16)? { payload(input)? } else { Vec::new() },
                frames: if input.ratio(1, 4)? { input.arbitrary()? } else { 1 },
            },
            5..=8 => Self::Data {
                stream: known(input)?,
                flags: if input.ratio(1, 4)? { input.arbitrary()? } else { 0 },
                length: if input.ratio(1, 2)? {
                    LARGEST_FRAME as u16
                } else {
                    input.int_in_range(0..=LARGEST_FRAME as u16)?
                },
                padding: input.arbitrary()?,
            },
            9 => Self::Window {
                stream: if input.ratio(1, 2)? { Which::None } else { known(input)? },
                more: if input.ratio(1, 8)? {
                    input.arbitrary()?
                } else {
                    input.int_in_range(1..=100_000)?
                },
            },
            10 if input.ratio(1, 32)? => Self::Bytes(input.arbitrary()?),
            _ => Self::Act { stream: known(input)?, act: act(input)? },
        })
    }
}

fn known(input: &mut Unstructured<'_>) -> arbitrary::Result<Which> {
    Ok(if input.ratio(1, 64)? { Which::Any(input.arbitrary()?) } else { Which::Known(input.arbitrary()?) })
}

/// Short, or as long as a frame may be and a little longer.
fn payload(input: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    if input.ratio(1, 16)? {
        let length = LARGEST_FRAME - 8 + input.int_in_range(0..=16)?;
        return Ok(vec![input.arbitrary()?; length]);
    }
    input.arbitrary()
}

fn act(input: &mut Unstructured<'_>) -> arbitrary::Result<Act> {
    Ok(match input.int_in_range(0..=15)? {
        0..=2 => Act::Head {
            status: input.int_in_range(100..=999)?,
            fields: input.arbitrary()?,
            ends: input.arbitrary()?,
        },
        3 => Act::Continue,
        4..=6 => Act::Data { length: input.arbitrary()?, is_last: input.arbitrary()? },
        7 => Act::Trailers,
        8 => Act::Reset(input.int_in_range(0..=13)?),
        9 => Act::StopReading,
        10..=12 => Act::Release(input.arbitrary()?),
        13 => Act::Pass(input.arbitrary()?),
        14 => Act::Ask,
        _ if input.ratio(1, 2)? => Act::Refuse,
        _ => Act::Leave,
    })
}

/// Headers as literals that are kept or not, and bytes of any meaning.
pub(super) fn block(is_request: bool, fields: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let fields =
        fields.iter().map(|number| (FIELDS[usize::from(*number) % FIELDS.len()], number & 0x80 != 0));
    let request = REQUEST.iter().filter(|_| is_request).map(|field| (*field, false));
    for ((name, value), is_kept) in request.chain(fields) {
        out.push(if is_kept { 0x40 } else { 0 });
        for text in [name, value] {
            out.push(u8::try_from(text.len()).expect("a short text"));
            out.extend_from_slice(text.as_bytes());
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Headers in so many frames.
pub(super) fn headers_of(stream: u32, ends: bool, block: &[u8], frames: u8) -> Vec<u8> {
    let size = (block.len() / usize::from(frames).max(1)).clamp(1, LARGEST_FRAME);
    let mut parts: Vec<&[u8]> = block.chunks(size).collect();
    let last = parts.pop().unwrap_or_default();
    let (mut kind, mut flags, mut bytes) = (HEADERS, u8::from(ends), Vec::new());
    for part in parts {
        bytes.extend(framed(kind, flags, stream, part));
        (kind, flags) = (CONTINUATION, 0);
    }
    bytes.extend(framed(kind, flags | END_HEADERS, stream, last));
    bytes
}

/// A payload as long as frames of its kind have, and settings that are known.
pub(super) fn fitting(kind: u8, mut payload: Vec<u8>) -> Vec<u8> {
    match kind {
        PRIORITY => payload.resize(5, 0),
        RST_STREAM | WINDOW_UPDATE => payload.resize(4, 1),
        PING | GOAWAY => payload.resize(8, 0),
        SETTINGS => {
            payload.truncate(payload.len() / 6 * 6);
            for [high, low, value @ ..] in payload.as_chunks_mut::<6>().0 {
                (*high, *low) = (0, *low % 7);
                match *low {
                    2 => *value = [0; 4],
                    4 => (value[0], value[1]) = (0, value[1] % 4),
                    5 => (value[0], value[1]) = (0, 0x40),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    payload
}
