//! Old events are removed now and then.
//!
//! Which ones are old is decided by their revisions. Some more are kept than asked for: an event is also the
//! proof that a commit was made, which whoever lost the answer still looks for.
//!
//! Deliberately absent: compaction, which is for the operator of etcd to set up.

use std::sync::{Arc, atomic::Ordering};

use etcd_client::{Client, GetOptions, SortOrder, SortTarget, Txn, TxnOp};

use super::{Shared, keys::end_of};
use crate::store::StoreError;

/// After how many commits of this process it looks. etcd reads and sorts all events for it, while others wait.
pub(super) const EVERY: usize = 2048;
/// The fewest that are kept.
const LEAST: usize = 1024;
/// How many are removed at once; etcd allows 128 operations in a transaction.
const AT_ONCE: usize = 100;

/// Counts a commit, and removes old events where it is time.
pub(super) fn count_commit(shared: &Arc<Shared>) {
    if shared.commits.fetch_add(1, Ordering::Relaxed) % EVERY == EVERY - 1 {
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Err(error) = trim(&shared, shared.events.max(LEAST)).await {
                tracing::debug!(%error, "old events cannot be removed, trying again later");
            }
        });
    }
}

async fn trim(shared: &Shared, keep: usize) -> Result<(), StoreError> {
    let folder = shared.keys.events();
    let get = |options: GetOptions| {
        let (folder, options) = (folder.clone(), options.with_range(end_of(&folder)));
        move |mut client: Client| {
            let (folder, options) = (folder.clone(), options.clone());
            async move { client.get(folder, Some(options)).await }
        }
    };
    let count = shared.connection.call(get(GetOptions::new().with_count_only())).await?.count();
    let surplus = usize::try_from(count).unwrap_or_default().saturating_sub(keep);
    if surplus == 0 {
        return Ok(());
    }
    let oldest = GetOptions::new()
        .with_keys_only()
        .with_sort(SortTarget::Mod, SortOrder::Ascend)
        .with_limit(i64::try_from(surplus).unwrap_or(i64::MAX));
    let oldest = shared.connection.call(get(oldest)).await?;
    for some in oldest.kvs().chunks(AT_ONCE) {
        let remove = |mut client: Client| {
            let operations: Vec<TxnOp> = some.iter().map(|event| TxnOp::delete(event.key(), None)).collect();
            async move { client.txn(Txn::new().and_then(operations)).await }
        };
        shared.connection.call(remove).await?;
    }
    Ok(())
}
