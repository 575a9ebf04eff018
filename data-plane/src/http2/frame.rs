//! Frames (RFC 9113, sections 4 and 6): their heads, and those that are written whole.

use bytes::{BufMut, BytesMut};

/// How many bytes a frame's head has.
pub(super) const HEAD: usize = 9;
/// How large a frame may be unless something else was agreed upon; what is read here never is larger.
pub(super) const MOST: usize = 16_384;
/// The largest flow-control window, and the largest stream identifier.
pub(super) const LARGEST: u32 = (1 << 31) - 1;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITISED: u8 = 0x20;

/// What kind of frame one is.
pub(super) mod kind {
    pub(in crate::http2) const DATA: u8 = 0;
    pub(in crate::http2) const HEADERS: u8 = 1;
    pub(in crate::http2) const PRIORITY: u8 = 2;
    pub(in crate::http2) const RST_STREAM: u8 = 3;
    pub(in crate::http2) const SETTINGS: u8 = 4;
    pub(in crate::http2) const PUSH_PROMISE: u8 = 5;
    pub(in crate::http2) const PING: u8 = 6;
    pub(in crate::http2) const GOAWAY: u8 = 7;
    pub(in crate::http2) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::http2) const CONTINUATION: u8 = 9;
}

/// What a setting is about.
pub(super) mod setting {
    pub(in crate::http2) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in crate::http2) const ENABLE_PUSH: u16 = 2;
    pub(in crate::http2) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in crate::http2) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in crate::http2) const MAX_FRAME_SIZE: u16 = 5;
    pub(in crate::http2) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(in crate::http2) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Why a stream or a connection ends (RFC 9113, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32);

impl Code {
    pub(crate) const NO_ERROR: Self = Self(0);
    pub(crate) const PROTOCOL_ERROR: Self = Self(1);
    pub(crate) const INTERNAL_ERROR: Self = Self(2);
    pub(crate) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(crate) const STREAM_CLOSED: Self = Self(5);
    pub(crate) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(crate) const REFUSED_STREAM: Self = Self(7);
    #[cfg(test)]
    pub(crate) const CANCEL: Self = Self(8);
    pub(crate) const COMPRESSION_ERROR: Self = Self(9);
    pub(crate) const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    /// Reads the head that bytes begin with, if they are enough.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEAD] = bytes.first_chunk()?;
        let length = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) & LARGEST;
        Some(Self { length, kind: bytes[3], flags: bytes[4], stream })
    }

    pub(super) fn write(self, out: &mut BytesMut) {
        out.put_slice(&self.bytes());
    }

    pub(super) fn bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&((self.length as u32) << 8 | u32::from(self.kind)).to_be_bytes());
        bytes[4] = self.flags;
        bytes[5..].copy_from_slice(&self.stream.to_be_bytes());
        bytes
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Reads a number at a place.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn write(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut BytesMut) {
    Head { length: payload.len(), kind, flags, stream }.write(out);
    out.put_slice(payload);
}

pub(super) fn rst_stream(stream: u32, code: Code, out: &mut BytesMut) {
    write(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes(), out);
}

pub(super) fn window_update(stream: u32, more: u32, out: &mut BytesMut) {
    write(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes(), out);
}

pub(super) fn ping(is_ack: bool, payload: [u8; 8], out: &mut BytesMut) {
    write(kind::PING, if is_ack { ACK } else { 0 }, 0, &payload, out);
}

pub(super) fn goaway(last: u32, code: Code, out: &mut BytesMut) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last.to_be_bytes());
    payload[4..].copy_from_slice(&code.0.to_be_bytes());
    write(kind::GOAWAY, 0, 0, &payload, out);
}

pub(super) fn settings(settings: &[(u16, u32)], out: &mut BytesMut) {
    Head { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 }.write(out);
    for (name, value) in settings {
        out.put_u16(*name);
        out.put_u32(*value);
    }
}

pub(super) fn settings_ack(out: &mut BytesMut) {
    write(kind::SETTINGS, ACK, 0, &[], out);
}

/// What is left of a frame's payload without its padding.
pub(super) fn unpadded(head: Head, payload: &[u8]) -> Option<std::ops::Range<usize>> {
    if !head.has(PADDED) {
        return Some(0..payload.len());
    }
    let padding = usize::from(*payload.first()?);
    let end = payload.len().checked_sub(padding)?;
    (end >= 1).then_some(1..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_was_written_is_read() {
        let head = Head { length: 0x1234, kind: kind::DATA, flags: PADDED, stream: LARGEST };
        let mut out = BytesMut::new();
        head.write(&mut out);
        assert_eq!(&out[..], [0, 0x12, 0x34, 0, 8, 0x7f, 0xff, 0xff, 0xff]);
        assert_eq!(Head::read(&out), Some(head));
        assert_eq!(Head::read(&out[..8]), None);
    }

    #[test]
    fn padding_is_taken_off() {
        let head = |flags| Head { length: 0, kind: kind::DATA, flags, stream: 1 };
        assert_eq!(unpadded(head(0), b"abc"), Some(0..3));
        assert_eq!(unpadded(head(PADDED), b"\x01ab"), Some(1..2));
        assert_eq!(unpadded(head(PADDED), b"\x02ab"), Some(1..1));
        assert_eq!(unpadded(head(PADDED), b"\x03ab"), None, "longer than the frame");
        assert_eq!(unpadded(head(PADDED), b""), None);
    }
}
