//! A store against a plain map: random mutations, right and wrong ones, must come out the same in both.
//!
//! The sequence follows from a seed, so that a failure can be repeated. Time does not pass in it: leases have cases
//! of their own.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    resource::ResourceKey,
};

use super::{Fixture, declare, put, remove};
use crate::store::{Declare, LeaseChange, Mutation, Record, Renewal, StoreError, Written};

/// A lease that outlives every comparison.
const TTL: Duration = Duration::from_secs(600);

/// What a registry is, said as simply as it can be.
#[derive(Debug, Default)]
struct Model {
    revision: u64,
    complete: bool,
    /// Revision and epoch.
    instances: BTreeMap<InstanceKey, (u64, u64)>,
    /// Revision.
    empty: BTreeMap<ServiceKey, u64>,
    /// Revision.
    resources: BTreeMap<ResourceKey, u64>,
    /// All commits: the revision, and what is there of the key from then on.
    commits: Vec<(u64, String)>,
}

/// Commits `steps` random mutations to the fixture's store, which is empty, and to the model.
///
/// # Panics
/// They differ; the message names the seed and the step.
pub async fn compare(fixture: &Fixture, seed: u64, steps: usize) {
    let mut rng = Rng::with_seed(seed);
    let start = fixture.load().await;
    let mut model = Model { revision: start.revision, complete: start.complete, ..Model::default() };
    for step in 0..steps {
        let place = format!("seed {seed}, step {step}");
        if rng.u8(0..6) == 0 {
            renew(fixture, &model, &mut rng, &place).await;
            continue;
        }
        let mutation = any(fixture, &model, &mut rng);
        let expected = model.would(&mutation);
        let told = format!("{mutation:?}");
        match (fixture.commit(mutation.clone()).await, expected) {
            (Ok(revision), true) => {
                assert!(revision > model.revision, "{place}: {told}: revisions grow");
                model.apply(&mutation, revision);
            }
            (Err(StoreError::Conflict { revision, .. }), false) => {
                assert!(
                    revision >= model.revision,
                    "{place}: {told}: the conflict names a revision of the past"
                );
            }
            (outcome, expected) => panic!("{place}: {told}: {outcome:?}, expected success: {expected}"),
        }
    }
    same(fixture, &model, start.revision, &format!("seed {seed}")).await;
}

impl Model {
    /// Whether a mutation is to succeed.
    fn would(&self, mutation: &Mutation) -> bool {
        let held = |key: &InstanceKey| self.instances.get(key).map(|(revision, _)| *revision);
        match mutation {
            Mutation::Put { record, expected, .. } => held(record.key()) == *expected,
            // Time does not pass, so that no lease is lapsed.
            Mutation::Remove { key, expected, lapsed, .. } => held(key) == Some(*expected) && !lapsed,
            Mutation::Forget { service, expected } => self.empty.get(service) == Some(expected),
            Mutation::Complete => true,
            Mutation::Declare(all) => all
                .iter()
                .all(|declare| self.resources.get(&declare.resource.key).copied() == declare.expected),
        }
    }

    fn apply(&mut self, mutation: &Mutation, revision: u64) {
        self.revision = revision;
        let told = match mutation {
            Mutation::Put { record, .. } => {
                self.instances.insert(record.key().clone(), (revision, record.epoch));
                self.empty.remove(record.key().service());
                format!("put {} {}", record.key(), record.epoch)
            }
            Mutation::Remove { key, .. } => {
                self.instances.remove(key);
                let last = self.instances.keys().all(|left| left.service() != key.service());
                if last {
                    self.empty.insert(key.service().clone(), revision);
                }
                format!("removed {key} {last}")
            }
            Mutation::Forget { service, .. } => {
                self.empty.remove(service);
                format!("forgotten {service}")
            }
            Mutation::Complete => {
                self.complete = true;
                "completed".to_owned()
            }
            Mutation::Declare(all) => {
                let keys: Vec<&ResourceKey> = all.iter().map(|declare| &declare.resource.key).collect();
                self.resources.extend(keys.iter().map(|key| ((*key).clone(), revision)));
                format!("declared {keys:?}")
            }
        };
        self.commits.push((revision, told));
    }
}

fn told(written: &Written) -> String {
    match written {
        Written::Put(record) => format!("put {} {}", record.key(), record.epoch),
        Written::Removed { key, emptied } => format!("removed {key} {}", emptied.is_some()),
        Written::Forgotten(service) => format!("forgotten {service}"),
        Written::Completed => "completed".to_owned(),
        Written::Declared(all) => {
            let keys: Vec<&ResourceKey> = all.iter().map(|resource| &resource.key).collect();
            format!("declared {keys:?}")
        }
    }
}

/// A mutation that is right more often than wrong.
fn any(fixture: &Fixture, model: &Model, rng: &mut Rng) -> Mutation {
    // "s" is the beginning of "s-2", and both are of two namespaces.
    let service = ["s", "s-2", "other/s"][rng.usize(0..3)];
    let record = fixture.record(&format!("{service}/i{}", rng.u8(0..3)), rng.u64(1..1000));
    let record = Record { ttl: TTL, ..record };
    let held = model.instances.get(record.key()).map(|(revision, _)| *revision);
    let wrong = rng.u8(0..5) == 0;
    let some_revision = rng.u64(model.revision.saturating_sub(9)..=model.revision);
    match rng.u8(0..14) {
        0..=5 => {
            let expected = if wrong { rng.bool().then_some(some_revision) } else { held };
            // Only a record that is there has a lease to keep.
            match put(record, expected) {
                Mutation::Put { record, expected, event, .. } if held.is_some() && rng.bool() => {
                    let epoch = model.instances[record.key()].1;
                    let record = Record { epoch, ..record };
                    Mutation::Put { record, expected, lease: LeaseChange::Keep, event }
                }
                mutation => mutation,
            }
        }
        6..=9 => {
            let expected = held.filter(|_| !wrong).unwrap_or(some_revision);
            remove(&record, expected, rng.u8(0..8) == 0, fixture.now())
        }
        10 => {
            let service = record.key().service().clone();
            let expected = model.empty.get(&service).copied().filter(|_| !wrong).unwrap_or(some_revision);
            Mutation::Forget { service, expected }
        }
        11 => Mutation::Complete,
        _ => declare_any(model, rng, wrong.then_some(some_revision)),
    }
}

/// Declares one to three resources; with `wrong` the last of them is expected to have that revision.
fn declare_any(model: &Model, rng: &mut Rng, wrong: Option<u64>) -> Mutation {
    let first = rng.u8(0..4);
    let mut all: Vec<Declare> = (first..=first + rng.u8(0..3))
        .map(|number| declare(number, model.resources.get(&declare(number, None).resource.key).copied()))
        .collect();
    if let (Some(wrong), Some(last)) = (wrong, all.last_mut()) {
        last.expected = Some(wrong);
    }
    Mutation::Declare(all)
}

async fn renew(fixture: &Fixture, model: &Model, rng: &mut Rng, place: &str) {
    let mut beats: Vec<(InstanceKey, u64)> = Vec::new();
    let mut expected = Vec::new();
    for (key, (_, epoch)) in &model.instances {
        let (beaten, renewal) = match rng.u8(0..8) {
            0 => (epoch - 1, Renewal::Stale),
            1 => (epoch + 1_000, Renewal::Unknown),
            _ => (*epoch, Renewal::Renewed),
        };
        beats.push((key.clone(), beaten));
        expected.push(renewal);
    }
    beats.push(("nobody/nobody".parse().expect("a good key"), 1));
    expected.push(Renewal::Unknown);
    assert_eq!(fixture.store.renew(&beats, fixture.now()).await, Ok(expected), "{place}: {beats:?}");
}

async fn same(fixture: &Fixture, model: &Model, start: u64, place: &str) {
    let loaded = fixture.load().await;
    assert_eq!((loaded.revision, loaded.complete), (model.revision, model.complete), "{place}");
    let instances: BTreeMap<InstanceKey, (u64, u64)> =
        loaded.records.iter().map(|record| (record.key().clone(), (record.revision, record.epoch))).collect();
    assert_eq!(instances, model.instances, "{place}");
    let empty: BTreeMap<ServiceKey, u64> =
        loaded.empty_services.iter().map(|empty| (empty.key.clone(), empty.revision)).collect();
    assert_eq!(empty, model.empty, "{place}");
    let resources: BTreeMap<ResourceKey, u64> =
        loaded.resources.iter().map(|resource| (resource.key.clone(), resource.revision)).collect();
    assert_eq!(resources, model.resources, "{place}");
    let commits = fixture.collect(start, model.commits.len()).await;
    let watched: Vec<(u64, String)> =
        commits.iter().map(|commit| (commit.revision, told(&commit.written))).collect();
    assert_eq!(watched, model.commits, "{place}");
    let services: [ServiceKey; 3] = ["s", "s-2", "other/s"].map(|name| name.parse().expect("a good name"));
    for service in services {
        let leases = fixture.store.leases(&service, fixture.now()).await.expect("it answers");
        let mut leased: Vec<_> = leases.into_iter().map(|lease| (lease.key, lease.epoch)).collect();
        leased.sort();
        let of_service = model.instances.iter().filter(|(key, _)| *key.service() == service);
        let expected: Vec<_> = of_service.map(|(key, (_, epoch))| (key.clone(), *epoch)).collect();
        assert_eq!(leased, expected, "{place}: the leases of {service}");
    }
}
