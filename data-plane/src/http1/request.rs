//! Requests as they go to an instance.

use std::{fmt, io::Write};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST, MAX_FORWARDS, SET_COOKIE, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
};

use crate::headers::HopOptions;

/// How the end of a request's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// There is no body.
    None,
    /// It has this many bytes.
    Exact(u64),
    /// By chunks.
    Chunked,
}

/// A request's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a Method,
    /// Path and query, or `*`. Where it does not begin with a slash, it gets one.
    pub(crate) target: &'a str,
    pub(crate) host: &'a HeaderValue,
    /// The fields for any instance, without what concerns one hop.
    pub(crate) headers: &'a HeaderMap,
    pub(crate) options: &'a HopOptions,
    pub(crate) length: Length,
}

impl Head<'_> {
    /// Writes the head and the empty line after it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put(out, &[self.method.as_str().as_bytes(), b" "]);
        if !self.target.starts_with('/') && self.target != "*" {
            out.push(b'/');
        }
        put(out, &[self.target.as_bytes(), b" HTTP/1.1\r\nhost: ", self.host.as_bytes(), b"\r\n"]);
        let mut had_length = false;
        for (name, value) in self.headers {
            match *name {
                // The host stands first, the framing is what the body itself says, and the options come last.
                HOST | TRANSFER_ENCODING | CONNECTION | TE | UPGRADE => {}
                CONTENT_LENGTH => had_length = true,
                _ => field(out, name.as_str(), value.as_bytes()),
            }
        }
        self.write_options(out);
        match self.length {
            Length::None if had_length => field(out, "content-length", b"0"),
            Length::None => {}
            Length::Exact(length) => number(out, format_args!("content-length: {length}\r\n")),
            Length::Chunked => field(out, "transfer-encoding", b"chunked"),
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_options(&self, out: &mut Vec<u8>) {
        let options = self.options;
        match (&options.upgrade, options.trailers) {
            (None, false) => return,
            (None, true) => field(out, "connection", b"te"),
            (Some(_), false) => field(out, "connection", b"upgrade"),
            (Some(_), true) => field(out, "connection", b"upgrade, te"),
        }
        if options.trailers {
            field(out, "te", b"trailers");
        }
        if let Some(protocol) = &options.upgrade {
            field(out, "upgrade", protocol.as_bytes());
        }
    }

    /// The trailers that the request announces and that may be any (RFC 9110, sections 6.5.1 and 6.6.2).
    pub(super) fn announced(&self) -> Vec<HeaderName> {
        let lines = self.headers.get_all(TRAILER).iter().filter_map(|line| line.to_str().ok());
        let names = lines.flat_map(|line| line.split(','));
        names
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .filter(is_trailer)
            .collect()
    }
}

/// Writes what stands before a chunk's data. After them stands the end of a line.
pub(super) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    number(out, format_args!("{size:x}\r\n"));
}

/// Writes the last chunk and those of the trailers that were announced.
pub(super) fn last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>, announced: &[HeaderName]) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if announced.contains(name) {
            field(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Fields that frame, route or authenticate a message mean nothing after it, and must not seem to.
fn is_trailer(name: &HeaderName) -> bool {
    let reserved = matches!(
        *name,
        AUTHORIZATION
            | CACHE_CONTROL
            | CONNECTION
            | CONTENT_ENCODING
            | CONTENT_LENGTH
            | CONTENT_RANGE
            | CONTENT_TYPE
            | COOKIE
            | EXPECT
            | FORWARDED
            | HOST
            | MAX_FORWARDS
            | SET_COOKIE
            | TE
            | TRAILER
            | TRANSFER_ENCODING
            | UPGRADE
    );
    let ours = ["x-forwarded-", "x-waypost-", "x-real-ip", "proxy-"];
    !reserved && !ours.iter().any(|prefix| name.as_str().starts_with(prefix))
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    put(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
}

/// Writes what has a number in it, in place.
fn number(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes all");
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter();
        fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn written(headers: &HeaderMap, options: &HopOptions, length: Length) -> String {
        let (method, host) = (Method::PUT, HeaderValue::from_static("shop"));
        let head = Head { method: &method, target: "a?b", host: &host, headers, options, length };
        let mut out = Vec::new();
        head.write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_framing_is_what_the_body_says() {
        let said =
            headers(&[("content-length", "7"), ("transfer-encoding", "gzip"), ("host", "other"), ("x", "1")]);
        let none = HopOptions::default();
        for (length, framing) in [
            (Length::None, "content-length: 0\r\n"),
            (Length::Exact(12), "content-length: 12\r\n"),
            (Length::Chunked, "transfer-encoding: chunked\r\n"),
        ] {
            let expected = format!("PUT /a?b HTTP/1.1\r\nhost: shop\r\nx: 1\r\n{framing}\r\n");
            assert_eq!(written(&said, &none, length), expected);
        }
        assert_eq!(written(&headers(&[]), &none, Length::None), "PUT /a?b HTTP/1.1\r\nhost: shop\r\n\r\n");
    }

    #[test]
    fn what_is_asked_of_the_next_hop_is_named_in_connection() {
        let upgrade = Some(HeaderValue::from_static("websocket"));
        for (upgrade, trailers, expected) in [
            (None, true, "connection: te\r\nte: trailers\r\n"),
            (upgrade.clone(), false, "connection: upgrade\r\nupgrade: websocket\r\n"),
            (upgrade, true, "connection: upgrade, te\r\nte: trailers\r\nupgrade: websocket\r\n"),
        ] {
            let options = HopOptions { upgrade, trailers, expects_continue: false };
            let expected = format!("PUT /a?b HTTP/1.1\r\nhost: shop\r\n{expected}\r\n");
            assert_eq!(written(&headers(&[]), &options, Length::None), expected);
        }
    }

    #[test]
    fn trailers_are_those_that_were_announced_and_change_no_meaning() {
        let announcing =
            headers(&[("trailer", "X-Sum, host, content-length"), ("trailer", "x-forwarded-for,x-more")]);
        let (method, host) = (Method::PUT, HeaderValue::from_static("shop"));
        let options = HopOptions::default();
        let head = Head {
            method: &method,
            target: "/",
            host: &host,
            headers: &announcing,
            options: &options,
            length: Length::Chunked,
        };
        let trailers = headers(&[
            ("x-sum", "1"),
            ("x-secret", "2"),
            ("host", "3"),
            ("content-length", "4"),
            ("x-forwarded-for", "5"),
            ("x-more", "6"),
        ]);
        let mut out = Vec::new();
        last_chunk(&mut out, Some(&trailers), &head.announced());
        assert_eq!(out, b"0\r\nx-sum: 1\r\nx-more: 6\r\n\r\n");
    }

    #[test]
    fn chunks_are_counted_in_hexadecimal() {
        let mut out = Vec::new();
        chunk_size(&mut out, 4096);
        assert_eq!(out, b"1000\r\n");
    }
}
