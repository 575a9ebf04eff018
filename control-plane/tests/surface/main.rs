//! The control plane as others see it: each service of the contract and the HTTP port, over real sockets.

mod discovery;
mod harness;
mod http;
mod operations;
mod registry;
mod replicas;
mod resources;
mod sightings;
mod snapshots;
mod store_away;
