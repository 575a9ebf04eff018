//! HTTP/2 (RFC 9113) as plain functions: what a connection's bytes mean, and which bytes it sends.
//!
//! ```text
//!            ┌─▶ frame ─▶ hpack ─▶ head ─┐
//!   bytes ──▶ connection ─▶ streams       ├─▶ events ─▶ serve/http2
//!            └─▶ settings, budget ───────┘
//!   bytes ◀── output ◀── send ◀── answers ◀──────────── serve/http2
//! ```
//!
//! Clients are served by it because hyper's server, and h2 below it, are made for connections that threads share: they took
//! half of a call's instructions, for locks, for channels, and for a task of each stream. Nothing here waits, knows a
//! socket or a clock, or is shared: a [`Connection`] takes bytes and the time and gives events, so that every rule is
//! tested without any of them.
//!
//! Everything that a client can make grow has a limit, and everything that costs it less than the proxy has a budget.
//!
//! Deliberately absent: server push, and priorities, which are read over (RFC 9113, section 5.3); `Upgrade: h2c`; the
//! client's side of a connection, for which `pool` uses h2.

mod bodies;
mod budget;
mod connection;
#[doc(hidden)]
pub mod examined;
mod frame;
mod head;
mod heads;
pub(crate) mod hpack;
mod output;
mod send;
mod settings;
mod streams;
#[cfg(test)]
mod tests;
mod windows;

pub(crate) use self::{
    connection::{Connection, Event, Failed, Limits, PREFACE},
    frame::Code,
    head::Protocol,
    send::Sent,
    streams::Key,
};
