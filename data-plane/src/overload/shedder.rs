//! What a worker asks before it forwards a request, and what tells it how far it is behind.
//!
//! A request that may pass costs a comparison and a look at a flag. One that may not gets an answer that was written
//! down when the worker began.
//!
//! Deliberately absent: what is refused at which delay (see [`super::pressure`]).

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::time::sleep_until;
use waypost_proto::reason::Reason;

use super::{
    Cause, Priority,
    pressure::{Pressure, WHOLE},
};
use crate::{
    answer::{Answer, Prepared},
    metrics,
    serve::{OverloadLimits, Worker},
};

/// How often the timer fires while there are requests, and while there are none.
const TICK: Duration = Duration::from_millis(20);
const IDLE_TICK: Duration = Duration::from_millis(250);
/// The percentages of the bound that requests of each priority may fill.
const SHARES: [u64; 3] = [80, 90, 100];

/// One worker's.
pub(crate) struct Shedder {
    /// How many requests may be under way, by priority.
    bounds: [u64; 3],
    /// How late the timer may be; zero: as late as it likes.
    target: Duration,
    begun: Instant,
    pressure: Cell<Pressure>,
    /// Whether the pressure has any effect.
    is_behind: Cell<bool>,
    /// What of a refusal is due, by priority, in eighths.
    due: [Cell<u8>; 3],
    answers: [[Rc<Prepared>; 2]; 3],
}

impl Shedder {
    /// One for each of so many workers.
    pub(crate) fn new(limits: OverloadLimits, workers: usize) -> Self {
        let workers = u64::try_from(workers).unwrap_or(u64::MAX).max(1);
        let own = limits.requests.div_ceil(workers);
        let bound = |percent: u64| match limits.requests {
            0 => u64::MAX,
            _ => (own.saturating_mul(percent) / 100).max(1),
        };
        Self {
            bounds: SHARES.map(bound),
            target: limits.delay,
            begun: Instant::now(),
            pressure: Cell::default(),
            is_behind: Cell::new(false),
            due: Default::default(),
            answers: Priority::ALL.map(|priority| Cause::ALL.map(|cause| prepared(cause, priority, limits))),
        }
    }

    /// Asks for one request, which is counted as begun already.
    ///
    /// # Errors
    /// The proxy has too much to do; the answer.
    pub(crate) fn admit(&self, priority: Priority, metrics: &metrics::Worker) -> Result<(), Answer> {
        let has_room = metrics.under_way() <= self.bounds[priority as usize];
        if has_room && !self.is_behind.get() {
            return Ok(());
        }
        let cause = if has_room { Cause::Delay } else { Cause::Requests };
        if has_room && !self.is_due(priority) {
            return Ok(());
        }
        metrics.shed(priority, cause);
        Err(Answer::prepared(&self.answers[priority as usize][cause as usize]))
    }

    /// Whether the next request of a priority is one of those that are refused: they are spread evenly.
    fn is_due(&self, priority: Priority) -> bool {
        let due = &self.due[priority as usize];
        let sum = due.get() + self.pressure.get().share(priority);
        due.set(sum % WHOLE);
        sum >= WHOLE
    }

    /// The timer has fired, so late. How much is refused from now on; 0: nothing.
    fn tick(&self, late: Duration, now: Instant) -> u8 {
        let now = now.saturating_duration_since(self.begun);
        let next = self.pressure.get().next(late, now, self.target);
        self.pressure.set(next);
        self.is_behind.set(next.level() > 0);
        next.level()
    }
}

/// Watches how far a worker is behind, as long as its runtime is there.
pub(crate) async fn watch(worker: Rc<Worker>) {
    if worker.shedder.target.is_zero() {
        return;
    }
    let mut level = 0;
    let mut begun = worker.metrics.begun();
    loop {
        let is_idle = level == 0 && begun == worker.metrics.begun();
        begun = worker.metrics.begun();
        let due = Instant::now() + if is_idle { IDLE_TICK } else { TICK };
        sleep_until(due.into()).await;
        let now = Instant::now();
        let next = worker.shedder.tick(now.saturating_duration_since(due), now);
        if next != level {
            worker.metrics.set_shedding_level(next);
            tell(level, next);
            level = next;
        }
    }
}

/// Says when it begins and when it is over.
fn tell(before: u8, level: u8) {
    if before == 0 {
        tracing::warn!(
            "a worker is behind with its work: it refuses requests to services of low priority first"
        );
    } else if level == 0 {
        tracing::info!("the worker is no longer behind, and refuses nothing");
    }
}

fn prepared(cause: Cause, priority: Priority, limits: OverloadLimits) -> Rc<Prepared> {
    let name = priority.name();
    let detail = match cause {
        Cause::Requests => format!(
            "as many requests are under way in this proxy as it takes for services of {name} priority ({}% of \
             --max-requests {}); try again",
            SHARES[priority as usize], limits.requests
        ),
        Cause::Delay => format!(
            "this proxy is behind with its work by more than {:?} (--max-delay), and answers fewer requests to services \
             of {name} priority meanwhile; try again",
            limits.delay
        ),
    };
    Rc::new(Prepared::new(Reason::Overloaded, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: OverloadLimits = OverloadLimits { requests: 20, delay: Duration::from_millis(100) };

    /// Requests of a priority that pass, of `count` that are sent at a time and then end.
    fn passing(shedder: &Shedder, metrics: &metrics::Worker, priority: Priority, count: u32) -> u32 {
        let passed = |_: &u32| {
            metrics.request_began();
            shedder.admit(priority, metrics).is_ok()
        };
        let passed = (0..count).filter(passed).count();
        (0..count).for_each(|_| metrics.request_ended(http::StatusCode::OK, Duration::ZERO));
        u32::try_from(passed).expect("few")
    }

    #[test]
    fn a_workers_share_of_the_bound_is_for_high_what_is_left_of_it_for_the_others() {
        let (shedder, metrics) = (Shedder::new(LIMITS, 2), metrics::Worker::default());
        assert_eq!(Priority::ALL.map(|priority| passing(&shedder, &metrics, priority, 50)), [8, 9, 10]);
        let without = Shedder::new(OverloadLimits { requests: 0, ..LIMITS }, 2);
        assert_eq!(Priority::ALL.map(|priority| passing(&without, &metrics, priority, 50)), [50; 3]);
        let tiny = Shedder::new(OverloadLimits { requests: 1, ..LIMITS }, 8);
        assert_eq!(Priority::ALL.map(|priority| passing(&tiny, &metrics, priority, 50)), [1; 3]);
    }

    #[test]
    fn a_worker_that_is_behind_refuses_a_share() {
        let metrics = metrics::Worker::default();
        let shedder = Shedder::new(OverloadLimits { requests: 0, ..LIMITS }, 1);
        let mut now = shedder.begun;
        let mut late = |count: u32, late: Duration| {
            for _ in 0..count {
                now += TICK + late;
                shedder.tick(late, now);
            }
        };
        let passing = || Priority::ALL.map(|priority| passing(&shedder, &metrics, priority, 80));
        assert_eq!(passing(), [80; 3]);
        late(4, 2 * LIMITS.delay);
        assert_eq!(passing(), [40, 80, 80]);
        late(100, 2 * LIMITS.delay);
        assert_eq!(passing(), [0, 80, 80]);
        late(100, 6 * LIMITS.delay);
        assert_eq!(passing(), [0, 10, 80]);
        late(200, Duration::ZERO);
        assert_eq!(passing(), [80; 3]);
    }
}
