//! What a snapshot promises: no dangling reference, one digest for one content, no change by a bad delta.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{instance::InstanceSpec, route::RouteMatch, v1, v1::InstanceState};

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

fn route(number: u8) -> Route {
    let matches = RouteMatch::Prefix { path: format!("/s{number}").parse().expect("a prefix"), strip: true };
    Route::new(service(number), matches, Vec::new())
}

fn declared(number: u8, epoch: u64) -> DeclaredEntry {
    let listener = v1::ListenerEntry { hostname: format!("{epoch}.example.com"), ..Default::default() };
    DeclaredEntry {
        id: format!("listener/default/main/l{number}"),
        kind: Some(v1::declared_entry::Kind::Listener(listener)),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put { service: u8, id: u8, epoch: u64 },
    Remove { service: u8, id: u8 },
    Forget { service: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, 1..6_u8, 1..9_u64).prop_map(|(service, id, epoch)| Step::Put { service, id, epoch }),
        (0..4_u8, 1..6_u8).prop_map(|(service, id)| Step::Remove { service, id }),
        (0..4_u8).prop_map(|service| Step::Forget { service }),
    ]
}

fn change_for(snapshot: &Snapshot, step: &Step) -> Change {
    match *step {
        Step::Put { service: number, id, epoch } => Change {
            services: vec![service(number)],
            instances: vec![endpoint(number, id, epoch)],
            routes: vec![route(number)],
            declared: vec![declared(number, epoch)],
            ..Change::default()
        },
        Step::Remove { service, id } => {
            Change { removed_instances: vec![endpoint(service, id, 0).key], ..Change::default() }
        }
        Step::Forget { service: number } => Change {
            removed_services: vec![service(number)],
            removed_instances: snapshot
                .instances()
                .filter(|instance| *instance.key.service() == service(number))
                .map(|instance| instance.key.clone())
                .collect(),
            removed_routes: vec![route(number).id],
            removed_declared: vec![Arc::from(declared(number, 0).id)],
            ..Change::default()
        },
    }
}

/// The snapshots after each step, each with what its step touched.
fn history(steps: &[Step]) -> Vec<(Snapshot, Touched)> {
    let mut all = vec![(Snapshot::empty("h"), Touched::default())];
    for (revision, step) in (1..).zip(steps) {
        let last = &all[all.len() - 1].0;
        let next = last.change(change_for(last, step), revision, true).expect("the change is sound");
        all.push(next);
    }
    all
}

fn contents(snapshot: &Snapshot) -> (BTreeSet<String>, Position) {
    let services = snapshot.services().map(|key| format!("{key}"));
    let instances = snapshot.instances().map(|instance| format!("{instance:?}"));
    let routes = snapshot.routes().map(|route| format!("{route:?}"));
    let declared = snapshot.declared().map(|entry| format!("{entry:?}"));
    (services.chain(instances).chain(routes).chain(declared).collect(), snapshot.position())
}

proptest! {
    #[test]
    fn any_merged_delta_leads_to_the_same_contents(steps in vec(step(), 1..40), from in 0..40_usize) {
        let all = history(&steps);
        let from = from.min(all.len() - 1);
        let mut touched = Touched::default();
        all[from + 1..].iter().for_each(|(_, step)| touched.extend(step));
        let head = &all[all.len() - 1].0;
        let delta = head.delta(all[from].0.revision(), &touched, SystemTime::UNIX_EPOCH);
        let (applied, _) = all[from].0.apply(&delta).expect("the delta applies");
        prop_assert_eq!(contents(&applied), contents(head));
    }

    #[test]
    fn chunks_of_any_size_make_the_same_snapshot(steps in vec(step(), 0..40), most in 1..9_usize) {
        let all = history(&steps);
        let head = &all[all.len() - 1].0;
        let rebuilt = Snapshot::from_chunks(&head.to_chunks(most)).expect("the chunks fit");
        prop_assert_eq!(contents(&rebuilt), contents(head));
    }

    #[test]
    fn a_delta_that_lost_an_entry_is_noticed_by_the_digest(steps in vec(step(), 1..40)) {
        let all = history(&steps);
        let (before, head) = (&all[all.len() - 2].0, &all[all.len() - 1]);
        let mut delta = head.0.delta(before.revision(), &head.1, SystemTime::UNIX_EPOCH);
        delta.entries = None;
        delta.removals = None;
        match before.apply(&delta) {
            Ok((applied, _)) => prop_assert_eq!(contents(&applied), contents(&head.0)),
            Err(error) => prop_assert!(matches!(error, SnapshotError::Digest { .. }), "{}", error),
        }
    }

    #[test]
    fn a_scope_holds_its_namespaces_alone(steps in vec(step(), 0..20)) {
        let all = history(&steps);
        let head = &all[all.len() - 1].0;
        let none = head.scoped(&BTreeSet::from(["other".to_owned()]));
        prop_assert_eq!((none.digest(), none.services().len(), none.instances().len()), (0, 0, 0));
        prop_assert_eq!(contents(&head.scoped(&BTreeSet::from(["default".to_owned()]))), contents(head));
    }
}

#[test]
fn a_delta_that_was_lost_or_came_twice_is_a_gap() {
    let steps = [1, 2].map(|id| Step::Put { service: 1, id, epoch: 1 });
    let all = history(&steps);
    let second = all[2].0.delta(1, &all[2].1, SystemTime::UNIX_EPOCH);
    assert_eq!(
        all[0].0.apply(&second).expect_err("the first is missing"),
        SnapshotError::Gap { held: 0, from: 1 }
    );
    assert_eq!(all[2].0.apply(&second).expect_err("it came twice"), SnapshotError::Gap { held: 2, from: 1 });
    let mut foreign = second;
    foreign.position.as_mut().expect("a position").history = "other".into();
    assert!(matches!(all[1].0.apply(&foreign), Err(SnapshotError::History { .. })));
}

#[test]
fn a_dangling_reference_cannot_be_built() {
    let empty = Snapshot::empty("h");
    let lone = Change { instances: vec![endpoint(1, 1, 1)], ..Change::default() };
    assert!(matches!(empty.change(lone, 1, true), Err(SnapshotError::Dangling { .. })));
    let full = &history(&[Step::Put { service: 1, id: 1, epoch: 1 }])[1].0;
    let pulled = Change { removed_services: vec![service(1)], ..Change::default() };
    assert!(matches!(full.change(pulled, 2, true), Err(SnapshotError::Dangling { .. })));
}

#[test]
fn a_missing_chunk_is_noticed() {
    let steps: Vec<Step> = (1..6).map(|id| Step::Put { service: 1, id, epoch: 1 }).collect();
    let mut chunks = history(&steps)[5].0.to_chunks(2);
    chunks.remove(1);
    assert!(matches!(Snapshot::from_chunks(&chunks), Err(SnapshotError::Chunk { expected: 1, got: 2 })));
}

#[test]
fn what_was_known_is_carried_over_until_it_is_named_as_gone() {
    let known =
        &history(&[Step::Put { service: 1, id: 1, epoch: 1 }, Step::Put { service: 2, id: 2, epoch: 1 }])[2]
            .0;
    let fresh = Snapshot::empty("new");
    let (fresh, _) = fresh
        .change(change_for(&fresh, &Step::Put { service: 1, id: 1, epoch: 7 }), 1, false)
        .expect("sound");
    let both = fresh.carrying_over(known);
    assert_eq!(both.position(), fresh.position());
    assert_eq!(both.instance(&endpoint(1, 1, 0).key).expect("the newer word").epoch, 7);
    assert!(both.instance(&endpoint(2, 2, 0).key).is_some(), "carried over");
    let gone = Touched { instances: BTreeSet::from([endpoint(2, 2, 0).key]), ..Touched::default() };
    let left = fresh.carrying_over(&known.without(&gone));
    assert!(left.instance(&endpoint(2, 2, 0).key).is_none(), "named as gone");
}
