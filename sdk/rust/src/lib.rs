//! The SDK; its page is the README, which follows.
//!
#![doc = include_str!("../README.md")]

pub mod control_planes;
pub mod health;
pub mod launch;

mod backoff;
mod client;
mod error;
mod keeper;
mod registered;
mod registration;
mod resolver;
mod watch;

pub use self::{
    client::{Client, ClientBuilder},
    error::{Attempt, Error},
    registered::{DrainOutcome, LeaseStatus, Registered},
    registration::Registration,
    resolver::{Balance, Picked, Resolver, ResolverBuilder},
    watch::{WatchEvent, WatchStream},
};
/// The contract: messages ([`waypost_proto::v1`]), names, error codes.
pub use waypost_proto as contract;
/// How busy an instance says it is.
pub use waypost_proto::load::Load;
