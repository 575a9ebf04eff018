//! Writes header blocks.
//!
//! Fields that differ with nearly every answer are not put into the table, where they would drive out others, and those
//! that are secret are never put there (RFC 7541, section 7.1.3).

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{ENTRY, TABLE_SIZE, huffman, integer, static_table};

/// How many fields can be found in the table.
const PLACES: usize = 128;

/// The state of a connection's blocks, as they are written here.
pub(crate) struct Encoder {
    table: VecDeque<Entry>,
    size: usize,
    most: usize,
    /// How many entries there were before the first one that is still there.
    gone: u32,
    /// Where a field was last put, by its hash. What it says is looked up, and may be something else by now.
    places: Option<Box<[u32; PLACES]>>,
    /// The least size that the table was given since the last block, and the last.
    resized: Option<(usize, usize)>,
}

struct Entry {
    name: HeaderName,
    value: HeaderValue,
    size: usize,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { table: VecDeque::new(), size: 0, most: TABLE_SIZE, gone: 0, places: None, resized: None }
    }

    /// Takes over how large the other side allows the table to be.
    pub(crate) fn resize(&mut self, most: usize) {
        let most = most.min(TABLE_SIZE);
        let least = self.resized.map_or(most, |(least, _)| least.min(most));
        if most != self.most || self.resized.is_some() {
            self.resized = Some((least, most));
        }
        self.most = most;
        self.evict(least);
    }

    /// Begins a block.
    pub(crate) fn begin(&mut self, out: &mut BytesMut) {
        let Some((least, most)) = self.resized.take() else { return };
        if least < most {
            integer::encode(least, 5, 0x20, out);
        }
        integer::encode(most, 5, 0x20, out);
    }

    /// Writes an answer's status.
    pub(crate) fn status(&mut self, status: StatusCode, out: &mut BytesMut) {
        match static_table::status(status) {
            Ok(index) => integer::encode(index, 7, 0x80, out),
            Err(index) => {
                integer::encode(index, 4, 0, out);
                string(status.as_str().as_bytes(), out);
            }
        }
    }

    /// Writes a field.
    pub(crate) fn field(&mut self, name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
        if value.is_sensitive() {
            return literal(name, value, 4, 0x10, out);
        }
        let size = name.as_str().len() + value.len() + ENTRY;
        if differs_often(name) || size > self.most / 2 {
            return literal(name, value, 4, 0, out);
        }
        let place = place_of(name, value);
        if let Some(at) = self.find(place, name, value) {
            return integer::encode(static_table::ENTRIES + self.table.len() - at, 7, 0x80, out);
        }
        literal(name, value, 6, 0x40, out);
        self.insert(place, name, value, size);
    }

    /// What the table's entries count for, and what they may.
    pub(crate) fn table_size(&self) -> (usize, usize) {
        (self.size, self.most)
    }

    /// Where a field stands, counted from the oldest.
    fn find(&self, place: usize, name: &HeaderName, value: &HeaderValue) -> Option<usize> {
        let at = self.places.as_ref()?[place].wrapping_sub(self.gone) as usize;
        let entry = self.table.get(at)?;
        (entry.value == value && entry.name == name).then_some(at)
    }

    fn insert(&mut self, place: usize, name: &HeaderName, value: &HeaderValue, size: usize) {
        self.evict(self.most - size);
        // Copies: what it comes from may be a part of something large.
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone());
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
        let number = self.gone.wrapping_add(self.table.len() as u32);
        self.places.get_or_insert_with(|| Box::new([number; PLACES]))[place] = number;
        self.table.push_back(Entry { name, value, size });
        self.size += size;
    }

    fn evict(&mut self, most: usize) {
        while self.size > most {
            let Some(entry) = self.table.pop_front() else { break };
            self.size -= entry.size;
            self.gone = self.gone.wrapping_add(1);
        }
    }
}

fn literal(name: &HeaderName, value: &HeaderValue, bits: u32, flags: u8, out: &mut BytesMut) {
    match static_table::index(name) {
        Some(index) => integer::encode(index, bits, flags, out),
        None => {
            out.put_u8(flags);
            string(name.as_str().as_bytes(), out);
        }
    }
    string(value.as_bytes(), out);
}

fn string(text: &[u8], out: &mut BytesMut) {
    let length = huffman::encoded_len(text);
    if length < text.len() {
        integer::encode(length, 7, 0x80, out);
        huffman::encode(text, out);
    } else {
        integer::encode(text.len(), 7, 0, out);
        out.put_slice(text);
    }
}

fn differs_often(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONTENT_LENGTH
            | header::SET_COOKIE
            | header::ETAG
            | header::LOCATION
            | header::LAST_MODIFIED
            | header::AGE
            | header::CONTENT_RANGE
    )
}

/// Where it is noted that a field is in the table. Others may be noted at the same place.
fn place_of(name: &HeaderName, value: &HeaderValue) -> usize {
    let mut hash = 0_u64;
    for text in [name.as_str().as_bytes(), value.as_bytes()] {
        hash = mix(hash, text.len() as u64);
        let (words, rest) = text.as_chunks::<8>();
        for word in words {
            hash = mix(hash, u64::from_le_bytes(*word));
        }
        let rest = rest.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        hash = mix(hash, rest);
    }
    (hash >> 32) as usize % PLACES
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http2::hpack::{Decoder, Header};

    type Fields = Vec<(HeaderName, HeaderValue)>;

    fn fields() -> impl Strategy<Value = Fields> {
        let name = prop_oneof![
            Just(header::CONTENT_TYPE),
            Just(header::CONTENT_LENGTH),
            Just(header::DATE),
            "x-[a-z]{1,3}".prop_map(|name| HeaderName::try_from(name).expect("it is a name")),
        ];
        let value =
            "[a-c]{0,2}|[!-~]{1,40}".prop_map(|value| HeaderValue::try_from(value).expect("it is a value"));
        prop::collection::vec((name, value), 0..12)
    }

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Fields {
        let mut read = Fields::new();
        let whole = decoder.decode(block, usize::MAX, |header| {
            if let Header::Field(name, value) = header {
                read.push((name, value));
            }
        });
        assert_eq!(whole, Ok(true));
        read
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            blocks in prop::collection::vec((fields(), prop::option::of(0_usize..6000)), 1..40),
        ) {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
            for (fields, resize) in blocks {
                if let Some(most) = resize {
                    encoder.resize(most / 2);
                    encoder.resize(most);
                }
                let mut out = BytesMut::new();
                encoder.begin(&mut out);
                encoder.status(StatusCode::CREATED, &mut out);
                fields.iter().for_each(|(name, value)| encoder.field(name, value, &mut out));
                prop_assert_eq!(decoded(&mut decoder, &out), fields);
            }
        }
    }

    #[test]
    fn a_field_that_was_sent_lately_takes_a_byte() {
        let mut encoder = Encoder::new();
        let mut lengths = Vec::new();
        for _ in 0..2 {
            let mut out = BytesMut::new();
            encoder.field(&header::CONTENT_TYPE, &HeaderValue::from_static("application/grpc"), &mut out);
            lengths.push(out.len());
        }
        assert_eq!(lengths, [13, 1]);
    }

    #[test]
    fn secrets_are_never_put_into_a_table() {
        let mut value = HeaderValue::from_static("secret");
        value.set_sensitive(true);
        let mut out = BytesMut::new();
        Encoder::new().field(&header::SET_COOKIE, &value, &mut out);
        assert_eq!(out[0], 0x1f, "never indexed");
    }
}
