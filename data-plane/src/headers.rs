//! What happens to header fields on the way through: RFC 9110 (sections 7.6.1 to 7.6.3), RFC 9112, RFC 9113 and
//! the practice around RFC 7239.
//!
//! - Fields that concern one hop end here: those that `Connection` names, `Connection`, `Keep-Alive`,
//!   `Proxy-*`, `TE` (but for `trailers`), `Transfer-Encoding`, and `Upgrade` unless it is passed on.
//! - What a client says about who is behind it (`x-forwarded-*`, `forwarded`, `x-real-ip`) is believed and extended
//!   only where the client is a trusted proxy; else it is replaced. `x-waypost-*` is never believed.
//! - `Via` is extended. `Host` stays as the client sent it.
//!
//! Deliberately absent: framing (`Content-Length`, chunks), which is written from the body that there is.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
    },
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// Who sent a request, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// Its address.
    pub(crate) address: &'a HeaderValue,
    /// Whether what it says about who is behind it is believed.
    pub(crate) trusted: bool,
    /// Whether it spoke TLS.
    pub(crate) tls: bool,
    /// The version that it spoke.
    pub(crate) version: Version,
}

/// What a request asks of the next hop, taken out of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HopOptions {
    /// The protocol to switch to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// Whether the client takes trailers.
    pub(crate) trailers: bool,
    /// Whether the client waits for a 100 before it sends its body.
    pub(crate) expects_continue: bool,
}

/// A transfer coding that is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the body has a transfer-encoding other than \"chunked\", which cannot be passed on; send it without, or as a \
     content-encoding"
)]
pub(crate) struct UnknownCoding;

/// What fields there are that need a second look, found in one go over their names.
#[derive(Default)]
struct Survey {
    connection: bool,
    te: bool,
    transfer_encoding: bool,
    upgrade: bool,
    expect: bool,
    cookie: bool,
    forwarded: bool,
    /// Fields that never pass.
    doomed: Vec<HeaderName>,
    /// Fields that pass from trusted proxies only.
    doubtful: Vec<HeaderName>,
}

impl Survey {
    fn of(headers: &HeaderMap) -> Self {
        let mut survey = Self::default();
        for name in headers.keys() {
            match *name {
                CONNECTION => survey.connection = true,
                TE => survey.te = true,
                TRANSFER_ENCODING => survey.transfer_encoding = true,
                UPGRADE => survey.upgrade = true,
                EXPECT => survey.expect = true,
                COOKIE => survey.cookie = true,
                FORWARDED => survey.forwarded = true,
                PROXY_AUTHENTICATE | PROXY_AUTHORIZATION => survey.doomed.push(name.clone()),
                _ => survey.look_closer(name),
            }
        }
        survey
    }

    fn look_closer(&mut self, name: &HeaderName) {
        let text = name.as_str();
        match text.as_bytes()[0] {
            b'x' if text.starts_with("x-waypost-") => self.doomed.push(name.clone()),
            b'x' if text.starts_with("x-forwarded-") || text == "x-real-ip" => {
                self.doubtful.push(name.clone());
            }
            b'p' if text.starts_with("proxy-") => self.doomed.push(name.clone()),
            b'k' if text == "keep-alive" => self.doomed.push(name.clone()),
            b'h' if text == "http2-settings" => self.doomed.push(name.clone()),
            _ => {}
        }
    }
}

/// Makes a client's fields into those that go to an instance, whatever it speaks: over HTTP/1.1 they are
/// written as they are, with the host and the options; for HTTP/2 see [`for_http2`].
///
/// # Errors
/// The body comes in a transfer coding other than `chunked`, so that it could not be passed on.
pub(crate) fn request(
    headers: &mut HeaderMap,
    sender: &Sender<'_>,
    host: &HeaderValue,
) -> Result<HopOptions, UnknownCoding> {
    let survey = Survey::of(headers);
    let mut options = HopOptions::default();
    if survey.te {
        options.trailers =
            tokens(headers, &TE).any(|token| token.split(';').next().is_some_and(|te| is(te, "trailers")));
        headers.remove(TE);
    }
    if survey.upgrade {
        options.upgrade = upgrade_asked_for(headers, sender.version);
        headers.remove(UPGRADE);
    }
    if survey.transfer_encoding {
        end_transfer_encoding(headers)?;
    }
    if survey.expect {
        options.expects_continue = sender.version != Version::HTTP_10
            && tokens(headers, &EXPECT).all(|token| is(token, "100-continue"));
        if sender.version == Version::HTTP_10 {
            headers.remove(EXPECT);
        }
    }
    if survey.connection {
        end_connection_options(headers);
    }
    for name in &survey.doomed {
        headers.remove(name);
    }
    if survey.cookie {
        join_cookies(headers);
    }
    forward_for(headers, sender, host, &survey);
    headers.append(VIA, via(sender.version));
    Ok(options)
}

/// Fits a request's fields to an instance that speaks HTTP/2, where the host is a part of the target.
pub(crate) fn for_http2(headers: &mut HeaderMap, options: &HopOptions) {
    for name in [HOST, CONNECTION, UPGRADE] {
        headers.remove(name);
    }
    if options.trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Makes an instance's fields into those that go to the client. `version` is what the instance spoke. The
/// protocol that was switched to comes back where `switched` is set.
///
/// # Errors
/// The body comes in a transfer coding other than `chunked`, so that it could not be passed on.
pub(crate) fn response(
    headers: &mut HeaderMap,
    version: Version,
    switched: bool,
) -> Result<(), UnknownCoding> {
    let survey = Survey::of(headers);
    let upgrade = if survey.upgrade { headers.remove(UPGRADE) } else { None };
    if survey.transfer_encoding {
        end_transfer_encoding(headers)?;
        // RFC 9112, section 6.3: the coding overrides a length that is there too.
        headers.remove(CONTENT_LENGTH);
    }
    if survey.connection {
        end_connection_options(headers);
    }
    // `x-waypost-*` passes: the instance may be a proxy of ours that says why it answered.
    for name in survey.doomed.iter().filter(|name| !name.as_str().starts_with('x')) {
        headers.remove(name);
    }
    if let Some(protocol) = upgrade.filter(|_| switched) {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    headers.append(VIA, via(version));
    Ok(())
}

/// How long a server says that it keeps an idle connection (`Keep-Alive: timeout=5`), in seconds.
pub(crate) fn keep_alive_timeout(headers: &HeaderMap) -> Option<u64> {
    headers.get(KEEP_ALIVE)?;
    tokens(headers, &KEEP_ALIVE).find_map(|token| {
        let (name, value) = token.split_once('=')?;
        if is(name.trim(), "timeout") { value.trim().parse().ok() } else { None }
    })
}

/// Whether a request is a gRPC call, or one of gRPC-Web.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// How long a gRPC call may take by what its client says ("gRPC over HTTP2", `Timeout`).
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&GRPC_TIMEOUT)?.to_str().ok()?;
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if amount.len() > 8 || !amount.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = amount.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 waypost",
        Version::HTTP_2 => "2 waypost",
        _ => "1.1 waypost",
    })
}

/// The members of a list field, across all of its lines. Lines that are not ASCII have none.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn is(text: &str, word: &str) -> bool {
    text.eq_ignore_ascii_case(word)
}

/// The protocol that is asked for, unless it is HTTP/2, which is not a thing to switch to any more.
fn upgrade_asked_for(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let asked = version == Version::HTTP_11 && tokens(headers, &CONNECTION).any(|token| is(token, "upgrade"));
    let http2 = |token: &str| is(token, "h2c") || is(token, "h2");
    if !asked || tokens(headers, &UPGRADE).any(http2) {
        return None;
    }
    headers.get(UPGRADE).cloned()
}

fn end_transfer_encoding(headers: &mut HeaderMap) -> Result<(), UnknownCoding> {
    let mut codings = tokens(headers, &TRANSFER_ENCODING);
    let only_chunked = codings.next().is_some_and(|coding| is(coding, "chunked")) && codings.next().is_none();
    if !only_chunked {
        return Err(UnknownCoding);
    }
    drop(codings);
    headers.remove(TRANSFER_ENCODING);
    Ok(())
}

/// Removes `Connection` and what it names, but for fields that a message could not do without.
fn end_connection_options(headers: &mut HeaderMap) {
    // Nearly always there is one line with one word, which names no field.
    let mut lines = headers.get_all(CONNECTION).iter();
    if let (Some(line), None) = (lines.next(), lines.next())
        && (line.as_bytes().eq_ignore_ascii_case(b"keep-alive")
            || line.as_bytes().eq_ignore_ascii_case(b"close"))
    {
        headers.remove(CONNECTION);
        return;
    }
    let needed = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING];
    let plain = ["close", "keep-alive", "upgrade", "te"];
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter(|token| !plain.iter().any(|option| is(token, option)))
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !needed.contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

/// RFC 9113, section 8.2.3: lines of `Cookie` that HTTP/2 has split become one, joined by `; `.
fn join_cookies(headers: &mut HeaderMap) {
    let lines = headers.get_all(COOKIE);
    if lines.iter().nth(1).is_none() {
        return;
    }
    let joined = lines.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

fn forward_for(headers: &mut HeaderMap, sender: &Sender<'_>, host: &HeaderValue, survey: &Survey) {
    let proto = if sender.tls { HTTPS } else { HTTP };
    if sender.trusted {
        append(headers, FORWARDED_FOR, sender.address);
        if survey.forwarded {
            append(headers, FORWARDED, &forwarded_element(sender.address, sender.tls));
        }
        headers.entry(FORWARDED_PROTO).or_insert(proto);
        headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
        return;
    }
    for name in &survey.doubtful {
        headers.remove(name);
    }
    if survey.forwarded {
        headers.remove(FORWARDED);
    }
    headers.insert(FORWARDED_FOR, sender.address.clone());
    headers.insert(FORWARDED_PROTO, proto);
    headers.insert(FORWARDED_HOST, host.clone());
}

/// Extends a list field, all of whose lines become one: some readers look at one line only.
fn append(headers: &mut HeaderMap, name: HeaderName, member: &HeaderValue) {
    let lines = headers.get_all(&name).iter().map(HeaderValue::as_bytes);
    let joined = lines.chain([member.as_bytes()]).collect::<Vec<_>>().join(&b", "[..]);
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(name, joined);
    }
}

/// RFC 7239, section 4; an IPv6 address stands in brackets and quotes.
fn forwarded_element(address: &HeaderValue, tls: bool) -> HeaderValue {
    let address = address.to_str().unwrap_or("unknown");
    let node = if address.contains(':') { format!("\"[{address}]\"") } else { address.to_owned() };
    let proto = if tls { "https" } else { "http" };
    HeaderValue::try_from(format!("for={node};proto={proto}")).unwrap_or(HTTP)
}

#[cfg(test)]
mod tests;
