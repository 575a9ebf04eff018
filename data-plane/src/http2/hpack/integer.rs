//! Integers (RFC 7541, section 5.1): as many bits as are left of a byte, and more bytes where that is not enough.

use bytes::{BufMut, BytesMut};

/// There is less of it than it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// Reads an integer whose first byte has `bits` bits for it. No integer that means anything here has more than 28.
pub(super) fn decode(input: &mut &[u8], bits: u32) -> Result<usize, Invalid> {
    let most = (1_usize << bits) - 1;
    let (first, mut rest) = input.split_first().ok_or(Invalid)?;
    let mut value = usize::from(*first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (byte, more) = rest.split_first().ok_or(Invalid)?;
            rest = more;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(Invalid);
            }
        }
    }
    *input = rest;
    Ok(value)
}

/// Writes an integer. `flags` are the bits of the first byte that it does not have.
pub(super) fn encode(mut value: usize, bits: u32, flags: u8, out: &mut BytesMut) {
    let most = (1_usize << bits) - 1;
    if value < most {
        return out.put_u8(flags | value as u8);
    }
    out.put_u8(flags | most as u8);
    value -= most;
    while value >= 0x80 {
        out.put_u8(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc_come_out() {
        for (value, bits, bytes) in [(10, 5, &[10][..]), (1337, 5, &[31, 154, 10]), (42, 8, &[42])] {
            let mut out = BytesMut::new();
            encode(value, bits, 0, &mut out);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn integers_without_an_end_are_refused() {
        for bytes in [&[][..], &[31], &[31, 0x80], &[31, 0xff, 0xff, 0xff, 0xff, 0x01]] {
            assert_eq!(decode(&mut { bytes }, 5), Err(Invalid), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(value in 0_usize..1 << 28, bits in 4_u32..8) {
            let mut out = BytesMut::new();
            encode(value, bits, 0, &mut out);
            out.put_u8(7);
            let mut input = &out[..];
            prop_assert_eq!(decode(&mut input, bits), Ok(value));
            prop_assert_eq!(input, &[7][..]);
        }
    }
}
