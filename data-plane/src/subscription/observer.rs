//! What the control plane is told of endpoints: how they answer, and which of them get no requests here and why.
//!
//! Once a second what is new since then, of at most so many instances, and with a look at so many endpoints at most. What
//! does not fit comes next time: a round goes through all services, and the next one begins where the last began. Each
//! proxy begins elsewhere, so that of many proxies some have told of any instance lately.
//!
//! What was counted while nobody listened is forgotten when a stream opens: it may be long ago, and speaks for nobody.
//!
//! Deliberately absent: the clock, and what the control plane makes of it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use waypost_proto::{
    time::wire_duration,
    v1::{Observation, Observed},
};

use crate::{
    health::Condition,
    table::{EndpointId, Member, News, ServiceTable, Table},
};

/// From one report to the next.
const PACE: Duration = Duration::from_secs(1);
/// The most instances that a report names.
const MOST_TOLD: usize = 500;
/// The most endpoints that are looked at for one report: a few milliseconds.
const MOST_LOOKED_AT: usize = 20_000;
/// The longest reason, in bytes.
const LONGEST_REASON: usize = 200;

/// What was told last, and where the next look begins.
#[derive(Debug, Default)]
pub(super) struct Observer {
    /// When to look; never where nobody listens.
    due: Option<Instant>,
    /// The place where each round begins.
    first: usize,
    /// How many places this round has been through, and how many members in the next one.
    walked: usize,
    members: usize,
    /// Counts rounds.
    round: u64,
    /// When this round has begun, and the one before.
    began: Option<Instant>,
    before: Option<Instant>,
    /// Those that were told not to be well, and the round in which they were seen last.
    unwell: HashMap<EndpointId, (Condition, u64)>,
}

impl Observer {
    /// A stream is open. `listens`: the control plane wants to know. `lot` chooses where to begin.
    pub(super) fn begin(&mut self, table: &Table, listens: bool, lot: usize, now: Instant) {
        *self = Self { before: Some(now), ..Self::default() };
        if !listens {
            return;
        }
        self.due = Some(now + PACE);
        self.first = lot;
        for service in table.services() {
            for member in service.members() {
                member.state.news();
            }
        }
    }

    /// When to look.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It cannot be told now, and is looked for later.
    pub(super) fn put_off(&mut self, now: Instant) {
        self.due = self.due.map(|_| now + PACE);
    }

    /// What is new; `None` where nothing is.
    pub(super) fn look(&mut self, table: &Table, now: Instant) -> Option<Observed> {
        self.put_off(now);
        let began = *self.began.get_or_insert(now);
        // Each endpoint was looked at since the round before this one began.
        let period = now.saturating_duration_since(self.before.unwrap_or(began));
        let mut instances = Vec::new();
        if self.walk(table, &mut instances) {
            self.before = self.began.take();
            self.walked = 0;
            self.round += 1;
            let round = self.round;
            self.unwell.retain(|_, (_, seen)| *seen + 1 == round);
        }
        let period = Some(wire_duration(period));
        (!instances.is_empty()).then_some(Observed { instances, period })
    }

    /// Goes on with the round as far as it may. Whether that was all of it.
    fn walk(&mut self, table: &Table, instances: &mut Vec<Observation>) -> bool {
        let places = table.service_places();
        let mut looked_at = 0;
        while self.walked < places {
            let service = table.service_in((self.first + self.walked) % places);
            let members = service.map(|service| service.members()).unwrap_or_default();
            while let (Some(service), Some(member)) = (service, members.get(self.members)) {
                if instances.len() == MOST_TOLD || looked_at == MOST_LOOKED_AT {
                    return false;
                }
                looked_at += 1;
                self.members += 1;
                instances.extend(self.observe(service, member));
            }
            self.members = 0;
            self.walked += 1;
        }
        true
    }

    /// What is new of an endpoint.
    fn observe(
        &mut self,
        service: &ServiceTable,
        Member { endpoint, state }: &Member,
    ) -> Option<Observation> {
        let news = state.news();
        let condition = service.condition_of(state);
        let told = if self.unwell.is_empty() { None } else { self.unwell.get(&state.id()) };
        let turned = told.map(|(told, _)| *told).unwrap_or_default() != condition;
        if condition != Condition::Well {
            self.unwell.insert(state.id(), (condition, self.round));
        } else if turned {
            self.unwell.remove(&state.id());
        }
        (turned || news != News::default()).then(|| {
            let mut reason = service.why(state, condition);
            if let Some((at, _)) = reason.char_indices().find(|(at, _)| *at >= LONGEST_REASON) {
                reason.truncate(at);
            }
            Observation {
                key: Some(endpoint.key.to_wire()),
                epoch: endpoint.epoch,
                succeeded: news.succeeded,
                failed: news.failed,
                health: condition.to_wire().into(),
                reason,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use proptest::{collection::vec, prelude::*};
    use waypost_proto::{
        instance::{Endpoint, InstanceSpec},
        snapshot::{Change, Snapshot},
        v1::{EndpointHealth, InstanceSpec as Spec, InstanceState},
    };

    use super::*;
    use crate::balance::PolicyName;

    /// Services with so many instances each.
    fn table(sizes: &[usize]) -> Arc<Table> {
        let mut change = Change::default();
        for (service, size) in sizes.iter().enumerate() {
            for id in 0..*size {
                let spec = Spec {
                    service: format!("s{service}"),
                    address: format!("10.0.{}.{}:80", id / 256, id % 256),
                    ..Spec::default()
                };
                let spec = InstanceSpec::from_wire(&spec).expect("a good spec");
                change.services.push(spec.key.service().clone());
                change.instances.push(Endpoint::of(&spec, InstanceState::Up, 7));
            }
        }
        let (snapshot, _) = Snapshot::empty("h").change(change, 1, true).expect("a sound change");
        Table::of(&snapshot, &PolicyName::RoundRobin.policy())
    }

    fn members(table: &Table) -> Vec<Member> {
        table.services().flat_map(|service| service.members().to_vec()).collect()
    }

    fn answer(member: &Member, failed: bool) {
        let request = member.state.begin().expect("it takes requests");
        member.state.note_answer(failed);
        drop(request);
    }

    /// A report as `(succeeded, failed, health, reason)` of the only instance that it names.
    fn only(observed: Option<Observed>) -> (u32, u32, EndpointHealth, String) {
        let observed = observed.expect("there is something new");
        let [one] = &*observed.instances else { panic!("{observed:?}") };
        (one.succeeded, one.failed, one.health(), one.reason.clone())
    }

    #[test]
    fn only_what_is_new_is_told() {
        let (table, start) = (table(&[3]), Instant::now());
        let mut observer = Observer::default();
        let one = &members(&table)[1];
        answer(one, false);
        observer.begin(&table, true, 0, start);
        assert_eq!(observer.due(), Some(start + PACE));
        assert_eq!(observer.look(&table, start + PACE), None, "that was before anybody listened");
        for _ in 0..3 {
            answer(one, false);
        }
        answer(one, true);
        let observed = observer.look(&table, start + PACE * 2);
        assert_eq!(observed.as_ref().and_then(|told| told.period), Some(wire_duration(PACE)));
        assert_eq!(only(observed), (3, 1, EndpointHealth::Well, String::new()));
        assert_eq!(observer.look(&table, start + PACE * 3), None);

        one.state.report_failure();
        let (.., health, reason) = only(observer.look(&table, start + PACE * 4));
        assert_eq!((health, reason.is_empty()), (EndpointHealth::CoolingDown, false));
        assert_eq!(observer.look(&table, start + PACE * 5), None, "it is told once");
        one.state.report_success();
        let (.., health, reason) = only(observer.look(&table, start + PACE * 6));
        assert_eq!((health, reason.is_empty()), (EndpointHealth::Well, true));
        assert!(observer.unwell.is_empty());
    }

    #[test]
    fn a_new_stream_is_told_again_who_is_not_well() {
        let (table, start) = (table(&[3]), Instant::now());
        let mut observer = Observer::default();
        members(&table)[1].state.report_failure();
        for _ in 0..2 {
            observer.begin(&table, true, 1, start);
            assert_eq!(only(observer.look(&table, start)).2, EndpointHealth::CoolingDown);
        }
        observer.begin(&table, false, 1, start);
        assert_eq!(observer.due(), None, "nobody listens");
    }

    proptest! {
        // Each case makes tables of up to 2,800 instances.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn however_many_there_are_each_answer_is_told_once(
            sizes in vec(0..700_usize, 1..5), lot: usize, answers in vec(0..2_000_usize, 0..900)
        ) {
            let (table, start) = (table(&sizes), Instant::now());
            let members = members(&table);
            let mut observer = Observer::default();
            observer.begin(&table, true, lot % 1_000, start);
            let mut expected: BTreeMap<String, u32> = BTreeMap::new();
            for at in answers.iter().filter(|_| !members.is_empty()) {
                let member = &members[at % members.len()];
                answer(member, false);
                *expected.entry(member.endpoint.key.to_string()).or_default() += 1;
            }
            let mut told: BTreeMap<String, u32> = BTreeMap::new();
            // A walk of all of them, and the rest of the round in which they were counted.
            for turn in 0..12 {
                let Some(observed) = observer.look(&table, start + PACE * turn) else { continue };
                prop_assert!(observed.instances.len() <= MOST_TOLD);
                for one in observed.instances {
                    let key = one.key.expect("a key");
                    *told.entry(format!("{}/{}", key.service, key.id)).or_default() += one.succeeded;
                }
            }
            prop_assert_eq!(told, expected);
        }
    }
}
