//! Waypost's control plane: who is registered, what proxies need to know of it, and how both are asked.
//!
//! Data takes this way: a registration is checked, committed to the [`store`], applied by the [`registry`]
//! in the store's order, and compiled into the change that proxies get ([`compile`]).

mod calls;
pub mod compile;
pub mod config;
pub mod gateway;
pub mod grpc;
pub mod http;
pub mod hub;
pub mod maintenance;
pub mod metrics;
pub mod program;
pub mod registry;
pub mod replicas;
pub mod resources;
pub mod server;
pub mod store;
