//! The streams of a connection: those that are open, by place and by identifier, and which ones were closed lately.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
};

use super::windows;

/// How many streams that were closed are remembered.
const REMEMBERED: usize = 256;

/// Names a stream. Its place is used again, its identifier is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Its place: less than how many streams there may be, for whoever keeps something for each.
    pub(crate) place: usize,
    pub(super) id: u32,
}

/// A stream that is not closed.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// How much may be sent; less than nothing where the client has taken back what it had allowed.
    pub(super) send_window: i64,
    /// How much may come before it was read.
    pub(super) window: u32,
    /// How much of that may come still.
    pub(super) receive_window: u32,
    /// How much was read and may come anew.
    pub(super) unreleased: u32,
    /// How much of its body is to come, where that was said.
    pub(super) left: Option<u64>,
    /// Whether something may still come.
    pub(super) is_receiving: bool,
    /// Whether something is still to be sent.
    pub(super) is_sending: bool,
    /// Whether somebody wants what comes.
    pub(super) is_read: bool,
}

/// How a stream was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// It has ended, or the other side has reset it.
    Over,
    /// It was reset here, which the other side may not know yet.
    ResetHere,
}

#[derive(Default)]
pub(super) struct Streams {
    places: Vec<Option<Stream>>,
    free: Vec<usize>,
    by_id: HashMap<u32, usize, BuildHasherDefault<Spread>>,
    closed: VecDeque<(u32, Closed)>,
    /// How many have a window that was widened.
    wide: u32,
    /// The latest one that is not remembered any more.
    forgotten: u32,
}

/// Identifiers are spread by one multiplication. Who chooses them badly has a slow table of his own.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many places there are.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        let id = stream.id;
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(stream);
        self.by_id.insert(id, place);
        Key { place, id }
    }

    /// The stream with an identifier, if it is not closed.
    pub(super) fn find(&mut self, id: u32) -> Option<(Key, &mut Stream)> {
        let place = *self.by_id.get(&id)?;
        let stream = self.places[place].as_mut()?;
        Some((Key { place, id }, stream))
    }

    pub(super) fn get(&mut self, key: Key) -> Option<&mut Stream> {
        self.places.get_mut(key.place)?.as_mut().filter(|stream| stream.id == key.id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut Stream)> {
        self.places.iter_mut().enumerate().filter_map(|(place, stream)| {
            stream.as_mut().map(|stream| (Key { place, id: stream.id }, stream))
        })
    }

    /// Widens the window of a stream whose body is read, as long as few are wide. By how much.
    pub(super) fn widen(&mut self, key: Key) -> u32 {
        let may_be = self.wide < windows::MOST_WIDE;
        match self.get(key).filter(|stream| may_be && stream.window == windows::FIRST) {
            Some(stream) => {
                stream.window = windows::WIDE;
                self.wide += 1;
                windows::WIDE - windows::FIRST
            }
            None => 0,
        }
    }

    pub(super) fn remove(&mut self, key: Key, how: Closed) {
        let Some(stream) = self.get(key) else { return };
        let was_wide = stream.window == windows::WIDE;
        self.wide -= u32::from(was_wide);
        self.places[key.place] = None;
        self.by_id.remove(&key.id);
        if self.by_id.is_empty() {
            self.places.clear();
            self.free.clear();
        } else {
            self.free.push(key.place);
        }
        self.remember(key.id, how);
    }

    /// Remembers that a stream was closed.
    pub(super) fn remember(&mut self, id: u32, how: Closed) {
        if self.closed.len() == REMEMBERED
            && let Some((forgotten, _)) = self.closed.pop_front()
        {
            self.forgotten = self.forgotten.max(forgotten);
        }
        self.closed.push_back((id, how));
    }

    /// How a stream was closed, if that was lately.
    pub(super) fn closed(&self, id: u32) -> Option<Closed> {
        self.closed.iter().rev().find(|(closed, _)| *closed == id).map(|(_, how)| *how)
    }

    /// Whether it is too long ago to know whether a stream ever was.
    pub(super) fn is_forgotten(&self, id: u32) -> bool {
        id <= self.forgotten
    }
}
