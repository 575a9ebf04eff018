//! How instances were registered, for those whose lease runs out while they live: they beat on and never register again.
//!
//! Deliberately absent: writing it down. Over a restart of the control plane it is the store that remembers, and a lease
//! does not run out before it has had its full length after a restart.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use waypost_proto::{name::InstanceKey, v1::InstanceSpec};

/// How many are remembered before those are dropped that have long been silent.
const MOST: usize = 10_000;
/// How long is long.
const LONG: Duration = Duration::from_secs(3600);

/// What was registered, by name, and when it was last heard of.
#[derive(Debug, Default)]
pub(in crate::http) struct Remembered(Mutex<HashMap<InstanceKey, (InstanceSpec, Instant)>>);

impl Remembered {
    /// Remembers one that was just heard of. Where there is no room, it is not remembered.
    pub(super) fn keep(&self, key: &InstanceKey, spec: InstanceSpec) {
        let (mut known, now) = (self.0.lock(), Instant::now());
        if known.len() >= MOST && !known.contains_key(key) {
            known.retain(|_, (_, heard)| now.duration_since(*heard) < LONG);
        }
        if known.len() < MOST || known.contains_key(key) {
            known.insert(key.clone(), (spec, now));
        }
    }

    /// Forgets one that has left.
    pub(super) fn forget(&self, key: &InstanceKey) {
        self.0.lock().remove(key);
    }

    /// How one was registered.
    pub(super) fn get(&self, key: &InstanceKey) -> Option<InstanceSpec> {
        self.0.lock().get(key).map(|(spec, _)| spec.clone())
    }
}
