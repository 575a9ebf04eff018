//! The commits, in order: the versions of the head.
//!
//! Every commit rewrites the head with all that it changes, in the transaction that changes it. So the head's
//! versions are the commits, one revision each, and everything else that happens in this etcd (leases, events
//! that are trimmed, other programs) is not seen.
//!
//! A watch begins where the head stands, not where it was left: on an etcd that is busy with other things,
//! the revision that was left may be compacted long ago although nothing of ours has happened since.
//!
//! Deliberately absent: loading again after [`StoreError::Compacted`], which is the registry's part.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use etcd_client::{Event, EventType, GetOptions, Txn, TxnOp, TxnOpResponse};
use futures_util::stream;
use prost::Message;
use waypost_proto::v1::{StoredCommit, stored_commit};

use super::{
    Shared,
    follow::{Follow, Watched},
    load::changed,
    revision_of,
};
use crate::store::{Commit, StoreError, Watch, codec::commit_from_stored};

/// The commits after a revision, and those to come.
///
/// # Errors
/// [`StoreError::Compacted`] where some are forgotten, or where this is not the data that was loaded.
pub(super) async fn watch(shared: Arc<Shared>, after: u64) -> Result<Watch, StoreError> {
    let Standing { head, began, history, revision } = standing(&shared).await?;
    let newest = head.unwrap_or(began);
    if !shared.is_loaded(history.as_deref()) || after > newest {
        return Err(StoreError::Compacted { oldest: newest });
    }
    let behind = head.is_some_and(|head| head > after);
    let from = if behind { after + 1 } else { revision + 1 };
    let mut follow = Follow::begin(&shared, &Watched::Key(shared.keys.head()), from).await?;
    // Whether what was left is still remembered shows with the first answer; there is one, as it is behind.
    let first = if behind { read(&follow.next().await?.events) } else { VecDeque::new() };
    let next = |(follow, mut queue): (Option<Follow>, VecDeque<_>)| async move {
        let mut follow = follow;
        while queue.is_empty() {
            match follow.as_mut()?.next().await {
                Ok(batch) => queue = read(&batch.events),
                Err(error) => queue.push_back(Err(error)),
            }
        }
        let commit = queue.pop_front()?;
        if commit.is_err() {
            follow = None;
            queue.clear();
        }
        Some((commit, (follow, queue)))
    };
    Ok(Box::pin(stream::unfold((Some(follow), first), next)))
}

/// Where etcd stands.
struct Standing {
    /// The revision of the newest commit, if there is one.
    head: Option<u64>,
    /// The revision with which the data began.
    began: u64,
    /// The name of the data, if it has one.
    history: Option<Vec<u8>>,
    /// etcd's own revision.
    revision: u64,
}

async fn standing(shared: &Shared) -> Result<Standing, StoreError> {
    let get = |mut client: etcd_client::Client| {
        let head = TxnOp::get(shared.keys.head(), Some(GetOptions::new().with_keys_only()));
        let history = TxnOp::get(shared.keys.history(), None);
        async move { client.txn(Txn::new().and_then([head, history])).await }
    };
    let answer = shared.connection.call(get).await?;
    let found = answer.op_responses();
    let entry = |at: usize| match found.get(at) {
        Some(TxnOpResponse::Get(found)) => found.kvs().first(),
        _ => None,
    };
    Ok(Standing {
        head: entry(0).map(changed),
        began: entry(1).map(changed).unwrap_or_default(),
        history: entry(1).map(|history| history.value().to_owned()),
        revision: revision_of(answer.header()),
    })
}

/// The commits that versions of the head stand for, up to the first that cannot be read.
fn read(events: &[Event]) -> VecDeque<Result<Arc<Commit>, StoreError>> {
    let learned = Instant::now();
    let commit = |event: &Event| {
        let entry = event.kv()?;
        if event.event_type() == EventType::Delete {
            return Some(Err(StoreError::Compacted { oldest: changed(entry) }));
        }
        let commit = StoredCommit::decode(entry.value())
            .map_err(Into::into)
            .and_then(|wire| commit_from_stored(dated(wire, changed(entry)), learned));
        let place = String::from_utf8_lossy(entry.key());
        Some(commit.map(Arc::new).map_err(|malformed| malformed.at(place)))
    };
    events.iter().filter_map(commit).collect()
}

/// Fills in the revision, which nobody knew when it was written.
fn dated(mut wire: StoredCommit, revision: u64) -> StoredCommit {
    wire.revision = revision;
    match &mut wire.written {
        Some(stored_commit::Written::Put(record)) => record.revision = revision,
        Some(stored_commit::Written::Removed(removal)) => {
            if let Some(emptied) = &mut removal.emptied {
                emptied.revision = revision;
            }
        }
        Some(stored_commit::Written::Declared(declared)) => {
            declared.resources.iter_mut().for_each(|resource| resource.revision = revision);
        }
        Some(stored_commit::Written::Forgotten(_) | stored_commit::Written::Completed(_)) | None => {}
    }
    wire
}
