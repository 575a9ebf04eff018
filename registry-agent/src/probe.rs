//! One check of a service, as `--health` names it. A check passes or says in words why it does not.

mod exec;
mod grpc;
mod tcp;

use std::{fmt, time::Duration};

use waypost_sdk::{
    contract::{address::Address, error::Violation},
    health::http,
};

const USER_AGENT: &str = concat!("waypost-agent/", env!("CARGO_PKG_VERSION"));
const RULE: &str = "must be http:/PATH, http://HOST:PORT/PATH, tcp, tcp:PORT, tcp:HOST:PORT, grpc, grpc:SERVICE, \
                    exec:COMMAND or none";

/// How a service is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A GET that must be answered with 2xx or 3xx.
    Http {
        /// `host:port`.
        address: String,
        /// The path and query.
        path: String,
    },
    /// A connection must be accepted at this `host:port`.
    Tcp(String),
    /// `grpc.health.v1` must say SERVING.
    Grpc {
        /// `host:port`.
        address: String,
        /// The name that is asked for; empty means the whole server.
        service: String,
    },
    /// A command, run by `sh -c`, must end with 0.
    Exec(String),
    /// It always passes.
    None,
}

impl Probe {
    /// Reads a check. What names no address of its own goes to `address`.
    ///
    /// # Errors
    /// Names the rule that it breaks.
    pub fn new(text: &str, address: &str) -> Result<Self, Violation> {
        let refuse = || Violation::new("health", text, RULE);
        let checked =
            |target: &str| target.parse::<Address>().map(|_| target.to_owned()).map_err(|_| refuse());
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, rest) {
            ("none", None) => Ok(Self::None),
            ("tcp", None) => Ok(Self::Tcp(address.to_owned())),
            ("tcp", Some(target)) if target.contains(':') => Ok(Self::Tcp(checked(target)?)),
            ("tcp", Some(port)) => Ok(Self::Tcp(checked(&format!("127.0.0.1:{port}"))?)),
            ("grpc", service) => Ok(Self::Grpc {
                address: address.to_owned(),
                service: service.unwrap_or_default().to_owned(),
            }),
            ("exec", Some(command)) if !command.trim().is_empty() => Ok(Self::Exec(command.to_owned())),
            ("http", Some(target)) => {
                let (address, path) = match target.strip_prefix("//") {
                    Some(url) => {
                        let end = url.find('/').unwrap_or(url.len());
                        let host = &url[..end];
                        let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
                        (checked(&host)?, if end == url.len() { "/" } else { &url[end..] })
                    }
                    None => (address.to_owned(), target),
                };
                let good = path.starts_with('/') && path.parse::<::http::uri::PathAndQuery>().is_ok();
                if good { Ok(Self::Http { address, path: path.to_owned() }) } else { Err(refuse()) }
            }
            ("https", Some(_)) => {
                Err(Violation::new("health", text, "must be http, because checks over TLS are not available"))
            }
            _ => Err(refuse()),
        }
    }

    /// Checks once.
    ///
    /// # Errors
    /// Says why it does not pass, for example `GET /health answered 500`.
    pub async fn check(&self, timeout: Duration) -> Result<(), String> {
        let check = async {
            match self {
                Self::Http { address, path } => http::check(address, path, USER_AGENT).await,
                Self::Tcp(address) => tcp::check(address).await,
                Self::Grpc { address, service } => grpc::check(address, service).await,
                Self::Exec(command) => exec::check(command).await,
                Self::None => Ok(()),
            }
        };
        let late = |_| Err(format!("{self} did not end within {timeout:?}"));
        tokio::time::timeout(timeout, check).await.unwrap_or_else(late)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { address, path } => write!(formatter, "GET http://{address}{path}"),
            Self::Tcp(address) => write!(formatter, "connecting to {address}"),
            Self::Grpc { address, service } if service.is_empty() => {
                write!(formatter, "grpc.health.v1 at {address}")
            }
            Self::Grpc { address, service } => write!(formatter, "grpc.health.v1 of {service} at {address}"),
            Self::Exec(command) => write!(formatter, "{command:?}"),
            Self::None => formatter.write_str("no check"),
        }
    }
}

#[cfg(test)]
mod tests;
