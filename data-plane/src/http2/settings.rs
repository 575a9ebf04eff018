//! Settings (RFC 9113, section 6.5): what each side says about itself.

use super::{
    connection::Limits,
    frame::{Code, LARGEST, MOST, setting},
    windows,
};

/// What a client has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// How much of an answer may be sent before it asks for more.
    pub(super) window: u32,
    /// How large a frame may be.
    pub(super) frame: usize,
    /// How large the table of header fields may be.
    pub(super) table: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { window: 65_535, frame: MOST, table: super::hpack::TABLE_SIZE }
    }
}

impl Settings {
    /// Takes over what a frame says.
    ///
    /// # Errors
    /// It says what cannot be.
    pub(super) fn update(&mut self, payload: &[u8]) -> Result<(), Code> {
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        for [a, b, value @ ..] in entries {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::HEADER_TABLE_SIZE => self.table = value as usize,
                setting::ENABLE_PUSH | setting::ENABLE_CONNECT_PROTOCOL if value > 1 => {
                    return Err(Code::PROTOCOL_ERROR);
                }
                setting::INITIAL_WINDOW_SIZE if value > LARGEST => return Err(Code::FLOW_CONTROL_ERROR),
                setting::INITIAL_WINDOW_SIZE => self.window = value,
                setting::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(Code::PROTOCOL_ERROR);
                }
                setting::MAX_FRAME_SIZE => self.frame = value as usize,
                _ => {}
            }
        }
        Ok(())
    }
}

/// What is said to a client.
pub(super) fn own(limits: &Limits) -> [(u16, u32); 5] {
    [
        (setting::MAX_CONCURRENT_STREAMS, limits.streams),
        (setting::INITIAL_WINDOW_SIZE, windows::FIRST),
        (setting::MAX_FRAME_SIZE, MOST as u32),
        (setting::MAX_HEADER_LIST_SIZE, u32::try_from(limits.header_bytes).unwrap_or(u32::MAX)),
        (setting::ENABLE_CONNECT_PROTOCOL, 1),
    ]
}
