//! Bodies as they come from an instance (RFC 9112, sections 6 and 7).
//!
//! ```text
//!  chunks:  Size ──▶ Blank ──▶ Extension ──▶ SizeEnd ──▶ Data ──▶ DataEnd ──▶ Size …
//!                                               └─ size 0 ──▶ Trailers ──▶ Done
//! ```

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::response::{Answer, take_trailers};

/// Bytes that all extensions of a body's chunks may have, and its trailer section.
const MOST_EXTRA: usize = 16 * 1024;
/// Digits of a chunk's size: as many as a number of 64 bits has.
const MOST_DIGITS: u8 = 16;

/// How an answer ends, and what it means for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) decoder: Decoder,
    /// Whether the connection may carry another request after it.
    pub(super) persistent: bool,
}

/// Reads a body, and knows where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    /// This many bytes are to come.
    Length(u64),
    /// Chunks are to come.
    Chunked(Chunks),
    /// It ends with the connection.
    UntilClose,
}

/// A chunked body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    place: Place,
    /// Bytes of extensions so far.
    extra: usize,
}

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a chunk's size, of which `digits` were read.
    Size { size: u64, digits: u8 },
    /// In blanks after a chunk's size.
    Blank { size: u64 },
    /// In a chunk's extensions.
    Extension { size: u64 },
    /// Before the line feed after a chunk's size.
    SizeEnd { size: u64 },
    /// In a chunk's data, of which `left` bytes are to come.
    Data { left: u64 },
    /// In what ends a chunk's data.
    DataEnd,
    /// In the trailer section.
    Trailers,
    /// After all of it.
    Done,
}

/// What was found next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A part of the data.
    Data(Bytes),
    /// The trailers, which are not empty. The body has ended.
    Trailers(HeaderMap),
    /// The end.
    End,
}

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The connection ended before the body did.
    #[error("the connection ended before the body did")]
    Truncated,
    /// The body is malformed.
    #[error("the body is malformed: {0}")]
    Malformed(&'static str),
}

impl Framing {
    /// How an answer is framed (RFC 9112, section 6.3). Lengths that say the same are made one.
    ///
    /// # Errors
    /// Its end is not certain.
    pub(super) fn of(answer: &Answer, headers: &mut HeaderMap, asked: &Method) -> Result<Self, &'static str> {
        let persistent = keeps_alive(answer, headers);
        let (coded, sized) = (headers.contains_key(TRANSFER_ENCODING), headers.contains_key(CONTENT_LENGTH));
        let bodyless = matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if *asked == Method::HEAD || bodyless || answer.status.is_informational() {
            // Who says in a 204 that there is a body may well send it (RFC 9110, section 8.6).
            let is_empty = || headers.get_all(CONTENT_LENGTH).iter().all(|length| length == "0");
            let persistent = persistent && (answer.status != StatusCode::NO_CONTENT || !coded && is_empty());
            return Ok(Self { decoder: Decoder::Length(0), persistent });
        }
        if coded {
            if answer.version == Version::HTTP_10 || !is_chunked(headers) {
                return Err("its transfer-encoding is not \"chunked\"");
            }
            // A length beside it is a sign of someone in between who has read another answer.
            return Ok(Self { decoder: Decoder::Chunked(Chunks::new()), persistent: persistent && !sized });
        }
        if !sized {
            return Ok(Self { decoder: Decoder::UntilClose, persistent: false });
        }
        let length = content_length(headers)?;
        Ok(Self { decoder: Decoder::Length(length), persistent })
    }
}

impl Decoder {
    /// Whether nothing more is to come.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks { place: Place::Done, .. }))
    }

    /// How many bytes are to come, where that is known.
    pub(super) fn exact(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// What stands at the front of what was read. `None`: more must be read.
    ///
    /// # Errors
    /// The body is malformed.
    pub(super) fn next(&mut self, read: &mut BytesMut) -> Result<Option<Step>, BodyError> {
        match self {
            _ if self.is_done() => Ok(Some(Step::End)),
            _ if read.is_empty() => Ok(None),
            Self::Length(left) => Ok(Some(Step::Data(take(read, left)))),
            Self::Chunked(chunks) => chunks.next(read).map_err(BodyError::Malformed),
            Self::UntilClose => Ok(Some(Step::Data(read.split().freeze()))),
        }
    }

    /// What the end of the connection means.
    ///
    /// # Errors
    /// The body has not ended.
    pub(super) fn close(&mut self) -> Result<Step, BodyError> {
        match self {
            Self::UntilClose => {
                *self = Self::Length(0);
                Ok(Step::End)
            }
            _ if self.is_done() => Ok(Step::End),
            _ => Err(BodyError::Truncated),
        }
    }
}

impl Chunks {
    fn new() -> Self {
        Self { place: Place::Size { size: 0, digits: 0 }, extra: 0 }
    }

    fn next(&mut self, read: &mut BytesMut) -> Result<Option<Step>, &'static str> {
        while !read.is_empty() {
            self.place = match self.place {
                Place::Data { left: 0 } => Place::DataEnd,
                Place::Data { mut left } => {
                    let data = take(read, &mut left);
                    self.place = Place::Data { left };
                    return Ok(Some(Step::Data(data)));
                }
                Place::DataEnd if read.starts_with(b"\r\n") => {
                    read.advance(2);
                    Place::Size { size: 0, digits: 0 }
                }
                Place::DataEnd if read[..] == *b"\r" => return Ok(None),
                Place::DataEnd => return Err("a chunk is longer than it says"),
                Place::Trailers => return self.trailers(read),
                Place::Done => return Ok(Some(Step::End)),
                _ => self.after(read.get_u8())?,
            };
        }
        Ok(None)
    }

    /// The place after one byte of the line that holds a chunk's size.
    fn after(&mut self, byte: u8) -> Result<Place, &'static str> {
        match (self.place, byte) {
            (Place::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < MOST_DIGITS => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                Ok(Place::Size { size: size << 4 | digit, digits: digits + 1 })
            }
            (
                Place::Size { size, digits: 1.. } | Place::Blank { size } | Place::Extension { size },
                b'\r',
            ) => Ok(Place::SizeEnd { size }),
            (Place::Size { size, digits: 1.. } | Place::Blank { size }, b';') => {
                Ok(Place::Extension { size })
            }
            (Place::Size { size, digits: 1.. } | Place::Blank { size }, b' ' | b'\t') => {
                self.count_extra()?;
                Ok(Place::Blank { size })
            }
            (Place::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count_extra()?;
                Ok(Place::Extension { size })
            }
            (Place::SizeEnd { size: 0 }, b'\n') => Ok(Place::Trailers),
            (Place::SizeEnd { size }, b'\n') => Ok(Place::Data { left: size }),
            _ => Err("the size of a chunk is none"),
        }
    }

    fn count_extra(&mut self) -> Result<(), &'static str> {
        self.extra += 1;
        if self.extra > MOST_EXTRA { Err("its chunks have too many extensions") } else { Ok(()) }
    }

    fn trailers(&mut self, read: &mut BytesMut) -> Result<Option<Step>, &'static str> {
        let before = read.len();
        let found = take_trailers(read).map_err(|_| "its trailers are none")?;
        if before - if found.is_some() { read.len() } else { 0 } > MOST_EXTRA {
            return Err("its trailers are too large");
        }
        let Some(trailers) = found else { return Ok(None) };
        self.place = Place::Done;
        Ok(Some(if trailers.is_empty() { Step::End } else { Step::Trailers(trailers) }))
    }
}

/// Whether the connection may carry another request after an answer (RFC 9112, section 9.3).
fn keeps_alive(answer: &Answer, headers: &HeaderMap) -> bool {
    let says = |word: &str| {
        let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
        lines.flat_map(|line| line.split(',')).any(|option| option.trim().eq_ignore_ascii_case(word))
    };
    answer.status != StatusCode::SWITCHING_PROTOCOLS
        && !says("close")
        && (answer.version == Version::HTTP_11 || says("keep-alive"))
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (first, more) = (codings.next(), codings.next());
    more.is_none() && first.is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// The one length that all fields and members agree on, and which is then the only field.
fn content_length(headers: &mut HeaderMap) -> Result<u64, &'static str> {
    let mut agreed = None;
    let mut members = 0;
    for line in headers.get_all(CONTENT_LENGTH) {
        for member in line.as_bytes().split(|byte| *byte == b',') {
            let length = number(member.trim_ascii()).ok_or("its content-length is not a number")?;
            if agreed.is_some_and(|agreed| agreed != length) {
                return Err("it has several content-lengths");
            }
            agreed = Some(length);
            members += 1;
        }
    }
    let length = agreed.ok_or("it has no content-length")?;
    if members > 1 {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(length)
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

fn take(read: &mut BytesMut, left: &mut u64) -> Bytes {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
    *left -= count as u64;
    read.split_to(count).freeze()
}

#[cfg(test)]
mod tests;
