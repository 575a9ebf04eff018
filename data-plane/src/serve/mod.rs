//! Serving: worker threads that accept connections, serve them, and wind down.
//!
//! Every worker is one thread with one single-threaded runtime, its own listening socket on the shared
//! address (`SO_REUSEPORT`), its own upstream pools and its own pointer to the current table. Nothing that a
//! request touches is shared between workers except the counts of the endpoints, so nothing needs a lock.
//!
//! ```text
//! start ──▶ listener::bind ──▶ N × worker::run ──▶ connection::serve ──▶ forward::handle
//!                                   │ sweep: idle connections, timeouts
//!                                   └ shutdown: backlog, last answers, deadline
//! ```
//!
//! Deliberately absent: configuration sources (see the binary) and the table itself (see
//! [`crate::table`]).

mod client;
mod config;
mod connection;
mod doors;
mod handshake;
mod http2;
mod idle;
mod ports;
mod running;
mod worker;

pub use config::{Limits, OverloadLimits, PoolLimits, ServeConfig, Timeouts};
pub use ports::{Listening, PortState};
pub use running::{Running, ShutdownReport, start};

pub(crate) use client::{ClientConnection, RequestScope};
pub(crate) use http2::Http2Body;
pub(crate) use idle::IdleTimer;
pub(crate) use worker::Worker;
