//! Why a change cannot be applied to a snapshot, and whether asking for everything again can help.

use crate::{error::Violation, name::ServiceKey};

/// Why a change cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The change belongs to another history.
    #[error("the change belongs to history {got:?} and the snapshot to {held:?}")]
    History {
        /// What is held.
        held: String,
        /// What came.
        got: String,
    },
    /// Something between was lost, or came twice.
    #[error("the change builds on revision {from} and the snapshot is at {held}")]
    Gap {
        /// The revision that is held.
        held: u64,
        /// The revision that the change builds on.
        from: u64,
    },
    /// The contents differ from the control plane's.
    #[error("the digest after revision {revision} is {got:016x} and should be {expected:016x}")]
    Digest {
        /// The revision.
        revision: u64,
        /// The control plane's.
        expected: u64,
        /// What the contents give.
        got: u64,
    },
    /// A chunk is missing or out of order.
    #[error("chunk {got} came where chunk {expected} was due")]
    Chunk {
        /// The index that was due.
        expected: u32,
        /// The index that came.
        got: u32,
    },
    /// An entry refers to a service that is not there.
    #[error("{entry} refers to service {service}, which is not in the snapshot")]
    Dangling {
        /// The entry.
        entry: String,
        /// The service that is missing.
        service: ServiceKey,
    },
    /// An entry breaks a rule.
    #[error("an entry is malformed: {0}")]
    Invalid(Violation),
}

impl SnapshotError {
    /// Whether everything should be asked for again. Otherwise the control plane sent something that can
    /// never be applied, and asking again cannot help.
    pub fn wants_resync(&self) -> bool {
        !matches!(self, Self::Dangling { .. } | Self::Invalid(_))
    }
}

impl From<Violation> for SnapshotError {
    fn from(violation: Violation) -> Self {
        Self::Invalid(violation)
    }
}
