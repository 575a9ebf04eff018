//! What is asked about instances of those who know what proxies see of them.
//!
//! Deliberately absent: where that is known (`hub`).

use std::time::Duration;

use waypost_proto::name::InstanceKey;

/// An instance of which it is asked whether it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InQuestion {
    /// Its name.
    pub key: InstanceKey,
    /// Its epoch.
    pub epoch: u64,
    /// How lately it must have answered.
    pub within: Duration,
}
