//! Headers as they come: put together, read, and taken as requests or as trailers.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    connection::{Connection, Event, Fault, Leaving},
    frame::{self, Code, Head, LARGEST, MOST},
    head::{Draft, Fields},
    streams::{Closed, Stream},
    windows,
};

/// How many frames that do nothing come with a request.
const NOISE_OF_REQUEST: u32 = 10;

/// Headers that go on.
pub(super) struct Block {
    pub(super) stream: u32,
    ends_stream: bool,
    depends_on_itself: bool,
    text: BytesMut,
}

impl Block {
    /// How many bytes of it have come.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

impl Connection {
    pub(super) fn headers(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event>, Fault> {
        let protocol = Fault::Connection(Code::PROTOCOL_ERROR);
        let text = frame::unpadded(head, payload).map(|text| &payload[text]);
        let (Some(mut text), 1) = (text, head.stream % 2) else { return Err(protocol) };
        let mut depends_on_itself = false;
        if head.has(frame::PRIORITISED) {
            depends_on_itself = dependency(text).ok_or(protocol)? == head.stream;
            text = text.get(5..).ok_or(Fault::Connection(Code::PROTOCOL_ERROR))?;
        }
        let ends_stream = head.has(frame::END_STREAM);
        let mut block = Block { stream: head.stream, ends_stream, depends_on_itself, text: BytesMut::new() };
        if head.has(frame::END_HEADERS) {
            return self.take_block(&block, text, now);
        }
        block.text.extend_from_slice(text);
        self.block = Some(block);
        Ok(None)
    }

    pub(super) fn continuation(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event>, Fault> {
        self.spend(now)?;
        let Some(mut block) = self.block.take() else {
            return Err(Fault::Connection(Code::PROTOCOL_ERROR));
        };
        block.text.extend_from_slice(payload);
        // Where there is more, reading it costs more than an answer is worth.
        if payload.is_empty() || block.text.len() > self.limits.header_bytes + MOST {
            return Err(Fault::Connection(Code::ENHANCE_YOUR_CALM));
        }
        if head.has(frame::END_HEADERS) {
            let text = std::mem::take(&mut block.text);
            return self.take_block(&block, &text, now);
        }
        self.block = Some(block);
        Ok(None)
    }

    /// Takes headers that are whole. They are read in any case, as those that follow depend on them.
    fn take_block(&mut self, block: &Block, text: &[u8], now: Instant) -> Result<Option<Event>, Fault> {
        let id = block.stream;
        let limit = self.limits.header_bytes;
        let undecodable = |_| Fault::Connection(Code::COMPRESSION_ERROR);
        if id > self.last {
            let mut draft = Draft::new();
            let is_whole =
                self.decoder.decode(text, limit, |header| draft.take(header)).map_err(undecodable)?;
            return self.open(block, draft, is_whole, now);
        }
        let mut fields = Fields::new();
        let is_whole = self.decoder.decode(text, limit, |header| fields.take(header)).map_err(undecodable)?;
        let Some((key, stream)) = self.streams.find(id) else {
            return match self.streams.closed(id) {
                Some(Closed::ResetHere) => self.spend(now).map(|()| None),
                Some(Closed::Over) => Err(Fault::Connection(Code::STREAM_CLOSED)),
                None if self.streams.is_forgotten(id) => Err(Fault::Stream(id, Code::STREAM_CLOSED)),
                None => Err(Fault::Connection(Code::PROTOCOL_ERROR)),
            };
        };
        if !stream.is_receiving {
            return Err(Fault::Stream(id, Code::STREAM_CLOSED));
        }
        let is_length_kept = stream.left.is_none_or(|left| left == 0);
        let trailers = fields
            .finish()
            .ok()
            .filter(|_| is_whole && block.ends_stream && is_length_kept && !block.depends_on_itself);
        let trailers = trailers.ok_or(Fault::Stream(id, Code::PROTOCOL_ERROR))?;
        stream.is_receiving = false;
        let is_read = stream.is_read;
        self.close_if_over(key);
        Ok(is_read.then_some(Event::Trailers { key, trailers }))
    }

    /// Opens a stream.
    fn open(
        &mut self,
        block: &Block,
        draft: Draft,
        is_whole: bool,
        now: Instant,
    ) -> Result<Option<Event>, Fault> {
        let (id, ends) = (block.stream, block.ends_stream);
        if self.leaving == Leaving::Refusing {
            // The client knows that it may ask elsewhere.
            return self.spend(now).map(|()| None);
        }
        self.last = id;
        if self.streams.len() >= self.limits.streams as usize {
            return Err(Fault::Stream(id, Code::REFUSED_STREAM));
        }
        let malformed = Fault::Stream(id, Code::PROTOCOL_ERROR);
        let Ok((head, length)) = draft.finish(is_whole) else { return Err(malformed) };
        let is_length_kept = !ends || length.is_none_or(|length| length == 0);
        if block.depends_on_itself || !is_length_kept {
            return Err(malformed);
        }
        self.noise.earn(NOISE_OF_REQUEST);
        let key = self.streams.insert(Stream {
            id,
            send_window: i64::from(self.peer.window),
            window: windows::FIRST,
            receive_window: windows::FIRST,
            unreleased: 0,
            left: length,
            is_receiving: !ends,
            is_sending: true,
            is_read: true,
        });
        let head = Box::new(head);
        Ok(Some(Event::Request { key, head, length, ends, is_too_large: !is_whole }))
    }
}

/// The stream that another one is said to depend on.
pub(super) fn dependency(payload: &[u8]) -> Option<u32> {
    frame::number(payload, 0).map(|id| id & LARGEST)
}
