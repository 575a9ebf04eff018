//! Heads of answers as they come from an instance, and trailer sections, which look like them.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use hyper::ext::ReasonPhrase;

/// The most fields that an answer may have.
const MOST_FIELDS: usize = 100;

/// The head of an answer, but for its fields.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    /// What it says beside the number, where that is not what everybody says.
    pub(crate) reason: Option<ReasonPhrase>,
    /// Whether its fields are where a bare head's go.
    pub(crate) bare: bool,
}

/// Where an answer's fields go.
pub(crate) struct Room<'a> {
    /// The place of the request's own, whose memory they take.
    pub(crate) fields: &'a mut HeaderMap,
    /// Another place for those of a bare head, which came with nothing after it: its request may have to be sent again.
    pub(crate) bare: Option<&'a mut HeaderMap>,
}

impl<'a> Room<'a> {
    /// The fields of an answer.
    pub(crate) fn of(self, answer: &Answer) -> &'a mut HeaderMap {
        self.bare.filter(|_| answer.bare).unwrap_or(self.fields)
    }
}

/// Takes a head off the front of what was read. Its fields replace what is in their room, unless it is one of those that
/// come before the answer itself. `None`: it is not complete.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn take_head(read: &mut BytesMut, room: &mut Room<'_>) -> Result<Option<Answer>, String> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, read, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or("its status is not one")?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let own_words = parsed.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = own_words.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let beside = room.bare.as_deref_mut().filter(|_| length == read.len());
    let bare = beside.is_some();
    if !is_interim(status) {
        fill(beside.unwrap_or(room.fields), parsed.headers, &read[..length])?;
    }
    read.advance(length);
    Ok(Some(Answer { status, version, reason, bare }))
}

/// Takes a trailer section off the front of what was read. `None`: it is not complete.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn take_trailers(read: &mut BytesMut) -> Result<Option<HeaderMap>, String> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let (length, fields) = match httparse::parse_headers(read, &mut fields) {
        Ok(httparse::Status::Complete(parsed)) => parsed,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut trailers = HeaderMap::new();
    fill(&mut trailers, fields, &read[..length])?;
    read.advance(length);
    Ok(Some(trailers))
}

/// Whether another head follows this one (RFC 9110, section 15.2). After 101 there is none.
pub(super) fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// Whether an empty line ends in what was read after the first `looked_at` bytes: only then can a head have become
/// complete.
pub(super) fn may_be_complete(read: &[u8], looked_at: usize) -> bool {
    let new = &read[looked_at.saturating_sub(3).min(read.len())..];
    new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

/// Copies `section` once, and shares it among the values.
fn fill(headers: &mut HeaderMap, fields: &[httparse::Header<'_>], section: &[u8]) -> Result<(), String> {
    headers.clear();
    headers.reserve(fields.len());
    let start = section.as_ptr().addr();
    let section = Bytes::copy_from_slice(section);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|error| error.to_string())?;
        let value = if field.value.is_empty() {
            // It may point anywhere.
            HeaderValue::from_static("")
        } else {
            let from = field.value.as_ptr().addr() - start;
            HeaderValue::from_maybe_shared(section.slice(from..from + field.value.len()))
                .map_err(|error| error.to_string())?
        };
        headers.append(name, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str) -> Result<Option<(Answer, HeaderMap, String)>, String> {
        let mut read = BytesMut::from(text);
        let mut headers = HeaderMap::new();
        headers.insert("x-old", HeaderValue::from_static("1"));
        let answer = take_head(&mut read, &mut Room { fields: &mut headers, bare: None })?;
        Ok(answer.map(|answer| (answer, headers, String::from_utf8(read.to_vec()).expect("text"))))
    }

    #[test]
    fn a_head_is_taken_and_the_rest_is_left() {
        let text =
            "HTTP/1.1 404 Nothing here\r\nX-A:  1 \r\nset-cookie: a\r\nSet-Cookie: b\r\nx-empty:\r\n\r\nrest";
        let (answer, headers, rest) = take(text).expect("a head").expect("all of it");
        assert_eq!((answer.status, answer.version), (StatusCode::NOT_FOUND, Version::HTTP_11));
        assert_eq!(answer.reason.expect("its own").as_bytes(), b"Nothing here");
        assert_eq!(rest, "rest");
        assert_eq!((headers["x-a"].as_bytes(), headers["x-empty"].as_bytes()), (&b"1"[..], &b""[..]));
        assert_eq!(headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert!(!headers.contains_key("x-old"), "what was there before is gone");
    }

    #[test]
    fn an_interim_head_leaves_the_fields_alone() {
        for status in ["100 Continue", "103 Early Hints", "199 What"] {
            let text = format!("HTTP/1.1 {status}\r\nlink: a\r\n\r\n");
            let (_, headers, _) = take(&text).expect("a head").expect("all of it");
            assert!(headers.contains_key("x-old") && !headers.contains_key("link"), "{status}");
        }
    }

    #[test]
    fn only_a_bare_head_leaves_the_requests_fields_alone() {
        for (rest, is_bare) in [("", true), ("b", false)] {
            let mut read = BytesMut::from(&*format!("HTTP/1.1 200 OK\r\nx-new: 1\r\n\r\n{rest}"));
            let (mut fields, mut bare) = (HeaderMap::new(), HeaderMap::new());
            fields.insert("x-old", HeaderValue::from_static("1"));
            let mut room = Room { fields: &mut fields, bare: Some(&mut bare) };
            let answer = take_head(&mut read, &mut room).expect("a head").expect("all of it");
            assert!(room.of(&answer).contains_key("x-new"), "before {rest:?}");
            assert_eq!((answer.bare, fields.contains_key("x-old")), (is_bare, is_bare), "before {rest:?}");
        }
    }

    #[test]
    fn every_part_of_a_head_is_not_a_head() {
        let text = "HTTP/1.0 200 OK\r\na: b\r\n\r\n";
        for length in 0..text.len() {
            assert!(take(&text[..length]).expect("no error").is_none(), "{length}");
        }
        let (answer, ..) = take(text).expect("a head").expect("all of it");
        assert_eq!((answer.version, answer.reason), (Version::HTTP_10, None));
    }

    #[test]
    fn it_is_seen_where_a_head_may_end_however_it_arrives() {
        for text in ["HTTP/1.1 200 OK\r\na: b\r\n\r\n", "HTTP/1.1 200 OK\na: b\n\n"] {
            for split in 0..text.len() {
                assert!(!may_be_complete(&text.as_bytes()[..split], 0), "{text:?} to {split}");
                assert!(may_be_complete(text.as_bytes(), split), "{text:?} from {split}");
            }
        }
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 99 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
        ] {
            assert!(take(text).is_err(), "{text:?} became {:?}", take(text));
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MOST_FIELDS + 1));
        assert!(take(&many).is_err());
        let enough = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MOST_FIELDS));
        assert!(take(&enough).expect("a head").is_some());
    }
}
