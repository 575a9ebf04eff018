//! The harness of Waypost's end-to-end tests: real programs, real sockets, faults on demand.
//!
//! A test states a promise through a few calls: start a [`cluster::Cluster`], put [`service::SampleService`]s
//! behind it, send [`load`] through the proxies, break something, and await what must hold with
//! [`wait::eventually`]. Programs are started from the target directory, listen on port 0, and are ended by
//! their process id when the test ends; what they logged is printed where the test failed.
//!
//! Deliberately absent: mocks of Waypost's own parts, fixed ports, and anything that ships.

pub mod api;
pub mod cluster;
pub mod document;
pub mod fleet;
pub mod gateway;
pub mod http;
pub mod load;
pub mod measure;
pub mod middleman;
pub mod process;
pub mod program;
pub mod relay;
pub mod servers;
pub mod service;
pub mod wait;
