//! The guard against mass expiry, for each service by itself.
//!
//! When a large share of a service's leases lapses at about the same time, the fault is more likely to be
//! between them and us than in all of them. Then they are held as suspect, and traffic decides. A single
//! instance of many is never held.
//!
//! Leases that lapse together do not lapse at the same moment: beats are spread over a third of the lease.
//! So that the first of them is not expired before the others show what is going on, a lease that has
//! missed two beats (a third of it is left at most) counts as failing too.
//!
//! Deliberately absent: a clock, and the fleet: one service's fate says nothing about another's.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use waypost_proto::name::{InstanceKey, ServiceKey};

/// Fewer failing leases than this are never taken for a mass expiry.
const LEAST: usize = 3;

/// How one lease of a service stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whose.
    pub(super) key: InstanceKey,
    /// Its full length.
    pub(super) ttl: Duration,
    /// What is left of it; zero if it has lapsed.
    pub(super) remaining: Duration,
    /// Whether it is held already.
    pub(super) suspect: bool,
}

/// What is to become of a lease that has lapsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its instance is removed.
    Expire,
    /// Its instance stays, as suspect.
    Hold,
}

/// Which leases of each service have lapsed of late.
#[derive(Debug, Default)]
pub(super) struct Guard {
    window: Option<Duration>,
    lapsed: HashMap<ServiceKey, BTreeMap<InstanceKey, Instant>>,
}

impl Guard {
    /// A guard that counts leases together that lapse within `window`, or, where there is none, within the
    /// longest of those that have just lapsed.
    pub(super) fn new(window: Option<Duration>) -> Self {
        Self { window, lapsed: HashMap::new() }
    }

    /// Decides about the leases of a service that have lapsed, in the order in which they are given.
    pub(super) fn judge(
        &mut self,
        service: &ServiceKey,
        leases: &[Standing],
        now: Instant,
    ) -> Vec<(InstanceKey, Verdict)> {
        let lapsed = |lease: &&Standing| lease.remaining.is_zero();
        let longest = leases.iter().filter(lapsed).map(|lease| lease.ttl).max().unwrap_or_default();
        let window = self.window.unwrap_or(longest);
        let recent = self.lapsed.entry(service.clone()).or_default();
        recent.retain(|_, at| now.saturating_duration_since(*at) < window);
        let fresh = leases.iter().filter(lapsed).filter(|lease| !lease.suspect);
        recent.extend(fresh.map(|lease| (lease.key.clone(), now)));

        let overdue = |lease: &&Standing| !lease.suspect && lease.remaining <= lease.ttl / 3;
        let failing: BTreeSet<&InstanceKey> =
            recent.keys().chain(leases.iter().filter(overdue).map(|lease| &lease.key)).collect();
        let all: BTreeSet<&InstanceKey> =
            recent.keys().chain(leases.iter().map(|lease| &lease.key)).collect();
        let mass = failing.len() >= LEAST && failing.len() * 2 >= all.len();
        let verdict = |lease: &Standing| {
            let verdict = if mass && !lease.suspect { Verdict::Hold } else { Verdict::Expire };
            (lease.key.clone(), verdict)
        };
        let verdicts = leases.iter().filter(lapsed).map(verdict).collect();
        if recent.is_empty() {
            self.lapsed.remove(service);
        }
        verdicts
    }

    /// Counts a lease that another replica has expired.
    pub(super) fn note(&mut self, key: &InstanceKey, at: Instant) {
        self.lapsed.entry(key.service().clone()).or_default().insert(key.clone(), at);
    }

    /// Drops what is too old to count, whatever the window: nothing outlives the longest lease.
    pub(super) fn forget_before(&mut self, limit: Instant) {
        self.lapsed.retain(|_, recent| {
            recent.retain(|_, at| *at >= limit);
            !recent.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    fn service() -> ServiceKey {
        "users".parse().expect("a good name")
    }

    fn lease(id: usize, remaining: u64) -> Standing {
        Standing {
            key: format!("users/i{id}").parse().expect("a good key"),
            ttl: TTL,
            remaining: Duration::from_secs(remaining),
            suspect: false,
        }
    }

    fn held(verdicts: &[(InstanceKey, Verdict)]) -> usize {
        verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Hold).count()
    }

    /// The instances that a guard removes, and those that it holds, when some stop beating at time 0 and
    /// the others go on; swept each second. `age` is how old each silent lease's last beat is then.
    fn silence(alive: usize, ages: &[u64]) -> (usize, usize) {
        let start = Instant::now();
        let mut guard = Guard::new(None);
        let mut silent: BTreeMap<usize, u64> =
            ages.iter().enumerate().map(|(id, age)| (id, 9 - age)).collect();
        let (mut removed, mut suspect) = (0, 0);
        for second in 0..=9 {
            let beating = (0..alive).map(|id| lease(100 + id, 6 + (id as u64 + second) % 4));
            let quiet = silent.iter().map(|(id, deadline)| lease(*id, deadline.saturating_sub(second)));
            let leases: Vec<_> = quiet.chain(beating).collect();
            if leases.iter().all(|lease| !lease.remaining.is_zero()) {
                continue;
            }
            for (key, verdict) in guard.judge(&service(), &leases, start + Duration::from_secs(second)) {
                silent.retain(|id, _| format!("i{id}") != key.id());
                match verdict {
                    Verdict::Expire => removed += 1,
                    Verdict::Hold => suspect += 1,
                }
            }
        }
        (removed, suspect)
    }

    proptest! {
        #[test]
        fn a_minority_goes_and_a_majority_stays(alive in 0..12_usize, ages in vec(0..4_u64, 1..12)) {
            let (removed, suspect) = silence(alive, &ages);
            prop_assert_eq!(removed + suspect, ages.len(), "each is decided once");
            let mass = ages.len() >= 3 && ages.len() >= alive;
            // Held ones leave the count of `silence`, so a mass expiry holds at least all but the stragglers.
            prop_assert_eq!(suspect > 0, mass);
            prop_assert_eq!(removed == 0, mass);
        }

        #[test]
        fn what_lapses_at_once_is_held_just_where_the_rule_says(
            lapsed in 1..20_usize, alive in 0..20_usize
        ) {
            let leases: Vec<_> = (0..lapsed).map(|id| lease(id, 0))
                .chain((lapsed..lapsed + alive).map(|id| lease(id, 9))).collect();
            let verdicts = Guard::new(None).judge(&service(), &leases, Instant::now());
            let mass = lapsed >= 3 && lapsed * 2 >= lapsed + alive;
            prop_assert_eq!(held(&verdicts), if mass { lapsed } else { 0 });
        }
    }

    #[test]
    fn one_of_many_goes_at_once_even_while_others_are_suspect() {
        let start = Instant::now();
        let mut guard = Guard::new(None);
        let mut leases: Vec<_> = (0..10).map(|id| lease(id, if id < 5 { 0 } else { 9 })).collect();
        assert_eq!(held(&guard.judge(&service(), &leases, start)), 5);
        for suspect in &mut leases[..5] {
            suspect.suspect = true;
            suspect.remaining = Duration::from_secs(300);
        }
        leases[9].remaining = Duration::ZERO;
        let later = start + TTL * 2;
        assert_eq!(guard.judge(&service(), &leases, later), [(leases[9].key.clone(), Verdict::Expire)]);
    }

    #[test]
    fn what_was_held_to_the_end_goes() {
        let mut leases: Vec<_> = (0..4).map(|id| lease(id, 0)).collect();
        leases.iter_mut().for_each(|lease| lease.suspect = true);
        assert_eq!(held(&Guard::new(None).judge(&service(), &leases, Instant::now())), 0);
    }

    #[test]
    fn leases_of_long_ago_do_not_count() {
        let start = Instant::now();
        let mut guard = Guard::new(Some(TTL));
        for (round, id) in (0..6_u32).zip(0..) {
            let mut leases: Vec<_> = (id..6).map(|id| lease(id, 9)).collect();
            leases[0].remaining = Duration::ZERO;
            let verdicts = guard.judge(&service(), &leases, start + TTL * 2 * round);
            assert_eq!(held(&verdicts), 0, "one at a time, {} left", leases.len());
        }
        guard.forget_before(start + TTL * 100);
        assert!(guard.lapsed.is_empty());
    }
}
