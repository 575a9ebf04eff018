//! Which origins are allowed.
//!
//! An origin is a scheme, a host and a port; browsers write all in lower case, and no port where it is the scheme's
//! own (Fetch, section "`Origin` header"; HTML, "serialization of an origin"). What is declared is brought into that
//! shape once, so that requests are compared byte for byte.
//!
//! Deliberately absent: wildcards in ports and schemes, and any but the first labels of a host.

use super::CorsError;

/// The origins that may read.
#[derive(Clone, Debug)]
pub(super) enum Origins {
    /// Any, `null` included.
    All,
    /// Those.
    Some(Box<[Origin]>),
}

/// An origin, or all below a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: Box<str>,
    host: Host,
    /// `None` where none is written and the scheme has none of its own.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Exact(Box<str>),
    /// Any number of labels, and this, which begins with a dot.
    Below(Box<str>),
    Any,
}

impl Origins {
    pub(super) fn compile(texts: &[String]) -> Result<Self, CorsError> {
        if texts.iter().any(|text| text == "*") {
            return Ok(Self::All);
        }
        let origins: Option<Box<[Origin]>> = texts.iter().map(|text| Origin::read(text)).collect();
        origins.map(Self::Some).ok_or_else(|| {
            let wrong = texts.iter().find(|text| Origin::read(text).is_none());
            CorsError::Origin(wrong.cloned().unwrap_or_default())
        })
    }

    /// Whether it is any.
    pub(super) fn are_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// Whether an origin, as the request has it, may read.
    pub(super) fn takes(&self, origin: &[u8]) -> bool {
        match self {
            Self::All => !origin.is_empty(),
            Self::Some(origins) => {
                // A wildcard is for what is declared.
                let text = std::str::from_utf8(origin).ok().filter(|text| !text.contains('*'));
                let parts = text.and_then(split);
                parts.is_some_and(|parts| origins.iter().any(|origin| origin.takes(&parts)))
            }
        }
    }
}

impl Origin {
    fn read(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (scheme, host, port) = split(&text)?;
        let host = match host.strip_prefix('*') {
            Some("") => Host::Any,
            Some(domain) if domain.starts_with('.') => Host::Below(domain.into()),
            _ => Host::Exact(host.into()),
        };
        let wild = |domain: &str| domain.contains('*');
        if matches!(&host, Host::Exact(name) | Host::Below(name) if wild(name)) {
            return None;
        }
        Some(Self { scheme: scheme.into(), host, port })
    }

    fn takes(&self, (scheme, host, port): &(&str, &str, Option<u16>)) -> bool {
        let fits = match &self.host {
            Host::Exact(name) => **name == **host,
            Host::Below(domain) => host.strip_suffix(&**domain).is_some_and(|labels| !labels.is_empty()),
            Host::Any => true,
        };
        fits && self.port == *port && *self.scheme == **scheme
    }
}

/// The scheme, the host and the port, which is the scheme's own where none is written. `None`: it is no origin.
fn split(text: &str) -> Option<(&str, &str, Option<u16>)> {
    let (scheme, rest) = text.split_once("://")?;
    let own = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        // An address of IPv6 without a port ends with a bracket.
        Some((host, port)) if !port.ends_with(']') => (host, Some(read_port(port)?)),
        _ => (rest, own),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*[]:".contains(&byte);
    let fits = !scheme.is_empty() && !host.is_empty() && host.bytes().all(is_host);
    fits.then_some((scheme, host, port))
}

fn read_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}
