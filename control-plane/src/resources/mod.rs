//! What people declare, for those who ask and those who change it, whichever surface they come by.
//!
//! ```text
//!   documents ─▶ parse ─▶ plan (pure): check the whole set after the change ─▶ registry.declare ─▶ wait for proxies
//!                  │              │
//!                  └── findings ──┴──▶ a refusal, and nothing has changed
//! ```
//!
//! What a Secret holds never leaves the control plane but on its way to proxies (see `redact`).
//!
//! Deliberately absent: gRPC and HTTP, who read requests and write answers; and who may do what.

mod apply;
mod pair;
mod plan;
mod preview;
mod read;
mod redact;

use std::time::Duration;

use waypost_proto::resource::ResourceKey;

pub use self::{
    apply::{apply, delete, rollback},
    read::{Selection, get, history, list},
};

/// How a change is made.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Only says what would happen.
    pub dry_run: bool,
    /// With `dry_run`, for what is declared: also says what proxies would get.
    pub preview: bool,
    /// Who asks, for the history.
    pub actor: String,
    /// How long to wait until every live proxy has applied it; `None`: not at all.
    pub wait: Option<Duration>,
}

/// What a message says that no resource has this name.
fn missing(key: &ResourceKey) -> String {
    format!("there is no {key}: `waypost get {}` lists those there are", key.kind().name().to_lowercase())
}
