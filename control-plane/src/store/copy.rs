//! Copies what one store holds into another, and compares.
//!
//! What is copied: instances, with the dates of their claims. Each begins a full lease in the new store, and the
//! registrant's next beat finds it there under the same epoch. What is not: events, which belong to the old store's
//! revisions, services without instances, which are forgotten after minutes anyway, and the control planes of the old
//! store, which stand there as instances of their own.
//!
//! It can be repeated: what is there already and the same is left alone. What is there and differs is a reason to
//! stop before anything is written.

use std::{collections::BTreeMap, sync::Arc};

use waypost_proto::name::InstanceKey;

use super::{LeaseChange, Loaded, Mutation, Now, Record, Store, StoreError};
use crate::registry::reserved;

/// What a copy has done, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Instances that were written.
    pub written: usize,
    /// Instances that were there already, and the same.
    pub same: usize,
    /// Instances of the target that the source does not have. They are left alone.
    pub foreign: usize,
    /// Services without instances, which are not copied.
    pub skipped_services: usize,
}

/// Why a copy did not take place, or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source cannot be read.
    #[error("the source cannot be read")]
    Source(#[source] StoreError),
    /// The target cannot be read or written.
    #[error("the target cannot be used")]
    Target(#[source] StoreError),
    /// The target holds something else under the same name.
    #[error(
        "the target holds {count} of these instances with other contents, {first} among them; nothing was \
         written: copy into an empty store, or remove them there first"
    )]
    Differs {
        /// How many.
        count: usize,
        /// One of them.
        first: InstanceKey,
    },
    /// The target does not hold what was written to it.
    #[error("after the copy {count} instances are missing or differ, {first} among them: copy again")]
    Verification {
        /// How many.
        count: usize,
        /// One of them.
        first: InstanceKey,
    },
}

/// Copies, and then reads the target to see that all is there. With `dry_run` it only says what it would do.
///
/// # Errors
/// See [`CopyError`]; each says whether anything was written.
pub async fn copy(from: &dyn Store, to: &dyn Store, dry_run: bool) -> Result<Copied, CopyError> {
    let mut source = from.load().await.map_err(CopyError::Source)?;
    source.records.retain(|record| !reserved::is_reserved(record.key().service()));
    let target = to.load().await.map_err(CopyError::Target)?;
    let (missing, differing) = compare(&source, &target);
    if let Some(first) = differing.first() {
        return Err(CopyError::Differs { count: differing.len(), first: first.key().clone() });
    }
    let same = source.records.len() - missing.len();
    let copied = Copied {
        written: missing.len(),
        same,
        foreign: target.records.len() - same,
        skipped_services: source.empty_services.len(),
    };
    if dry_run {
        return Ok(copied);
    }
    for record in missing {
        write(record, to).await.map_err(CopyError::Target)?;
    }
    if source.complete && !target.complete {
        to.commit(Mutation::Complete, Now::read()).await.map_err(CopyError::Target)?;
    }
    let target = to.load().await.map_err(CopyError::Target)?;
    let (missing, differing) = compare(&source, &target);
    match missing.first().or(differing.first()) {
        None => Ok(copied),
        Some(first) => {
            let count = missing.len() + differing.len();
            Err(CopyError::Verification { count, first: first.key().clone() })
        }
    }
}

async fn write(record: &Arc<Record>, to: &dyn Store) -> Result<u64, StoreError> {
    let lease = if record.found_in.is_some() { LeaseChange::Keep } else { LeaseChange::Grant };
    let record = Record { revision: 0, ..Record::clone(record) };
    to.commit(Mutation::Put { record, expected: None, lease, event: None }, Now::read()).await
}

/// The instances of the source that the target does not have, and those that it has with other contents.
fn compare<'a>(source: &'a Loaded, target: &Loaded) -> (Vec<&'a Arc<Record>>, Vec<&'a Arc<Record>>) {
    let held: BTreeMap<&InstanceKey, &Arc<Record>> =
        target.records.iter().map(|record| (record.key(), record)).collect();
    let (there, missing): (Vec<_>, Vec<_>) =
        source.records.iter().partition(|record| held.contains_key(record.key()));
    let differs = |record: &&Arc<Record>| !is_same(record, held[record.key()]);
    (missing, there.into_iter().filter(differs).collect())
}

/// Whether two stores hold the same of an instance. Revisions and beats are each store's own.
fn is_same(one: &Record, other: &Record) -> bool {
    one.spec == other.spec
        && (one.epoch, one.ttl, &one.client) == (other.epoch, other.ttl, &other.client)
        && one.registered_at == other.registered_at
        && one.service_since == other.service_since
        && one.claims == other.claims
        && one.health == other.health
        && one.draining == other.draining
        && one.overridden == other.overridden
        && one.suspect == other.suspect
        && one.found_in == other.found_in
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Memory,
            conformance::{ManualClock, record},
        },
        *,
    };

    async fn holding(keys: &[(&str, u64)]) -> Memory {
        let now = ManualClock::new().now();
        let store = Memory::new();
        for (key, epoch) in keys {
            let record = Arc::new(record(key, *epoch, now));
            write(&record, &store).await.expect("it commits");
        }
        store
    }

    #[tokio::test]
    async fn a_copy_holds_the_same_and_can_be_repeated() {
        let from = holding(&[("users/a", 1), ("users/b", 2), ("orders/a", 3)]).await;
        from.commit(Mutation::Complete, Now::read()).await.expect("it commits");
        let to = holding(&[("users/b", 2), ("carts/a", 9)]).await;
        let expected = Copied { written: 2, same: 1, foreign: 1, skipped_services: 0 };
        assert_eq!(copy(&from, &to, true).await.expect("it can be copied"), expected);
        assert_eq!(to.load().await.expect("it loads").records.len(), 2, "a dry run writes nothing");
        assert_eq!(copy(&from, &to, false).await.expect("it is copied"), expected);
        let loaded = to.load().await.expect("it loads");
        assert!(loaded.records.len() == 4 && loaded.complete);
        let again = copy(&from, &to, false).await.expect("it is copied");
        assert_eq!((again.written, again.same), (0, 3));
        let lease = ("users/a".parse().expect("a good key"), 1);
        let renewed = to.renew(&[lease], Now::read()).await;
        assert_eq!(renewed, Ok(vec![super::super::Renewal::Renewed]), "a copy has a lease under its epoch");
    }

    #[tokio::test]
    async fn the_old_control_planes_stay_where_they_are() {
        let from = holding(&[("users/a", 1), ("waypost/control-plane/one", 2)]).await;
        let to = Memory::new();
        assert_eq!(copy(&from, &to, false).await.expect("it is copied").written, 1);
    }

    #[tokio::test]
    async fn what_differs_in_the_target_stops_the_copy_before_it_begins() {
        let from = holding(&[("users/a", 1), ("users/b", 2)]).await;
        let to = holding(&[("users/b", 7)]).await;
        let error = copy(&from, &to, false).await.expect_err("it differs").to_string();
        assert!(error.contains("users/b") && error.contains("nothing was written"), "{error}");
        assert_eq!(to.load().await.expect("it loads").records.len(), 1);
    }
}
