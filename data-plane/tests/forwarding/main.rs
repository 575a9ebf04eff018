//! The request path against real sockets: raw clients on one side, scripted instances on the other.
//!
//! Tables are built by hand, so that nothing but the path from listener to instance is under test.

#![allow(missing_docs, reason = "tests")]

mod balancing;
mod basics;
mod blame;
mod bodies;
mod breaker;
mod check_load;
mod declared;
mod faults;
mod frames;
mod grpc_web;
mod health;
mod hedging;
mod http2;
mod http2_clients;
mod http2_upstream;
mod limits;
mod listeners;
mod log;
mod overload;
mod policy;
mod retries;
mod routes;
mod secure;
mod service_limits;
mod shutdown;
mod support;
mod tls_in;
mod tls_out;
mod upgrades;
mod websocket;
