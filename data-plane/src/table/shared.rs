//! The pointer to the current table, shared by the subscription that swaps it and the threads that serve by it.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, cache::Cache};

use super::Table;

/// The current table, if there is one yet. A clone is the same pointer.
#[derive(Clone, Debug, Default)]
pub struct SharedTable(Arc<ArcSwapOption<Table>>);

impl SharedTable {
    /// Without a table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The current table.
    pub fn load(&self) -> Option<Arc<Table>> {
        self.0.load_full()
    }

    /// Swaps the table. Requests that began keep the one they have.
    pub fn store(&self, table: Arc<Table>) {
        self.0.store(Some(table));
    }

    /// A reader for one thread, which costs no more than a look at the pointer while that is the same.
    pub fn reader(&self) -> TableReader {
        TableReader(Cache::new(Arc::clone(&self.0)))
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
