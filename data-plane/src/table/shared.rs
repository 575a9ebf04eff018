//! The pointer to the current table, shared by the subscription that swaps it and the threads that serve by it; and
//! some tables from before, for questions.

use std::{fmt, sync::Arc, time::Instant};

use arc_swap::{ArcSwapOption, cache::Cache};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Table, past::Past};

/// The current table, if there is one yet. A clone is the same pointer.
#[derive(Clone, Debug)]
pub struct SharedTable {
    current: Arc<ArcSwapOption<Table>>,
    swapped: watch::Sender<()>,
    /// Not for the request path: whoever swaps takes the lock, and whoever asks.
    past: Arc<Mutex<Past>>,
}

/// A table that is or was served by.
#[derive(Clone, Debug)]
pub struct Served {
    /// The table.
    pub table: Arc<Table>,
    /// Whether it is served by now.
    pub is_current: bool,
}

/// Why there is no table of a revision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotKept {
    /// The revision that was asked for.
    pub asked: u64,
    /// The older ones that are kept, oldest first.
    pub kept: Vec<u64>,
    /// The one that is served by; none: there is no table yet.
    pub current: Option<u64>,
}

impl fmt::Display for NotKept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(current) = self.current else { return formatter.write_str("there is no table yet") };
        let asked = self.asked;
        if asked > current {
            write!(formatter, "revision {asked} is newer than the current one here, {current}")?;
        } else {
            write!(formatter, "revision {asked} is not kept here, the current one is {current}")?;
        }
        match (self.kept.first(), self.kept.last()) {
            (Some(first), Some(_)) => {
                let kept: Vec<String> = self.kept.iter().map(u64::to_string).collect();
                write!(
                    formatter,
                    "; any from {first} to {current} can be asked for (kept: {})",
                    kept.join(", ")
                )
            }
            _ => formatter.write_str(", and none before it is kept"),
        }
    }
}

impl Default for SharedTable {
    fn default() -> Self {
        Self { current: Arc::default(), swapped: watch::Sender::new(()), past: Arc::default() }
    }
}

impl SharedTable {
    /// Without a table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The current table.
    pub fn load(&self) -> Option<Arc<Table>> {
        self.current.load_full()
    }

    /// Swaps the table. Requests that began keep the one they have.
    pub fn store(&self, table: Arc<Table>) {
        let mut past = self.past.lock();
        let replaced = self.current.load_full();
        let evicted = replaced.as_ref().map(|replaced| past.note(replaced, &table, Instant::now()));
        self.current.store(Some(table));
        drop(past);
        self.swapped.send_replace(());
        // What is kept no more may be large: it is dropped where nobody waits for it.
        drop((evicted, replaced));
    }

    /// The table that was served by at a revision: the current one, or the newest up to there that is kept. Its routing
    /// is that of the revision; its instances may be those of shortly before. Not for the request path.
    ///
    /// # Errors
    /// It is older than all that are kept, or newer than the current one.
    pub fn at(&self, revision: u64) -> Result<Served, NotKept> {
        let past = self.past.lock();
        let current = self.current.load_full();
        let newest = current.as_ref().map(|table| table.position().revision);
        if let Some(table) = current
            && newest == Some(revision)
        {
            return Ok(Served { table, is_current: true });
        }
        let found = if newest.is_some_and(|newest| revision < newest) { past.at(revision) } else { None };
        found.map(|table| Served { table, is_current: false }).ok_or_else(|| NotKept {
            asked: revision,
            kept: past.revisions(),
            current: newest,
        })
    }

    /// The older revisions that are kept, oldest first.
    pub fn kept(&self) -> Vec<u64> {
        self.past.lock().revisions()
    }

    /// Tells of every swap from now on, for tasks beside the request path.
    pub(crate) fn swaps(&self) -> watch::Receiver<()> {
        self.swapped.subscribe()
    }

    /// A reader for one thread, which costs no more than a look at the pointer while that is the same.
    pub fn reader(&self) -> TableReader {
        TableReader(Cache::new(Arc::clone(&self.current)))
    }
}

/// One thread's view of the current table.
#[derive(Clone, Debug)]
pub struct TableReader(Cache<Arc<ArcSwapOption<Table>>, Option<Arc<Table>>>);

impl TableReader {
    /// The current table.
    pub fn load(&mut self) -> Option<&Arc<Table>> {
        self.0.load().as_ref()
    }
}
