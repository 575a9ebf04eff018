//! HTTPRoute and GRPCRoute: which requests go where.
//!
//! Deliberately absent: `useDefaultGateways`. A route without parents belongs to the implicit Gateway here.

use serde::{Deserialize, Serialize};

use super::{
    backend::{BackendRef, ParentRef},
    duration::GatewayDuration,
    filter::Filter,
};

/// Which requests go where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRoute {
    /// Where its requests come in; none means the implicit Gateway's listener, the proxy's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentRef>,
    /// For which hosts; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// What it does.
    #[serde(default = "HttpRule::defaults")]
    pub rules: Vec<HttpRule>,
}

/// A rule of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRule {
    /// Unique in the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// It takes a request that one of these fits; at least one.
    #[serde(default = "HttpMatch::defaults", deserialize_with = "HttpMatch::or_defaults")]
    pub matches: Vec<HttpMatch>,
    /// What is done with the request and its answer, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Who answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// How long it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// When to try again (GEP-1731).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// How a client stays with an instance (GEP-1619).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

impl HttpRule {
    fn defaults() -> Vec<Self> {
        vec![Self {
            name: None,
            matches: HttpMatch::defaults(),
            filters: Vec::new(),
            backend_refs: Vec::new(),
            timeouts: None,
            retry: None,
            session_persistence: None,
        }]
    }
}

/// What a request must be like; all that is named must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    /// The path.
    #[serde(default)]
    pub path: PathMatch,
    /// Header fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// Query parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<ValueMatch>,
    /// The method; absent means any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

impl HttpMatch {
    fn defaults() -> Vec<Self> {
        vec![Self::default()]
    }

    /// An empty list means what no list means.
    fn or_defaults<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<Vec<Self>, D::Error> {
        let read: Vec<Self> = Vec::deserialize(reader)?;
        Ok(if read.is_empty() { Self::defaults() } else { read })
    }
}

/// A path to compare with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    /// How it is compared.
    #[serde(default)]
    pub r#type: PathMatchType,
    /// The path, its prefix, or a regular expression for the whole of it.
    #[serde(default = "root")]
    pub value: String,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self { r#type: PathMatchType::PathPrefix, value: root() }
    }
}

fn root() -> String {
    "/".to_owned()
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PathMatchType {
    /// Byte for byte.
    Exact,
    /// Segment by segment.
    #[default]
    PathPrefix,
    /// The whole of it, in the syntax of Rust's `regex`.
    RegularExpression,
}

/// A header field or query parameter to compare with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueMatch {
    /// How it is compared.
    #[serde(default)]
    pub r#type: ValueMatchType,
    /// Its name, as it was written; case does not matter in a header's.
    pub name: String,
    /// The value, or a regular expression for the whole of it.
    pub value: String,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ValueMatchType {
    /// Byte for byte.
    #[default]
    Exact,
    /// The whole of it, in the syntax of Rust's `regex`.
    RegularExpression,
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names say it: RFC 9110, section 9, and RFC 5789")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl Method {
    /// The method as requests have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}

/// How long a request may take; zero means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// From the request's head to the answer's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<GatewayDuration>,
    /// For each attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<GatewayDuration>,
}

/// When to try again (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Answers with these status codes are tried again, beside failures to connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u16>,
    /// The most tries after the first; absent means 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// The shortest pause before a try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<GatewayDuration>,
}

/// How a client stays with an instance (GEP-1619).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    /// The cookie's or header's name; absent: made up by the control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_name: Option<String>,
    /// How long a session lasts at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<GatewayDuration>,
    /// How long it lasts without a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<GatewayDuration>,
    /// Cookie or header.
    #[serde(default)]
    pub r#type: SessionType,
    /// For cookies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<CookieConfig>,
}

impl SessionPersistence {
    /// Whether the cookie outlives the browser; then `absolute_timeout` is there.
    pub fn is_permanent(&self) -> bool {
        self.cookie_config.as_ref().is_some_and(|config| config.lifetime_type == CookieLifetime::Permanent)
    }
}

/// What carries a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionType {
    /// A cookie.
    #[default]
    Cookie,
    /// A header.
    Header,
}

/// A session's cookie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieConfig {
    /// How long browsers keep it.
    #[serde(default)]
    pub lifetime_type: CookieLifetime,
}

/// How long browsers keep a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CookieLifetime {
    /// Until `absoluteTimeout` has passed.
    Permanent,
    /// Until they are closed.
    #[default]
    Session,
}

/// Which gRPC calls go where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRoute {
    /// Where its requests come in; none means the implicit Gateway's listener, the proxy's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentRef>,
    /// For which hosts; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// What it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<GrpcRule>,
}

/// A rule of a GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRule {
    /// Unique in the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// It takes a call that one of these fits; none means every call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<GrpcMatch>,
    /// What is done with the call and its answer, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Who answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// How a client stays with an instance (GEP-1619).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// What a call must be like; all that is named must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// The service and method; absent means any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    /// Header fields (metadata).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
}

/// A service or method, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMethodMatch {
    /// How they are compared.
    #[serde(default)]
    pub r#type: ValueMatchType,
    /// The service with its package, for example `foo.bar.Users`; absent means any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method; absent means any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}
