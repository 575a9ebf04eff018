//! The subscription: keeps what is served by in step with the control plane.
//!
//! ```text
//!  control plane ──▶ stream ──▶ core: message in, outcome out ──▶ table::Compiler ──▶ SharedTable
//!        ▲             │                                                                  │
//!        └── Applied ──┴────────────── what is in flight to draining endpoints ◀──────────┤
//!        └── Observed ─────────────────────────── how endpoints answer (`observer`) ◀─────┘
//! ```
//!
//! [`core`] is the state machine, without I/O; [`stream`] is the shell around it; which
//! control plane is next is for the SDK's [`waypost_sdk::control_planes`] to say.
//!
//! Deliberately absent: a decision about health. A proxy that loses its control planes goes on with what it has.

pub mod core;
mod observer;
mod reports;
mod status;
pub mod stream;

pub use self::{
    core::{Core, Outcome},
    status::{Status, StatusView},
    stream::{Identity, Subscriber, Wiring},
};
