//! Why a proxy answered by itself: one word in `x-waypost-reason`, in logs and in metrics.

use http::StatusCode;

/// The header that carries the reason on the proxy's own answers.
pub const REASON_HEADER: &str = "x-waypost-reason";

/// Why a proxy answered instead of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No route matches the request.
    NoRoute,
    /// A route matches the path, for other methods.
    MethodNotAllowed,
    /// The route's backend is not there, or must not be used.
    NoSuchBackend,
    /// The service has no instance that takes traffic.
    NoHealthyInstance,
    /// No instance could be connected to.
    UpstreamConnect,
    /// The instance closed the connection before it answered, and a retry was not safe or not possible.
    UpstreamClosed,
    /// The instance's answer is not HTTP.
    UpstreamProtocol,
    /// The instance is not spoken to: its TLS certificate is not accepted, or it does no TLS.
    UpstreamTls,
    /// The instance did not answer in time.
    UpstreamTimeout,
    /// The request came over a TLS connection that is for another host.
    Misdirected,
    /// The request is malformed.
    BadRequest,
    /// The request's header section is too large.
    HeadersTooLarge,
    /// The client did not send its request in time.
    ClientTimeout,
    /// The proxy has no table yet.
    NoTable,
    /// The proxy is at its limit, or at the one of requests to a service.
    Overloaded,
    /// Too many requests to the service have failed: it is left alone for a while.
    CircuitOpen,
    /// A rate limit was reached.
    RateLimited,
    /// A defect in the proxy.
    Internal,
}

impl Reason {
    /// Every reason, for metrics and documentation.
    pub const ALL: [Self; 18] = [
        Self::NoRoute,
        Self::MethodNotAllowed,
        Self::NoSuchBackend,
        Self::NoHealthyInstance,
        Self::UpstreamConnect,
        Self::UpstreamClosed,
        Self::UpstreamProtocol,
        Self::UpstreamTls,
        Self::UpstreamTimeout,
        Self::Misdirected,
        Self::BadRequest,
        Self::HeadersTooLarge,
        Self::ClientTimeout,
        Self::NoTable,
        Self::Overloaded,
        Self::CircuitOpen,
        Self::RateLimited,
        Self::Internal,
    ];

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NoSuchBackend => "no_such_backend",
            Self::NoHealthyInstance => "no_healthy_instance",
            Self::UpstreamConnect => "upstream_connect",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::UpstreamTls => "upstream_tls",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Misdirected => "misdirected",
            Self::BadRequest => "bad_request",
            Self::HeadersTooLarge => "headers_too_large",
            Self::ClientTimeout => "client_timeout",
            Self::NoTable => "no_table",
            Self::Overloaded => "overloaded",
            Self::CircuitOpen => "circuit_open",
            Self::RateLimited => "rate_limited",
            Self::Internal => "internal",
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoHealthyInstance
            | Self::UpstreamConnect
            | Self::NoTable
            | Self::Overloaded
            | Self::CircuitOpen => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamClosed | Self::UpstreamProtocol | Self::UpstreamTls => StatusCode::BAD_GATEWAY,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::NoSuchBackend | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
