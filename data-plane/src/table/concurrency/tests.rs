//! The limit in front of a simulated server: as many requests as it has workers are served at a time, the others wait in
//! a queue without end, as in most servers. Arrivals are a Poisson process; all is drawn from a seed.

use std::{cmp::Reverse, collections::BinaryHeap};

use fastrand::Rng;
use proptest::{collection::vec, prelude::*};

use super::*;

const BOUNDS: Bounds = Bounds { least: 3, most: 1000 };

/// What a request takes of a worker's time, in parts of the mean.
#[derive(Clone, Copy, Debug)]
enum Work {
    Even,
    Exponential,
    /// With a heavy tail: the logarithm's standard deviation is 1.
    LogNormal,
    /// Every tenth takes ten times as long as the others.
    TwoKinds,
}

impl Work {
    fn draw(self, rng: &mut Rng) -> f64 {
        let exponential = |rng: &mut Rng| -(1.0 - rng.f64()).ln();
        match self {
            Self::Even => 1.0,
            Self::Exponential => exponential(rng),
            Self::LogNormal => {
                // Box and Muller.
                let normal = (2.0 * exponential(rng)).sqrt() * (std::f64::consts::TAU * rng.f64()).cos();
                (normal - 0.5).exp()
            }
            Self::TwoKinds => {
                if rng.u8(..10) == 0 {
                    10.0 / 1.9
                } else {
                    1.0 / 1.9
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Server {
    workers: usize,
    /// What a request takes of a worker's time on average, milliseconds.
    millis: f64,
    work: Work,
}

impl Server {
    /// Requests a second.
    fn capacity(&self) -> f64 {
        self.workers as f64 * 1000.0 / self.millis
    }
}

/// What became of a second's requests.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    answered: u32,
    refused: u32,
    /// What the answers took, summed.
    millis: f64,
    limit: u32,
}

/// A server behind a limit.
struct Scene {
    limiter: Limiter,
    server: Server,
    rng: Rng,
    now: f64,
    /// When each worker is free, microseconds.
    free: BinaryHeap<Reverse<u64>>,
    /// When answers come, and when their requests did, microseconds.
    coming: BinaryHeap<Reverse<(u64, u64)>>,
}

impl Scene {
    fn new(server: Server, seed: u64) -> Self {
        let free = (0..server.workers).map(|_| Reverse(0)).collect();
        let limiter = Limiter::new(BOUNDS);
        Self { limiter, server, rng: Rng::with_seed(seed), now: 1e6, free, coming: BinaryHeap::new() }
    }

    /// The server gets other workers; what they were doing is done.
    fn becomes(&mut self, server: Server) {
        self.server = server;
        self.free = (0..server.workers).map(|_| Reverse(0)).collect();
    }

    /// Sends so many requests a second, for a second.
    fn second(&mut self, rate: f64) -> Second {
        let mut tally = Second::default();
        let end = self.now + 1e6;
        loop {
            let gap = -(1.0 - self.rng.f64()).ln() * 1e6 / rate;
            if self.now + gap >= end {
                break;
            }
            self.now += gap;
            self.arrive(&mut tally);
        }
        self.now = end;
        self.answer_until(end as u64, &mut tally);
        tally.limit = self.limiter.shown().0;
        tally
    }

    fn arrive(&mut self, tally: &mut Second) {
        let now = self.now as u64;
        self.answer_until(now, tally);
        if self.limiter.count_in().is_err() {
            tally.refused += 1;
            return;
        }
        let Reverse(free) = self.free.pop().expect("it has workers");
        let took = self.server.work.draw(&mut self.rng) * self.server.millis * 1000.0;
        let done = free.max(now) + took as u64;
        self.free.push(Reverse(done));
        self.coming.push(Reverse((done, now)));
    }

    fn answer_until(&mut self, now: u64, tally: &mut Second) {
        while let Some(Reverse((done, began))) = self.coming.peek().copied().filter(|next| next.0.0 <= now) {
            self.coming.pop();
            tally.answered += 1;
            tally.millis += (done - began) as f64 / 1000.0;
            self.limiter.count_out(Some(Duration::from_micros(done - began)), || done / 1000);
        }
    }

    fn seconds(&mut self, count: u32, rate: f64) -> Vec<Second> {
        (0..count).map(|_| self.second(rate)).collect()
    }
}

fn per_second(seconds: &[Second], of: impl Fn(&Second) -> f64) -> f64 {
    seconds.iter().map(of).sum::<f64>() / seconds.len() as f64
}

const WORKS: [Work; 4] = [Work::Even, Work::Exponential, Work::LogNormal, Work::TwoKinds];

/// Servers of many sizes and speeds.
fn servers() -> impl Iterator<Item = Server> {
    let sizes = [(1, 10.0), (4, 5.0), (16, 20.0), (50, 40.0), (200, 200.0), (32, 200.0)];
    sizes.into_iter().flat_map(|(workers, millis)| WORKS.map(|work| Server { workers, millis, work }))
}

#[test]
fn at_three_times_its_capacity_a_server_gives_nine_tenths_of_it_and_is_not_swamped() {
    let mut offences = Vec::new();
    for (seed, server) in servers().enumerate() {
        let mut scene = Scene::new(server, seed as u64);
        let capacity = server.capacity();
        scene.seconds(20, capacity * 3.0);
        let settled = scene.seconds(40, capacity * 3.0);
        let goodput = per_second(&settled, |second| second.answered.into()) / capacity;
        let took = settled.iter().map(|second| second.millis).sum::<f64>()
            / settled.iter().map(|second| f64::from(second.answered)).sum::<f64>();
        let slower = took / server.millis;
        // A single worker is given three requests at least, and what they take is its measure.
        let longest = if server.workers == 1 { 12.0 } else { 4.0 };
        if goodput < 0.9 || slower > longest {
            let limits: Vec<u32> = settled.iter().map(|second| second.limit).collect();
            offences.push(format!(
                "{server:?}: {goodput:.3} of its capacity, answers take {slower:.1} times as long; limits {limits:?}"
            ));
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn a_server_that_is_not_overloaded_is_left_alone_whatever_its_latency_does() {
    for (seed, server) in servers().enumerate().filter(|(_, server)| server.workers >= 16) {
        let mut scene = Scene::new(server, 100 + seed as u64);
        let rate = server.capacity() * 0.7;
        scene.seconds(20, rate);
        let settled = scene.seconds(60, rate);
        let refused = per_second(&settled, |second| second.refused.into()) / rate;
        let limits = || settled.iter().map(|second| second.limit).collect::<Vec<_>>();
        assert!(refused < 0.01, "{server:?}: {refused:.4} are refused; limits {:?}", limits());
    }
}

#[test]
fn when_the_load_falls_nobody_is_refused_after_two_seconds() {
    for (seed, server) in servers().enumerate().filter(|(_, server)| server.workers >= 16) {
        let mut scene = Scene::new(server, 200 + seed as u64);
        scene.seconds(30, server.capacity() * 3.0);
        let rate = server.capacity() * 0.5;
        scene.seconds(2, rate);
        let after = scene.seconds(20, rate);
        let refused = per_second(&after, |second| second.refused.into()) / rate;
        assert!(refused < 0.01, "{server:?}: {refused:.4} are refused");
    }
}

#[test]
fn a_server_that_becomes_slower_or_smaller_or_faster_is_used_as_it_is_now() {
    let before = Server { workers: 50, millis: 10.0, work: Work::Exponential };
    for now in [
        Server { millis: 40.0, ..before },
        Server { workers: 5, ..before },
        Server { millis: 2.5, ..before },
        Server { workers: 150, ..before },
    ] {
        let mut scene = Scene::new(before, 7);
        scene.seconds(30, before.capacity() * 3.0);
        scene.becomes(now);
        scene.seconds(10, now.capacity() * 3.0);
        let settled = scene.seconds(60, now.capacity() * 3.0);
        let goodput = per_second(&settled, |second| second.answered.into()) / now.capacity();
        assert!(goodput >= 0.9, "{now:?}: {goodput:.3} of its capacity: {settled:?}");
        let last = settled.last().expect("a second");
        let slower = last.millis / f64::from(last.answered) / now.millis;
        assert!(slower < 6.0, "{now:?}: answers take {slower:.1} times as long: {settled:?}");
    }
}

#[test]
fn beyond_the_limit_there_is_no_place_until_one_is_left() {
    let limiter = Limiter::new(Bounds { least: 2, most: 2 });
    let first = limiter.enter().expect("a place");
    let second = limiter.enter().expect("a place");
    assert_eq!(limiter.enter().expect_err("no place"), 2);
    assert_eq!(limiter.shown(), (2, 2));
    first.answered(|| false);
    second.failed(false);
    drop(limiter.enter().expect("a place"));
    assert_eq!(limiter.shown(), (2, 0));
}

#[test]
fn failures_that_come_at_once_say_nothing() {
    let limiter = Limiter::new(BOUNDS);
    for number in 0..1000 {
        limiter.count_in().expect("a place");
        limiter.count_out(Some(Duration::from_millis(50)), || 1000 + number);
    }
    let known = *limiter.state.lock();
    assert!(known.unloaded().is_some());
    for _ in 0..1000 {
        limiter.enter().expect("a place").answered(|| true);
        limiter.enter().expect("a place").failed(false);
        drop(limiter.enter().expect("a place"));
    }
    assert_eq!(*limiter.state.lock(), known);
    assert!(limiter.is_late(Duration::from_millis(60)) && !limiter.is_late(Duration::from_millis(40)));
}

#[test]
fn a_limiter_outlives_its_table_and_other_bounds_make_another() {
    let of = |most| Some(Bounds { least: 3, most });
    let first = Limiter::renewed(None, of(100)).expect("it is declared");
    let same = Limiter::renewed(Some(Arc::clone(&first)), of(100)).expect("it is declared");
    assert!(Arc::ptr_eq(&first, &same));
    let other = Limiter::renewed(Some(Arc::clone(&first)), of(50)).expect("it is declared");
    assert!(!Arc::ptr_eq(&first, &other));
    assert!(Limiter::renewed(Some(first), None).is_none());
}

#[test]
fn bounds_that_are_not_said_have_defaults() {
    let of = |minimum, maximum| Bounds::of(&AdaptiveConcurrency { minimum, maximum });
    assert_eq!(of(0, 0), Bounds { least: 3, most: 1000 });
    assert_eq!(of(5, 0), Bounds { least: 5, most: 1000 });
    assert_eq!(of(2000, 0), Bounds { least: 2000, most: 2000 });
}

proptest! {
    #[test]
    fn the_limit_stays_within_its_bounds_whatever_is_seen(
        windows in vec((0.0_f32..45.0, 0_u32..3_000, 0_u64..60_000), 1..300),
        least in 1_u32..200,
        more in 0_u32..2_000,
    ) {
        let bounds = Bounds { least, most: least + more };
        let (mut state, mut now) = (Gradient::new(bounds), 1);
        for (latency, most, passed) in windows {
            prop_assert!((bounds.least..=bounds.most).contains(&state.limit()), "{state:?}");
            now += passed;
            let next = state.next(Window { latency, most }, now, bounds);
            prop_assert!(next.limit() <= state.limit() * 3 + 60, "a step is not a leap: {state:?} {next:?}");
            let wanted = next.wanted();
            prop_assert!((100..=10_000).contains(&wanted.millis) && wanted.answers <= 50, "{wanted:?}");
            state = next;
        }
    }

    #[test]
    fn a_limit_that_is_not_reached_does_not_grow(
        latencies in vec(10.0_f32..40.0, 1..200),
    ) {
        let (mut state, mut now) = (Gradient::new(BOUNDS), 1);
        // It begins with a measure, for which the limit is lower.
        for _ in 0..2 {
            state = state.next(Window { latency: 20.0, most: 2 }, now, BOUNDS);
        }
        for latency in latencies {
            now += 1000;
            let next = state.next(Window { latency, most: 2 }, now, BOUNDS);
            prop_assert_eq!(next.limit(), state.limit());
            state = next;
        }
    }

    #[test]
    fn threads_never_hold_more_places_than_there_are(threads in 2_usize..8, rounds in 1_u32..200) {
        let limiter = Limiter::new(Bounds { least: 3, most: 3 });
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| for _ in 0..rounds {
                    if let Ok(place) = limiter.enter() {
                        assert!(limiter.shown().1 <= 3);
                        place.answered(|| false);
                    }
                });
            }
        });
        prop_assert_eq!(limiter.shown().1, 0);
    }
}
