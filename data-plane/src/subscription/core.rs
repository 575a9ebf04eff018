//! What each message of the control plane does to what is held. No clock, no I/O.
//!
//! Where a message does not fit what is held, something was lost, came twice or came out of order: everything
//! is asked for again. Where it can never fit, it is rejected. Either way what was held stays in service.
//!
//! While the control plane is not settled, it may not know yet all that was registered before it started. What
//! was held then is carried over beside what it says: its word on an entry wins, and an entry that it names
//! as gone is gone. When it says that it is settled, what is carried over and missing there is gone as well.

use waypost_proto::{
    snapshot::{Snapshot, SnapshotError, Touched},
    v1::{Delta, Position, Rejected, SnapshotChunk, SubscribeResponse, subscribe_response::Kind},
};

use crate::table::{Source, declared::check};

/// What is held.
#[derive(Debug, Default)]
pub struct Core {
    current: Option<Snapshot>,
    carried: Option<Snapshot>,
    /// The parts of a snapshot that is not complete yet.
    chunks: Vec<SnapshotChunk>,
    wants_everything: bool,
    resyncs: u64,
}

/// What a message came to.
#[derive(Debug)]
pub enum Outcome {
    /// It is part of something that is not complete.
    Incomplete,
    /// What is held has changed: compile what is touched and say `Applied`.
    Changed {
        /// The entries that may differ.
        touched: Touched,
        /// Whether it was a full snapshot.
        full: bool,
    },
    /// It can never be applied: say so.
    Rejected(Rejected),
    /// It does not fit: connect again, with [`Core::hello`].
    Resync(SnapshotError),
}

impl Core {
    /// Begins with what was stored. Everything in it is touched.
    pub fn restored(current: Snapshot, carried: Option<Snapshot>) -> Self {
        Self { current: Some(current), carried, ..Self::default() }
    }

    /// What the table is compiled from; `None` before the first snapshot.
    pub fn source(&self) -> Option<Source<'_>> {
        Some(Source { current: self.current.as_ref()?, carried: self.carried.as_ref() })
    }

    /// What the control plane has said.
    pub fn current(&self) -> Option<&Snapshot> {
        self.current.as_ref()
    }

    /// What is kept until the control plane is settled.
    pub fn carried(&self) -> Option<&Snapshot> {
        self.carried.as_ref()
    }

    /// What is served by.
    pub fn position(&self) -> Option<Position> {
        self.current.as_ref().map(Snapshot::position)
    }

    /// How many times everything was asked for again.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// Whether everything was asked for and has not come yet.
    pub fn awaits_everything(&self) -> bool {
        self.wants_everything
    }

    /// A stream begins: what to say that is held. `None` asks for everything.
    pub fn hello(&mut self) -> Option<Position> {
        self.chunks.clear();
        if self.wants_everything { None } else { self.position() }
    }

    /// Takes a message.
    pub fn receive(&mut self, message: SubscribeResponse) -> Outcome {
        let (revision, taken) = match message.kind {
            Some(Kind::Chunk(chunk)) => (revision(chunk.position.as_ref()), self.take_chunk(chunk)),
            Some(Kind::Delta(delta)) => (revision(delta.position.as_ref()), self.take_delta(&delta)),
            // A kind that this version does not know: whatever it means, deltas tell what was missed.
            None => return Outcome::Incomplete,
        };
        match taken {
            Ok(outcome) => outcome,
            Err(error) if error.wants_resync() => {
                self.chunks.clear();
                self.wants_everything = true;
                self.resyncs += 1;
                Outcome::Resync(error)
            }
            Err(error) => {
                self.chunks.clear();
                Outcome::Rejected(Rejected { revision, reason: error.to_string(), position: self.position() })
            }
        }
    }

    fn take_chunk(&mut self, chunk: SnapshotChunk) -> Result<Outcome, SnapshotError> {
        if chunk.index == 0 {
            self.chunks.clear();
        }
        let expected = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        if chunk.index != expected {
            return Err(SnapshotError::Chunk { expected, got: chunk.index });
        }
        let last = chunk.last;
        self.chunks.push(chunk);
        if !last {
            return Ok(Outcome::Incomplete);
        }
        let next = Snapshot::from_chunks(&std::mem::take(&mut self.chunks))?;
        let carried = if next.settled() { None } else { self.known() };
        let source = Source { current: &next, carried: carried.as_ref() };
        let touched = match self.source() {
            Some(before) => source.difference(&before),
            None => source.everything(),
        };
        if let Some(rejected) = self.unknown_routing(&next, &touched) {
            return Ok(Outcome::Rejected(rejected));
        }
        self.wants_everything = false;
        self.current = Some(next);
        self.carried = carried;
        Ok(Outcome::Changed { touched, full: true })
    }

    fn take_delta(&mut self, delta: &Delta) -> Result<Outcome, SnapshotError> {
        self.chunks.clear();
        let Some(current) = &self.current else {
            return Err(SnapshotError::Gap { held: 0, from: delta.from_revision });
        };
        let (next, mut touched) = current.apply(delta)?;
        if let Some(rejected) = self.unknown_routing(&next, &touched) {
            return Ok(Outcome::Rejected(rejected));
        }
        self.carried = match self.carried.take() {
            Some(carried) if next.settled() => {
                touched.extend(&Source { current: &carried, carried: None }.everything());
                None
            }
            Some(carried) => Some(carried.without(&touched)),
            None => None,
        };
        self.current = Some(next);
        Ok(Outcome::Changed { touched, full: false })
    }

    /// The rejection of a snapshot whose declared routing asks for what this version does not know.
    fn unknown_routing(&self, next: &Snapshot, touched: &Touched) -> Option<Rejected> {
        let entries = touched.declared.iter().filter_map(|id| next.declared_entry(id));
        let (entry, error) = entries.filter_map(|entry| Some((entry, check(entry).err()?))).next()?;
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let reason = format!("entry {:?}: {error}{cause}", entry.id);
        Some(Rejected { revision: next.revision(), reason, position: self.position() })
    }

    /// All that is held as one snapshot.
    fn known(&self) -> Option<Snapshot> {
        let current = self.current.as_ref()?;
        Some(self.carried.as_ref().map_or_else(|| current.clone(), |carried| current.carrying_over(carried)))
    }
}

fn revision(position: Option<&Position>) -> u64 {
    position.map_or(0, |position| position.revision)
}

#[cfg(test)]
mod tests;
