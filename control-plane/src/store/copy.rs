//! Copies what one store holds into another, and compares.
//!
//! What is copied: instances, with the dates of their claims, and declared resources, with their past. Each instance
//! begins a full lease in the new store, and the registrant's next beat finds it there under the same epoch. What is
//! not: events, which belong to the old store's
//! revisions, services without instances, which are forgotten after minutes anyway, and the control planes of the old
//! store, which stand there as instances of their own.
//!
//! It can be repeated: what is there already and the same is left alone. What is there and differs is a reason to
//! stop before anything is written.

use std::{collections::BTreeMap, sync::Arc};

use super::{Declare, LeaseChange, Loaded, Mutation, Now, Record, Resource, Store, StoreError};
use crate::registry::reserved;

/// What a copy has done, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Instances and resources that were written.
    pub written: usize,
    /// Those that were there already, and the same.
    pub same: usize,
    /// Those of the target that the source does not have. They are left alone.
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
        "the target holds {count} of these with other contents, {first} among them; nothing was \
         written: copy into an empty store, or remove them there first"
    )]
    Differs {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// The target does not hold what was written to it.
    #[error("after the copy {count} are missing or differ, {first} among them: copy again")]
    Verification {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
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
    let Difference { missing, differing } = difference(&source, &target);
    if let Some(first) = differing.first() {
        return Err(CopyError::Differs { count: differing.len(), first: first.name() });
    }
    let same = source.records.len() + source.resources.len() - missing.len();
    let copied = Copied {
        written: missing.len(),
        same,
        foreign: target.records.len() + target.resources.len() - same,
        skipped_services: source.empty_services.len(),
    };
    if dry_run {
        return Ok(copied);
    }
    write(missing, to).await.map_err(CopyError::Target)?;
    if source.complete && !target.complete {
        to.commit(Mutation::Complete, Now::read()).await.map_err(CopyError::Target)?;
    }
    let target = to.load().await.map_err(CopyError::Target)?;
    let Difference { missing, differing } = difference(&source, &target);
    match missing.first().or(differing.first()) {
        None => Ok(copied),
        Some(first) => {
            let count = missing.len() + differing.len();
            Err(CopyError::Verification { count, first: first.name() })
        }
    }
}

/// Something that is copied.
enum Entry<'a> {
    Instance(&'a Arc<Record>),
    Resource(&'a Arc<Resource>),
}

impl Entry<'_> {
    fn name(&self) -> String {
        match self {
            Self::Instance(record) => record.key().to_string(),
            Self::Resource(resource) => resource.key.to_string(),
        }
    }
}

/// What a target lacks of the source, and what it has with other contents.
struct Difference<'a> {
    missing: Vec<Entry<'a>>,
    differing: Vec<Entry<'a>>,
}

async fn write(missing: Vec<Entry<'_>>, to: &dyn Store) -> Result<(), StoreError> {
    let mut declared = Vec::new();
    for entry in missing {
        match entry {
            Entry::Instance(record) => {
                to.commit(put(record), Now::read()).await?;
            }
            Entry::Resource(resource) => {
                let resource = Resource { revision: 0, ..Resource::clone(resource) };
                declared.push(Declare { resource, expected: None });
            }
        }
    }
    for batch in Declare::batches(declared) {
        to.commit(Mutation::Declare(batch), Now::read()).await?;
    }
    Ok(())
}

fn put(record: &Record) -> Mutation {
    let lease = if record.found_in.is_some() { LeaseChange::Keep } else { LeaseChange::Grant };
    Mutation::Put { record: Record { revision: 0, ..record.clone() }, expected: None, lease, event: None }
}

fn difference<'a>(source: &'a Loaded, target: &Loaded) -> Difference<'a> {
    let records: BTreeMap<_, _> = target.records.iter().map(|record| (record.key(), record)).collect();
    let resources: BTreeMap<_, _> = target.resources.iter().map(|one| (&one.key, one)).collect();
    let mut difference = Difference { missing: Vec::new(), differing: Vec::new() };
    let mut compare = |entry, same: Option<bool>| match same {
        None => difference.missing.push(entry),
        Some(false) => difference.differing.push(entry),
        Some(true) => {}
    };
    for record in &source.records {
        let same = records.get(record.key()).map(|held| is_same(record, held));
        compare(Entry::Instance(record), same);
    }
    for resource in &source.resources {
        let same = resources.get(&resource.key).map(|held| is_same_resource(resource, held));
        compare(Entry::Resource(resource), same);
    }
    difference
}

/// Whether two stores hold the same of a resource. Revisions are each store's own.
fn is_same_resource(one: &Resource, other: &Resource) -> bool {
    (one.generation, &one.manifest, &one.actor) == (other.generation, &other.manifest, &other.actor)
        && (one.created_at, one.applied_at) == (other.created_at, other.applied_at)
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
        && (&one.busy, &one.failing) == (&other.busy, &other.failing)
        && one.found_in == other.found_in
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Memory,
            conformance::{ManualClock, declare, record},
        },
        *,
    };

    async fn holding(keys: &[(&str, u64)]) -> Memory {
        let now = ManualClock::new().now();
        let store = Memory::new();
        for (key, epoch) in keys {
            let record = Arc::new(record(key, *epoch, now));
            store.commit(put(&record), Now::read()).await.expect("it commits");
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
    async fn declared_resources_are_copied_with_their_past() {
        let (from, to) = (Memory::new(), Memory::new());
        let first =
            from.commit(Mutation::Declare(vec![declare(1, None), declare(2, None)]), Now::read()).await;
        let mut again = declare(1, Some(first.expect("it commits")));
        let held = from.load().await.expect("it loads").resources[0].clone();
        again.resource = held.next("{}".into(), "bob", held.applied_at);
        from.commit(Mutation::Declare(vec![again.clone()]), Now::read()).await.expect("it commits");
        to.commit(Mutation::Declare(vec![declare(2, None)]), Now::read()).await.expect("it commits");
        let copied = copy(&from, &to, false).await.expect("it is copied");
        assert_eq!((copied.written, copied.same, copied.foreign), (1, 1, 0));
        let loaded = to.load().await.expect("it loads").resources;
        let one = loaded.iter().find(|held| held.key == again.resource.key).expect("it is there");
        assert_eq!((one.generation, one.past.len(), &*one.manifest), (2, 1, "{}"));
        let revision = loaded.iter().find(|held| held.key != again.resource.key).map(|held| held.revision);
        let mut other = declare(2, revision);
        other.resource.manifest = "{}".into();
        to.commit(Mutation::Declare(vec![other]), Now::read()).await.expect("it commits");
        let error = copy(&from, &to, false).await.expect_err("it differs").to_string();
        assert!(error.contains("HTTPRoute other/route-2"), "{error}");
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
