//! What a store keeps of a declared resource.
//!
//! A resource that is deleted stays, without a manifest, for the sake of its past.
//!
//! Deliberately absent: what a manifest says. To a store it is text.

use std::{sync::Arc, time::SystemTime};

use waypost_proto::{resource::ResourceKey, time, v1};

/// How many generations before the newest are kept.
pub const PAST: usize = 10;
/// The most resources that one commit declares.
pub const MOST_DECLARED: usize = 16;
/// The most bytes of manifests that a resource has with its past, and that one commit declares: Consul takes 512 KiB
/// in one transaction, in base64, and each commit stands there twice.
pub const MOST_BYTES: usize = 128 << 10;
/// The largest manifest, bytes. What is left is for its past.
pub const LARGEST_MANIFEST: usize = 96 << 10;

/// A declared resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub key: ResourceKey,
    /// What was declared, as JSON; empty where it is deleted.
    pub manifest: Arc<str>,
    /// Counts its changes, from 1.
    pub generation: u64,
    /// When it was first declared.
    pub created_at: SystemTime,
    /// When this generation was.
    pub applied_at: SystemTime,
    /// By whom.
    pub actor: Arc<str>,
    /// The generations before this one, newest first; at most [`PAST`], and as many as [`MOST_BYTES`] has room for.
    pub past: Vec<PastGeneration>,
    /// The revision that last changed it; the store fills it in.
    pub revision: u64,
}

/// A resource as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastGeneration {
    /// Counts the changes, from 1.
    pub generation: u64,
    /// What was declared, as JSON; empty where this was its deletion.
    pub manifest: Arc<str>,
    /// When.
    pub applied_at: SystemTime,
    /// By whom.
    pub actor: Arc<str>,
    /// The revision that made it.
    pub revision: u64,
}

/// A resource to be created or replaced.
#[derive(Clone, Debug)]
pub struct Declare {
    /// The resource; the store fills in its revision.
    pub resource: Resource,
    /// The revision of the one that it replaces; `None`: there must be none.
    pub expected: Option<u64>,
}

impl Resource {
    /// Whether it is kept for its past only.
    pub fn is_deleted(&self) -> bool {
        self.manifest.is_empty()
    }

    /// The next generation, with another manifest; an empty one deletes it. One that was deleted before is
    /// created anew.
    #[must_use]
    pub fn next(&self, manifest: Arc<str>, actor: &str, now: SystemTime) -> Self {
        let mut room = MOST_BYTES.saturating_sub(manifest.len());
        let fits = |past: &PastGeneration| {
            let fits = past.manifest.len() <= room;
            room = room.saturating_sub(past.manifest.len());
            fits
        };
        let past = self.generations().take(PAST).take_while(fits).collect();
        Self {
            key: self.key.clone(),
            manifest,
            generation: self.generation + 1,
            created_at: if self.is_deleted() { now } else { self.created_at },
            applied_at: now,
            actor: Arc::from(actor),
            past,
            revision: 0,
        }
    }

    /// The first generation.
    pub fn first(key: ResourceKey, manifest: Arc<str>, actor: &str, now: SystemTime) -> Self {
        let (generation, revision, past) = (1, 0, Vec::new());
        let actor = Arc::from(actor);
        Self { key, manifest, generation, created_at: now, applied_at: now, actor, past, revision }
    }

    /// Every generation that is remembered, the newest first.
    pub fn generations(&self) -> impl Iterator<Item = PastGeneration> + '_ {
        std::iter::once(self.generation()).chain(self.past.iter().cloned())
    }

    /// The bytes of its manifests.
    fn size(&self) -> usize {
        self.past.iter().map(|past| past.manifest.len()).sum::<usize>() + self.manifest.len()
    }

    fn generation(&self) -> PastGeneration {
        PastGeneration {
            generation: self.generation,
            manifest: self.manifest.clone(),
            applied_at: self.applied_at,
            actor: self.actor.clone(),
            revision: self.revision,
        }
    }
}

impl Declare {
    /// As few commits as these need, each within [`MOST_DECLARED`] and [`MOST_BYTES`], in the same order.
    pub fn batches(all: Vec<Self>) -> Vec<Vec<Self>> {
        let mut batches: Vec<Vec<Self>> = Vec::new();
        let mut size = 0;
        for declare in all {
            size += declare.resource.size();
            match batches.last_mut() {
                Some(batch) if batch.len() < MOST_DECLARED && size <= MOST_BYTES => batch.push(declare),
                _ => {
                    size = declare.resource.size();
                    batches.push(vec![declare]);
                }
            }
        }
        batches
    }
}

impl PastGeneration {
    /// The wire form.
    pub fn to_wire(&self) -> v1::Generation {
        v1::Generation {
            generation: self.generation,
            manifest: self.manifest.to_string(),
            applied_at: Some(time::timestamp(self.applied_at)),
            actor: self.actor.to_string(),
            revision: self.revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use waypost_proto::resource::Kind;

    use super::*;

    #[test]
    fn the_past_gives_way_to_large_manifests() {
        let key = ResourceKey::new(Kind::Gateway, "", "main").expect("a key");
        let large: Arc<str> = "x".repeat(LARGEST_MANIFEST / 3).into();
        let mut resource = Resource::first(key, large.clone(), "ada", UNIX_EPOCH);
        for _ in 0..5 {
            resource = resource.next(large.clone(), "ada", UNIX_EPOCH);
        }
        assert_eq!(resource.past.len(), 3, "with four of them the room is full");
        let largest: Arc<str> = "x".repeat(LARGEST_MANIFEST).into();
        let resource = resource.next(largest.clone(), "ada", UNIX_EPOCH);
        assert_eq!(resource.past.len(), 1);
        assert!(resource.next(largest, "ada", UNIX_EPOCH).past.is_empty());
    }

    #[test]
    fn batches_are_small_and_keep_the_order() {
        let declare = |number: usize, bytes: usize| {
            let key = ResourceKey::new(Kind::Gateway, "", &format!("g{number}")).expect("a key");
            let resource = Resource::first(key, "x".repeat(bytes).into(), "ada", UNIX_EPOCH);
            Declare { resource, expected: None }
        };
        let sizes =
            |all: Vec<Declare>| -> Vec<usize> { Declare::batches(all).iter().map(Vec::len).collect() };
        assert_eq!(sizes((0..40).map(|number| declare(number, 10)).collect()), [16, 16, 8]);
        assert_eq!(sizes((0..5).map(|number| declare(number, MOST_BYTES / 2)).collect()), [2, 2, 1]);
        assert_eq!(sizes(Vec::new()), [0_usize; 0]);
    }

    #[test]
    fn the_past_grows_to_its_limit_and_survives_a_deletion() {
        let key = ResourceKey::new(Kind::Gateway, "", "main").expect("a key");
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut resource = Resource::first(key, "{}".into(), "ada", at(1));
        for second in 2..=20 {
            resource = resource.next("{}".into(), "ada", at(second));
        }
        assert_eq!((resource.generation, resource.created_at, resource.past.len()), (20, at(1), PAST));
        assert_eq!(resource.past[0].generation, 19);
        let deleted = resource.next("".into(), "bob", at(30));
        assert!(deleted.is_deleted() && deleted.past[0].manifest == resource.manifest);
        let again = deleted.next("{}".into(), "ada", at(40));
        assert_eq!((again.generation, again.created_at), (22, at(40)), "a new life, and the same count");
        assert_eq!(again.size(), "{}".len() * 10);
        let generations: Vec<u64> = again.generations().map(|past| past.generation).collect();
        assert_eq!(generations, (12..=22).rev().collect::<Vec<u64>>());
    }
}
