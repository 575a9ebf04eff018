//! Every policy shares by weight; what each looks at beside that; slow start and zones around any of them.

use std::time::Duration;

use fastrand::Rng;
use proptest::{collection::vec, prelude::*, sample::select};
use waypost_proto::{
    time::wire_duration,
    v1::{BalancerKind, LoadBalancer, ZoneAware as DeclaredZones},
};

use super::*;
use crate::table::{
    EndpointId, EndpointSet, InFlight, Outcome, endpoints_of, endpoints_of_weights, in_zones,
};

fn index(set: &EndpointSet, picked: &InFlight) -> usize {
    let id = picked.endpoint().id();
    set.members().iter().position(|member| member.id() == id).expect("a member")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_policy_shares_by_weight(
        weights in vec(prop_oneof![Just(1_u16), 1..20_u16, Just(1000)], 1..8),
        policy in select(PolicyName::ALL.to_vec()),
        seed: u64,
    ) {
        let set = endpoints_of_weights(&weights, policy);
        let mut seed = Rng::with_seed(seed);
        let rounds = 40_000;
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..rounds {
            // Each ends before the next begins, so that nothing but the weights decides.
            let picked = set.pick(&[], &mut seed).expect("all are usable");
            counts[index(&set, &picked)] += 1;
        }
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let expected = f64::from(rounds) * f64::from(*weight) / total;
            // Six standard deviations of a fair lot, and a little for rounding.
            let tolerance = 6.0 * expected.sqrt() + 2.0;
            prop_assert!((f64::from(*count) - expected).abs() <= tolerance, "{counts:?} for {weights:?}");
        }
    }

    #[test]
    fn round_robin_is_even_over_every_round(count in 1..20_usize, rounds in 1..20_usize) {
        let set = endpoints_of_weights(&vec![3; count], PolicyName::RoundRobin);
        let mut seed = Rng::with_seed(1);
        let mut counts = vec![0; count];
        for _ in 0..count * rounds {
            counts[index(&set, &set.pick(&[], &mut seed).expect("all are usable"))] += 1;
        }
        prop_assert!(counts.iter().all(|picked| *picked == rounds));
    }

    #[test]
    fn least_request_keeps_what_is_in_flight_even_by_weight(weight in 1..5_u16, count in 2..10_usize, seed: u64) {
        let mut weights = vec![weight; count];
        weights[0] = weight * 2;
        let set = endpoints_of_weights(&weights, PolicyName::LeastRequest);
        let mut seed = Rng::with_seed(seed);
        let held: Vec<InFlight> = (0..count * 100).map(|_| set.pick(&[], &mut seed).expect("all are usable")).collect();
        let per_weight = |at: usize| set.members()[at].in_flight() as f64 / f64::from(weights[at]);
        let loads: Vec<f64> = (0..count).map(per_weight).collect();
        let mean = held.len() as f64 / weights.iter().map(|weight| f64::from(*weight)).sum::<f64>();
        prop_assert!(loads.iter().all(|load| (load - mean).abs() <= 0.25 * mean + 8.0), "{loads:?}, mean {mean}");
    }
}

#[test]
fn a_stuck_endpoint_gets_less() {
    let set = endpoints_of_weights(&[1, 1, 1], PolicyName::LeastRequest);
    let _stuck: Vec<InFlight> =
        (0..50).map(|_| set.members()[0].begin().expect("it does not drain")).collect();
    let mut seed = Rng::with_seed(7);
    for _ in 0..100 {
        assert_ne!(index(&set, &set.pick(&[], &mut seed).expect("usable")), 0);
    }
}

#[test]
fn a_renewed_round_goes_on_where_it_was() {
    let set = endpoints_of_weights(&[1, 1, 1, 1], PolicyName::RoundRobin);
    let mut seed = Rng::with_seed(7);
    let before = index(&set, &set.pick(&[], &mut seed).expect("usable"));
    let next = EndpointSet::new(set.members().to_vec(), set.renewed_balancer());
    assert_eq!(index(&next, &next.pick(&[], &mut seed).expect("usable")), before + 1);
}

#[test]
fn names_read_back() {
    for policy in PolicyName::ALL {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    "fair".parse::<PolicyName>().expect_err("there is no such policy");
}

const MS: Duration = Duration::from_millis(1);

fn own(zone: &str) -> Own {
    Own { policy: PolicyName::LeastRequest.policy(), zone: zone.into() }
}

fn share(set: &EndpointSet, of: usize, now: u64) -> f64 {
    let mut seed = Rng::with_seed(7);
    let rounds = 20_000;
    let mut count = 0;
    for _ in 0..rounds {
        let picked = set.pick_at(None, &[], &mut seed, || now).expect("usable");
        count += u32::from(index(set, &picked) == of);
    }
    f64::from(count) / f64::from(rounds)
}

#[test]
fn the_one_that_answers_sooner_is_chosen() {
    for policy in [PolicyName::PeakEwma, PolicyName::Prequal] {
        let set = endpoints_of_weights(&[1, 1, 1], policy);
        for (member, took) in set.members().iter().zip([50, 5, 50]) {
            member.report_latency_at(MS * took, Outcome::Answered, MS);
        }
        let shares = [0, 1, 2].map(|at| share(&set, at, 1));
        assert!(shares[1] > 0.6 && (shares[0] - shares[2]).abs() < 0.02, "{policy}: {shares:?}");
    }
}

#[test]
fn who_failed_last_loses_for_a_second_where_load_alone_decides() {
    let set = endpoints_of_weights(&[1, 1, 1], PolicyName::LeastRequest);
    let first = &set.members()[0];
    let has_its_share = |now| (share(&set, 0, now) - 1.0 / 3.0).abs() < 0.02;
    first.report_outcome(true, || 1_600);
    assert!(share(&set, 0, 1_600 + 1_023) == 0.0 && has_its_share(1_600 + 1_024));
    first.report_outcome(true, || 3_000);
    first.report_outcome(false, || 3_001);
    assert!(has_its_share(3_002), "a good answer brings it back at once");
    set.members().iter().for_each(|member| member.report_outcome(true, || 4_000));
    assert!(has_its_share(4_001), "all fail");
}

#[test]
fn one_that_has_not_answered_yet_gets_one_request_and_no_flood() {
    for policy in [PolicyName::PeakEwma, PolicyName::Prequal] {
        let set = endpoints_of_weights(&[1, 1], policy);
        set.members()[0].report_latency_at(5 * MS, Outcome::Answered, MS);
        let mut seed = Rng::with_seed(7);
        let held: Vec<InFlight> =
            (0..20).map(|_| set.pick_at(None, &[], &mut seed, || 1).expect("usable")).collect();
        let unknown = held.iter().filter(|picked| index(&set, picked) == 1).count();
        // Where all that are known are busier than most, the rule of Prequal shares by load.
        let most = if policy == PolicyName::Prequal { 11 } else { 1 };
        assert!((1..=most).contains(&unknown), "{policy}: {unknown}");
    }
}

#[test]
fn hot_endpoints_are_left_alone_however_fast_they_are() {
    let set = endpoints_of_weights(&[1, 1, 1, 1], PolicyName::Prequal);
    for (member, took) in set.members().iter().zip([1, 50, 50, 50]) {
        member.report_latency_at(MS * took, Outcome::Answered, MS);
    }
    let _busy: Vec<InFlight> =
        (0..100).map(|_| set.members()[0].begin().expect("it does not drain")).collect();
    // A quarter of what is drawn is hot, which is more than the quantile leaves above: the rest must be a little busy.
    let _others: Vec<InFlight> =
        set.members()[1..].iter().map(|one| one.begin().expect("it does not drain")).collect();
    assert!(share(&set, 0, 1) < 0.75);
    let calm = endpoints_of_weights(&[1; 10], PolicyName::Prequal);
    calm.members()[0].report_latency_at(MS, Outcome::Answered, MS);
    calm.members()[1..].iter().for_each(|one| one.report_latency_at(50 * MS, Outcome::Answered, MS));
    let _busy: Vec<InFlight> =
        (0..100).map(|_| calm.members()[0].begin().expect("it does not drain")).collect();
    assert!(share(&calm, 0, 1) < 0.02, "one of ten is hot");
}

#[test]
fn a_new_endpoint_s_share_grows_to_its_full_size() {
    for kind in
        [BalancerKind::RoundRobin, BalancerKind::Random, BalancerKind::LeastRequest, BalancerKind::PeakEwma]
    {
        let slow_start = Some(wire_duration(Duration::from_secs(100)));
        let declared = LoadBalancer { kind: kind.into(), slow_start, ..LoadBalancer::default() };
        let set = endpoints_of(&[1, 1, 1, 1], &own("").policy_of(Some(&declared)));
        set.members()[0].note_use(Some(1));
        set.members()[1].note_use(None);
        for (age, part) in
            [(0, 0.1), (5_000, 0.1), (20_000, 0.2), (50_000, 0.5), (100_000, 1.0), (999_000, 1.0)]
        {
            let (share, expected) = (share(&set, 0, 1 + age), part / (3.0 + part));
            assert!((share - expected).abs() < 0.015, "{kind:?} after {age} ms: {share} and not {expected}");
        }
    }
}

#[test]
fn where_all_are_new_all_share() {
    let slow_start = Some(wire_duration(Duration::from_secs(100)));
    let declared =
        LoadBalancer { kind: BalancerKind::RoundRobin.into(), slow_start, ..LoadBalancer::default() };
    let set = endpoints_of(&[1, 1], &own("").policy_of(Some(&declared)));
    set.members().iter().for_each(|member| member.note_use(Some(1)));
    assert!((share(&set, 0, 1) - 0.5).abs() < 0.02);
}

proptest! {
    #[test]
    fn the_own_zone_is_used_alone_while_it_has_enough(
        zones in vec((select(vec!["a", "b", "c"]), any::<bool>()), 1..12),
        kind in 0..=7_i32,
        minimum_instances in 0..5_u32,
        key: Option<u64>,
        seed: u64,
    ) {
        let zone_aware = Some(DeclaredZones { minimum_instances });
        let declared = LoadBalancer { kind, zone_aware, ..LoadBalancer::default() };
        let names: Vec<&str> = zones.iter().map(|(zone, _)| *zone).collect();
        let set = in_zones(&names, &own("a").policy_of(Some(&declared)));
        let tried: Vec<EndpointId> =
            set.members().iter().zip(&zones).filter(|(_, (_, out))| *out).map(|(member, _)| member.id()).collect();
        let count = |wanted: &dyn Fn(&str) -> bool| zones.iter().filter(|(zone, out)| !out && wanted(zone)).count();
        let own = count(&|zone| zone == "a");
        let is_local = own >= minimum_instances.max(1) as usize;
        let mut seed = Rng::with_seed(seed);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let Some(picked) = set.pick_by(key, &tried, &mut seed) else {
                prop_assert_eq!(count(&|_| true), 0);
                break;
            };
            prop_assert!(!is_local || picked.endpoint().zone() == "a");
            seen.insert(index(&set, &picked));
        }
        if key.is_none() {
            prop_assert_eq!(seen.len(), if is_local { own } else { count(&|_| true) });
        }
    }
}

#[test]
fn a_proxy_without_a_zone_prefers_none() {
    let zone_aware = Some(DeclaredZones { minimum_instances: 1 });
    let declared = LoadBalancer { zone_aware, ..LoadBalancer::default() };
    let set = in_zones(&["", "a"], &own("").policy_of(Some(&declared)));
    assert!((share(&set, 0, 1) - 0.5).abs() < 0.02);
}

#[test]
fn threads_that_choose_at_once_share_as_one_does() {
    for kind in 1..=7 {
        let declared = LoadBalancer { kind, ..LoadBalancer::default() };
        let set = endpoints_of(&[1; 5], &own("").policy_of(Some(&declared)));
        let counts: [std::sync::atomic::AtomicU32; 5] = Default::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (set, counts) = (&set, &counts);
                scope.spawn(move || {
                    let mut seed = Rng::with_seed(thread);
                    for _ in 0..5_000 {
                        let picked = set.pick(&[], &mut seed).expect("usable");
                        counts[index(set, &picked)].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
        });
        let counts = counts.map(std::sync::atomic::AtomicU32::into_inner);
        assert_eq!(counts.iter().sum::<u32>(), 20_000, "{kind}: none is lost");
        // A thread that is put to sleep holds its request for that long: who looks at load goes elsewhere meanwhile.
        let looks_at_load = !matches!(declared.kind(), BalancerKind::RoundRobin | BalancerKind::Random);
        let fair = if looks_at_load { 1..20_000 } else { 2_400..5_600 };
        assert!(counts.iter().all(|count| fair.contains(count)), "{kind}: {counts:?}");
    }
}
