//! Requests to instances in simulated time: the balancers are the real ones, the instances are queues.
//!
//! An instance works on a few requests at once and queues the rest; how long it works is exponentially distributed.
//! Requests come at random (a Poisson process) and do not wait for each other, as those of many clients do. Everything
//! follows from the seed: the same numbers come out on every machine, however fast it is.
//!
//! Deliberately absent: connections, retries, cooldowns.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use waypost_proto::{
    instance::{Endpoint, Protocol},
    load::Share,
    name::{InstanceKey, ServiceKey},
    v1::InstanceState,
};
use waypost_proxy::{
    balance::Policy,
    table::{EndpointSet, EndpointState, InFlight, Outcome},
};

/// An instance.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// How long it works on a request on average.
    pub(crate) mean: Duration,
    /// How many requests it works on at once.
    pub(crate) slots: usize,
    /// Its share of traffic.
    pub(crate) weight: u16,
    /// Whether all of its answers are errors.
    pub(crate) fails: bool,
    /// Whether it takes traffic since the simulation's begin only.
    pub(crate) is_new: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self { mean: Duration::from_millis(10), slots: 4, weight: 1, fails: false, is_new: false }
    }
}

/// What comes in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Requests a second.
    pub(crate) rate: f64,
    /// For how long.
    pub(crate) duration: Duration,
    /// Keys are drawn from so many; 0: requests have none.
    pub(crate) keys: u64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    /// How long requests took, sorted.
    pub(crate) took: Vec<Duration>,
    /// How many requests each instance got, in each tenth of the time.
    pub(crate) shares: Vec<[u32; 10]>,
    /// How many were answered with an error.
    pub(crate) errors: usize,
}

impl Report {
    /// What so many of a hundred took at most.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        let place = (self.took.len() as f64 * percent / 100.0) as usize;
        self.took.get(place.min(self.took.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// The share of requests that an instance got, from 0 to 1.
    pub(crate) fn share(&self, instance: usize) -> f64 {
        let of = |counts: &[u32; 10]| f64::from(counts.iter().sum::<u32>());
        of(&self.shares[instance]) / self.shares.iter().map(of).sum::<f64>()
    }

    /// The same in one tenth of the time.
    pub(crate) fn share_in(&self, instance: usize, tenth: usize) -> f64 {
        let all: u32 = self.shares.iter().map(|counts| counts[tenth]).sum();
        f64::from(self.shares[instance][tenth]) / f64::from(all.max(1))
    }
}

/// Instances, as a balancer knows them.
pub(crate) fn set_of(models: &[Model], policy: &Policy) -> EndpointSet {
    let service = ServiceKey::new("", "simulated").expect("a good name");
    let state = |(number, model): (usize, &Model)| {
        let address = format!("10.0.0.{}:80", number + 1);
        let endpoint = Endpoint {
            share: Share::FULL,
            key: InstanceKey::new(service.clone(), &format!("i{number}")).expect("a good id"),
            address: address.parse().expect("an address"),
            version: "".into(),
            zone: "".into(),
            weight: model.weight,
            protocol: Protocol::Http1,
            state: InstanceState::Up,
            tags: Vec::new(),
            epoch: 1,
        };
        let state = EndpointState::new(Arc::new(endpoint), Arc::default());
        state.note_use(model.is_new.then_some(1));
        state
    };
    EndpointSet::new(models.iter().enumerate().map(state).collect(), policy())
}

struct Request {
    began: u64,
    _in_flight: InFlight,
}

/// An instance at work.
#[derive(Default)]
struct Queue {
    working: Vec<(u64, Request)>,
    waiting: VecDeque<Request>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    /// An instance is through with its request of this number.
    Answers(usize, u64),
}

/// Microseconds of the simulation as its clock has them, which is never 0.
fn clock(micros: u64) -> Duration {
    Duration::from_micros(micros + 1_000)
}

/// Runs instances under a load.
pub(crate) fn run(models: &[Model], policy: &Policy, load: Load, seed: u64) -> Report {
    let set = set_of(models, policy);
    let mut seed = Rng::with_seed(seed);
    let mut choices = seed.fork();
    let end = micros(load.duration);
    let mut events = BinaryHeap::from([Reverse((0, 0, Event::Arrives))]);
    let mut queues: Vec<Queue> = models.iter().map(|_| Queue::default()).collect();
    let mut report = Report { took: Vec::new(), shares: vec![[0; 10]; models.len()], errors: 0 };
    let mut number = 0_u64;
    while let Some(Reverse((now, _, event))) = events.pop() {
        number += 1;
        let at = match event {
            Event::Arrives => {
                let next = now + (exponential(&mut seed) * 1e6 / load.rate) as u64 + 1;
                if next < end {
                    events.push(Reverse((next, number, Event::Arrives)));
                }
                let key = (load.keys > 0).then(|| seed.u64(..load.keys).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let millis = u64::try_from(clock(now).as_millis()).expect("it fits");
                let in_flight = set.pick_at(key, &[], &mut choices, || millis).expect("all are usable");
                let id = in_flight.endpoint().id();
                let at = set.members().iter().position(|member| member.id() == id).expect("a member");
                report.shares[at][(now * 10 / end).min(9) as usize] += 1;
                queues[at].waiting.push_back(Request { began: now, _in_flight: in_flight });
                at
            }
            Event::Answers(at, of) => {
                let queue = &mut queues[at];
                let place =
                    queue.working.iter().position(|(number, _)| *number == of).expect("it works on it");
                let (_, request) = queue.working.swap_remove(place);
                let took = Duration::from_micros(now - request.began);
                let outcome = if models[at].fails { Outcome::Failed } else { Outcome::Answered };
                if set.measures_latency() {
                    set.members()[at].report_latency_at(took, outcome, clock(now));
                }
                let millis = u64::try_from(clock(now).as_millis()).expect("it fits");
                set.members()[at].report_outcome(models[at].fails, || millis);
                report.errors += usize::from(models[at].fails);
                report.took.push(took);
                at
            }
        };
        let queue = &mut queues[at];
        if queue.working.len() < models[at].slots
            && let Some(request) = queue.waiting.pop_front()
        {
            let work = exponential(&mut seed) * micros(models[at].mean) as f64;
            queue.working.push((number, request));
            events.push(Reverse((now + work as u64 + 1, number, Event::Answers(at, number))));
        }
    }
    report.took.sort_unstable();
    report
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("it fits")
}

/// Exponentially distributed, with a mean of 1.
fn exponential(seed: &mut Rng) -> f64 {
    -(1.0 - seed.f64()).ln()
}
