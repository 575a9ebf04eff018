//! HTTP/1.1 connections to instances while no request uses them.

use std::time::{Duration, Instant};

use crate::{http1::Connection, table::Place};

/// An HTTP/1.1 connection, and how long its instance keeps it.
pub(crate) struct Http1 {
    pub(crate) connection: Connection,
    /// How long the instance says that it keeps the connection while idle.
    pub(crate) keep_alive: Option<Duration>,
    /// Counts it as one of the service's connections.
    pub(crate) place: Place,
}

/// A connection that waits for its next request.
pub(super) struct IdleHttp1 {
    connection: Box<Http1>,
    until: Instant,
}

impl IdleHttp1 {
    /// A server that names its time is left one second before that, so as not to meet its closing.
    pub(super) fn new(connection: Box<Http1>, now: Instant, limit: Duration) -> Self {
        let named = connection.keep_alive.map(|named| named.saturating_sub(Duration::from_secs(1)));
        let until = now + named.map_or(limit, |named| named.min(limit));
        Self { connection, until }
    }

    pub(super) fn into_connection(self) -> Box<Http1> {
        self.connection
    }

    /// Counts it as one of its service's connections.
    pub(super) fn place(&self) -> &Place {
        &self.connection.place
    }

    pub(super) fn is_worth_keeping(&mut self, now: Instant) -> bool {
        now < self.until && self.connection.connection.is_quiet()
    }
}
