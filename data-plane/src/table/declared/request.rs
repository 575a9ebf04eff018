//! What of a request decides which rule takes it.

use http::{HeaderMap, Method};

/// A request, as it is matched. It borrows everything.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// The host, in any case; a port behind it is of no account. See [`host_name`].
    pub host: &'a str,
    /// The path, [normalised](crate::table::path::normalised), without the query.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The port of the listener that it came in by; 0 is the proxy's own.
    pub port: u16,
}

impl<'a> RequestView<'a> {
    /// A request for a path and nothing more, at the proxy's own listener.
    pub fn plain(method: &'a Method, path: &'a str, headers: &'a HeaderMap) -> Self {
        Self { method, host: "", path, query: None, headers, port: 0 }
    }
}

/// A host without the port (RFC 3986, section 3.2.2: an IPv6 address is in brackets).
pub fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::host_name;

    #[test]
    fn a_port_is_no_part_of_a_name() {
        for (host, name) in [
            ("a.example:8080", "a.example"),
            ("a.example", "a.example"),
            ("a.example:", "a.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("", ""),
            (":80", ":80"),
        ] {
            assert_eq!(host_name(host), name, "{host}");
        }
    }
}
