//! Cross-origin resource sharing: GEP-1767's filter, in the terms of the Fetch standard.
//!
//! ```text
//! OPTIONS with Origin and Access-Control-Request-Method ─▶ preflight: answered here, never forwarded
//! anything else ─▶ caller (from the request's fields) ─▶ forwarded ─▶ mark (the answer's fields)
//! ```
//!
//! What the instance itself says of origins is replaced: two answers to one question are none to a browser. The
//! literal `*` is never said where credentials may be sent, since browsers take it for a name then (Fetch, section
//! "CORS protocol and credentials"); what the request asks for is said instead. An answer that depends on the origin
//! says so to caches (`Vary`), whether the request had an origin or not.
//!
//! Deliberately absent: a refusal. Who may not read an answer is told so by fields that are missing, and the browser
//! does the rest, as the GEP allows for. `Access-Control-Allow-Methods` and `-Headers` are in answers to preflights
//! only: nobody reads them elsewhere.

mod origin;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CACHE_CONTROL,
        CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPIRES, LAST_MODIFIED, ORIGIN, PRAGMA,
        SET_COOKIE, VARY,
    },
};
use waypost_proto::{time, v1};

use self::origin::Origins;

/// The status of an answer to a preflight, whatever it says. Fetch takes any of 200 to 299; the conformance suite of
/// the Gateway API takes this one in all its cases.
pub const PREFLIGHT_STATUS: StatusCode = StatusCode::OK;

const ALL: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const VARY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
/// How long a preflight's answer may be kept where nothing is said of that: GEP-1767's default.
const DEFAULT_MAX_AGE_S: u64 = 5;
/// What an instance may have said by itself.
const MARKS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];
/// What scripts may read in any case (Fetch, "CORS-safelisted response-header name"), and what they never may
/// ("forbidden response-header name").
const NEVER_LISTED: [HeaderName; 8] = [
    CACHE_CONTROL,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPIRES,
    LAST_MODIFIED,
    PRAGMA,
    SET_COOKIE,
];

/// Why a filter cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorsError {
    /// An origin is none.
    #[error("{0:?} is no origin; write it as \"https://a.example\", \"https://*.example\" or \"*\"")]
    Origin(String),
    /// A method cannot be one.
    #[error("{0:?} is no method")]
    Method(String),
    /// A field's name cannot be one.
    #[error("{0:?} is no name of a header field")]
    HeaderName(String),
}

/// Some names, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    None,
    /// As they are sent, joined.
    Some(HeaderValue),
    All,
}

/// Who may read answers, and what requests they may send.
#[derive(Clone, Debug)]
pub struct Cors {
    origins: Origins,
    methods: Names,
    headers: Names,
    exposed: Names,
    credentials: bool,
    max_age: HeaderValue,
}

/// Who asks, as far as its answer's marks depend on that. To be taken from the request, whose fields may be gone when
/// there is an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(Grant);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Grant {
    /// Nothing: there is no origin, or none that may read.
    None,
    /// To everybody.
    All,
    /// To the origin that asks.
    One(HeaderValue),
}

impl Cors {
    /// Compiles a filter.
    ///
    /// # Errors
    /// An origin, a method or a name cannot be one.
    pub fn compile(wire: &v1::Cors) -> Result<Self, CorsError> {
        let method = |text: &str| Method::try_from(text).is_ok();
        let name = |text: &str| HeaderName::try_from(text).is_ok();
        let max_age = wire.max_age.as_ref().and_then(time::duration);
        let max_age = max_age.map_or(DEFAULT_MAX_AGE_S, |age| age.as_secs());
        Ok(Self {
            origins: Origins::compile(&wire.allow_origins)?,
            methods: Names::compile(&wire.allow_methods, method, CorsError::Method)?,
            headers: Names::compile(&wire.allow_headers, name, CorsError::HeaderName)?,
            exposed: Names::compile(&wire.expose_headers, name, CorsError::HeaderName)?,
            credentials: wire.allow_credentials,
            max_age: HeaderValue::from(max_age),
        })
    }

    /// The fields of the answer to a preflight, which goes out with [`PREFLIGHT_STATUS`] and no body; `None` where the
    /// request is no preflight. The answer to an origin that may not read says nothing of origins.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
        let wanted = announced(method, headers)?;
        let mut answer = HeaderMap::with_capacity(8);
        if self.say_origin(&self.caller(headers).0, &mut answer) {
            let wanted = Method::from_bytes(wanted.as_bytes()).is_ok().then(|| wanted.clone());
            let methods = match &self.methods {
                Names::None => None,
                Names::Some(methods) => Some(methods.clone()),
                Names::All if self.credentials => wanted,
                Names::All => Some(ALL),
            };
            let headers = match &self.headers {
                Names::None => None,
                Names::Some(names) => Some(names.clone()),
                // Even without credentials, as `*` leaves `Authorization` out (Fetch, "CORS non-wildcard
                // request-header name").
                Names::All => wanted_headers(headers).or((!self.credentials).then_some(ALL)),
            };
            let exposed = match &self.exposed {
                Names::Some(names) => Some(names.clone()),
                Names::All if !self.credentials => Some(ALL),
                Names::None | Names::All => None,
            };
            put(&mut answer, ACCESS_CONTROL_ALLOW_METHODS, methods);
            put(&mut answer, ACCESS_CONTROL_ALLOW_HEADERS, headers);
            put(&mut answer, ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
            answer.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
        answer.insert(VARY, VARY_PREFLIGHT);
        Some(answer)
    }

    /// What of a request its answer's marks depend on.
    pub fn caller(&self, headers: &HeaderMap) -> Caller {
        let mut origins = headers.get_all(ORIGIN).iter();
        Caller(match (origins.next(), origins.next()) {
            (Some(origin), None) if self.origins.takes(origin.as_bytes()) => {
                // The GEP wants no `*` in answers to requests that carry credentials, even where browsers are not
                // allowed to send them.
                let open = self.origins.are_all() && !self.credentials;
                let carries = headers.contains_key(COOKIE) || headers.contains_key(AUTHORIZATION);
                if open && !carries { Grant::All } else { Grant::One(origin.clone()) }
            }
            _ => Grant::None,
        })
    }

    /// Marks an answer: an instance's, or one of the proxy's own. What it said of origins before is replaced.
    pub fn mark(&self, caller: &Caller, answer: &mut HeaderMap) {
        for name in &MARKS {
            answer.remove(name);
        }
        if self.say_origin(&caller.0, answer) {
            let exposed = match &self.exposed {
                Names::None => None,
                Names::Some(names) => Some(names.clone()),
                Names::All if caller.0 == Grant::All => Some(ALL),
                Names::All => exposable(answer),
            };
            put(answer, ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        let depends = !self.origins.are_all() || self.credentials || matches!(caller.0, Grant::One(_));
        if depends && !varies_by_origin(answer) {
            answer.append(VARY, VARY_ORIGIN);
        }
    }

    /// Says who may read. Whether anybody may.
    fn say_origin(&self, grant: &Grant, answer: &mut HeaderMap) -> bool {
        let origin = match grant {
            Grant::None => return false,
            Grant::All => ALL,
            Grant::One(origin) => origin.clone(),
        };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        true
    }
}

/// The method of the request that a preflight asks for, as it is written; `None` where the request is no preflight
/// (Fetch, "CORS-preflight request").
pub(crate) fn announced<'a>(method: &Method, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    if method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    headers.get(ACCESS_CONTROL_REQUEST_METHOD)
}

impl Names {
    fn compile(
        texts: &[String],
        fits: impl Fn(&str) -> bool,
        refuse: impl Fn(String) -> CorsError,
    ) -> Result<Self, CorsError> {
        if texts.iter().any(|text| text == "*") {
            return Ok(Self::All);
        }
        if let Some(text) = texts.iter().find(|text| !fits(text)) {
            return Err(refuse(text.clone()));
        }
        if texts.is_empty() {
            return Ok(Self::None);
        }
        let joined = texts.join(", ");
        HeaderValue::try_from(&joined).map(Self::Some).map_err(|_| refuse(joined))
    }
}

fn put(answer: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        answer.insert(name, value);
    }
}

/// The names that a preflight asks for, as they were written; `None` where there are none, or something else.
fn wanted_headers(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_list = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.all(|name| !name.is_empty() && name.iter().all(is_token))
    };
    let mut fields = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    match (fields.next(), fields.next()) {
        (Some(one), None) if is_list(one) => Some(one.clone()),
        _ => None,
    }
}

/// The names of the fields that an answer has, where `*` cannot stand for them.
fn exposable(answer: &HeaderMap) -> Option<HeaderValue> {
    let mut joined = String::new();
    for name in answer.keys() {
        if !NEVER_LISTED.contains(name) && !MARKS.contains(name) {
            joined.push_str(if joined.is_empty() { "" } else { ", " });
            joined.push_str(name.as_str());
        }
    }
    HeaderValue::try_from(joined).ok().filter(|joined| !joined.is_empty())
}

fn varies_by_origin(answer: &HeaderMap) -> bool {
    let names = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
    };
    answer.get_all(VARY).iter().any(names)
}

#[cfg(test)]
mod tests;
