//! Every policy shares by weight; least-request also evens out what is in flight.

use fastrand::Rng;
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::table::{EndpointSet, InFlight, endpoints_of_weights};

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
