//! Where an instance is reached.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use crate::error::Violation;

const RULE: &str = "must be HOST:PORT with a port from 1 to 65535; the host is an IPv4 address, an IPv6 address in \
                    brackets, or a DNS name, for example \"10.0.0.7:9001\" or \"[::1]:9001\"";

/// `host:port`. A clone shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    text: Arc<str>,
    port: u16,
    ip: Option<IpAddr>,
}

impl Address {
    /// The host: an address without brackets, or a DNS name.
    pub fn host(&self) -> &str {
        let host = self.text.rsplit_once(':').map_or(&*self.text, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket address, where the host is not a DNS name.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.ip.map(|ip| SocketAddr::new(ip, self.port))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let refuse = || Violation::new("address", text, RULE);
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|port| digits && *port != 0).ok_or_else(refuse)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let ip = match bracketed {
            Some(host) => Some(IpAddr::V6(host.parse::<Ipv6Addr>().map_err(|_| refuse())?)),
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        if ip.is_none() && !is_dns_name(host) {
            return Err(refuse());
        }
        if ip.is_some_and(|ip| ip.is_unspecified()) {
            return Err(Violation::new(
                "address",
                text,
                "must be an address that proxies can connect to; 0.0.0.0 and [::] are for listening only",
            ));
        }
        Ok(Self { text: Arc::from(text), port, ip })
    }
}

/// Letters, digits, hyphens and underscores in labels of 1 to 63 (RFC 1123), and not all digits in the last.
fn is_dns_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    host.len() <= 253 && host.split('.').all(label) && !host.rsplit('.').next().is_some_and(numeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let address: Address = "[::1]:9001".parse().expect("an address");
        assert_eq!((address.host(), address.port()), ("::1", 9001));
        assert_eq!(address.socket_addr(), Some("[::1]:9001".parse().expect("a socket address")));
        let named: Address = "users.internal:80".parse().expect("an address");
        assert_eq!((named.host(), named.socket_addr()), ("users.internal", None));
    }

    #[test]
    fn what_cannot_be_connected_to_is_refused() {
        for text in [
            "",
            "host",
            ":80",
            "host:",
            "host:0",
            "host:65536",
            "host:+80",
            "::1:80",
            "[::1]",
            "[x]:80",
            "1.2.3:80",
            "256.1.1.1:80",
            "a b:80",
            "http://a:80",
            "0.0.0.0:80",
            "[::]:80",
            "-a:80",
            "a..b:80",
            "user@host:80",
        ] {
            assert_eq!(text.parse::<Address>().expect_err(text).field, "address");
        }
    }
}
