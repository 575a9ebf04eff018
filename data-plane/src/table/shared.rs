//! The pointer to the current table, shared by the subscription that swaps it and the threads that serve by it.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, cache::Cache};

use tokio::sync::watch;

use super::Table;

/// The current table, if there is one yet. A clone is the same pointer.
#[derive(Clone, Debug)]
pub struct SharedTable {
    current: Arc<ArcSwapOption<Table>>,
    swapped: watch::Sender<()>,
}

impl Default for SharedTable {
    fn default() -> Self {
        Self { current: Arc::default(), swapped: watch::Sender::new(()) }
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
        self.current.store(Some(table));
        self.swapped.send_replace(());
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
