//! Whatever is lost, comes twice or out of order: what is served by is never wrong, and ends up equal.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use proptest::{collection::vec, prelude::*, sample::select};
use waypost_proto::{
    instance::{Endpoint, InstanceSpec},
    name::ServiceKey,
    route::{Route, RouteMatch},
    snapshot::Change,
    v1::{self, InstanceState},
};

use super::*;
use crate::{
    balance::PolicyName,
    table::{Compiler, SharedTable},
};

fn service(number: u8) -> ServiceKey {
    ServiceKey::new("", &format!("s{number}")).expect("a good name")
}

fn endpoint(number: u8, id: u8, epoch: u64) -> Endpoint {
    let wire = v1::InstanceSpec {
        service: format!("s{number}"),
        address: format!("10.0.0.{id}:80"),
        ..Default::default()
    };
    Endpoint::of(&InstanceSpec::from_wire(&wire).expect("a good spec"), InstanceState::Up, epoch)
}

fn put(number: u8, id: u8, epoch: u64) -> Change {
    let path = format!("/s{number}").parse().expect("a good prefix");
    let route = Route::new(service(number), RouteMatch::Prefix { path, strip: true }, Vec::new());
    let instances = vec![endpoint(number, id, epoch)];
    Change { services: vec![service(number)], instances, routes: vec![route], ..Change::default() }
}

fn remove(number: u8, id: u8) -> Change {
    Change { removed_instances: vec![endpoint(number, id, 0).key], ..Change::default() }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..3_u8, 1..5_u8, 1..9_u64).prop_map(|(service, id, epoch)| put(service, id, epoch)),
        (0..3_u8, 1..5_u8).prop_map(|(service, id)| remove(service, id)),
    ]
}

/// A control plane's life: snapshots and the deltas between neighbours.
struct History {
    snapshots: Vec<Snapshot>,
    deltas: Vec<SubscribeResponse>,
}

impl History {
    fn new(name: &str, changes: &[Change], settled_from: u64) -> Self {
        let mut history = Self { snapshots: vec![Snapshot::empty(name)], deltas: Vec::new() };
        for (revision, change) in (1..).zip(changes) {
            let before = history.head();
            let (next, touched) =
                before.change(change.clone(), revision, revision >= settled_from).expect("it is sound");
            let delta = next.delta(before.revision(), &touched, SystemTime::UNIX_EPOCH);
            history.deltas.push(SubscribeResponse { kind: Some(Kind::Delta(delta)) });
            history.snapshots.push(next);
        }
        history
    }

    fn head(&self) -> &Snapshot {
        self.snapshots.last().expect("the empty one at least")
    }
}

fn full(snapshot: &Snapshot, most: usize) -> Vec<SubscribeResponse> {
    let chunks = snapshot.to_chunks(most).into_iter();
    chunks.map(|chunk| SubscribeResponse { kind: Some(Kind::Chunk(chunk)) }).collect()
}

fn contents(source: &Source<'_>) -> BTreeSet<String> {
    let all = source.everything();
    let instances = all.instances.iter().map(|key| format!("{:?}", source.instance(key)));
    let routes = all.routes.iter().map(|id| format!("{:?}", source.route(id)));
    all.services.iter().map(ToString::to_string).chain(instances).chain(routes).collect()
}

fn held(core: &Core) -> BTreeSet<String> {
    contents(&core.source().expect("something is held"))
}

fn of(snapshot: &Snapshot) -> BTreeSet<String> {
    contents(&Source { current: snapshot, carried: None })
}

/// A proxy: the core with a table that follows what it says is touched.
struct Proxy {
    core: Core,
    compiler: Compiler,
    shared: SharedTable,
}

impl Proxy {
    fn new(core: Core) -> Self {
        let shared = SharedTable::new();
        let compiler = Compiler::new(shared.clone(), PolicyName::default().policy(), Arc::default());
        Self { core, compiler, shared }
    }

    fn receive(&mut self, message: SubscribeResponse) -> Outcome {
        let outcome = self.core.receive(message);
        if let (Outcome::Changed { touched, .. }, Some(source)) = (&outcome, self.core.source()) {
            self.compiler.serve(&source, touched);
        }
        outcome
    }

    fn receive_all(&mut self, messages: impl IntoIterator<Item = SubscribeResponse>) {
        for message in messages {
            let outcome = self.receive(message);
            assert!(matches!(outcome, Outcome::Incomplete | Outcome::Changed { .. }), "{outcome:?}");
        }
    }

    /// The instances in the table.
    fn tabled(&self) -> BTreeSet<String> {
        let Some(table) = self.shared.load() else { return BTreeSet::new() };
        table
            .services()
            .flat_map(|service| service.members())
            .map(|member| format!("{:?}", Some(&member.endpoint)))
            .collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Lost,
    Twice,
    Swapped,
    Emptied,
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = select(vec![
        Fault::None,
        Fault::None,
        Fault::None,
        Fault::Lost,
        Fault::Twice,
        Fault::Swapped,
        Fault::Emptied,
    ]);
    vec(fault, 40)
}

fn disturbed(messages: &[SubscribeResponse], faults: &[Fault]) -> Vec<SubscribeResponse> {
    let mut sent = Vec::new();
    for (message, fault) in messages.iter().zip(faults) {
        match fault {
            Fault::None => sent.push(message.clone()),
            Fault::Lost => {}
            Fault::Twice => sent.extend([message.clone(), message.clone()]),
            Fault::Swapped => sent.insert(sent.len().saturating_sub(1), message.clone()),
            Fault::Emptied => {
                let mut emptied = message.clone();
                match &mut emptied.kind {
                    Some(Kind::Delta(delta)) => (delta.entries, delta.removals) = (None, None),
                    Some(Kind::Chunk(chunk)) => chunk.entries = None,
                    None => {}
                }
                sent.push(emptied);
            }
        }
    }
    sent
}

proptest! {
    #[test]
    fn disturbed_deltas_are_noticed_and_healed(changes in vec(change(), 2..40), faults in faults(), most in 1..9_usize) {
        let history = History::new("h", &changes, 0);
        let mut proxy = Proxy::new(Core::default());
        proxy.receive_all(full(&history.snapshots[0], most));
        let mut resyncs = 0;
        for message in disturbed(&history.deltas, &faults) {
            match proxy.receive(message) {
                Outcome::Changed { .. } => {}
                Outcome::Resync(_) => {
                    resyncs += 1;
                    prop_assert_eq!(proxy.core.hello(), None, "everything is asked for");
                    proxy.receive_all(full(history.head(), most));
                }
                other => prop_assert!(false, "{other:?}"),
            }
            // Whatever revision it is at: the contents are those of that revision.
            let revision = proxy.core.position().expect("something is held").revision;
            let true_one = &history.snapshots[usize::try_from(revision).expect("it is small")];
            prop_assert_eq!(held(&proxy.core), of(true_one));
        }
        prop_assert_eq!(proxy.core.resyncs(), resyncs);
        // The next change tells of whatever was lost at the end.
        let (next, touched) = history.head().change(put(0, 9, 9), 99, true).expect("it is sound");
        let delta = next.delta(history.head().revision(), &touched, SystemTime::UNIX_EPOCH);
        if matches!(proxy.receive(SubscribeResponse { kind: Some(Kind::Delta(delta)) }), Outcome::Resync(_)) {
            proxy.receive_all(full(&next, most));
        }
        prop_assert_eq!(proxy.core.position(), Some(next.position()));
        prop_assert_eq!(held(&proxy.core), of(&next));
        prop_assert!(proxy.tabled().iter().all(|instance| held(&proxy.core).contains(instance)));
        prop_assert_eq!(proxy.tabled().len(), next.instances().len());
    }

    #[test]
    fn disturbed_chunks_are_never_applied(changes in vec(change(), 1..40), faults in faults(), most in 1..4_usize) {
        let history = History::new("h", &changes, 0);
        let mut core = Core::default();
        for message in disturbed(&full(history.head(), most), &faults) {
            if let Outcome::Changed { .. } = core.receive(message) {
                prop_assert_eq!(held(&core), of(history.head()));
            }
        }
        prop_assert!(core.source().is_none() || core.position() == Some(history.head().position()));
    }

    #[test]
    fn what_was_known_stays_until_it_is_named_or_the_control_plane_is_settled(
        before in vec(change(), 1..20), after in vec(change(), 1..20), joined in 0..20_usize, settled_from in 1..25_u64,
    ) {
        let old = History::new("old", &before, 0);
        let new = History::new("new", &after, settled_from);
        let mut proxy = Proxy::new(Core::default());
        proxy.receive_all(full(old.head(), 3));
        let joined = joined.min(after.len());
        proxy.receive_all(full(&new.snapshots[joined], 3));
        let mut gone = BTreeSet::new();
        for at in joined..=after.len() {
            if at > joined {
                proxy.receive_all([new.deltas[at - 1].clone()]);
                gone.extend(after[at - 1].removed_instances.iter().cloned());
            }
            let now = &new.snapshots[at];
            // Once it was settled there is nothing to be carried over any more.
            let settled = new.snapshots[joined..=at].iter().any(Snapshot::settled);
            let expected: BTreeSet<String> = old
                .head()
                .instances()
                .filter(|endpoint| !settled && !gone.contains(&endpoint.key) && now.instance(&endpoint.key).is_none())
                .chain(now.instances())
                .map(|endpoint| format!("{:?}", Some(endpoint)))
                .collect();
            prop_assert_eq!(proxy.tabled(), expected, "at {} of {}", at, after.len());
            prop_assert_eq!(proxy.core.position(), Some(now.position()));
            let table = proxy.shared.load().expect("a table");
            let carried = proxy.core.source().expect("held").everything().instances.len() - now.instances().len();
            prop_assert_eq!(table.carried_over(), carried);
        }
    }
}

#[test]
fn what_can_never_be_applied_is_rejected_and_the_old_stays() {
    let history = History::new("h", &[put(1, 1, 1), put(1, 2, 1)], 0);
    let mut proxy = Proxy::new(Core::default());
    proxy.receive_all(full(&history.snapshots[1], 3));
    let mut bad = history.deltas[1].clone();
    let Some(Kind::Delta(delta)) = &mut bad.kind else { panic!("a delta") };
    let entry = delta.entries.as_mut().and_then(|entries| entries.instances[0].entry.as_mut());
    entry.expect("an instance").address = "nowhere".into();
    let Outcome::Rejected(rejected) = proxy.receive(bad) else { panic!("it is malformed") };
    assert_eq!((rejected.revision, rejected.position), (2, Some(history.snapshots[1].position())));
    assert!(
        rejected.reason.contains("address") && rejected.reason.contains("nowhere"),
        "{}",
        rejected.reason
    );
    assert_eq!(held(&proxy.core), of(&history.snapshots[1]));
    assert_eq!(proxy.core.hello(), Some(history.snapshots[1].position()), "a reconnect resumes");
}

#[test]
fn a_stream_that_broke_within_a_snapshot_leaves_nothing_behind() {
    let history = History::new("h", &[put(1, 1, 1), put(2, 2, 1), put(2, 3, 1)], 0);
    let mut core = Core::default();
    let chunks = full(history.head(), 1);
    for chunk in &chunks[..3] {
        assert!(matches!(core.receive(chunk.clone()), Outcome::Incomplete));
    }
    assert_eq!(core.hello(), None);
    for chunk in chunks {
        core.receive(chunk);
    }
    assert_eq!(held(&core), of(history.head()));
}

#[test]
fn what_was_stored_is_resumed_from() {
    let history = History::new("h", &[put(1, 1, 1), put(2, 2, 1)], 0);
    let mut core = Core::restored(history.snapshots[1].clone(), None);
    assert_eq!(core.hello(), Some(history.snapshots[1].position()));
    assert!(matches!(core.receive(history.deltas[1].clone()), Outcome::Changed { full: false, .. }));
    assert_eq!(held(&core), of(history.head()));
}

#[test]
fn declared_routing_that_is_not_known_here_is_rejected_as_a_whole() {
    let route = |pattern: &str| {
        let matches = v1::RuleMatch {
            path_kind: v1::RulePath::Regex.into(),
            path: pattern.to_owned(),
            ..v1::RuleMatch::default()
        };
        let rules = vec![v1::RouteRule { matches: vec![matches], ..v1::RouteRule::default() }];
        let route = v1::RuleRoute { rules, ..v1::RuleRoute::default() };
        let kind = Some(v1::declared_entry::Kind::Route(route));
        let entry = v1::DeclaredEntry { id: "httproute/default/r".to_owned(), kind };
        Change { declared: vec![entry], ..put(1, 1, 1) }
    };
    let history = History::new("h", &[route("/a.*"), route("/(?<future>"), route("/b")], 0);
    let reason = |outcome| match outcome {
        Outcome::Rejected(rejected) => rejected.reason,
        other => panic!("{other:?}"),
    };
    let mut core = Core::default();
    assert!(matches!(core.receive(history.deltas[0].clone()), Outcome::Resync(_)));
    let whole = full(&history.snapshots[1], 99).remove(0);
    assert!(matches!(core.receive(whole), Outcome::Changed { .. }));
    let told = reason(core.receive(history.deltas[1].clone()));
    assert!(told.contains("httproute/default/r") && told.contains("/(?<future>"), "{told}");
    assert_eq!(held(&core), of(&history.snapshots[1]));

    assert!(reason(core.receive(full(&history.snapshots[2], 99).remove(0))).contains("/(?<future>"));
    assert_eq!(held(&core), of(&history.snapshots[1]));
    let mended = full(&history.snapshots[3], 99).remove(0);
    assert!(matches!(core.receive(mended), Outcome::Changed { .. }), "what comes next can be applied");
}
