//! Tables that were served by, for those who ask why a request went where it went.
//!
//! ```text
//!   revision    4     5     6     7     8     9 (current)
//!   routing     a     b     b     b     b     c
//!   kept        a     b     -     -     b            6 and 7 were replaced within a second
//! ```
//!
//! A table with which another routing begins or ends is always kept, so the newest kept table up to a revision has the
//! routing of that revision. In between, one a second at most: instances come and go in bursts, and must not push out
//! what routing was. Where there is no room any more, those in between go first.
//!
//! What a kept table keeps alive is small and is no part of serving. Tables share all that did not change, so it is
//! what changed since, and there are [`MOST`] of them at most. Endpoints that are gone are retired all the same: nobody
//! begins a request by a kept table, pools close the connections of what is retired, and the drain barrier counts by
//! the table that is served by. TLS and entries are left out ([`Table::remembered`]), so that private keys do not
//! outlive their use.
//!
//! Deliberately absent: the request path, and tables of before a start.

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Edge, Table};

/// How many tables are kept.
const MOST: usize = 16;
/// How far apart those are in between which routing did not change.
const APART: Duration = Duration::from_secs(1);

/// A table that was served by.
#[derive(Debug)]
struct Kept {
    table: Arc<Table>,
    /// Whether its routing is another one than that of the table before.
    begins: bool,
}

/// Tables that were served by, oldest first.
#[derive(Debug, Default)]
pub(super) struct Past {
    kept: VecDeque<Kept>,
    /// Whether the current table has the routing of the one before it.
    continues: bool,
    newest: Option<Instant>,
}

/// What is kept no more; to be dropped where nobody waits for it.
#[derive(Debug)]
#[must_use]
pub(super) struct Evicted {
    _kept: VecDeque<Kept>,
}

impl Past {
    /// Takes note of a table that another one takes the place of.
    pub(super) fn note(&mut self, replaced: &Table, next: &Table, now: Instant) -> Evicted {
        let (before, after) = (&replaced.position, &next.position);
        let changes = !replaced.has_routing_of(next);
        if before.history != after.history || after.revision < before.revision {
            // Numbers of another history, or that are given once more, stand for something else.
            self.continues = false;
            return Evicted { _kept: mem::take(&mut self.kept) };
        }
        if before.revision == after.revision {
            self.continues &= !changes;
            return Evicted { _kept: VecDeque::new() };
        }
        let begins = !mem::replace(&mut self.continues, !changes);
        let is_due = self.newest.is_none_or(|newest| now.saturating_duration_since(newest) >= APART);
        if begins || changes || is_due {
            self.newest = Some(now);
            self.kept.push_back(Kept { table: Arc::new(replaced.remembered()), begins });
        }
        let mut evicted = VecDeque::new();
        if self.kept.len() > MOST {
            let at = self.kept.iter().position(|kept| !kept.begins).unwrap_or_default();
            evicted.extend(self.kept.remove(at));
        }
        Evicted { _kept: evicted }
    }

    /// The newest table up to a revision.
    pub(super) fn at(&self, revision: u64) -> Option<Arc<Table>> {
        let found = self.kept.iter().rev().find(|kept| kept.table.position.revision <= revision);
        found.map(|kept| Arc::clone(&kept.table))
    }

    /// The revisions that are kept, oldest first.
    pub(super) fn revisions(&self) -> Vec<u64> {
        self.kept.iter().map(|kept| kept.table.position.revision).collect()
    }
}

impl Table {
    /// Whether declared and automatic routes are those of another table, of which this one is the next or the one
    /// before. Wrongly `false` is possible, wrongly `true` is not.
    fn has_routing_of(&self, other: &Self) -> bool {
        self.declared.is_same(&other.declared) && self.routes.is_same(&other.routes)
    }

    /// The same without what only serving needs: entries and TLS, which hold private keys.
    fn remembered(&self) -> Self {
        Self { edge: Edge::default(), declared: self.declared.without_entries(), ..self.clone() }
    }
}

#[cfg(test)]
mod tests;
