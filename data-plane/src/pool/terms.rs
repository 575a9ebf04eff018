//! What a service's policy asks of connections to its endpoints: how long one may take to be made, how many there may be at
//! once, and how many requests may wait for one.
//!
//! Where all connections that may be are taken, a request waits: for one that ends, or for one to its own endpoint that
//! becomes idle. The wait is part of the time that a connection may take.
//!
//! Deliberately absent: an order among those who wait. A request that comes when a place is free may have it first.

use std::{fmt, sync::Arc};

use tokio::time::{Instant, timeout_at};

use super::ConnectError;
use crate::{
    rule::TimeLimit,
    table::{Place, ServiceTable, Usage, Use},
};

/// What a connection has to keep to, from when a request asks for it.
#[derive(Clone)]
pub(super) struct Terms {
    /// How long it may take.
    pub(super) limit: TimeLimit,
    /// When it has to be there.
    pub(super) until: Instant,
    pub(super) usage: Arc<Usage>,
    most_connections: Option<u64>,
    most_pending: Option<u64>,
}

/// Why there is no connection for a request, though its instance may well be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many as may be are in use, and none became free in time.
    Connections { most: u64, waited: TimeLimit },
    /// As many requests as may be wait for one.
    Pending { most: u64 },
}

impl fmt::Display for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections { most, waited } => write!(
                formatter,
                "{most} connections to it are in use, which is all that its policy allows (circuitBreaker.maxConnections), \
                 and none became free within {waited}"
            ),
            Self::Pending { most } => write!(
                formatter,
                "{most} requests wait for a connection to it, which is all that its policy allows \
                 (circuitBreaker.maxPendingRequests)"
            ),
        }
    }
}

impl Terms {
    /// A service's, for a request that asks now. `own`: how long connections may take where no policy says.
    pub(super) fn of(service: &ServiceTable, own: TimeLimit) -> Self {
        let traffic = service.traffic();
        let limit = traffic.and_then(|traffic| traffic.waits.connect).unwrap_or(own);
        Self {
            limit,
            until: Instant::now() + limit.length,
            usage: Arc::clone(service.usage()),
            most_connections: traffic.and_then(|traffic| traffic.most_connections),
            most_pending: traffic.and_then(|traffic| traffic.most_pending),
        }
    }

    /// Counts a request that waits for a connection, where it is limited how many may.
    ///
    /// # Errors
    /// As many wait as may.
    pub(super) fn wait(&self) -> Result<Option<Place>, ConnectError> {
        let Some(most) = self.most_pending else { return Ok(None) };
        match self.usage.take(Use::Pending, Some(most)) {
            Some(place) => Ok(Some(place)),
            None => Err(ConnectError::Full(Full::Pending { most })),
        }
    }

    /// A place for a connection, if there is one now.
    pub(super) fn place(&self) -> Option<Place> {
        self.usage.take(Use::Connection, self.most_connections)
    }

    /// A place for a connection, as soon as there is one.
    pub(super) async fn next_place(&self) -> Place {
        self.usage.next_connection(self.most_connections).await
    }

    /// What comes in time.
    ///
    /// # Errors
    /// Nothing has.
    pub(super) async fn in_time<T>(&self, next: impl Future<Output = T>) -> Result<T, ConnectError> {
        let most = self.most_connections.unwrap_or_default();
        let in_time = timeout_at(self.until, next).await;
        in_time.map_err(|_| ConnectError::Full(Full::Connections { most, waited: self.limit }))
    }
}
