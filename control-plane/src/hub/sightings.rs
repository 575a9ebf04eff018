//! What proxies see of instances: how they answer, and where they get no requests and why.
//!
//! Kept for each proxy by itself and dropped with its stream, so that nobody speaks who is not there. What a proxy
//! says holds for the epoch that it names; a newer one begins with nothing. It is never stored: it is of these
//! seconds, and after a restart of this control plane the proxies say it again.
//!
//! An instance **answers** where a proxy has had a good answer from it within a while and has not turned away from it
//! since: reports of nothing but failures, and reports that the proxy sends it no requests, end that.
//!
//! How much is kept is bounded: beyond [`MOST_KEPT`] pairs of a proxy and an instance no new ones are taken in, but
//! those where the instance is not well.
//!
//! Deliberately absent: a clock, and what follows for an instance (`registry`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use waypost_proto::{
    error::Violation,
    name::InstanceKey,
    time::{self, wire_duration},
    v1::{self, EndpointHealth},
};

use crate::registry::Failing;

/// The most pairs of a proxy and an instance.
const MOST_KEPT: usize = 500_000;
/// The most instances that a report may name.
const MOST_TOLD: usize = 10_000;
/// What of a reason is kept, in bytes.
const LONGEST_REASON: usize = 256;
/// How many proxies are named for each reason.
const MOST_NAMES: usize = 10;
/// The longest time that a report may speak of; what is older says nothing.
const LONGEST_PERIOD: Duration = Duration::from_secs(60);
/// With fewer failures since the last answer nobody is said to fail: what outlier detection begins at, too. They need not come
/// in one report: balancers send little to who fails.
const FEWEST_FAILURES: u64 = 5;
/// What counts as lately where nothing else is asked for.
pub const LATELY: Duration = Duration::from_secs(10);

/// What one proxy sees of one instance.
#[derive(Debug)]
struct Sight {
    epoch: u64,
    health: EndpointHealth,
    reason: Arc<str>,
    /// Since when there may have been no good answer; `None`: there was none, or something spoke against it since.
    answered: Option<Instant>,
    /// Of the last report of requests.
    reported: Option<Instant>,
    succeeded: u32,
    failed: u32,
    /// Failures without an answer between them, and without a pause of [`LATELY`].
    in_a_row: u64,
}

/// A report, checked.
#[derive(Debug)]
pub(super) struct Report {
    instances: Vec<(InstanceKey, v1::Observation)>,
    period: Duration,
}

impl Report {
    /// Checks a report.
    ///
    /// # Errors
    /// A field breaks its rule.
    pub(super) fn check(observed: v1::Observed) -> Result<Self, Violation> {
        if observed.instances.len() > MOST_TOLD {
            let rule = format!("must be at most {MOST_TOLD}");
            return Err(Violation::new(
                "observed.instances",
                format!("{} entries", observed.instances.len()),
                rule,
            ));
        }
        let period = observed.period.as_ref().map_or(Some(Duration::ZERO), time::duration);
        let period = period.ok_or_else(|| {
            Violation::new("observed.period", "malformed", "must be a length of time that is not negative")
        })?;
        let instances = observed.instances.into_iter().map(|one| {
            let key = InstanceKey::from_wire(one.key.as_ref())
                .map_err(|violation| violation.under("observed.instances.key"))?;
            Ok((key, one))
        });
        Ok(Self { instances: instances.collect::<Result<_, Violation>>()?, period })
    }
}

/// What all proxies see.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    instances: HashMap<InstanceKey, BTreeMap<Arc<str>, Sight>>,
    /// Which instances each proxy has said something of.
    proxies: HashMap<Arc<str>, HashSet<InstanceKey>>,
    kept: usize,
    /// Those of which a report had nothing but failures lately.
    troubled: HashSet<InstanceKey>,
}

impl Sightings {
    /// Takes what a proxy says.
    pub(super) fn take(&mut self, proxy: &Arc<str>, report: Report, now: Instant) {
        let Report { instances, period } = report;
        for (key, said) in instances {
            let well = matches!(said.health(), EndpointHealth::Well | EndpointHealth::Unspecified);
            let known = self.instances.get(&key).is_some_and(|sights| sights.contains_key(proxy));
            if !known && well && self.kept >= MOST_KEPT {
                continue;
            }
            if !known {
                self.kept += 1;
                self.proxies.entry(proxy.clone()).or_default().insert(key.clone());
            }
            if said.failed > 0 && said.succeeded == 0 {
                self.troubled.insert(key.clone());
            }
            let sights = self.instances.entry(key).or_default();
            let sight = sights.entry(proxy.clone()).or_insert_with(|| Sight::new(said.epoch));
            if sight.epoch <= said.epoch {
                sight.take(&said, period, now);
            }
        }
    }

    /// A proxy is not there any more, or begins anew.
    pub(super) fn forget(&mut self, proxy: &str) {
        for key in self.proxies.remove(proxy).unwrap_or_default() {
            if let Some(sights) = self.instances.get_mut(&key) {
                self.kept -= usize::from(sights.remove(proxy).is_some());
                if sights.is_empty() {
                    self.instances.remove(&key);
                }
            }
        }
    }

    /// Drops instances that are not there any more.
    pub(super) fn retain(&mut self, is_there: impl Fn(&InstanceKey) -> bool) {
        let Self { instances, proxies, kept, troubled } = self;
        troubled.retain(&is_there);
        instances.retain(|key, sights| {
            let stays = is_there(key);
            if !stays {
                *kept -= sights.len();
                for proxy in sights.keys() {
                    if let Some(keys) = proxies.get_mut(proxy) {
                        keys.remove(key);
                    }
                }
            }
            stays
        });
    }

    /// Those that fail: at least [`FEWEST_FAILURES`] requests, by the last reports, and not one that was answered well.
    pub(super) fn failing(&mut self, now: Instant) -> Vec<Failing> {
        let mut failing = Vec::new();
        for key in std::mem::take(&mut self.troubled) {
            let sights = || self.instances.get(&key).into_iter().flatten().map(|(_, sight)| sight);
            let Some(epoch) = sights().map(|sight| sight.epoch).max() else { continue };
            let seen = self.of(&key, epoch, LATELY, now);
            if seen.failed == 0 || seen.answering > 0 || seen.succeeded > 0 {
                continue;
            }
            self.troubled.insert(key.clone());
            let rows = || sights().filter(|sight| sight.epoch == epoch).map(|sight| sight.row_at(now));
            let failed: u64 = rows().sum();
            if failed >= FEWEST_FAILURES {
                let proxies = u32::try_from(rows().filter(|row| *row > 0).count()).unwrap_or(u32::MAX);
                failing.push(Failing { key, epoch, failed, proxies });
            }
        }
        failing
    }

    /// What proxies see of an instance, summed up; `connected` is left to the caller.
    /// `within`: how lately it must have answered to count as answering.
    pub(super) fn of(&self, key: &InstanceKey, epoch: u64, within: Duration, now: Instant) -> v1::Sightings {
        let sights = self.instances.get(key).into_iter().flatten().filter(|(_, sight)| sight.epoch == epoch);
        let mut sum = v1::Sightings::default();
        let mut newest: Option<Duration> = None;
        let mut passed_over: BTreeMap<(i32, &str), v1::PassedOver> = BTreeMap::new();
        for (proxy, sight) in sights {
            sum.proxies += 1;
            let age = |at: Instant| now.saturating_duration_since(at);
            if sight.reported.is_some_and(|at| age(at) <= LATELY) {
                sum.succeeded += u64::from(sight.succeeded);
                sum.failed += u64::from(sight.failed);
            }
            if let Some(ago) = sight.answered.map(age).filter(|ago| *ago <= within) {
                sum.answering += 1;
                newest = Some(newest.map_or(ago, |newest| newest.min(ago)));
            }
            if !matches!(sight.health, EndpointHealth::Well | EndpointHealth::Unspecified) {
                let place = (i32::from(sight.health), &*sight.reason);
                let group = passed_over.entry(place).or_insert_with(|| v1::PassedOver {
                    health: sight.health.into(),
                    reason: sight.reason.to_string(),
                    ..Default::default()
                });
                group.count += 1;
                if group.proxies.len() < MOST_NAMES {
                    group.proxies.push(proxy.to_string());
                }
            }
        }
        sum.answered_ago = newest.map(wire_duration);
        sum.passed_over = passed_over.into_values().collect();
        most_first(&mut sum.passed_over);
        sum
    }
}

impl Sight {
    fn new(epoch: u64) -> Self {
        let health = EndpointHealth::Well;
        let reason = Arc::from("");
        Self { epoch, health, reason, answered: None, reported: None, succeeded: 0, failed: 0, in_a_row: 0 }
    }

    /// How many requests have failed in a row, up to now.
    fn row_at(&self, now: Instant) -> u64 {
        let is_late = self.reported.is_none_or(|at| now.saturating_duration_since(at) > LATELY);
        if is_late { 0 } else { self.in_a_row }
    }

    fn take(&mut self, said: &v1::Observation, period: Duration, now: Instant) {
        if self.epoch != said.epoch {
            *self = Self::new(said.epoch);
        }
        if said.succeeded > 0 {
            self.answered = now.checked_sub(period).filter(|_| period <= LONGEST_PERIOD);
        } else if said.failed > 0 {
            self.answered = None;
        }
        if said.succeeded > 0 || said.failed > 0 {
            let row = if said.succeeded > 0 { 0 } else { self.row_at(now) + u64::from(said.failed) };
            self.in_a_row = row;
            (self.reported, self.succeeded, self.failed) = (Some(now), said.succeeded, said.failed);
        }
        self.health = said.health();
        if !matches!(self.health, EndpointHealth::Well | EndpointHealth::Unspecified) {
            self.answered = None;
        }
        if *self.reason != *said.reason {
            let end = said.reason.char_indices().map(|(at, _)| at).find(|at| *at >= LONGEST_REASON);
            self.reason = Arc::from(&said.reason[..end.unwrap_or(said.reason.len())]);
        }
    }
}

/// Adds what the proxies of another control plane see of the same instance.
pub fn add(sum: &mut v1::Sightings, other: v1::Sightings) {
    sum.proxies += other.proxies;
    sum.connected += other.connected;
    sum.succeeded += other.succeeded;
    sum.failed += other.failed;
    sum.answering += other.answering;
    let ago = |sightings: &v1::Sightings| sightings.answered_ago.as_ref().and_then(time::duration);
    sum.answered_ago = ago(sum).into_iter().chain(ago(&other)).min().map(wire_duration);
    for group in other.passed_over {
        let same = |one: &&mut v1::PassedOver| one.health == group.health && one.reason == group.reason;
        match sum.passed_over.iter_mut().find(same) {
            Some(held) => {
                held.count += group.count;
                held.proxies.extend(group.proxies);
                held.proxies.truncate(MOST_NAMES);
            }
            None => sum.passed_over.push(group),
        }
    }
    most_first(&mut sum.passed_over);
}

fn most_first(groups: &mut [v1::PassedOver]) {
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WITHIN: Duration = Duration::from_secs(5);

    fn key(id: u8) -> InstanceKey {
        format!("users/{id}").parse().expect("a good key")
    }

    fn observation(id: u8, epoch: u64, succeeded: u32, failed: u32, reason: &str) -> v1::Observation {
        let health = if reason.is_empty() { EndpointHealth::Well } else { EndpointHealth::Ejected };
        v1::Observation {
            key: Some(key(id).to_wire()),
            epoch,
            succeeded,
            failed,
            health: health.into(),
            reason: reason.to_owned(),
        }
    }

    fn report(instances: Vec<v1::Observation>) -> Report {
        Report::check(v1::Observed { instances, period: Some(wire_duration(SECOND)) }).expect("a good one")
    }

    struct World {
        sightings: Sightings,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self { sightings: Sightings::default(), now: Instant::now() + SECOND * 100 }
        }

        fn say(&mut self, proxy: &str, observation: v1::Observation) {
            self.sightings.take(&Arc::from(proxy), report(vec![observation]), self.now);
        }

        fn of(&self, id: u8, epoch: u64) -> v1::Sightings {
            self.sightings.of(&key(id), epoch, WITHIN, self.now)
        }
    }

    #[test]
    fn who_fails_at_some_proxies_and_answers_at_none_is_named_while_reports_are_fresh() {
        let mut world = World::new();
        world.say("a", observation(1, 7, 0, 3, ""));
        assert_eq!(world.sightings.failing(world.now), [], "that is too few to say anything");
        world.now += SECOND;
        world.say("a", observation(1, 7, 0, 2, ""));
        assert_eq!(world.sightings.failing(world.now)[0].failed, 5, "they need not come in one report");
        world.say("a", observation(1, 7, 1, 0, ""));
        world.say("a", observation(1, 7, 0, 3, ""));
        assert_eq!(world.sightings.failing(world.now), [], "an answer begins anew");
        world.say("b", observation(1, 7, 0, 40, "5 errors in a row"));
        world.say("b", observation(2, 7, 1, 40, ""));
        let failing = Failing { key: key(1), epoch: 7, failed: 43, proxies: 2 };
        assert_eq!(world.sightings.failing(world.now), std::slice::from_ref(&failing));
        assert_eq!(world.sightings.failing(world.now), [failing], "as long as it does");
        world.say("c", observation(1, 7, 1, 0, ""));
        assert_eq!(world.sightings.failing(world.now), []);
        world.say("c", observation(1, 8, 0, 9, ""));
        assert_eq!(world.sightings.failing(world.now)[0].failed, 9, "a newer epoch begins with nothing");
        world.now += LATELY + SECOND;
        assert_eq!(world.sightings.failing(world.now), []);
        assert!(world.sightings.troubled.is_empty());
    }

    #[test]
    fn what_several_say_is_summed_up_with_the_reasons_of_most_first() {
        let mut world = World::new();
        world.say("a", observation(1, 7, 5, 1, "5 errors in a row"));
        world.say("b", observation(1, 7, 3, 0, ""));
        world.say("c", observation(1, 7, 0, 2, "it takes longer than the others"));
        world.say("d", observation(1, 7, 0, 2, "5 errors in a row"));
        let sum = world.of(1, 7);
        assert_eq!((sum.proxies, sum.succeeded, sum.failed, sum.answering), (4, 8, 5, 1));
        assert_eq!(
            sum.answered_ago,
            Some(wire_duration(SECOND)),
            "it may have been a second before the report"
        );
        let groups: Vec<_> = sum.passed_over.iter().map(|group| (group.count, &*group.reason)).collect();
        assert_eq!(groups, [(2, "5 errors in a row"), (1, "it takes longer than the others")]);
        assert_eq!(sum.passed_over[0].proxies, ["a", "d"]);

        let mut both = sum.clone();
        add(&mut both, sum);
        assert_eq!((both.proxies, both.succeeded, both.passed_over[0].count), (8, 16, 4));
    }

    #[test]
    fn an_instance_answers_until_its_answers_are_old_or_something_speaks_against_it() {
        let mut world = World::new();
        let answering = |world: &World| world.of(1, 7).answering;
        world.say("a", observation(1, 7, 5, 1, ""));
        world.now += WITHIN - SECOND;
        assert_eq!(answering(&world), 1);
        world.now += SECOND / 10;
        assert_eq!(answering(&world), 0, "too long ago");
        for against in [observation(1, 7, 0, 1, ""), observation(1, 7, 9, 1, "5 errors in a row")] {
            world.say("a", observation(1, 7, 5, 0, ""));
            assert_eq!(answering(&world), 1);
            world.say("a", against);
            assert_eq!(answering(&world), 0);
            world.say("a", observation(1, 7, 0, 0, ""));
            assert_eq!(answering(&world), 0, "it takes a new answer");
        }
    }

    #[test]
    fn another_epoch_is_another_process() {
        let mut world = World::new();
        world.say("a", observation(1, 7, 5, 0, ""));
        world.say("a", observation(1, 8, 0, 0, "5 errors in a row"));
        world.say("a", observation(1, 7, 5, 0, ""));
        assert_eq!((world.of(1, 7).proxies, world.of(1, 8).answering), (0, 0));
        assert_eq!(world.of(1, 8).passed_over.len(), 1);
    }

    #[test]
    fn a_report_that_is_malformed_is_refused() {
        let nobody = v1::Observed { instances: vec![v1::Observation::default()], period: None };
        let refused = Report::check(nobody).expect_err("it has no key");
        assert!(refused.field.starts_with("observed.instances.key"), "{}", refused.field);
    }

    proptest! {
        #[test]
        fn who_left_has_said_nothing(said in vec((0..4_u8, 0..6_u8, 0..3_u32), 0..60), gone: u8, kept: u8) {
            let mut world = World::new();
            let mut model: BTreeMap<(u8, u8), u32> = BTreeMap::new();
            for (proxy, id, count) in said {
                world.say(&proxy.to_string(), observation(id, 7, count, 0, ""));
                let last = model.entry((proxy, id)).or_default();
                *last = if count > 0 { count } else { *last };
            }
            world.sightings.forget(&(gone % 4).to_string());
            let is_there = |key: &InstanceKey| key.id() != (kept % 6).to_string();
            world.sightings.retain(is_there);
            model.retain(|(proxy, id), _| *proxy != gone % 4 && *id != kept % 6);
            prop_assert_eq!(world.sightings.kept, model.len());
            for id in 0..6 {
                let here: Vec<u32> =
                    model.iter().filter(|((_, other), _)| *other == id).map(|(_, count)| *count).collect();
                let sum = world.of(id, 7);
                prop_assert_eq!(sum.proxies as usize, here.len());
                prop_assert_eq!(sum.succeeded, u64::from(here.iter().sum::<u32>()));
            }
            (0..4).for_each(|proxy: u8| world.sightings.forget(&proxy.to_string()));
            prop_assert!(world.sightings.kept == 0 && world.sightings.instances.is_empty());
        }
    }
}
