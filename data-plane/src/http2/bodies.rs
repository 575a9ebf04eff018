//! Bodies of requests: whose a piece is, and how much may come.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::{
    connection::{Connection, Event, Fault},
    frame::{self, Code, Head},
    streams::{Closed, Key},
    windows,
};

/// From how many bytes on a piece of a body is not copied out of what was read. Less would hold on to more.
const LARGE: usize = 4 << 10;

impl Connection {
    pub(super) fn data(
        &mut self,
        head: Head,
        input: &mut BytesMut,
        now: Instant,
    ) -> Result<Option<Event>, Fault> {
        let count = head.length as u32;
        let piece = frame::unpadded(head, &input[..head.length]);
        let (Some(piece), true) = (piece, self.was_opened(head.stream)) else {
            return Err(Fault::Connection(Code::PROTOCOL_ERROR));
        };
        let window = self.receive_window.checked_sub(count);
        self.receive_window = window.ok_or(Fault::Connection(Code::FLOW_CONTROL_ERROR))?;
        let ends = head.has(frame::END_STREAM);
        let taken = self.take_data(head.stream, count, piece.len(), ends);
        if piece.is_empty() && !ends {
            self.spend(now)?;
        }
        let Ok(Some(key)) = taken else {
            input.advance(head.length);
            self.release_connection(count);
            // What is late for a stream that was reset or refused here is no fault, but costs.
            self.spend(now)?;
            return taken.map(|_| None);
        };
        self.noise.earn(u32::from(!piece.is_empty()));
        self.release(key, count as usize - piece.len());
        let data = if piece.len() < LARGE {
            let data = Bytes::copy_from_slice(&input[piece]);
            input.advance(head.length);
            data
        } else {
            let mut data = input.split_to(head.length);
            data.truncate(piece.end);
            data.advance(piece.start);
            data.freeze()
        };
        self.close_if_over(key);
        Ok((!data.is_empty() || ends).then_some(Event::Data { key, data, ends }))
    }

    /// Whose data it is, if anybody wants it.
    fn take_data(&mut self, id: u32, count: u32, length: usize, ends: bool) -> Result<Option<Key>, Fault> {
        let Some((key, stream)) = self.streams.find(id) else {
            let is_late = id > self.last || self.streams.closed(id) == Some(Closed::ResetHere);
            return if is_late { Ok(None) } else { Err(Fault::Stream(id, Code::STREAM_CLOSED)) };
        };
        if !stream.is_receiving {
            return Err(Fault::Stream(id, Code::STREAM_CLOSED));
        }
        let window = stream.receive_window.checked_sub(count);
        stream.receive_window = window.ok_or(Fault::Stream(id, Code::FLOW_CONTROL_ERROR))?;
        if let Some(left) = &mut stream.left {
            let rest = left.checked_sub(length as u64).filter(|rest| !ends || *rest == 0);
            *left = rest.ok_or(Fault::Stream(id, Code::PROTOCOL_ERROR))?;
        }
        stream.is_receiving = !ends;
        let is_read = stream.is_read;
        if !is_read {
            self.close_if_over(key);
        }
        Ok(is_read.then_some(key))
    }

    /// Notes that a part of a body was read, so that as much may come.
    pub(crate) fn release(&mut self, key: Key, count: usize) {
        let count = count as u32;
        self.release_connection(count);
        let Some(stream) = self.streams.get(key).filter(|stream| stream.is_receiving) else { return };
        stream.unreleased += count;
        if stream.unreleased >= stream.window / 2 {
            let more = std::mem::take(&mut stream.unreleased) + self.streams.widen(key);
            frame::window_update(key.id, more, self.output.tail());
            if let Some(stream) = self.streams.get(key) {
                stream.receive_window += more;
            }
        }
    }

    fn release_connection(&mut self, count: u32) {
        self.unreleased += count;
        if self.unreleased >= windows::UPDATE {
            let more = std::mem::take(&mut self.unreleased);
            self.receive_window += more;
            frame::window_update(0, more, self.output.tail());
        }
    }
}
