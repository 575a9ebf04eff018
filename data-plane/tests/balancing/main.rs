//! What policies promise under load, in simulated time: how slow the slowest requests are where one instance is slow,
//! who gets requests where one fails fast, and what a balancer of an embedder's own can do.

#[path = "../../examples/custom_balancer.rs"]
mod custom_balancer;
mod simulation;

use std::{sync::Arc, time::Duration};

use waypost_proto::v1::{BalancerKind, LoadBalancer};
use waypost_proxy::balance::{Own, Policy, PolicyName};

use self::simulation::{Load, Model, run};

const SEEDS: [u64; 3] = [1, 2, 3];

/// Half of what ten instances can do.
const HALF: Load = Load { rate: 2_000.0, duration: Duration::from_secs(20), keys: 0 };

fn policy(declared: &LoadBalancer) -> Policy {
    Own { policy: PolicyName::default().policy(), zone: "".into() }.policy_of(Some(declared))
}

fn of(kind: BalancerKind) -> Policy {
    policy(&LoadBalancer { kind: kind.into(), ..LoadBalancer::default() })
}

fn ten(first: Model) -> Vec<Model> {
    std::iter::once(first).chain(std::iter::repeat_n(Model::default(), 9)).collect()
}

#[test]
fn a_slow_instance_does_not_make_the_slowest_requests() {
    let models = ten(Model { mean: Duration::from_millis(100), ..Model::default() });
    for seed in SEEDS {
        let p99 = |kind| run(&models, &of(kind), HALF, seed).percentile(99.0);
        let even = p99(BalancerKind::RoundRobin);
        for (kind, percent) in
            [(BalancerKind::LeastRequest, 10), (BalancerKind::PeakEwma, 5), (BalancerKind::Prequal, 5)]
        {
            let p99 = p99(kind);
            assert!(p99 * 100 <= even * percent, "{kind:?}: {p99:?}, and round-robin {even:?}");
        }
    }
}

#[test]
fn a_slow_instance_costs_little_even_where_it_keeps_up() {
    let models = ten(Model { mean: Duration::from_millis(100), ..Model::default() });
    let load = Load { rate: 200.0, duration: Duration::from_secs(100), ..HALF };
    for seed in SEEDS {
        let p99 = |kind| run(&models, &of(kind), load, seed).percentile(99.0);
        let even = p99(BalancerKind::RoundRobin);
        for kind in [BalancerKind::PeakEwma, BalancerKind::Prequal] {
            let p99 = p99(kind);
            assert!(p99 * 100 <= even * 40, "{kind:?}: {p99:?}, and round-robin {even:?}");
        }
    }
}

#[test]
fn errors_that_come_fast_attract_nobody() {
    let models = ten(Model { mean: Duration::from_millis(1), fails: true, ..Model::default() });
    for kind in [BalancerKind::LeastRequest, BalancerKind::PeakEwma, BalancerKind::Prequal] {
        let report = run(&models, &of(kind), HALF, 1);
        let share = report.share(0);
        assert!(share < 0.02, "{kind:?}: it fails and gets {share}");
        let even = run(&models, &of(BalancerKind::RoundRobin), HALF, 1).share(0);
        assert!((0.099..0.101).contains(&even), "{even}");
    }
}

#[test]
fn instances_that_are_alike_get_the_same_whatever_the_policy() {
    for kind in [
        BalancerKind::RoundRobin,
        BalancerKind::Random,
        BalancerKind::LeastRequest,
        BalancerKind::PeakEwma,
        BalancerKind::Prequal,
        BalancerKind::Maglev,
    ] {
        let load = Load { keys: 1_000_000, ..HALF };
        let report = run(&ten(Model::default()), &of(kind), load, 1);
        for instance in 0..10 {
            let share = report.share(instance);
            assert!((0.08..0.12).contains(&share), "{kind:?}: {instance} gets {share}");
        }
    }
}

#[test]
fn weights_hold_under_load_too() {
    let heavy = Model { weight: 3, slots: 12, ..Model::default() };
    for kind in [BalancerKind::LeastRequest, BalancerKind::PeakEwma, BalancerKind::Prequal] {
        let share = run(&ten(heavy.clone()), &of(kind), HALF, 1).share(0);
        assert!((0.2..0.3).contains(&share), "{kind:?}: 3 of 12 gets {share}");
    }
}

#[test]
fn a_new_instance_gets_its_full_share_little_by_little() {
    let models = ten(Model { is_new: true, ..Model::default() });
    let slow_start = Some(waypost_proto::time::wire_duration(HALF.duration));
    for kind in [
        BalancerKind::RoundRobin,
        BalancerKind::Random,
        BalancerKind::LeastRequest,
        BalancerKind::PeakEwma,
        BalancerKind::Prequal,
    ] {
        let policy = policy(&LoadBalancer { kind: kind.into(), slow_start, ..LoadBalancer::default() });
        let report = run(&models, &policy, HALF, 1);
        let shares: Vec<f64> = (0..10).map(|tenth| report.share_in(0, tenth)).collect();
        // Who looks for idle instances among many comes upon a new one again and again.
        let (first, middle) = if kind == BalancerKind::Prequal { (0.05, 0.09) } else { (0.03, 0.08) };
        assert!(shares[0] < first && shares[4] < middle && shares[9] > 0.08, "{kind:?}: {shares:?}");
    }
}

#[test]
fn one_key_that_everybody_asks_for_does_not_drown_its_instance() {
    for kind in [BalancerKind::RingHash, BalancerKind::Maglev] {
        let declared = |bounded_load_percent| LoadBalancer {
            kind: kind.into(),
            bounded_load_percent,
            ..LoadBalancer::default()
        };
        let load = Load { keys: 1, ..HALF };
        let p99 =
            |percent| run(&ten(Model::default()), &policy(&declared(percent)), load, 1).percentile(99.0);
        let (free, bounded) = (p99(0), p99(125));
        assert!(bounded * 20 < free, "{kind:?}: {bounded:?}, and without a bound {free:?}");
    }
}

#[test]
fn the_simulation_follows_from_its_seed() {
    let once = || run(&ten(Model::default()), &of(BalancerKind::LeastRequest), HALF, 7);
    assert_eq!(once().took, once().took);
}

#[test]
fn an_embedder_s_own_balancer_is_asked_like_the_others() {
    assert_eq!(custom_balancer::packed(4), ["a", "a", "b", "b"]);
    let policy: Policy = Arc::new(|| Box::new(custom_balancer::PackFirst { most: 4 }));
    let report = run(&ten(Model::default()), &policy, Load { rate: 100.0, ..HALF }, 1);
    assert!(report.share(0) > 0.9, "it is hardly ever full");
}
