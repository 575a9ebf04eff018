//! A connection to an instance: TCP, and TLS over it where the service asks for it.
//!
//! A DNS name is looked up for each connection, so that what it names may move; its addresses are tried in the
//! order in which they come. All of it shares one time limit.

use std::{io, net::SocketAddr};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};
use waypost_proto::address::Address;

use super::terms::Full;
use crate::{
    rule::TimeLimit,
    socket::ServerSocket,
    tls::{BackendTls, HandshakeFailure},
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// It took too long.
    #[error("not connected after {0}")]
    Timeout(TimeLimit),
    /// The name leads nowhere.
    #[error("the name cannot be resolved: {0}")]
    Lookup(io::Error),
    /// Nobody answers there, or not as it should.
    #[error("{0}")]
    Refused(io::Error),
    /// The instance is not what it should be, or does no TLS.
    #[error("{0}")]
    Tls(HandshakeFailure),
    /// The instance does not begin HTTP/2.
    #[error("no HTTP/2 there: {0}")]
    Handshake(h2::Error),
    /// The service's policy allows no more.
    #[error("{0}")]
    Full(Full),
    /// Another request's attempt, which this one waited for, has failed.
    #[error("{why}")]
    Shared {
        /// Why.
        why: String,
        /// Whether it failed in TLS.
        tls: bool,
    },
}

impl ConnectError {
    /// The same for another request that has waited for it.
    pub(super) fn shared(&self) -> Self {
        match self {
            Self::Full(full) => Self::Full(*full),
            error => Self::Shared { why: error.to_string(), tls: error.is_tls() },
        }
    }

    /// Whether the instance was there and TLS with it failed.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Shared { tls: true, .. })
    }
}

/// Connects, for HTTP/2 or HTTP/1.1. `limit` is what is said where it is not done by `until`.
pub(crate) async fn connect(
    address: &Address,
    tls: Option<&BackendTls>,
    http2: bool,
    limit: TimeLimit,
    until: Instant,
) -> Result<ServerSocket, ConnectError> {
    let connected = async {
        let socket = match address.socket_addr() {
            Some(address) => connect_to(address).await.map_err(ConnectError::Refused)?,
            None => connect_by_name(address).await?,
        };
        match tls {
            Some(tls) => {
                // Boxed, so that connections in the clear need no room for it.
                let shaken = Box::pin(tls.connect(socket, http2)).await;
                shaken.map(ServerSocket::Tls).map_err(ConnectError::Tls)
            }
            None => Ok(ServerSocket::Plain(socket)),
        }
    };
    timeout_at(until, connected).await.unwrap_or(Err(ConnectError::Timeout(limit)))
}

async fn connect_by_name(address: &Address) -> Result<TcpStream, ConnectError> {
    let found = lookup_host((address.host(), address.port())).await.map_err(ConnectError::Lookup)?;
    let mut failed = ConnectError::Lookup(io::Error::from(io::ErrorKind::NotFound));
    for address in found {
        match connect_to(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = ConnectError::Refused(error),
        }
    }
    Err(failed)
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
