//! The subscription: keeps what is served by in step with the control plane.
//!
//! ```text
//!  control plane ──▶ stream ──▶ core: message in, outcome out ──▶ table::Compiler ──▶ SharedTable
//!        ▲             │                                                                  │
//!        └── Applied ──┴────────────── what is in flight to draining endpoints ◀──────────┘
//! ```
//!
//! [`core`] is the state machine, without I/O; [`stream`] is the shell around it; [`planes`] says which
//! control plane is next and when.
//!
//! Deliberately absent: a decision about health. A proxy that loses its control planes goes on with what it has.

mod backoff;
pub mod core;
pub mod planes;
mod reports;
mod status;
pub mod stream;

pub use self::{
    core::{Core, Outcome},
    planes::Planes,
    status::{Status, StatusView},
    stream::{Identity, Subscriber, Wiring},
};
