//! Reads header blocks.

use std::collections::VecDeque;

use super::{
    ENTRY, TABLE_SIZE,
    header::{Header, Name},
    huffman, integer, static_table,
};

/// A block that cannot be read. What follows on its connection cannot be either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undecodable;

/// The state of a connection's blocks, as the other side writes them.
pub(crate) struct Decoder {
    table: VecDeque<Entry>,
    /// What the entries count for.
    size: usize,
    /// What they may count for, as the other side has it.
    most: usize,
    /// Strings that are being read.
    name: Vec<u8>,
    value: Vec<u8>,
}

struct Entry {
    header: Header,
    size: usize,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { table: VecDeque::new(), size: 0, most: TABLE_SIZE, name: Vec::new(), value: Vec::new() }
    }

    /// Reads a block. Headers beyond what counts for `limit` bytes are read, as those that follow depend on them, but
    /// not passed on. Whether all were passed on.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        limit: usize,
        mut each: impl FnMut(Header),
    ) -> Result<bool, Undecodable> {
        let (mut left, mut may_resize) = (Some(limit), true);
        while let Some(first) = block.first() {
            if first & 0xe0 == 0x20 {
                let size = integer(&mut block, 5)?;
                if !may_resize || size > TABLE_SIZE {
                    return Err(Undecodable);
                }
                self.resize(size);
                continue;
            }
            may_resize = false;
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                let size = self.size_of(index)?;
                left = left.and_then(|left| left.checked_sub(size));
                if left.is_some() {
                    each(self.header(index)?);
                }
                continue;
            }
            let (bits, is_kept) = if first & 0x40 != 0 { (6, true) } else { (4, false) };
            let (header, size) = self.literal(&mut block, bits)?;
            left = left.and_then(|left| left.checked_sub(size));
            if is_kept {
                self.insert(header.clone(), size);
            }
            if left.is_some() {
                each(header);
            }
        }
        Ok(left.is_some())
    }

    /// What the table's entries count for, and what they may.
    pub(crate) fn table_size(&self) -> (usize, usize) {
        (self.size, self.most)
    }

    fn literal(&mut self, block: &mut &[u8], bits: u32) -> Result<(Header, usize), Undecodable> {
        let index = integer(block, bits)?;
        let (name, name_len) = if index == 0 {
            self.name.clear();
            let text = string(block, &mut self.name)?;
            (Name::new(text), text.len())
        } else {
            let name = self.name_of(index)?;
            let len = name.len();
            (name, len)
        };
        self.value.clear();
        let value = string(block, &mut self.value)?;
        Ok((Header::new(name, value), name_len + value.len() + ENTRY))
    }

    fn entry(&self, index: usize) -> Result<&Entry, Undecodable> {
        let place = index.checked_sub(static_table::ENTRIES + 1).ok_or(Undecodable)?;
        self.table.get(place).ok_or(Undecodable)
    }

    fn size_of(&self, index: usize) -> Result<usize, Undecodable> {
        match static_table::name(index) {
            // Nearly none has a value.
            Some(name) => Ok(name.len() + ENTRY),
            None => Ok(self.entry(index)?.size),
        }
    }

    fn header(&self, index: usize) -> Result<Header, Undecodable> {
        match static_table::header(index) {
            Some(header) => Ok(header),
            None => Ok(self.entry(index)?.header.clone()),
        }
    }

    fn name_of(&self, index: usize) -> Result<Name, Undecodable> {
        match static_table::name(index) {
            Some(name) => Ok(name),
            None => Ok(self.entry(index)?.header.name()),
        }
    }

    fn insert(&mut self, header: Header, size: usize) {
        if size > self.most {
            self.table.clear();
            self.size = 0;
            return;
        }
        self.evict(self.most - size);
        self.table.push_front(Entry { header, size });
        self.size += size;
    }

    fn resize(&mut self, most: usize) {
        self.most = most;
        self.evict(most);
    }

    fn evict(&mut self, most: usize) {
        while self.size > most {
            let Some(entry) = self.table.pop_back() else { break };
            self.size -= entry.size;
        }
    }
}

fn integer(block: &mut &[u8], bits: u32) -> Result<usize, Undecodable> {
    integer::decode(block, bits).map_err(|_| Undecodable)
}

/// Reads a string, into `room` where that is needed.
fn string<'a, 'b: 'a>(block: &mut &'b [u8], room: &'a mut Vec<u8>) -> Result<&'a [u8], Undecodable> {
    let is_huffman = block.first().ok_or(Undecodable)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Undecodable)?;
    *block = rest;
    if !is_huffman {
        return Ok(text);
    }
    huffman::decode(text, room).map_err(|_| Undecodable)?;
    Ok(room)
}
