//! The task that compares endpoints and checks them: one for a proxy, beside the request path.
//!
//! It has an agenda of what is due when, and follows tables as they are swapped. Swaps that come close after each other
//! are looked at together, and of services only those that are others now.
//!
//! **Load.** All checks of one proxy together are at most [`CHECKS_PER_SECOND`], and at most [`CONCURRENT`] are under way.
//! Where more are due, all come later than they should, in the order in which they are due. An endpoint gets one check
//! in an interval from each proxy: 1,000 endpoints behind 20 proxies get 20 each, spread over it.
//!
//! Deliberately absent: decisions. They are those of [`super::outliers`] and [`super::illness`].

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use waypost_proto::name::ServiceKey;

use super::{
    alarm::Alarm,
    check::check,
    outliers::{Peer, outliers},
    pace::{Pace, jittered},
    patients::{Patients, Turn},
    rules::Comparison,
};
use crate::{
    metrics,
    table::{EndpointId, ServiceTable, SharedTable},
};

/// Checks that one proxy begins in a second.
const CHECKS_PER_SECOND: u32 = 1_000;
/// Checks that may begin at once.
const BURST: u32 = 20;
/// Checks of one proxy that are under way at once.
const CONCURRENT: usize = 256;
/// How long swaps of tables are awaited before the last of them is looked at.
const SETTLE: Duration = Duration::from_millis(50);
/// How much of the agenda is done before anything else gets a turn.
const BATCH: usize = 32;
/// How long nothing may be due.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Job {
    Compare(ServiceKey),
    Check(EndpointId),
}

/// A service with something to do for it.
struct Kept {
    table: Arc<ServiceTable>,
    /// When its endpoints are compared next.
    compared: Option<Instant>,
    /// The last time that it was found in a table.
    seen: u64,
}

struct Keeper {
    table: SharedTable,
    metrics: Arc<metrics::Worker>,
    rng: Rng,
    services: HashMap<ServiceKey, Kept>,
    patients: Patients,
    alarm: Alarm,
    agenda: BinaryHeap<Reverse<(Instant, Job)>>,
    pace: Pace,
    running: JoinSet<(EndpointId, Result<(), String>)>,
    looks: u64,
}

/// Compares and checks endpoints as their services' policies say, until `stop`. `metrics` are this task's own.
pub async fn run(table: SharedTable, metrics: Arc<metrics::Worker>, stop: CancellationToken) {
    let mut swaps = table.swaps();
    let mut keeper = Keeper {
        table,
        metrics,
        rng: Rng::new(),
        services: HashMap::new(),
        patients: Patients::default(),
        alarm: Alarm::default(),
        agenda: BinaryHeap::new(),
        pace: Pace::of(CHECKS_PER_SECOND, BURST),
        running: JoinSet::new(),
        looks: 0,
    };
    keeper.follow(Instant::now());
    let mut look_at = None;
    loop {
        let now = Instant::now();
        if look_at.is_some_and(|time| time <= now) {
            look_at = None;
            keeper.follow(now);
        }
        keeper.work(now);
        keeper.look_for_panics(now);
        let looks = [look_at, keeper.alarm.due()].into_iter().flatten();
        let wake_at = looks.fold(keeper.next(now), Instant::min);
        tokio::select! {
            () = stop.cancelled() => break,
            swapped = swaps.changed(), if look_at.is_none() => {
                if swapped.is_err() {
                    break;
                }
                look_at = Some(Instant::now() + SETTLE);
            }
            Some(ended) = keeper.running.join_next() => {
                if let Ok((id, result)) = ended {
                    keeper.ended(id, &result);
                }
            }
            () = sleep_until(wake_at) => {}
        }
    }
}

impl Keeper {
    /// Looks at the table of now.
    fn follow(&mut self, now: Instant) {
        let Some(table) = self.table.load() else { return };
        self.alarm.follow(&table, now);
        self.looks += 1;
        for service in table.services() {
            let health = service.traffic().map(|traffic| &traffic.health);
            let compares = health.is_some_and(|health| {
                health.outliers.as_ref().is_some_and(|outliers| outliers.comparison.is_some())
            });
            if compares || health.is_some_and(|health| health.checks.is_some()) {
                self.keep(service, now);
            }
        }
        let looks = self.looks;
        let gone = self.services.extract_if(|_, kept| kept.seen < looks);
        for (key, _) in gone {
            self.patients.forget(&key);
        }
    }

    fn look_for_panics(&mut self, now: Instant) {
        let Some(table) = self.table.load().filter(|_| self.alarm.due().is_some_and(|due| due <= now)) else {
            return;
        };
        let (began, over) = self.alarm.look(&table, now);
        for (service, why) in began {
            tracing::warn!(%service, why, "too few instances are well: all of them take requests (panic)");
        }
        for service in over {
            tracing::info!(%service, "enough instances are well again: the panic is over");
        }
    }

    fn keep(&mut self, service: &Arc<ServiceTable>, now: Instant) {
        let key = service.key();
        if let Some(kept) = self.services.get_mut(key) {
            kept.seen = self.looks;
            if Arc::ptr_eq(&kept.table, service) {
                return;
            }
        }
        let before = self.services.get(key);
        let interval = comparison(service).map(|comparison| comparison.interval);
        let same = before.is_some_and(|before| {
            comparison(&before.table).map(|comparison| comparison.interval) == interval
        });
        let compared = match before {
            Some(before) if same => before.compared,
            _ => interval.map(|interval| now + jittered(interval, &mut self.rng)),
        };
        if !same && let Some(at) = compared {
            self.agenda.push(Reverse((at, Job::Compare(key.clone()))));
        }
        let due = self.patients.follow(service, now, &mut self.rng);
        self.agenda.extend(due.into_iter().map(|(at, id)| Reverse((at, Job::Check(id)))));
        let kept = Kept { table: Arc::clone(service), compared, seen: self.looks };
        self.services.insert(key.clone(), kept);
    }

    /// When there is something to do next.
    fn next(&self, now: Instant) -> Instant {
        match self.agenda.peek() {
            // An end of one of those that are under way wakes, too.
            Some(Reverse((_, Job::Check(_)))) if self.running.len() >= CONCURRENT => now + LONGEST_SLEEP,
            Some(Reverse((at, Job::Check(_)))) => (*at).max(self.pace.next(now)),
            Some(Reverse((at, Job::Compare(_)))) => *at,
            None => now + LONGEST_SLEEP,
        }
    }

    /// Does some of what is due.
    fn work(&mut self, now: Instant) {
        for _ in 0..BATCH {
            if self.next(now) > now {
                return;
            }
            let Some(Reverse((at, job))) = self.agenda.pop() else { return };
            match job {
                Job::Compare(key) => self.compare(key, at, now),
                Job::Check(id) => self.begin_check(id, at, now),
            }
        }
    }

    fn begin_check(&mut self, id: EndpointId, at: Instant, now: Instant) {
        let Some((endpoint, rules)) = self.patients.begin(id, at) else { return };
        self.pace.take(now);
        if now.saturating_duration_since(at) >= rules.interval {
            self.metrics.check_late();
        }
        self.running.spawn(async move {
            let result = check(&endpoint, &rules).await;
            (endpoint.id(), result)
        });
    }

    fn ended(&mut self, id: EndpointId, result: &Result<(), String>) {
        self.metrics.checked(result.is_ok());
        let ended = self.patients.end(id, result, Instant::now(), &mut self.rng);
        let Some((next, turn)) = ended else { return };
        self.agenda.push(Reverse((next, Job::Check(id))));
        match turn {
            Some(Turn::Worse) => {
                let why = result.as_ref().err().map(String::as_str).unwrap_or_default();
                tracing::warn!(instance = self.patients.name(id), why, "an instance fails its health checks");
            }
            Some(Turn::Better) => {
                tracing::info!(
                    instance = self.patients.name(id),
                    "an instance passes its health checks again"
                );
            }
            None => {}
        }
    }

    fn compare(&mut self, key: ServiceKey, at: Instant, now: Instant) {
        let Some(kept) = self.services.get_mut(&key).filter(|kept| kept.compared == Some(at)) else { return };
        let outliers_of = kept.table.traffic().and_then(|traffic| traffic.health.outliers.as_ref());
        let Some((rules, comparison)) = outliers_of.and_then(|rules| Some((rules, rules.comparison?))) else {
            return;
        };
        let members = kept.table.endpoints().members();
        let peer =
            |conduct: &super::Conduct| Peer { sample: conduct.sample(), ejected: conduct.ejection.cause() };
        let peers: Vec<Peer> = members.iter().map(|member| peer(member.conduct())).collect();
        for (place, cause) in outliers(&peers, &comparison) {
            if members[place].eject(cause, rules.lengths) {
                self.metrics.ejected(cause);
            }
        }
        let next = now + jittered(comparison.interval, &mut self.rng);
        kept.compared = Some(next);
        self.agenda.push(Reverse((next, Job::Compare(key))));
    }
}

fn comparison(service: &ServiceTable) -> Option<Comparison> {
    service.traffic()?.health.outliers.as_ref()?.comparison
}
