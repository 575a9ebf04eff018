//! The request path against real sockets: raw clients on one side, scripted instances on the other.
//!
//! Tables are built by hand, so that nothing but the path from listener to instance is under test.

#![allow(missing_docs, reason = "tests")]

mod basics;
mod bodies;
mod http2;
mod limits;
mod retries;
mod shutdown;
mod support;
mod upgrades;
