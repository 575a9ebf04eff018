//! The drain barrier's rule, and what is picked when some cannot be.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use fastrand::Rng;
use proptest::{collection::vec, prelude::*, sample::select};
use waypost_proto::{
    instance::InstanceSpec,
    time::wire_duration,
    v1::{self, InstanceState, LoadBalancer, ZoneAware},
};

use super::*;
use crate::balance::{LoadBound, Own, Policy, PolicyName, RingHash};

fn declared(id: usize, weight: u16) -> Arc<Endpoint> {
    declared_in(id, weight, "")
}

fn declared_in(id: usize, weight: u16, zone: &str) -> Arc<Endpoint> {
    let wire = v1::InstanceSpec {
        service: "users".into(),
        id: format!("i{id}"),
        address: "10.0.0.1:80".into(),
        weight: Some(weight.into()),
        zone: zone.into(),
        ..Default::default()
    };
    Arc::new(Endpoint::of(&InstanceSpec::from_wire(&wire).expect("a good spec"), InstanceState::Up, 1))
}

pub(crate) fn set_of(weights: &[u16], policy: PolicyName) -> EndpointSet {
    set_by(weights, &policy.policy())
}

/// Endpoints of weight 1 in these zones.
pub(crate) fn in_zones(zones: &[&str], policy: &Policy) -> EndpointSet {
    let states = zones
        .iter()
        .enumerate()
        .map(|(id, zone)| EndpointState::new(declared_in(id, 1, zone), Arc::default()));
    EndpointSet::new(states.collect(), policy())
}

pub(crate) fn set_by(weights: &[u16], policy: &Policy) -> EndpointSet {
    let states = weights
        .iter()
        .enumerate()
        .map(|(id, weight)| EndpointState::new(declared(id, *weight), Arc::default()));
    EndpointSet::new(states.collect(), policy())
}

#[test]
fn after_the_flag_a_count_of_zero_is_final() {
    for _ in 0..200 {
        let state = EndpointState::new(declared(1, 1), Arc::default());
        let over = AtomicBool::new(false);
        let begun = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(in_flight) = state.begin() {
                        assert!(!over.load(Ordering::SeqCst), "a request began after the barrier had passed");
                        begun.fetch_add(1, Ordering::Relaxed);
                        drop(in_flight);
                    }
                });
            }
            while begun.load(Ordering::Relaxed) < 50 {
                thread::yield_now();
            }
            state.set_draining(true);
            while state.in_flight() > 0 {
                thread::yield_now();
            }
            over.store(true, Ordering::SeqCst);
        });
        assert_eq!(state.in_flight(), 0);
    }
}

#[tokio::test]
async fn the_reporter_is_woken_when_a_draining_request_ends() {
    let reporter = Arc::new(Notify::new());
    let state = EndpointState::new(declared(1, 1), Arc::clone(&reporter));
    let in_flight = state.begin().expect("it does not drain");
    state.set_draining(true);
    thread::spawn(move || drop(in_flight));
    reporter.notified().await;
    assert_eq!(state.in_flight(), 0);
    assert!(state.begin().is_none());
    reporter.notified().await;
}

#[test]
fn requests_from_before_a_change_of_weight_still_count() {
    let state = EndpointState::new(declared(1, 1), Arc::default());
    let in_flight = state.begin().expect("it does not drain");
    let heavier = state.declared_anew(&declared(1, 5), None);
    let another = heavier.begin().expect("it does not drain");
    assert_eq!((heavier.weight(), heavier.in_flight()), (5, 2));
    state.retire();
    heavier.set_draining(true);
    assert!(state.begin().is_none(), "the next table has what takes requests");
    assert_eq!(heavier.in_flight(), 2);
    drop((in_flight, another));
    assert_eq!(heavier.in_flight(), 0);
    assert!(Arc::ptr_eq(&heavier, &heavier.declared_anew(&declared(1, 5), None)));
}

#[test]
fn limits_count_what_states_of_the_same_address_before_have_in_flight() {
    let state = EndpointState::new(declared(1, 1), Arc::default());
    let first = state.begin().expect("it does not drain");
    let changed = |epoch: u64, zone: &str| {
        let declared = declared_in(1, 5, zone);
        Arc::new(Endpoint { epoch, ..declared.as_ref().clone() })
    };
    let mut states = vec![state];
    for next in [changed(1, "a"), changed(1, "b"), changed(2, "b")] {
        let before = states.last().expect("there is one");
        let next = before.declared_anew(&next, None);
        before.retire();
        states.push(next);
    }
    let last = states.last().expect("there is one");
    assert_eq!((last.load(), last.in_flight()), (1, 1));
    let set = EndpointSet::new(vec![Arc::clone(last)], PolicyName::LeastRequest.policy()()).bounded(Some(2));
    let second = set.pick(&[], &mut Rng::with_seed(1)).expect("there is room for one");
    assert!(set.pick(&[], &mut Rng::with_seed(1)).is_none() && set.is_full_at(&[]) == Some(2));
    let before = last.predecessor.load_full().expect("there is one");
    assert_eq!(
        before.id(),
        states[0].id(),
        "those between have nothing in flight, and are looked at no more"
    );
    drop(first);
    assert_eq!(last.load(), 1);
    assert!(set.pick(&[], &mut Rng::with_seed(1)).is_some(), "there is room again");
    drop(second);
    assert!(!last.hot.succeeds.load(Ordering::Relaxed), "who is done is looked at no more");
}

#[test]
fn the_same_process_cools_down_on_unless_it_is_spoken_to_in_another_way() {
    let state = EndpointState::new(declared(1, 1), Arc::default());
    state.hot.cooldown.failed(7);
    state.report_latency_at(Duration::from_millis(5), Outcome::Answered, Duration::from_secs(1));
    let heavier = state.declared_anew(&declared(1, 5), None);
    assert_eq!(heavier.hot.cooldown.due(), state.hot.cooldown.due());
    assert!(heavier.latency_at(Duration::from_secs(1)).is_some(), "its answers take as long as before");
    let anew = |change: &dyn Fn(&mut Endpoint)| {
        let mut next = heavier.declared.as_ref().clone();
        change(&mut next);
        heavier.declared_anew(&Arc::new(next), None).hot.cooldown.due()
    };
    assert_eq!(anew(&|next| next.protocol = Protocol::Http2), 0);
    assert_eq!(anew(&|next| next.epoch = 2), 0, "a new lease is a new process");
}

#[test]
fn of_those_that_cool_down_the_soonest_is_tried() {
    let set = set_of(&[1, 1, 1], PolicyName::LeastRequest);
    for (member, failed_at) in set.members().iter().zip([30, 10, 20]) {
        member.hot.cooldown.failed(failed_at);
    }
    let picked = set.pick_at(None, &[], &mut Rng::with_seed(3), || 40).expect("one is tried anyway");
    assert_eq!(picked.endpoint().id(), set.members()[1].id());
    let tried = [set.members()[1].id()];
    let picked = set.pick_at(None, &tried, &mut Rng::with_seed(3), || 40).expect("one is tried anyway");
    assert_eq!(picked.endpoint().id(), set.members()[2].id());
}

#[test]
fn one_request_alone_probes() {
    let set = set_of(&[1, 1], PolicyName::Random);
    set.members()[0].hot.cooldown.failed(1);
    let mut seed = Rng::with_seed(3);
    let mut probes = 0;
    for _ in 0..100 {
        let picked = set.pick_at(None, &[], &mut seed, || 2000).expect("one is usable");
        probes += usize::from(picked.endpoint().id() == set.members()[0].id());
    }
    assert_eq!(probes, 1);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Fine,
    Draining,
    Cooling,
    Tried,
}

/// Everything that a policy can be, alone and together.
fn every_policy() -> impl Strategy<Value = LoadBalancer> {
    let kinds = (0..=7_i32, select(vec![0, 110, 200]), any::<bool>(), proptest::option::of(0..4_u32));
    kinds.prop_map(|(kind, bounded_load_percent, slowly, minimum)| LoadBalancer {
        kind,
        bounded_load_percent,
        slow_start: slowly.then(|| wire_duration(Duration::from_secs(30))),
        zone_aware: minimum.map(|minimum_instances| ZoneAware { minimum_instances }),
        ..LoadBalancer::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_pick_is_the_best_there_is(
        members in vec((select(vec![Condition::Fine, Condition::Draining, Condition::Cooling, Condition::Tried]), 1..9_u16), 0..12),
        policy in every_policy(),
        key in any::<Option<u64>>(),
        seed: u64,
    ) {
        let weights: Vec<u16> = members.iter().map(|(_, weight)| *weight).collect();
        let own = Own { policy: PolicyName::Random.policy(), zone: "z".into() };
        let set = set_by(&weights, &own.policy_of(Some(&policy)));
        let mut tried = Vec::new();
        for ((condition, _), state) in members.iter().zip(set.members()) {
            match condition {
                Condition::Fine => {}
                Condition::Draining => state.set_draining(true),
                Condition::Cooling => state.hot.cooldown.failed(1),
                Condition::Tried => tried.push(state.id()),
            }
        }
        let mut seed = Rng::with_seed(seed);
        for _ in 0..20 {
            let picked = set.pick_at(key, &tried, &mut seed, || 500);
            let condition = picked.as_ref().map(|picked| {
                let at = set.members().iter().position(|state| state.id() == picked.endpoint().id());
                members[at.expect("a member")].0
            });
            let has = |wanted| members.iter().any(|(condition, _)| *condition == wanted);
            let best = [Condition::Fine, Condition::Cooling].into_iter().find(|condition| has(*condition));
            prop_assert_eq!(condition, best);
        }
        for state in set.members() {
            prop_assert_eq!(state.in_flight(), 0, "every request has ended");
        }
    }
}

proptest! {
    #[test]
    fn nobody_has_more_under_way_than_the_policy_allows(
        steps in vec((any::<bool>(), any::<usize>()), 1..80),
        members in 1_usize..5,
        most in 1_u64..4,
        policy in select(PolicyName::ALL.to_vec()),
        seed: u64,
    ) {
        let set = set_of(&vec![1; members], policy).bounded(Some(most));
        let mut seed = Rng::with_seed(seed);
        let mut held = Vec::new();
        for (picks, which) in steps {
            if !picks && !held.is_empty() {
                let at = which % held.len();
                drop(held.swap_remove(at));
                continue;
            }
            let has_room = (held.len() as u64) < most * members as u64;
            let picked = set.pick(&[], &mut seed);
            prop_assert_eq!(picked.is_some(), has_room, "{} under way", held.len());
            prop_assert_eq!(set.is_full_at(&[]), Some(most), "whoever finds nobody is told so");
            held.extend(picked);
            prop_assert!(set.members().iter().all(|member| member.load() <= most));
        }
    }
}

#[test]
fn threads_together_keep_to_what_an_instance_may_have_under_way() {
    const MOST: u64 = 2;
    let set = set_of(&[1, 1], PolicyName::LeastRequest).bounded(Some(MOST));
    let under_way: Vec<AtomicU64> = set.members().iter().map(|_| AtomicU64::new(0)).collect();
    let most_seen = AtomicU64::new(0);
    thread::scope(|scope| {
        for number in 0..4 {
            let (set, under_way, most_seen) = (&set, &under_way, &most_seen);
            scope.spawn(move || {
                let mut seed = Rng::with_seed(number);
                for _ in 0..2_000 {
                    let Some(begun) = set.pick(&[], &mut seed) else { continue };
                    let at = set.members().iter().position(|state| state.id() == begun.endpoint().id());
                    let count = &under_way[at.expect("a member")];
                    most_seen.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    count.fetch_sub(1, Ordering::SeqCst);
                    drop(begun);
                }
            });
        }
    });
    let most_seen = most_seen.into_inner();
    assert!((1..=MOST).contains(&most_seen), "{most_seen}");
}

#[test]
fn who_was_tried_or_drains_is_not_the_one_that_is_full() {
    let set = set_of(&[1, 1], PolicyName::RoundRobin).bounded(Some(1));
    let ids: Vec<EndpointId> = set.members().iter().map(|member| member.id()).collect();
    assert_eq!(set.is_full_at(&ids), None);
    set.members()[0].set_draining(true);
    assert_eq!(set.is_full_at(&ids[1..]), None);
    assert_eq!(set.is_full_at(&ids[..1]), Some(1));
    assert_eq!(set_of(&[1], PolicyName::RoundRobin).is_full_at(&[]), None, "where nothing is declared");
}

/// How many of 10,000 picks each member gets while these are the shares, in percent.
fn picked(shares: &[u8], policy: &Policy, key: Option<u64>) -> Vec<u32> {
    let states = shares.iter().enumerate().map(|(id, share)| {
        let before = EndpointState::new(declared(id, 1), Arc::default());
        let busy = Endpoint { share: Share::percent(*share), ..Endpoint::clone(&declared(id, 1)) };
        let after = before.declared_anew(&Arc::new(busy), None);
        assert_eq!(after.id(), before.id(), "what is in flight is not forgotten, nor connections");
        after
    });
    let set = EndpointSet::new(states.collect(), policy());
    let mut counts = vec![0; shares.len()];
    let mut seed = Rng::with_seed(7);
    for _ in 0..10_000 {
        let begun = set.pick_by(key, &[], &mut seed).expect("all can take requests");
        let at = set.members().iter().position(|state| state.id() == begun.endpoint().id());
        counts[at.expect("a member")] += 1;
    }
    counts
}

#[test]
fn who_is_busy_gets_less_under_every_policy_and_all_again_later() {
    for policy in PolicyName::ALL {
        let policy = policy.policy();
        let counts = picked(&[100, 100, 10, 100], &policy, None);
        let expected = 10_000.0 * 0.1 / 3.1;
        assert!(f64::from(counts[2]) < 2.0 * expected && counts[2] > 50, "{counts:?}");
        let equally_busy = picked(&[10, 10, 10, 10], &policy, None);
        assert!(equally_busy.iter().all(|count| (2_300..2_700).contains(count)), "{equally_busy:?}");
    }
    let alone = picked(&[10], &PolicyName::RoundRobin.policy(), None);
    assert_eq!(alone, [10_000]);
}

#[test]
fn a_key_stays_where_it_is_when_its_instance_is_busy() {
    let policy: Policy = Arc::new(|| Box::new(RingHash::bounded(LoadBound::percent(0))));
    for key in 0..20 {
        let before = picked(&[100, 100, 100], &policy, Some(key));
        let home = before.iter().position(|count| *count == 10_000).expect("one has all of them");
        let mut shares = [100; 3];
        shares[home] = 10;
        assert_eq!(picked(&shares, &policy, Some(key)), before);
    }
}
