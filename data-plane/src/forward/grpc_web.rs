//! gRPC-Web (grpc/doc/PROTOCOL-WEB.md) made into gRPC for an instance, and the answer back: browsers can neither
//! read trailers nor, where the text form is used, streams of bytes.
//!
//! ```text
//! application/grpc-web[-text] ─▶ application/grpc, te: trailers; text decoded ─▶ instance
//! messages, trailers as a last frame; text encoded                           ◀─ messages, trailers
//! ```
//!
//! Instances that are registered as gRPC get it this way, and those behind a GRPCRoute that speak HTTP/2; all others get
//! what the client has sent.
//!
//! Deliberately absent: CORS, which belongs to routes.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TE},
};
use hyper::body::Frame;

const GRPC: &str = "application/grpc";
const WEB: &str = "application/grpc-web";
const TEXT: &str = "-text";
/// The first byte of a frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// How a client speaks gRPC-Web.
#[derive(Clone, Debug)]
pub(super) struct GrpcWeb {
    /// What the client has called its request.
    asked: HeaderValue,
    /// What the instance gets it as.
    native: HeaderValue,
    /// Whether the request is text.
    pub(super) is_text: bool,
    answers_text: bool,
}

impl GrpcWeb {
    /// How a request is gRPC-Web, if it is.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let asked = headers.get(CONTENT_TYPE)?;
        let (is_text, format) = parse(asked)?;
        let native = HeaderValue::try_from(format!("{GRPC}{format}")).ok()?;
        let accepted = headers.get(ACCEPT).and_then(parse).map(|(is_text, _)| is_text);
        Some(Self { asked: asked.clone(), native, is_text, answers_text: accepted.unwrap_or(is_text) })
    }

    /// Makes a request's fields into those of gRPC.
    pub(super) fn request(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, self.native.clone());
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if self.is_text {
            headers.remove(CONTENT_LENGTH);
        }
    }

    /// Makes the fields of a request that was not sent what they were.
    pub(super) fn restore(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, self.asked.clone());
        headers.remove(TE);
    }

    /// Makes an answer's fields into those of gRPC-Web. `None`: it is no gRPC, and its body stays as it is.
    pub(super) fn answer(&self, headers: &mut HeaderMap) -> Option<WebAnswer> {
        let native = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let format = strip(native, GRPC)?;
        if !ends_well(format) {
            return None;
        }
        let text = if self.answers_text { TEXT } else { "" };
        let web = HeaderValue::try_from(format!("{WEB}{text}{format}")).ok()?;
        headers.insert(CONTENT_TYPE, web);
        headers.remove(CONTENT_LENGTH);
        Some(WebAnswer { is_text: self.answers_text })
    }
}

/// Whether a media type is gRPC-Web's text, and the format of its messages (`+proto` and the like, parameters).
fn parse(value: &HeaderValue) -> Option<(bool, &str)> {
    let rest = strip(value.to_str().ok()?, WEB)?;
    let (is_text, format) = strip(rest, TEXT).map_or((false, rest), |format| (true, format));
    ends_well(format).then_some((is_text, format))
}

fn ends_well(format: &str) -> bool {
    format.is_empty() || format.starts_with(['+', ';', ' '])
}

fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// An answer's body, on its way to a client of gRPC-Web.
#[derive(Debug)]
pub(super) struct WebAnswer {
    is_text: bool,
}

impl WebAnswer {
    /// Data and trailers as the client can read them.
    pub(super) fn frame(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let bytes = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => frame.into_trailers().map(|trailers| block(&trailers)).unwrap_or_default(),
        };
        // Each part is padded by itself, which the protocol allows for.
        Frame::data(if self.is_text { STANDARD.encode(&bytes).into() } else { bytes })
    }
}

/// Trailers as a frame.
fn block(trailers: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in trailers {
        for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"] {
            lines.put_slice(part);
        }
    }
    let mut block = BytesMut::with_capacity(lines.len() + 5);
    block.put_u8(TRAILERS);
    // Header fields are limited to far less.
    block.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    block.put(lines);
    block.freeze()
}

/// Text that is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotBase64;

/// Reads a request's text, however it is cut: in groups of four characters, of which any may be padded.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Less than four characters.
    rest: Vec<u8>,
}

impl Decoder {
    /// The bytes of what is complete.
    ///
    /// # Errors
    /// It is not base64.
    pub(super) fn push(&mut self, text: &[u8]) -> Result<Bytes, NotBase64> {
        self.rest.extend_from_slice(text);
        let whole = self.rest.len() / 4 * 4;
        let mut bytes = Vec::with_capacity(whole / 4 * 3);
        let mut run = 0;
        for end in (4..=whole).step_by(4) {
            if self.rest[end - 1] == b'=' || end == whole {
                STANDARD.decode_vec(&self.rest[run..end], &mut bytes).map_err(|_| NotBase64)?;
                run = end;
            }
        }
        self.rest.drain(..whole);
        Ok(bytes.into())
    }

    /// Ends it.
    ///
    /// # Errors
    /// A group is not complete.
    pub(super) fn end(&self) -> Result<(), NotBase64> {
        if self.rest.is_empty() { Ok(()) } else { Err(NotBase64) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_is_grpc_web_becomes_grpc_and_back() {
        for (asked, accept, native, answer) in [
            ("application/grpc-web", None, "application/grpc", "application/grpc-web"),
            ("application/grpc-web+proto", None, "application/grpc+proto", "application/grpc-web+proto"),
            (
                "Application/gRPC-Web-Text+proto",
                None,
                "application/grpc+proto",
                "application/grpc-web-text+proto",
            ),
            (
                "application/grpc-web-text",
                Some("application/grpc-web"),
                "application/grpc",
                "application/grpc-web",
            ),
            ("application/grpc-web", Some("*/*"), "application/grpc", "application/grpc-web"),
            ("application/grpc-web; x=y", None, "application/grpc; x=y", "application/grpc-web; x=y"),
        ] {
            let mut headers = with(&[("content-type", asked), ("content-length", "7")]);
            headers.extend(accept.map(|accept| (Some(ACCEPT), HeaderValue::from_static(accept))));
            let web = GrpcWeb::of(&headers).expect("gRPC-Web");
            web.request(&mut headers);
            assert_eq!(
                (&headers[CONTENT_TYPE], &headers[TE]),
                (&HeaderValue::from_static(native), &"trailers".parse().expect("a value"))
            );
            assert_eq!(headers.contains_key(CONTENT_LENGTH), !asked.to_lowercase().contains("text"));
            let mut answered = with(&[("content-type", native)]);
            assert!(web.answer(&mut answered).is_some());
            assert_eq!(answered[CONTENT_TYPE], answer);
            web.restore(&mut headers);
            assert_eq!((&headers[CONTENT_TYPE], headers.get(TE)), (&HeaderValue::from_static(asked), None));
            assert!(web.answer(&mut with(&[("content-type", "text/html")])).is_none());
        }
        for other in
            ["application/grpc", "application/grpc-webby", "application/grpc-web-texts", "text/plain"]
        {
            assert!(GrpcWeb::of(&with(&[("content-type", other)])).is_none(), "{other}");
        }
    }

    #[test]
    fn trailers_become_a_last_frame() {
        let trailers = with(&[("grpc-status", "0"), ("grpc-message", "all well")]);
        let frame = WebAnswer { is_text: false }.frame(Frame::trailers(trailers.clone()));
        let lines = b"grpc-status:0\r\ngrpc-message:all well\r\n";
        assert_eq!(
            frame.into_data().expect("data"),
            [&[0x80, 0, 0, 0, lines.len() as u8][..], lines].concat()
        );
        let text = WebAnswer { is_text: true }.frame(Frame::trailers(trailers)).into_data().expect("data");
        assert_eq!(STANDARD.decode(text).expect("base64")[5..], lines[..]);
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in ["Q!==", "=AAA", "AA=A", "QQ=\n"] {
            assert_eq!(Decoder::default().push(text.as_bytes()), Err(NotBase64), "{text}");
        }
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(b"QUJDQ").as_deref(), Ok(&b"ABC"[..]));
        assert_eq!(decoder.end(), Err(NotBase64), "a group is not complete");
    }

    proptest! {
        #[test]
        fn text_reads_back_however_it_was_padded_and_is_cut(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6),
            cut in 1_usize..9,
        ) {
            let text: String = parts.iter().map(|part| STANDARD.encode(part)).collect();
            let mut decoder = Decoder::default();
            let mut read = Vec::new();
            for piece in text.as_bytes().chunks(cut) {
                read.extend(decoder.push(piece).expect("base64"));
            }
            prop_assert_eq!(decoder.end(), Ok(()));
            prop_assert_eq!(read, parts.concat());
        }
    }
}
