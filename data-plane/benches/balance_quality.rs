//! How well each policy balances: `cargo bench -p waypost-proxy --bench balance_quality`.
//!
//! Ten instances in simulated time (see `tests/balancing/simulation.rs`): the policies are the real ones, the instances
//! are queues. So the numbers are the same on every machine; what a choice costs in real time is measured last.
//!
//! Deliberately absent: sockets. With them the numbers would be those of the machine's scheduler.

#[path = "../tests/balancing/simulation.rs"]
mod simulation;

use std::{
    hint::black_box,
    io::{self, Write},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use waypost_proto::{
    time::wire_duration,
    v1::{BalancerKind, LoadBalancer},
};
use waypost_proxy::balance::{Own, Policy, PolicyName};

use self::simulation::{Load, Model, Report, run, set_of};

const KINDS: [BalancerKind; 7] = [
    BalancerKind::RoundRobin,
    BalancerKind::Random,
    BalancerKind::LeastRequest,
    BalancerKind::PeakEwma,
    BalancerKind::Prequal,
    BalancerKind::RingHash,
    BalancerKind::Maglev,
];
const SEED: u64 = 1;
/// Choices for each thread where they are timed.
const CHOICES: u32 = 500_000;

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    let alike = Model::default();
    let slow = Model { mean: 10 * alike.mean, ..alike.clone() };
    let failing = Model { mean: alike.mean / 10, fails: true, ..alike.clone() };
    let half = Load { rate: 2_000.0, duration: Duration::from_secs(60), keys: 1_000_000 };
    let light = Load { rate: 200.0, duration: Duration::from_secs(600), ..half };
    writeln!(
        out,
        "ten instances, 4 requests at once of 10 ms each; p99 against round-robin's; share of the first\n"
    )?;
    for (title, first, load) in [
        ("all alike, half of what they can do", &alike, half),
        ("the first is 10 times slower, half load", &slow, half),
        ("the first is 10 times slower, light load", &slow, light),
        ("the first fails 10 times faster, half load", &failing, half),
    ] {
        writeln!(out, "{title}")?;
        let models: Vec<Model> = [first].into_iter().chain([&alike; 9]).cloned().collect();
        let mut even = None;
        for kind in KINDS {
            let report = run(&models, &policy(kind, None), load, SEED);
            let p99 = report.percentile(99.0);
            let even = *even.get_or_insert(p99);
            row(&mut out, kind, &report, p99.as_secs_f64() / even.as_secs_f64())?;
        }
        writeln!(out)?;
    }
    slow_start(&mut out, half)?;
    choices(&mut out)
}

fn policy(kind: BalancerKind, slow_start: Option<Duration>) -> Policy {
    let own = Own { policy: PolicyName::default().policy(), zone: "".into() };
    let slow_start = slow_start.map(wire_duration);
    own.policy_of(Some(&LoadBalancer { kind: kind.into(), slow_start, ..LoadBalancer::default() }))
}

fn row(out: &mut impl Write, kind: BalancerKind, report: &Report, ratio: f64) -> io::Result<()> {
    let shares: Vec<f64> = (0..10).map(|instance| report.share(instance)).collect();
    let (least, most) = shares[1..]
        .iter()
        .fold((1.0_f64, 0.0_f64), |(least, most), share| (least.min(*share), most.max(*share)));
    writeln!(
        out,
        "  {:<14} p50 {:>6.1} ms  p99 {:>9.1} ms  x{ratio:<8.5} first {:>5.2} %  others {:>5.2} to {:>5.2} %  errors {:>5.2} %",
        name(kind),
        report.percentile(50.0).as_secs_f64() * 1e3,
        report.percentile(99.0).as_secs_f64() * 1e3,
        shares[0] * 100.0,
        least * 100.0,
        most * 100.0,
        report.errors as f64 * 100.0 / report.took.len() as f64,
    )
}

/// The share of a new instance in each tenth of its slow start.
fn slow_start(out: &mut impl Write, load: Load) -> io::Result<()> {
    writeln!(
        out,
        "slow start of {:?}: share of the new one of ten, in % of the time's tenths",
        load.duration
    )?;
    let new = Model { is_new: true, ..Model::default() };
    let models: Vec<Model> = [new].into_iter().chain(vec![Model::default(); 9]).collect();
    for kind in &KINDS[..5] {
        let report = run(&models, &policy(*kind, Some(load.duration)), load, SEED);
        write!(out, "  {:<14}", name(*kind))?;
        for tenth in 0..10 {
            write!(out, " {:>5.1}", report.share_in(0, tenth) * 100.0)?;
        }
        writeln!(out)?;
    }
    writeln!(out)
}

/// What a choice costs, and how even the shares are, where threads choose at once.
fn choices(out: &mut impl Write) -> io::Result<()> {
    let threads = thread::available_parallelism().map_or(2, usize::from);
    writeln!(
        out,
        "a choice in real time, with counting in and out; {threads} threads at once, largest against smallest share"
    )?;
    for kind in KINDS {
        let models = vec![Model::default(); 10];
        let set = set_of(&models, &policy(kind, None));
        for member in set.members() {
            member.report_latency(Duration::from_millis(10), waypost_proxy::table::Outcome::Answered);
        }
        let counts: Vec<AtomicU64> = models.iter().map(|_| AtomicU64::default()).collect();
        let choose = |seed: u64, counted: bool| {
            let mut seed = Rng::with_seed(seed);
            let mut own = vec![0; models.len()];
            let began = Instant::now();
            for _ in 0..CHOICES {
                let key = Some(seed.u64(..));
                let picked = black_box(set.pick_by(key, &[], &mut seed));
                if counted && let Some(picked) = picked {
                    let id = picked.endpoint().id();
                    own[set.members().iter().position(|member| member.id() == id).unwrap_or_default()] += 1;
                }
            }
            let took = began.elapsed();
            for (count, own) in counts.iter().zip(own) {
                count.fetch_add(own, Ordering::Relaxed);
            }
            took
        };
        let alone = choose(0, false);
        thread::scope(|scope| {
            for thread in 0..threads {
                let choose = &choose;
                scope.spawn(move || choose(thread as u64, true));
            }
        });
        let counts: Vec<f64> = counts.into_iter().map(|count| count.into_inner() as f64).collect();
        let (least, most) = counts
            .iter()
            .fold((f64::MAX, 0.0_f64), |(least, most), count| (least.min(*count), most.max(*count)));
        let nanos = alone.as_nanos() as f64 / f64::from(CHOICES);
        writeln!(out, "  {:<14} {nanos:>6.0} ns   fairness x{:.3}", name(kind), most / least)?;
    }
    Ok(())
}

fn name(kind: BalancerKind) -> String {
    kind.as_str_name().trim_start_matches("BALANCER_KIND_").to_lowercase().replace('_', "-")
}
