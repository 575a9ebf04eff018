//! The filters of routes and of backends.
//!
//! In a manifest a filter names its `type` and has one field of the same name; here it is an enum, so that no code
//! after parsing meets a filter whose type and field disagree.
//!
//! Deliberately absent: `ExtensionRef` and `ExternalAuth`, of which there is no implementation to name.

use serde::{Deserialize, Serialize};

use super::backend::MirrorBackend;

/// A step of what a route does with a request or its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenFilter", into = "WrittenFilter")]
pub enum Filter {
    /// Changes the request's header fields.
    RequestHeaderModifier(HeaderModifier),
    /// Changes the answer's header fields.
    ResponseHeaderModifier(HeaderModifier),
    /// Sends a copy to another service.
    RequestMirror(RequestMirror),
    /// Answers with a redirect.
    RequestRedirect(RequestRedirect),
    /// Changes the request's host or path.
    UrlRewrite(UrlRewrite),
    /// Answers preflights and marks answers for other origins (GEP-1767).
    Cors(Cors),
}

impl Filter {
    /// The type as manifests have it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::RequestHeaderModifier(_) => "RequestHeaderModifier",
            Self::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
            Self::RequestMirror(_) => "RequestMirror",
            Self::RequestRedirect(_) => "RequestRedirect",
            Self::UrlRewrite(_) => "URLRewrite",
            Self::Cors(_) => "CORS",
        }
    }

    /// The field that holds it in a manifest.
    pub fn field_name(&self) -> &'static str {
        match self {
            Self::RequestHeaderModifier(_) => "requestHeaderModifier",
            Self::ResponseHeaderModifier(_) => "responseHeaderModifier",
            Self::RequestMirror(_) => "requestMirror",
            Self::RequestRedirect(_) => "requestRedirect",
            Self::UrlRewrite(_) => "urlRewrite",
            Self::Cors(_) => "cors",
        }
    }
}

/// The types of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum FilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    #[serde(rename = "CORS")]
    Cors,
}

/// A filter as it is written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenFilter {
    r#type: FilterType,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_header_modifier: Option<HeaderModifier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_header_modifier: Option<HeaderModifier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_mirror: Option<RequestMirror>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_redirect: Option<RequestRedirect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url_rewrite: Option<UrlRewrite>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cors: Option<Cors>,
}

impl WrittenFilter {
    fn empty(r#type: FilterType) -> Self {
        Self {
            r#type,
            request_header_modifier: None,
            response_header_modifier: None,
            request_mirror: None,
            request_redirect: None,
            url_rewrite: None,
            cors: None,
        }
    }
}

impl TryFrom<WrittenFilter> for Filter {
    type Error = String;

    fn try_from(mut written: WrittenFilter) -> Result<Self, String> {
        let taken = match written.r#type {
            FilterType::RequestHeaderModifier => {
                written.request_header_modifier.take().map(Self::RequestHeaderModifier)
            }
            FilterType::ResponseHeaderModifier => {
                written.response_header_modifier.take().map(Self::ResponseHeaderModifier)
            }
            FilterType::RequestMirror => written.request_mirror.take().map(Self::RequestMirror),
            FilterType::RequestRedirect => written.request_redirect.take().map(Self::RequestRedirect),
            FilterType::UrlRewrite => written.url_rewrite.take().map(Self::UrlRewrite),
            FilterType::Cors => written.cors.take().map(Self::Cors),
        };
        let rest = [
            written.request_header_modifier.map(Self::RequestHeaderModifier),
            written.response_header_modifier.map(Self::ResponseHeaderModifier),
            written.request_mirror.map(Self::RequestMirror),
            written.request_redirect.map(Self::RequestRedirect),
            written.url_rewrite.map(Self::UrlRewrite),
            written.cors.map(Self::Cors),
        ];
        if let Some(other) = rest.into_iter().flatten().next() {
            return Err(format!(
                "a filter has only the field of its type; \"{}\" belongs to a filter of type {}",
                other.field_name(),
                other.type_name()
            ));
        }
        taken.ok_or_else(|| {
            let name = match written.r#type {
                FilterType::RequestHeaderModifier => "requestHeaderModifier",
                FilterType::ResponseHeaderModifier => "responseHeaderModifier",
                FilterType::RequestMirror => "requestMirror",
                FilterType::RequestRedirect => "requestRedirect",
                FilterType::UrlRewrite => "urlRewrite",
                FilterType::Cors => "cors",
            };
            format!("a filter of this type needs the field \"{name}\"")
        })
    }
}

impl From<Filter> for WrittenFilter {
    fn from(filter: Filter) -> Self {
        match filter {
            Filter::RequestHeaderModifier(it) => {
                Self { request_header_modifier: Some(it), ..Self::empty(FilterType::RequestHeaderModifier) }
            }
            Filter::ResponseHeaderModifier(it) => {
                Self { response_header_modifier: Some(it), ..Self::empty(FilterType::ResponseHeaderModifier) }
            }
            Filter::RequestMirror(it) => {
                Self { request_mirror: Some(it), ..Self::empty(FilterType::RequestMirror) }
            }
            Filter::RequestRedirect(it) => {
                Self { request_redirect: Some(it), ..Self::empty(FilterType::RequestRedirect) }
            }
            Filter::UrlRewrite(it) => Self { url_rewrite: Some(it), ..Self::empty(FilterType::UrlRewrite) },
            Filter::Cors(it) => Self { cors: Some(it), ..Self::empty(FilterType::Cors) },
        }
    }
}

/// A change of header fields. No name is both in `remove` and in one of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderModifier {
    /// Replaces all values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<Header>,
    /// Adds a value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Header>,
    /// Names, as they were written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// Its name, as it was written; case does not matter.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Sends a copy to another service, whose answers are thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    /// Who gets it.
    pub backend_ref: MirrorBackend,
    /// How many of 100 requests; with neither this nor `fraction`, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// How many requests of how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

impl RequestMirror {
    /// How many requests (first) of how many (second, at least 1) are copied.
    pub fn share(&self) -> (u32, u32) {
        match (&self.fraction, self.percent) {
            (Some(fraction), _) => (fraction.numerator, fraction.denominator),
            (None, Some(percent)) => (percent, 100),
            (None, None) => (1, 1),
        }
    }
}

/// A share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fraction {
    /// So many.
    pub numerator: u32,
    /// Of so many, at least 1.
    #[serde(default = "hundred")]
    pub denominator: u32,
}

fn hundred() -> u32 {
    100
}

/// Answers with a redirect. What is not named stays as the request has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRedirect {
    /// `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// The port; without it, the scheme's own where `scheme` is named, else the listener's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "found")]
    pub status_code: u16,
}

fn found() -> u16 {
    302
}

/// Changes the request's host or path before it is sent on. What is not named stays as the request has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// What takes a path's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenPathModifier", into = "WrittenPathModifier")]
pub enum PathModifier {
    /// Of the whole path.
    ReplaceFullPath(String),
    /// Of the prefix that was matched.
    ReplacePrefixMatch(String),
}

/// The types of changes of a path.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum PathModifierType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

/// A change of a path as it is written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenPathModifier {
    r#type: PathModifierType,
    #[serde(skip_serializing_if = "Option::is_none")]
    replace_full_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replace_prefix_match: Option<String>,
}

impl TryFrom<WrittenPathModifier> for PathModifier {
    type Error = &'static str;

    fn try_from(written: WrittenPathModifier) -> Result<Self, &'static str> {
        match (written.r#type, written.replace_full_path, written.replace_prefix_match) {
            (PathModifierType::ReplaceFullPath, Some(path), None) => Ok(Self::ReplaceFullPath(path)),
            (PathModifierType::ReplacePrefixMatch, None, Some(path)) => Ok(Self::ReplacePrefixMatch(path)),
            (PathModifierType::ReplaceFullPath, ..) => {
                Err("type ReplaceFullPath needs the field \"replaceFullPath\" and no other")
            }
            (PathModifierType::ReplacePrefixMatch, ..) => {
                Err("type ReplacePrefixMatch needs the field \"replacePrefixMatch\" and no other")
            }
        }
    }
}

impl From<PathModifier> for WrittenPathModifier {
    fn from(modifier: PathModifier) -> Self {
        match modifier {
            PathModifier::ReplaceFullPath(path) => Self {
                r#type: PathModifierType::ReplaceFullPath,
                replace_full_path: Some(path),
                replace_prefix_match: None,
            },
            PathModifier::ReplacePrefixMatch(path) => Self {
                r#type: PathModifierType::ReplacePrefixMatch,
                replace_full_path: None,
                replace_prefix_match: Some(path),
            },
        }
    }
}

/// Cross-origin resource sharing, as the Fetch standard has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// Origins: `https://a.example`, `https://*.example`, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
    /// Whether credentials may be sent.
    #[serde(default)]
    pub allow_credentials: bool,
    /// Methods, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// Header names, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// Header names, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// How long a preflight's answer may be kept, in seconds, at least 1.
    #[serde(default = "five")]
    pub max_age: u32,
}

fn five() -> u32 {
    5
}
