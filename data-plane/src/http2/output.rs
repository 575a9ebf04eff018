//! What is to be written: small pieces side by side in one buffer, large ones as they are.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// From how many bytes on a piece is passed on as it is. To copy less costs a fraction of what another slice does.
const LARGE: usize = 8 << 10;

/// Bytes in the order in which they are to be written.
#[derive(Default)]
pub(crate) struct Output {
    /// What comes before the tail.
    parts: VecDeque<Bytes>,
    /// How much that is.
    before: usize,
    tail: BytesMut,
}

impl Output {
    /// Where small pieces are written.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Adds a piece of any size.
    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.len() < LARGE {
            return self.tail.extend_from_slice(&piece);
        }
        if !self.tail.is_empty() {
            self.before += self.tail.len();
            self.parts.push_back(self.tail.split().freeze());
        }
        self.before += piece.len();
        self.parts.push_back(piece);
    }

    /// Lets go of its memory, if all was written.
    pub(crate) fn shrink(&mut self) {
        if !self.has_remaining() {
            *self = Self::default();
        }
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.before + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&self.tail, |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pieces = self.parts.iter().map(|part| &part[..]).chain([&self.tail[..]]);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces.filter(|piece| !piece.is_empty())) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(part) = self.parts.front_mut() {
            let of_it = count.min(part.len());
            part.advance(of_it);
            self.before -= of_it;
            count -= of_it;
            if !part.is_empty() {
                return;
            }
            self.parts.pop_front();
        }
        if count == self.tail.len() {
            // So that its room is used again.
            self.tail.clear();
        } else {
            self.tail.advance(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_comes_out_in_order(
            pieces in prop::collection::vec((0_usize..20_000, 0_usize..15_000), 1..20),
        ) {
            let (mut output, mut expected, mut got) = (Output::default(), Vec::new(), Vec::new());
            for (at, (length, take)) in pieces.into_iter().enumerate() {
                let piece = vec![at as u8; length];
                expected.extend_from_slice(&piece);
                output.push(piece.into());
                let mut slices = [IoSlice::new(&[]); 3];
                let count = output.chunks_vectored(&mut slices);
                let there: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                let taken = take.min(there.len());
                got.extend_from_slice(&there[..taken]);
                output.advance(taken);
                prop_assert_eq!(output.remaining(), expected.len() - got.len());
            }
            while output.has_remaining() {
                let chunk = output.chunk().to_vec();
                got.extend_from_slice(&chunk);
                output.advance(chunk.len());
            }
            prop_assert!(got == expected);
        }
    }
}
