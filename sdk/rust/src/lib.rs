//! The SDK; its page is the README, which follows.
//!
#![doc = include_str!("../README.md")]

/// The examples of the page about services.
#[cfg(doctest)]
#[doc = include_str!("../SERVICE.md")]
pub struct ServicePage;

#[cfg(feature = "axum")]
pub mod axum;
pub mod control_planes;
pub mod health;
pub mod launch;

mod backoff;
mod client;
mod error;
mod in_flight;
mod keeper;
mod registered;
mod registration;
mod resolver;
mod service;
mod watch;

pub use self::{
    client::{Client, ClientBuilder},
    error::{Attempt, Error},
    in_flight::{InFlight, InFlightBody, InFlightFuture, InFlightService},
    registered::{DrainOutcome, LeaseStatus, Registered},
    registration::Registration,
    resolver::{Balance, Picked, Resolver, ResolverBuilder},
    service::{ServeError, Service, Stopped},
    watch::{WatchEvent, WatchStream},
};
/// The contract: messages ([`waypost_proto::v1`]), names, error codes.
pub use waypost_proto as contract;
/// How busy an instance says it is.
pub use waypost_proto::load::Load;
