//! Header compression: what our side reads and writes is what another implementation writes and reads.

use arbitrary::{Arbitrary, Unstructured};
use http::{HeaderName, HeaderValue, StatusCode, header::SET_COOKIE};
use loona_hpack::{Decoder, Encoder, decoder::DecoderError};
use waypost_proxy::http2::examined::{Blocks, Read};

/// How large a table is, unless something else was agreed upon.
const TABLE: usize = 4096;
/// Of what a round has at most.
const MANY: usize = 64;

const NAMES: [&str; 12] = [
    ":method",
    ":scheme",
    ":authority",
    ":path",
    ":status",
    "cookie",
    "content-length",
    "content-type",
    "x-a",
    "X-Upper",
    "x a",
    "",
];
const VALUES: [&str; 9] =
    ["", "GET", "https", "/", "/a?b#c", "application/grpc", " x", "\u{e9}", "a.test:80"];

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Blocks of one direction of a connection.
#[derive(Debug)]
enum Round {
    /// As a client may make them up.
    Bytes(Vec<Vec<u8>>),
    /// Written by the other implementation.
    Theirs(Vec<Fields>),
    /// Written by ours.
    Ours(Vec<Answer>),
}

/// An answer's head, and the sizes that our table was given before it.
#[derive(Debug)]
struct Answer {
    resized: Vec<u16>,
    status: u16,
    fields: Fields,
}

impl Arbitrary<'_> for Round {
    fn arbitrary(input: &mut Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(match input.int_in_range(0..=2)? {
            0 => Self::Bytes(input.arbitrary()?),
            1 => Self::Theirs(many(input, fields)?),
            _ => Self::Ours(many(input, |input| {
                let resized = (0..input.int_in_range(0..=2)?)
                    .map(|_| input.int_in_range(0..=5000))
                    .collect::<arbitrary::Result<_>>()?;
                let status = input.int_in_range(100..=999)?;
                Ok(Answer { resized, status, fields: fields(input)? })
            })?),
        })
    }
}

/// As many as the rest of an input has.
fn many<T>(
    input: &mut Unstructured<'_>,
    mut one: impl FnMut(&mut Unstructured<'_>) -> arbitrary::Result<T>,
) -> arbitrary::Result<Vec<T>> {
    let mut all = Vec::new();
    while !input.is_empty() && all.len() < MANY {
        all.push(one(input)?);
    }
    Ok(all)
}

fn fields(input: &mut Unstructured<'_>) -> arbitrary::Result<Fields> {
    (0..input.int_in_range(0..=8)?).map(|_| Ok((text(input, &NAMES)?, text(input, &VALUES)?))).collect()
}

/// One of those that mean something, or anything; now and then a long one.
fn text(input: &mut Unstructured<'_>, known: &[&str]) -> arbitrary::Result<Vec<u8>> {
    match input.int_in_range(0..=7)? {
        0..=4 => Ok(input.choose(known)?.as_bytes().to_vec()),
        5 | 6 => input.arbitrary(),
        _ => Ok(vec![input.arbitrary()?; input.int_in_range(0..=3000)?]),
    }
}

/// Holds the promise for the blocks of one direction.
pub fn run(bytes: &[u8]) {
    let Ok(round) = Round::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let mut theirs = Decoder::new();
    theirs.set_max_allowed_table_size(TABLE);
    match round {
        Round::Bytes(blocks) => made_up(&blocks, theirs),
        Round::Theirs(blocks) => {
            let (mut writer, mut ours) = (Encoder::new(), Blocks::at_begin());
            for fields in blocks {
                let block = writer.encode(fields.iter().map(|(name, value)| (&**name, &**value)));
                assert_same(&ours.decode(&block).expect("it is in order"), &fields);
            }
        }
        Round::Ours(answers) => written(answers, theirs),
    }
}

/// What ours takes, the other one takes as the same. It may take more: it looks away where sizes stand between headers.
fn made_up(blocks: &[Vec<u8>], mut theirs: Decoder<'_>) {
    let mut ours = Blocks::at_begin();
    for block in blocks.iter().take(MANY) {
        let Some(read) = ours.decode(block) else { return };
        match theirs.decode(block) {
            Ok(other) => assert_same(&read, &other),
            // A block of nothing but sizes is in order, but not to them.
            Err(DecoderError::SizeUpdateAtEnd) if read.is_empty() => {}
            Err(error) => panic!("{block:02x?} is read as {read:?}, and is {error:?}"),
        }
    }
}

fn written(answers: Vec<Answer>, mut theirs: Decoder<'_>) {
    let mut ours = Blocks::at_begin();
    for Answer { resized, status, fields } in answers {
        for size in &resized {
            ours.resize(usize::from(*size));
            theirs.set_max_allowed_table_size(TABLE.min(usize::from(*size)));
        }
        let fields: Vec<(HeaderName, HeaderValue)> = fields
            .iter()
            .filter_map(|(name, value)| {
                let mut value = HeaderValue::from_bytes(value).ok()?;
                let name = HeaderName::from_bytes(name).ok()?;
                value.set_sensitive(name == SET_COOKIE);
                Some((name, value))
            })
            .collect();
        let status = StatusCode::from_u16(status).expect("a status");
        let block = ours.encode(status, &fields);
        let read = theirs.decode(&block).expect("it is in order");
        let of = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        let mut expected = vec![of(b":status", status.as_str().as_bytes())];
        expected.extend(fields.iter().map(|(name, value)| of(name.as_str().as_bytes(), value.as_bytes())));
        assert_eq!(read, expected);
    }
}

/// What was read is what it says, and only what may be in no request is refused.
#[track_caller]
fn assert_same(ours: &[Read], theirs: &[(Vec<u8>, Vec<u8>)]) {
    assert_eq!(ours.len(), theirs.len(), "{ours:?} {theirs:?}");
    for (ours, (name, value)) in ours.iter().zip(theirs) {
        match ours {
            Read::Malformed => assert!(!is_plain(name, value), "{name:?} {value:?} is refused"),
            Read::Header(read, text) => {
                // A path's fragment is no part of it.
                let value = match (&**read, value.iter().position(|byte| *byte == b'#')) {
                    (":path", Some(end)) => &value[..end],
                    _ => value,
                };
                assert_eq!((read.as_bytes(), &**text), (&**name, value));
            }
        }
    }
}

/// Whether a header is one that nobody may refuse.
fn is_plain(name: &[u8], value: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(byte);
    let is_text = value.iter().all(|byte| (0x20..0x7f).contains(byte));
    let is_trimmed = value.first() != Some(&b' ') && value.last() != Some(&b' ');
    match name {
        b":method" => !value.is_empty() && value.iter().all(u8::is_ascii_uppercase),
        b":scheme" => matches!(value, b"http" | b"https"),
        b":path" => value.first() == Some(&b'/') && value.iter().all(|byte| is_token(byte) || *byte == b'/'),
        _ => !name.is_empty() && name.iter().all(is_token) && is_text && is_trimmed,
    }
}
