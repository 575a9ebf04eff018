//! The Waypost contract.
//!
//! `waypost/v1/*.proto` is the contract; [`v1`] is the code that is generated from it. Around it stand the
//! validated types that every program works with: a value of [`name::ServiceName`] cannot be a bad name, a
//! [`snapshot::Snapshot`] cannot hold a dangling reference. Messages are checked once, where they come in.
//!
//! Deliberately absent: I/O, clocks, configuration.

pub mod address;
pub mod error;
pub mod frame;
pub mod instance;
pub mod load;
pub mod name;
pub mod reason;
pub mod resource;
pub mod route;
pub mod snapshot;
pub mod time;

/// The generated messages, clients and servers of the package `waypost.v1`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/waypost.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/waypost.v1.serde.rs"));

    /// The `Snapshots` server whose responses are [`crate::frame::Frame`]s, encoded once for all subscribers.
    pub mod encoded {
        include!(concat!(env!("OUT_DIR"), "/encoded/waypost.v1.Snapshots.rs"));
    }
}

/// The contract's descriptors, for gRPC server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Where a control plane listens for gRPC unless told otherwise.
pub const DEFAULT_GRPC_LISTEN: &str = "127.0.0.1:7400";
/// Where a control plane listens for HTTP unless told otherwise.
pub const DEFAULT_HTTP_LISTEN: &str = "127.0.0.1:7401";
/// Where a proxy listens for traffic unless told otherwise.
pub const DEFAULT_PROXY_LISTEN: &str = "127.0.0.1:8080";
/// Where a proxy's admin port is unless told otherwise.
pub const DEFAULT_PROXY_ADMIN_LISTEN: &str = "127.0.0.1:7410";
/// Where an agent's admin port is unless told otherwise.
pub const DEFAULT_AGENT_ADMIN_LISTEN: &str = "127.0.0.1:7420";
