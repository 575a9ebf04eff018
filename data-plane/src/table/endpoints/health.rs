//! What endpoints and sets have to do with [`crate::health`]: who is passed over in a pick, and what is reported. Who has as
//! many requests under way as the policy allows is passed over, too, however few are well.

use std::{cell::OnceCell, sync::Arc, time::Duration};

use super::{EndpointId, EndpointSet, EndpointState, InFlight, now};
use crate::{
    health::{Cause, Conduct, Heed, OutlierRules, Panic, Standing},
    table::Lengths,
};

impl EndpointState {
    /// Says how a request was answered, or that it was not, where rules want to know. Says why, where it is ejected upon
    /// it.
    pub(crate) fn report_answer(
        &self,
        failed: bool,
        took: Option<Duration>,
        rules: &OutlierRules,
    ) -> Option<Cause> {
        self.hot.conduct.answered(failed, took, rules, now)
    }

    /// What is known of its answers and checks.
    pub(crate) fn conduct(&self) -> &Conduct {
        &self.hot.conduct
    }

    /// How it is by what a policy heeds.
    pub(crate) fn standing(&self, heed: Heed) -> Standing {
        self.hot.conduct.ejection.standing(heed, now())
    }

    /// Ejects it. Whether that changes anything.
    pub(crate) fn eject(&self, cause: Cause, lengths: Lengths) -> bool {
        self.hot.conduct.ejection.eject(cause, now(), lengths)
    }

    /// Says that checks say it is ill, and why, or that it is not.
    pub(crate) fn set_illness(&self, why: Option<&str>) {
        *self.illness.lock() = why.map(Arc::from);
        self.hot.conduct.ejection.set_ill(why.is_some());
    }

    /// Why checks say that it is ill.
    pub(crate) fn illness(&self) -> Option<Arc<str>> {
        self.illness.lock().clone()
    }
}

/// What members of a set are passed over for, and when none is.
#[derive(Debug)]
pub(super) struct Care {
    heed: Heed,
    panic: Panic,
    /// How many requests each may have under way; `u64::MAX`: any number.
    most: u64,
}

impl Care {
    /// Nobody is passed over.
    pub(super) fn none() -> Self {
        Self { heed: Heed::default(), panic: Panic::below(0), most: u64::MAX }
    }
}

impl EndpointSet {
    /// The same, whose members are passed over for some things while so many of 100 are well.
    pub(crate) fn heeding(mut self, heed: Heed, panic_below_percent: u32) -> Self {
        self.care = Care { heed, panic: Panic::below(panic_below_percent), most: self.care.most };
        self
    }

    /// The same, whose members have at most so many requests under way, each.
    pub(crate) fn bounded(mut self, most: Option<u64>) -> Self {
        self.care.most = most.unwrap_or(u64::MAX);
        self
    }

    /// How many requests each may have under way, where a pick that has found nobody would have found somebody but for
    /// this.
    pub(crate) fn is_full_at(&self, tried: &[EndpointId]) -> Option<u64> {
        let guard = self.guard(&now);
        let is_there = |member: &Arc<EndpointState>| {
            !member.is_draining() && !tried.contains(&member.id()) && guard.heeds(member)
        };
        let most = self.care.most;
        (most != u64::MAX && self.members.iter().any(is_there)).then_some(most)
    }

    /// Whether a pick would find somebody who does not cool down after a failure.
    pub(crate) fn has_ready(&self, tried: &[EndpointId]) -> bool {
        let guard = self.guard(&now);
        self.members.iter().any(|member| {
            let is_open = !member.is_draining() && !tried.contains(&member.id());
            is_open && member.hot.cooldown.is_over(now) && guard.lets(member)
        })
    }

    /// Whether a pick would find somebody, who may cool down, or be full.
    pub(crate) fn has_open(&self, tried: &[EndpointId]) -> bool {
        let guard = self.guard(&now);
        let is_open = |member: &Arc<EndpointState>| {
            !member.is_draining() && !tried.contains(&member.id()) && guard.heeds(member)
        };
        self.members.iter().any(is_open)
    }

    /// Whether there is a limit of requests under way to each member.
    pub(crate) fn is_bounded(&self) -> bool {
        self.care.most != u64::MAX
    }

    /// Whether so few members are well that those that are not take requests too.
    pub fn panics(&self) -> bool {
        self.panic_because().is_some()
    }

    /// Why they do, in words, where they do.
    pub(crate) fn panic_because(&self) -> Option<String> {
        let (heed, panic) = (self.care.heed, &self.care.panic);
        let is_passed_over = |member: &Arc<EndpointState>| !member.hot.conduct.ejection.is_well(heed);
        if !self.members.iter().any(is_passed_over) {
            return None;
        }
        let (well, all) = (self.count_well(now), self.members.len());
        let asked = panic.below_percent();
        let because = || format!("{well} of {all} instances are well, and the policy asks for {asked} %");
        panic.is_for(well, all).then(because)
    }

    /// How many take requests without a doubt: they are not passed over, nor cool down.
    fn count_well(&self, now: impl Fn() -> u64) -> usize {
        let is_well = |member: &&Arc<EndpointState>| {
            member.hot.conduct.ejection.is_well(self.care.heed) && member.hot.cooldown.is_over(&now)
        };
        self.members.iter().filter(is_well).count()
    }

    /// Begins a request to a member that is wanted for another reason than balance, unless it is passed over, or cools
    /// down after a failure and this is not the request that probes it.
    pub(crate) fn begin_at(&self, member: &Arc<EndpointState>) -> Option<InFlight> {
        self.begin_wanted(member, now)
    }

    fn begin_wanted(&self, member: &Arc<EndpointState>, now: impl Fn() -> u64) -> Option<InFlight> {
        let guard = self.guard(&now);
        // Who is passed over anyway must not cost the one probe.
        let claims = !member.is_draining()
            && guard.lets(member)
            && member.hot.cooldown.claim(&now)
            && guard.claim(member);
        claims.then(|| guard.begin(member)).flatten()
    }

    /// Begins another request to a member that has just had one.
    pub(crate) fn begin_again(&self, member: &Arc<EndpointState>) -> Option<InFlight> {
        self.guard(&now).begin(member)
    }

    /// For one pick.
    pub(super) fn guard<'a, N: Fn() -> u64>(&'a self, now: &'a N) -> Guard<'a, N> {
        let cares = self.care.heed != Heed::default() || self.care.most != u64::MAX;
        Guard { set: self, cares, now, panics: OnceCell::new() }
    }
}

/// Who is passed over in one pick. Without a policy it is nobody, and nothing is looked at.
pub(super) struct Guard<'a, N> {
    set: &'a EndpointSet,
    cares: bool,
    now: &'a N,
    panics: OnceCell<bool>,
}

impl<N: Fn() -> u64> Guard<'_, N> {
    /// Whether a member may be proposed.
    pub(super) fn lets(&self, member: &EndpointState) -> bool {
        !self.cares || self.has_room(member) && self.heeds(member)
    }

    /// Whether a member is well enough.
    fn heeds(&self, member: &EndpointState) -> bool {
        member.hot.conduct.ejection.is_open(self.set.care.heed, self.now) || self.panics()
    }

    fn has_room(&self, member: &EndpointState) -> bool {
        member.load() < self.set.care.most
    }

    /// Claims the right to send a member a request.
    pub(super) fn claim(&self, member: &EndpointState) -> bool {
        let claims = || member.hot.conduct.ejection.claim(self.set.care.heed, self.now) || self.panics();
        !self.cares || self.has_room(member) && claims()
    }

    /// Begins a request to a member, unless it drains or others have just taken the room that it had.
    pub(super) fn begin(&self, member: &Arc<EndpointState>) -> Option<InFlight> {
        if self.cares { member.begin_below(self.set.care.most) } else { member.begin() }
    }

    fn panics(&self) -> bool {
        let count = || (self.set.count_well(self.now), self.set.members.len());
        *self.panics.get_or_init(|| self.set.care.panic.is_on((self.now)(), count))
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::{super::tests::set_of, *};
    use crate::balance::PolicyName;

    const ALL: Heed = Heed { ejections: true, illness: true };
    const LENGTHS: Lengths = Lengths { first: 1_000, longest: 1_000 };

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Condition {
        Well,
        Ejected,
        Ill,
        Cooling,
        Draining,
        Tried,
    }

    const CONDITIONS: [Condition; 6] = [
        Condition::Well,
        Condition::Ejected,
        Condition::Ill,
        Condition::Cooling,
        Condition::Draining,
        Condition::Tried,
    ];

    fn put(member: &EndpointState, condition: Condition) {
        match condition {
            Condition::Well | Condition::Tried => {}
            Condition::Ejected => {
                member.hot.conduct.ejection.eject(Cause::Latency, 1, LENGTHS);
            }
            Condition::Ill => member.set_illness(Some("it was asked")),
            Condition::Cooling => member.hot.cooldown.failed(1),
            Condition::Draining => member.set_draining(true),
        }
    }

    #[test]
    fn one_request_probes_who_was_ejected() {
        let set = set_of(&[1, 1, 1], PolicyName::RoundRobin).heeding(ALL, 50);
        put(&set.members()[0], Condition::Ejected);
        let mut seed = Rng::with_seed(1);
        let mut count = |now: u64| {
            let picks = (0..30).filter_map(|_| set.pick_at(None, &[], &mut seed, || now));
            picks.filter(|picked| picked.endpoint().id() == set.members()[0].id()).count()
        };
        assert_eq!((count(500), count(1_001), count(1_500), count(2_001)), (0, 1, 0, 1));
    }

    #[test]
    fn without_a_policy_nobody_is_passed_over() {
        let set = set_of(&[1, 1], PolicyName::RoundRobin);
        put(&set.members()[0], Condition::Ejected);
        put(&set.members()[1], Condition::Ill);
        assert!(!set.panics() && set.begin_at(&set.members()[1]).is_some());
        let mut seed = Rng::with_seed(1);
        for turn in 0..10 {
            let picked = set.pick_at(None, &[], &mut seed, || 2).expect("all take requests");
            assert_eq!(picked.endpoint().id(), set.members()[turn % 2].id());
        }
    }

    #[test]
    fn who_is_wanted_cools_down_like_any_other() {
        let set = set_of(&[1, 1], PolicyName::RoundRobin);
        let wanted = &set.members()[0];
        put(wanted, Condition::Cooling);
        let begin = |now: u64| set.begin_wanted(wanted, || now).is_some();
        assert!(!begin(500), "others take its requests");
        assert!(begin(1_001) && !begin(1_001), "one request probes");
        wanted.report_success();
        assert!(begin(1_002) && begin(1_002));
    }

    #[test]
    fn the_same_lease_is_as_well_as_it_was_and_another_one_is_new() {
        let set = set_of(&[1], PolicyName::RoundRobin);
        let state = &set.members()[0];
        put(state, Condition::Ill);
        let mut declared = state.declared.as_ref().clone();
        declared.weight = 7;
        let heavier = state.declared_anew(&Arc::new(declared.clone()), None);
        assert_eq!(
            (heavier.standing(ALL), heavier.illness().as_deref()),
            (Standing::Ill, Some("it was asked"))
        );
        declared.epoch += 1;
        assert_eq!(heavier.declared_anew(&Arc::new(declared), None).standing(ALL), Standing::Well);
    }

    proptest! {
        #[test]
        fn who_is_not_well_is_passed_over_unless_too_few_are(
            conditions in vec(select(CONDITIONS.to_vec()), 1..12),
            percent in select(vec![0, 34, 50, 100]),
            policy in select(PolicyName::ALL.to_vec()),
            seed: u64,
        ) {
            let set = set_of(&vec![1; conditions.len()], policy).heeding(ALL, percent);
            let mut tried = Vec::new();
            for (member, condition) in set.members().iter().zip(&conditions) {
                put(member, *condition);
                if *condition == Condition::Tried {
                    tried.push(member.id());
                }
            }
            let is_well = |condition: &&Condition| {
                matches!(condition, Condition::Well | Condition::Tried | Condition::Draining)
            };
            let well = conditions.iter().filter(is_well).count();
            let panic = well * 100 < conditions.len() * percent as usize;
            let has = |wanted: &[Condition]| conditions.iter().any(|condition| wanted.contains(condition));
            let passed_over = [Condition::Ejected, Condition::Ill];
            let first: &[Condition] =
                if panic { &[Condition::Well, Condition::Ejected, Condition::Ill] } else { &[Condition::Well] };
            let best = [first, &[Condition::Cooling]].into_iter().find(|wanted| has(wanted));
            let mut seed = Rng::with_seed(seed);
            for _ in 0..20 {
                let picked = set.pick_at(None, &tried, &mut seed, || 500);
                let condition = picked.map(|picked| {
                    let at = set.members().iter().position(|state| state.id() == picked.endpoint().id());
                    conditions[at.expect("a member")]
                });
                prop_assert_eq!(condition.is_some(), best.is_some());
                prop_assert!(condition.is_none_or(|found| best.is_some_and(|best| best.contains(&found))));
            }
            if !has(&[Condition::Cooling]) {
                prop_assert_eq!(set.panics(), panic && has(&passed_over));
            }
        }
    }
}
