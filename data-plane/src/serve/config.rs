//! How a proxy serves: its address, threads, limits and timeouts. All defaults stand here.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::trusted::Network;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where to listen; port 0 picks a free port.
    pub listen: SocketAddr,
    /// How many workers; at least one runs.
    pub threads: usize,
    /// Peers whose forwarding headers (`x-forwarded-*`, `forwarded`) are believed and extended.
    pub trusted_proxies: Vec<Network>,
    /// How many further instances a request may try where that is safe.
    pub retries: usize,
    /// What a client may send.
    pub limits: Limits,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// What is kept open towards instances.
    pub pool: PoolLimits,
    /// Beyond what requests are refused.
    pub overload: OverloadLimits,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            trusted_proxies: Vec::new(),
            retries: 2,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            pool: PoolLimits::default(),
            overload: OverloadLimits::default(),
        }
    }
}

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's head. Beyond it: 431.
    pub header_bytes: usize,
    /// Fields in a request's head. Beyond it: 431.
    pub headers: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub http2_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header_bytes: 64 * 1024, headers: 100, http2_streams: 250 }
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a request's head, from its first byte (or from the accept) to its end.
    pub client_header: Duration,
    /// For the next request on a connection that has had one.
    pub client_idle: Duration,
    /// For a connection to an instance, name look-up included.
    pub connect: Duration,
    /// For an answer's head, from when the request has been sent.
    pub response: Duration,
    /// For an answer's body to begin before its head is passed on without it, where the request may be sent again. Zero: not
    /// at all.
    pub head_hold: Duration,
    /// For the next bytes of a body, in either direction.
    pub stream_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            client_header: Duration::from_secs(15),
            client_idle: Duration::from_secs(75),
            connect: Duration::from_secs(2),
            response: Duration::from_secs(60),
            // Longer than a server takes from one write to the next where the processor is busy (20 ms and more where the
            // tests overload it), and less than anybody notices who waits for the head alone.
            head_hold: Duration::from_millis(200),
            stream_idle: Duration::from_secs(300),
        }
    }
}

/// What is kept open towards each instance, per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Idle HTTP/1.1 connections.
    pub max_idle: usize,
    /// How long one may be idle: less than the 60 s and more after which common servers close.
    pub idle_timeout: Duration,
    /// HTTP/2 connections. A further one is opened when the others carry all the streams that they may.
    pub http2_connections: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { max_idle: 128, idle_timeout: Duration::from_secs(55), http2_connections: 4 }
    }
}

/// Beyond what requests are refused, those to services of low priority first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverloadLimits {
    /// Requests under way, upgraded connections among them; each worker has its share. 0: any number.
    pub requests: u64,
    /// How late a worker's timer may be for half a second on end. Zero: as late as it likes.
    pub delay: Duration,
}

impl Default for OverloadLimits {
    fn default() -> Self {
        Self { requests: 100_000, delay: Duration::from_millis(100) }
    }
}
