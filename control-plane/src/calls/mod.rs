//! The calls of the contract: a message is checked here, once, and done; gRPC and HTTP only translate.
//!
//! What is behind works with checked types. Deliberately absent: the streams to proxies, to other control planes and
//! to stores, which gRPC alone has.

pub(crate) mod checks;
mod discovery;
mod operations;
mod registry;
mod resources;
mod watch;

pub(crate) use self::{
    discovery::{get_service, list_instances},
    operations::{drain, set_override, wait_applied},
    registry::{deregister, heartbeat, register},
    resources::{apply, delete_resources, get_history, list_resources, rollback},
    watch::Watcher,
};
