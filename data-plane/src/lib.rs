//! Waypost's data plane: a proxy that swaps its routing table while requests are in flight.
//!
//! The [`subscription`] keeps a snapshot in step with the control plane and compiles it into a
//! [`table::Table`]; the serving threads find a route in it, [`balance`] among the endpoints, and forward.
//!
//! Deliberately absent: the registry (the control plane's), and registration (the SDK's and the agent's).

pub mod admin;
mod answer;
pub mod balance;
pub mod config;
mod forward;
mod gather;
mod headers;
pub mod health;
mod http1;
pub mod http2;
mod listener;
pub mod metrics;
pub mod overload;
mod pool;
pub mod proxy;
pub mod rule;
pub mod serve;
mod socket;
pub mod state_dir;
mod stream;
pub mod subscription;
pub mod table;
mod tls;
pub mod trusted;
mod upgrade;
