//! The Huffman code of HPACK (RFC 7541, section 5.2 and appendix B).
//!
//! It is canonical: the lengths alone say what every symbol's code is, so that nothing else of the appendix is written
//! down here. Codes of at most eight bits, which is nearly all that header fields have, are looked up at once.

/// A string that no encoder makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// The end of a string, which is never written.
const END: usize = 256;
const LONGEST: usize = 30;

/// How many bits the code of each symbol has.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

/// The code of a symbol.
#[derive(Clone, Copy)]
struct Code {
    bits: u32,
    length: u8,
}

/// A symbol with a short code; a length of 0: longer.
#[derive(Clone, Copy)]
struct Short {
    symbol: u8,
    length: u8,
}

/// The codes of one length, which follow each other.
#[derive(Clone, Copy)]
struct Row {
    first: u32,
    count: u32,
    /// Where their symbols stand in [`SYMBOLS`].
    offset: u32,
}

struct Tables {
    codes: [Code; 257],
    rows: [Row; LONGEST + 1],
    symbols: [u16; 257],
    short: [Short; 256],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables {
        codes: [Code { bits: 0, length: 0 }; 257],
        rows: [Row { first: 0, count: 0, offset: 0 }; LONGEST + 1],
        symbols: [0; 257],
        short: [Short { symbol: 0, length: 0 }; 256],
    };
    let (mut length, mut code, mut at) = (1, 0_u32, 0);
    while length <= LONGEST {
        code <<= 1;
        tables.rows[length] = Row { first: code, count: 0, offset: at };
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                tables.codes[symbol] = Code { bits: code, length: length as u8 };
                tables.symbols[at as usize] = symbol as u16;
                if length <= 8 {
                    let mut rest = 0;
                    while rest < 1 << (8 - length) {
                        let index = ((code as usize) << (8 - length)) | rest;
                        tables.short[index] = Short { symbol: symbol as u8, length: length as u8 };
                        rest += 1;
                    }
                }
                tables.rows[length].count += 1;
                code += 1;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    tables
}

/// How many bytes a string has when it is encoded.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum();
    bits.div_ceil(8)
}

/// Encodes a string.
pub(super) fn encode(text: &[u8], out: &mut impl Extend<u8>) {
    let (mut bits, mut count) = (0_u64, 0_u32);
    for byte in text {
        let code = TABLES.codes[usize::from(*byte)];
        bits = (bits << code.length) | u64::from(code.bits);
        count += u32::from(code.length);
        while count >= 8 {
            count -= 8;
            out.extend([(bits >> count) as u8]);
        }
    }
    if count > 0 {
        // What is left of the last byte is the beginning of the end's code: ones.
        out.extend([((bits << (8 - count)) as u8) | (0xff >> count)]);
    }
}

/// Decodes a string.
///
/// # Errors
/// It contains the end, or ends with something else than less than a byte of ones.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    // The next bits stand on the left; behind the last one are ones.
    let (mut bits, mut count) = (u64::MAX, 0_u32);
    let mut bytes = input.iter();
    loop {
        while count <= 56 {
            let Some(byte) = bytes.next() else { break };
            let free = 56 - count;
            bits = (bits & !(0xff << free)) | (u64::from(*byte) << free);
            count += 8;
        }
        if count < 8 && bits == u64::MAX {
            return Ok(());
        }
        let short = TABLES.short[(bits >> 56) as usize];
        let (symbol, length) = match short.length {
            0 => long(bits).ok_or(Invalid)?,
            length => (short.symbol, u32::from(length)),
        };
        if length > count {
            return Err(Invalid);
        }
        out.push(symbol);
        bits = (bits << length) | ((1 << length) - 1);
        count -= length;
    }
}

/// The symbol that bits begin with, and how many bits it has.
fn long(bits: u64) -> Option<(u8, u32)> {
    for (length, row) in TABLES.rows.iter().enumerate().skip(9) {
        let code = (bits >> (64 - length)) as u32;
        let place = code.wrapping_sub(row.first);
        if place < row.count {
            let symbol = usize::from(TABLES.symbols[(row.offset + place) as usize]);
            return (symbol != END).then_some((symbol as u8, length as u32));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(text, &mut out);
        out
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, Invalid> {
        let mut out = Vec::new();
        decode(bytes, &mut out).map(|()| out)
    }

    #[test]
    fn the_examples_of_the_rfc_come_out() {
        for (text, bytes) in [
            (
                "www.example.com",
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
            ),
            ("no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            ("302", &[0x64, 0x02]),
            ("private", &[0xae, 0xc3, 0x77, 0x1a, 0x4b]),
        ] {
            assert_eq!(encoded(text.as_bytes()), bytes, "{text}");
            assert_eq!(decoded(bytes), Ok(text.as_bytes().to_vec()), "{text}");
        }
    }

    #[test]
    fn what_no_encoder_makes_is_refused() {
        for (bytes, why) in [
            (&[0xff, 0xff, 0xff, 0xff][..], "the end"),
            (&[0xff], "a whole byte of padding"),
            (&[0x1f, 0xff], "more than seven bits of padding"),
            (&[0x18], "padding of zeros"),
        ] {
            assert_eq!(decoded(bytes), Err(Invalid), "{why}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = encoded(&text);
            prop_assert_eq!(bytes.len(), encoded_len(&text));
            prop_assert_eq!(decoded(&bytes), Ok(text));
        }

        #[test]
        fn one_string_has_one_code(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            if let Ok(text) = decoded(&bytes) {
                prop_assert_eq!(encoded(&text), bytes);
            }
        }
    }
}
