//! What the state machine promises, after any sequence of operations: publications carry a snapshot along,
//! counts are counts, and who loads or catches up comes to the same as who followed.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{FutureExt, StreamExt};
use proptest::{collection::vec, prelude::*};
use waypost_proto::{instance::InstanceSpec, resource::Kind, v1::InstanceState};

use super::{
    super::{
        Beat,
        plan::{self, Lapse, Plan},
    },
    *,
};
use crate::store::{
    Declare, Health, Memory, Mutation, Override, Store, StoreError, Watch,
    conformance::{self as samples, ManualClock, TTL},
};

#[derive(Clone, Debug)]
enum Operation {
    Register {
        key: &'static str,
        version: &'static str,
        prefix: &'static str,
    },
    Beat {
        key: &'static str,
        healthy: Option<bool>,
    },
    Drain {
        key: &'static str,
        draining: bool,
    },
    Override {
        key: &'static str,
        state: Option<InstanceState>,
    },
    Deregister {
        key: &'static str,
    },
    Lapse {
        key: &'static str,
        hold: bool,
    },
    EndOverride {
        key: &'static str,
    },
    Forget {
        service: &'static str,
    },
    /// Declares something of a kind for a service, or deletes it.
    Declare {
        service: &'static str,
        manifest: Option<Write>,
    },
    Complete,
}

const LIMITS: Limits = Limits { history: 100, retention: Duration::from_secs(60), allowance: Duration::ZERO };

/// Writes a manifest for a service.
type Write = fn(&str) -> String;

/// One of them is called like the instance of an external service.
const KEYS: [&str; 6] = ["a/1", "a/127.0.0.1:9002", "b/1", "b/2", "c/1", "c/2"];

fn one_address(service: &str) -> String {
    external(service, r#"["127.0.0.1:9002"]"#)
}

fn two_addresses(service: &str) -> String {
    external(service, r#"["127.0.0.1:9002", "127.0.0.1:9003"]"#)
}

fn external(service: &str, addresses: &str) -> String {
    format!(
        r#"{{"apiVersion":"waypost.dev/v1","kind":"ExternalService","metadata":{{"name":"{service}","namespace":"default"}},
        "spec":{{"addresses":{addresses}}}}}"#
    )
}

fn route(service: &str) -> String {
    format!(
        r#"{{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{{"name":"{service}","namespace":"default"}},
        "spec":{{"rules":[{{"backendRefs":[{{"name":"{service}","port":80}}]}}]}}}}"#
    )
}

/// What the manifest of a function is called.
fn named(service: &str, manifest: Option<Write>) -> ResourceKey {
    let manifest = manifest.map_or_else(|| external(service, "[]"), |manifest| manifest(service));
    let kind = if manifest.contains("HTTPRoute") { Kind::HttpRoute } else { Kind::ExternalService };
    ResourceKey::new(kind, "", service).expect("a good name")
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = || prop::sample::select(KEYS.to_vec());
    let version = prop::sample::select(vec!["", "1", "2"]);
    let prefix = prop::sample::select(vec!["", "/x", "/y"]);
    let state = prop::option::of(prop::sample::select(vec![InstanceState::Up, InstanceState::Down]));
    let service = prop::sample::select(vec!["a", "b", "c"]);
    let manifests: [Option<Write>; 4] = [None, Some(one_address), Some(two_addresses), Some(route)];
    let manifest = prop::sample::select(manifests.to_vec());
    prop_oneof![
        6 => (key(), version, prefix)
            .prop_map(|(key, version, prefix)| Operation::Register { key, version, prefix }),
        3 => (key(), prop::option::of(any::<bool>())).prop_map(|(key, healthy)| Operation::Beat { key, healthy }),
        2 => (key(), any::<bool>()).prop_map(|(key, draining)| Operation::Drain { key, draining }),
        2 => (key(), state).prop_map(|(key, state)| Operation::Override { key, state }),
        4 => key().prop_map(|key| Operation::Deregister { key }),
        3 => (key(), any::<bool>()).prop_map(|(key, hold)| Operation::Lapse { key, hold }),
        2 => key().prop_map(|key| Operation::EndOverride { key }),
        2 => service.clone().prop_map(|service| Operation::Forget { service }),
        6 => (service, manifest).prop_map(|(service, manifest)| Operation::Declare { service, manifest }),
        1 => Just(Operation::Complete),
    ]
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory store never waits")
}

/// A store, the state that follows it, and a proxy's snapshot that follows the state.
struct World {
    store: Memory,
    watch: Watch,
    clock: Arc<ManualClock>,
    state: State,
    proxy: Snapshot,
}

fn key(text: &str) -> InstanceKey {
    text.parse().expect("a good key")
}

impl World {
    fn new() -> Self {
        let store = Memory::new();
        let clock = ManualClock::new();
        let state = State::load(now(store.load()).expect("it loads"), LIMITS, clock.now());
        let watch = now(store.watch(0)).expect("it is watched");
        Self { proxy: state.snapshot(), watch, store, clock, state }
    }

    fn plan(&self, operation: &Operation) -> Option<Plan> {
        let (view, now) = (self.state.view(), self.clock.now());
        let epoch = |text: &str| view.record(&key(text)).map(|record| record.epoch);
        match *operation {
            Operation::Register { key, version, prefix } => {
                let wire = v1::InstanceSpec {
                    version: version.to_owned(),
                    prefix: Some(prefix.to_owned()),
                    ..samples::wire(key)
                };
                let spec = InstanceSpec::from_wire(&wire).expect("a good spec");
                Some(plan::register(view, spec, TTL, "test", plan::next_epoch(0, now), now))
            }
            Operation::Beat { key: text, healthy } => {
                let health = healthy.map(|healthy| Health { healthy, reason: String::new() });
                Some(plan::beat(view, &Beat { key: key(text), epoch: epoch(text)?, health, load: None }))
            }
            Operation::Drain { key: text, draining } => {
                plan::drain(view, &key(text), 0, draining, "test", "test").ok()
            }
            Operation::Override { key: text, state } => {
                let word = state.map(|state| Override {
                    state,
                    expires_at: now.wall + Duration::from_secs(5),
                    reason: String::new(),
                });
                plan::set_override(view, &key(text), word.as_ref(), "test").ok()
            }
            Operation::Deregister { key: text } => {
                plan::deregister(view, &key(text), 0, "test", "test", now).ok()
            }
            Operation::Lapse { key: text, hold } => {
                let lapse = if hold { Lapse::Hold(TTL) } else { Lapse::Expire };
                Some(plan::lapse(view, &key(text), epoch(text)?, lapse, now))
            }
            Operation::EndOverride { key: text } => {
                let word = view.record(&key(text))?.overridden.clone()?;
                Some(plan::end_override(view, &key(text), &word))
            }
            Operation::Forget { service } => {
                let service: ServiceKey = service.parse().expect("a good name");
                let expected = view.services.get(&service)?.empty.as_ref()?.revision;
                Some(Plan::Commit(Box::new(Mutation::Forget { service, expected })))
            }
            Operation::Declare { service, manifest } => {
                let key = named(service, manifest);
                let manifest: Arc<str> =
                    manifest.map_or_else(String::new, |manifest| manifest(service)).into();
                let held = view.resource(&key).map(|held| &held.resource);
                let resource = match held {
                    Some(held) => held.next(manifest, "test", now.wall),
                    None if manifest.is_empty() => return None,
                    None => Resource::first(key, manifest, "test", now.wall),
                };
                let declare = Declare { resource, expected: held.map(|held| held.revision) };
                Some(Plan::Commit(Box::new(Mutation::Declare(vec![declare]))))
            }
            Operation::Complete => Some(Plan::Commit(Box::new(Mutation::Complete))),
        }
    }

    /// Does it, follows, and answers whether something was committed.
    fn run(&mut self, operation: &Operation) -> bool {
        self.clock.pass(Duration::from_secs(1));
        let Some(Plan::Commit(mutation)) = self.plan(operation) else { return false };
        match now(self.store.commit(*mutation, self.clock.now())) {
            Ok(_) => {}
            // The lease has not lapsed.
            Err(StoreError::Conflict { .. }) => return false,
            Err(error) => panic!("{error}"),
        }
        let commit = now(self.watch.next()).expect("it goes on").expect("a commit");
        let applied = self.state.apply(&commit);
        self.proxy = follow(&self.proxy, applied);
        true
    }
}

/// A proxy's snapshot after some publications, which must come in order.
fn follow(proxy: &Snapshot, applied: Applied) -> Snapshot {
    let Some(publication) = applied.publication else { return proxy.clone() };
    assert!(publication.revision > proxy.revision(), "revisions grow");
    assert!(publication.after >= proxy.revision() && publication.after < publication.revision);
    let settled = publication.settled;
    proxy.change(publication.change, publication.revision, settled).expect("nothing dangles").0
}

fn assert_counts(view: &View) {
    let mut counted: BTreeMap<ServiceKey, [u32; 4]> = BTreeMap::new();
    for record in view.instances.values() {
        let counts = counted.entry(record.key().service().clone()).or_default();
        let at = match record.state() {
            InstanceState::Up => 0,
            InstanceState::Down => 1,
            InstanceState::Draining => 2,
            InstanceState::Suspect => 3,
            InstanceState::Unspecified => panic!("a record always has a state"),
        };
        counts[at] += 1;
    }
    for (service, summary) in &view.services {
        let counts = counted.remove(service).unwrap_or_default();
        assert_eq!(summary.counts, counts, "{service}");
        assert_eq!(
            summary.empty.is_some(),
            counts == [0; 4],
            "{service} is empty just if it has no instance"
        );
    }
    assert!(counted.is_empty(), "every instance has its service");
}

fn assert_lost(view: &View) {
    let shadowed = view.routes.iter().flat_map(|(route, election)| {
        election.shadowed.iter().map(|lost| {
            let claim = LostClaim { election: election.clone(), claimed_at: lost.claimed_at };
            ((lost.service.clone(), route.clone()), claim)
        })
    });
    let expected: BTreeMap<_, _> = shadowed.collect();
    let held: BTreeMap<_, _> = view.lost.iter().map(|(key, claim)| (key.clone(), claim.clone())).collect();
    assert_eq!(held, expected);
}

/// All that can end does, at some time, and nothing else.
fn assert_due(state: &State, at: Now) {
    let far = state.due(at.monotonic + Duration::from_secs(3600));
    let words = state.view.instances.values();
    let words = words.filter_map(|record| Some((record.key().clone(), record.overridden.clone()?)));
    let sorted = |mut named: Vec<(InstanceKey, Override)>| {
        named.sort_by(|left, right| left.0.cmp(&right.0));
        named
    };
    assert_eq!(sorted(far.overrides), words.collect::<Vec<_>>());
    let empty = state.view.services.values().filter_map(|summary| summary.empty.as_ref());
    let empty: BTreeMap<_, _> = empty.map(|empty| (empty.key.clone(), empty.revision)).collect();
    assert_eq!(far.services.into_iter().collect::<BTreeMap<_, _>>(), empty);
    assert_eq!(far.next, None);
}

/// The view has all resources, and of those in force what they come to.
fn assert_declared(view: &View, loaded: &Loaded) {
    let held: BTreeMap<&ResourceKey, &Arc<Resource>> =
        view.resources().map(|held| (&held.resource.key, &held.resource)).collect();
    assert_eq!(held, loaded.resources.iter().map(|resource| (&resource.key, resource)).collect());
    for held in view.resources() {
        let (key, deleted) = (&held.resource.key, held.resource.is_deleted());
        assert_eq!(held.in_force().is_none(), deleted, "{key}");
        let service = ServiceKey::new("", key.name()).expect("a good name");
        let shown = match key.kind() {
            Kind::ExternalService => view.gateway().external(&service).is_some(),
            _ => view.gateway().entry(&format!("httproute/default/{}", key.name())).is_some(),
        };
        assert_eq!(shown, !deleted, "{key}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whoever_follows_loads_or_catches_up_holds_the_same(
        operations in vec(operation(), 1..50), away in 0..50_usize
    ) {
        let mut world = World::new();
        let mut late = State::load(now(world.store.load()).expect("it loads"), LIMITS, world.clock.now());
        let mut late_proxy = late.snapshot();
        for (at, operation) in operations.iter().enumerate() {
            world.run(operation);
            let loaded = now(world.store.load()).expect("it loads");
            prop_assert_eq!(world.state.view().revision(), loaded.revision);
            prop_assert_eq!(world.proxy.position(), world.state.snapshot().position());
            let fresh = State::load(loaded.clone(), LIMITS, world.clock.now());
            prop_assert_eq!(fresh.view().head(), loaded.revision, "what is loaded stands for its revision");
            prop_assert_eq!(fresh.snapshot().digest(), world.proxy.digest());
            prop_assert_eq!(fresh.view().settled(), world.state.view().settled());
            for state in [&world.state, &fresh] {
                assert_counts(state.view());
                assert_lost(state.view());
                assert_due(state, world.clock.now());
                assert_declared(state.view(), &loaded);
            }
            if at == away || at + 1 == operations.len() {
                late_proxy = follow(&late_proxy, late.catch_up(loaded, world.clock.now()));
                prop_assert_eq!(late_proxy.digest(), world.proxy.digest());
                prop_assert_eq!(late.view().revision(), world.state.view().revision());
                assert_counts(late.view());
                assert_lost(late.view());
                assert_due(&late, world.clock.now());
            }
        }
    }
}

#[test]
fn what_is_due_is_named_with_the_next_that_will_be() {
    let mut world = World::new();
    for key in ["a/1", "a/2", "b/1"] {
        world.run(&Operation::Register { key, version: "", prefix: "" });
    }
    let start = world.clock.now().monotonic;
    world.run(&Operation::Override { key: "a/1", state: Some(InstanceState::Down) });
    world.run(&Operation::Override { key: "a/2", state: Some(InstanceState::Down) });
    world.run(&Operation::Deregister { key: "b/1" });
    let second = Duration::from_secs(1);
    let due = |after: u32| world.state.due(start + second * after);
    let named = |due: Due| due.overrides.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    // Overridden at 1 s and 2 s for 5 s each; emptied at 3 s and kept for 60 s.
    assert_eq!(due(5), Due { next: Some(start + second * 6), ..Due::default() });
    assert_eq!(named(due(6)), [key("a/1")]);
    assert_eq!(due(6).next, Some(start + second * 7));
    assert_eq!((due(7).overrides.len(), due(7).next), (2, Some(start + second * 63)));
    assert_eq!(due(63).services, [("b".parse().expect("a good name"), 6)]);
}

#[test]
fn the_history_keeps_the_newest_events() {
    let mut world = World::new();
    world.state.limits.history = 3;
    for _ in 0..5 {
        world.run(&Operation::Register { key: "a/1", version: "", prefix: "" });
    }
    let revisions: Vec<u64> = world.state.view().events.iter().map(|past| past.revision).collect();
    assert_eq!(revisions, [3, 4, 5]);
}
