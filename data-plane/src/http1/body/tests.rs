//! How answers are framed, and bodies read, however the bytes arrive.

use proptest::prelude::*;

use super::*;

fn answer(status: u16, version: Version) -> Answer {
    Answer { status: StatusCode::from_u16(status).expect("a status"), version, reason: None, bare: false }
}

fn framing(
    status: u16,
    version: Version,
    asked: &Method,
    fields: &str,
) -> Result<(Framing, HeaderMap), &'static str> {
    let mut read = BytesMut::from(format!("{fields}\r\n").as_str());
    let mut headers = take_trailers(&mut read).expect("fields").expect("all of them");
    let framing = Framing::of(&answer(status, version), &mut headers, asked)?;
    Ok((framing, headers))
}

fn of(fields: &str) -> Result<Framing, &'static str> {
    framing(200, Version::HTTP_11, &Method::GET, fields).map(|(framing, _)| framing)
}

const CHUNKED: Decoder = Decoder::Chunked(Chunks { place: Place::Size { size: 0, digits: 0 }, extra: 0 });

#[test]
fn the_end_of_a_body_is_where_rfc_9112_says() {
    for (fields, decoder, persistent) in [
        ("content-length: 0\r\n", Decoder::Length(0), true),
        ("content-length: 7\r\n", Decoder::Length(7), true),
        ("content-length: 7\r\ncontent-length: 7\r\n", Decoder::Length(7), true),
        ("content-length: 7 , 7\r\n", Decoder::Length(7), true),
        ("transfer-encoding: Chunked\r\n", CHUNKED, true),
        ("transfer-encoding: chunked\r\ncontent-length: 7\r\n", CHUNKED, false),
        ("transfer-encoding: chunked\r\nconnection: x, Close\r\n", CHUNKED, false),
        ("", Decoder::UntilClose, false),
        ("connection: keep-alive\r\n", Decoder::UntilClose, false),
        ("content-length: 7\r\nconnection: keep-alive\r\nconnection: close\r\n", Decoder::Length(7), false),
    ] {
        assert_eq!(of(fields), Ok(Framing { decoder, persistent }), "{fields:?}");
    }
}

#[test]
fn lengths_that_say_the_same_become_one() {
    for fields in ["content-length: 7\r\ncontent-length: 7\r\n", "content-length: 7, 07\r\n"] {
        let (_, headers) = framing(200, Version::HTTP_11, &Method::GET, fields).expect("an end");
        assert_eq!(headers.get_all(CONTENT_LENGTH).iter().collect::<Vec<_>>(), ["7"], "{fields:?}");
    }
}

#[test]
fn an_end_that_is_not_certain_is_refused() {
    for fields in [
        "content-length: 7\r\ncontent-length: 8\r\n",
        "content-length: 7, 8\r\n",
        "content-length: 7,\r\n",
        "content-length:\r\n",
        "content-length: -1\r\n",
        "content-length: +1\r\n",
        "content-length: 0x10\r\n",
        "content-length: 1 2\r\n",
        "content-length: 18446744073709551616\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked, identity\r\ncontent-length: 7\r\n",
        "transfer-encoding:\r\ncontent-length: 7\r\n",
    ] {
        assert!(of(fields).is_err(), "{fields:?} became {:?}", of(fields));
    }
    let coded = framing(200, Version::HTTP_10, &Method::GET, "transfer-encoding: chunked\r\n");
    assert!(coded.is_err(), "HTTP/1.0 knows no chunks");
}

#[test]
fn some_answers_have_no_body_whatever_they_say() {
    for (status, asked) in [(200, Method::HEAD), (204, Method::GET), (304, Method::GET), (101, Method::GET)] {
        for fields in ["content-length: 7\r\n", "transfer-encoding: chunked\r\n", "content-length: 0\r\n", ""]
        {
            let may_follow = status == 204 && fields.contains(['7', 'k']);
            let (framing, _) = framing(status, Version::HTTP_11, &asked, fields).expect("an end");
            assert_eq!(framing.decoder, Decoder::Length(0), "{status} {asked} {fields:?}");
            assert_eq!(framing.persistent, status != 101 && !may_follow, "{status} {asked} {fields:?}");
        }
    }
}

#[test]
fn http_1_0_keeps_a_connection_only_where_it_says_so() {
    for (fields, persistent) in
        [("", false), ("connection: Keep-Alive\r\n", true), ("connection: close, keep-alive\r\n", false)]
    {
        let fields = format!("content-length: 7\r\n{fields}");
        let (framing, _) = framing(200, Version::HTTP_10, &Method::GET, &fields).expect("an end");
        assert_eq!(framing.persistent, persistent, "{fields:?}");
    }
}

/// What a body is made of: its data, its trailers, and what is left over after it.
type Whole = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// Reads a body that arrives in parts. `None`: it has not ended.
fn read(mut decoder: Decoder, parts: &[&[u8]]) -> Result<Option<Whole>, BodyError> {
    let (mut read, mut data, mut trailers) = (BytesMut::new(), Vec::new(), None);
    for part in parts {
        read.extend_from_slice(part);
        while let Some(step) = decoder.next(&mut read)? {
            match step {
                Step::Data(bytes) => data.extend_from_slice(&bytes),
                Step::Trailers(found) => trailers = Some(found),
                Step::End => break,
            }
        }
    }
    Ok(decoder.is_done().then(|| (data, trailers, read.to_vec())))
}

/// The same in one piece and in every two pieces.
fn read_everyhow(decoder: Decoder, body: &[u8]) -> Result<Option<Whole>, String> {
    let whole = read(decoder, &[body]).map_err(|error| error.to_string());
    for split in 0..=body.len() {
        let (front, back) = body.split_at(split);
        let pieces = read(decoder, &[front, back]).map_err(|error| error.to_string());
        assert_eq!(pieces, whole, "{:?} split at {split}", String::from_utf8_lossy(body));
    }
    whole
}

#[test]
fn chunks_are_put_together_wherever_they_are_split() {
    let body =
        b"3\r\nabc\r\n00A ;x=\"1\";y\r\n0123456789\r\n1\t\r\nz\r\n0;end\r\nx-sum: 1\r\nx-more:2\r\n\r\nHTTP";
    let (data, trailers, rest) = read_everyhow(CHUNKED, body).expect("chunks").expect("all of them");
    assert_eq!((data.as_slice(), rest.as_slice()), (&b"abc0123456789z"[..], &b"HTTP"[..]));
    assert_eq!(trailers.expect("two")["x-more"], "2");
    let (data, trailers, _) = read_everyhow(CHUNKED, b"0\r\n\r\n").expect("chunks").expect("all of them");
    assert!(data.is_empty() && trailers.is_none());
}

#[test]
fn what_is_no_chunk_is_refused_wherever_it_is_split() {
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\n",
        " 1\r\n",
        "1\n",
        "1 x\r\n",
        "1\r\r\n",
        "1;\n\r\n",
        "1;a\0\r\n",
        "1;a\rb\r\n",
        "0x1\r\n",
        "1\r\nab\r\n",
        "1\r\na\n",
        "1\r\na\rb",
        "11111111111111111\r\n",
        ";\r\n",
        "0\r\nx y: 1\r\n\r\n",
        "0\r\n x: 1\r\n\r\n",
        "0\r\nx: 1\r\n y\r\n\r\n",
    ] {
        let refused = read_everyhow(CHUNKED, body.as_bytes());
        assert!(refused.is_err(), "{body:?} became {refused:?}");
    }
}

#[test]
fn what_nobody_needs_is_limited() {
    let extension = format!("1;{}\r\na\r\n", "x".repeat(MOST_EXTRA));
    assert!(read(CHUNKED, &[extension.as_bytes()]).is_ok());
    let extensions = "1;xxxxxxx\r\na\r\n".repeat(MOST_EXTRA / 7 + 1);
    assert!(read(CHUNKED, &[extensions.as_bytes()]).is_err(), "over all chunks");
    let field = format!("0\r\nx: {}", "x".repeat(MOST_EXTRA));
    for end in ["", "\r\n\r\n"] {
        assert!(read(CHUNKED, &[field.as_bytes(), end.as_bytes()]).is_err(), "{end:?}");
        assert!(read(CHUNKED, &[format!("{field}{end}").as_bytes()]).is_err(), "{end:?}");
    }
    let fields = format!("0\r\n{}\r\n", "x: 1\r\n".repeat(101));
    assert!(read(CHUNKED, &[fields.as_bytes()]).is_err());
}

#[test]
fn the_end_of_the_connection_ends_only_a_body_that_says_so() {
    let mut until_close = Decoder::UntilClose;
    assert_eq!(until_close.close().expect("the end"), Step::End);
    assert!(until_close.is_done());
    assert!(Decoder::Length(1).close().is_err());
    assert!(Decoder::Length(0).close().is_ok());
    let body = b"3\r\nabc\r\n0\r\nx: 1\r\n\r\n";
    for length in 0..body.len() {
        let (mut decoder, mut read) = (CHUNKED, BytesMut::from(&body[..length]));
        while decoder.next(&mut read).expect("chunks").is_some() {}
        assert!(decoder.close().is_err(), "after {length} bytes");
    }
}

proptest! {
    #[test]
    fn a_body_is_the_same_however_it_arrives(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        left_over in prop::collection::vec(any::<u8>(), 0..5),
    ) {
        let data = chunks.concat();
        let mut chunked = Vec::new();
        for chunk in &chunks {
            chunked.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            chunked.extend(chunk);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        for (decoder, mut sent) in [(CHUNKED, chunked), (Decoder::Length(data.len() as u64), data.clone())] {
            sent.extend(&left_over);
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(sent.len() + 1)).collect();
            places.extend([0, sent.len()]);
            places.sort_unstable();
            let parts: Vec<&[u8]> = places.windows(2).map(|pair| &sent[pair[0]..pair[1]]).collect();
            let whole = read(decoder, &parts).expect("a body");
            prop_assert_eq!(whole, Some((data.clone(), None, left_over.clone())));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_depend_on_how_they_arrive(body in "[0-9a-f;\r\n x:]{0,40}") {
        let _ = read_everyhow(CHUNKED, body.as_bytes());
    }
}
