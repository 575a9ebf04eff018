//! The endpoints that are checked: who they are, what their checks have come to, and when the next one is due.
//!
//! It follows tables: an endpoint that a service lists and whose policy asks for checks is a patient, and no other. One
//! that leaves, or whose policy does, is forgotten, and is not ill any more where it is the policy that left.
//!
//! Deliberately absent: the checks themselves, and the clock.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use fastrand::Rng;
use tokio::time::Instant;
use waypost_proto::name::ServiceKey;

use super::{illness::Vitals, pace, rules::CheckRules};
use crate::table::{EndpointId, EndpointState, ServiceTable};

/// An endpoint that is checked.
struct Patient {
    endpoint: Arc<EndpointState>,
    rules: Arc<CheckRules>,
    vitals: Vitals,
    /// When its next check is due; `None` while one is under way.
    due: Option<Instant>,
}

/// Those of all services.
#[derive(Default)]
pub(super) struct Patients {
    all: HashMap<EndpointId, Patient>,
    of_service: HashMap<ServiceKey, Vec<EndpointId>>,
}

/// What a result of a check has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is ill from now on.
    Worse,
    /// It is well from now on.
    Better,
}

impl Patients {
    /// Follows a service. Gives when checks of endpoints that are new, or checked in another way from now on, are due.
    pub(super) fn follow(
        &mut self,
        service: &ServiceTable,
        now: Instant,
        rng: &mut Rng,
    ) -> Vec<(Instant, EndpointId)> {
        let rules = service.traffic().and_then(|traffic| traffic.health.checks.as_ref());
        let Some(rules) = rules else {
            self.forget(service.key());
            // Whoever is declared to be checked again begins as one who is new.
            service.members().iter().for_each(|member| member.state.set_illness(None));
            return Vec::new();
        };
        let members = service.endpoints().members();
        let mut due = Vec::new();
        for endpoint in members {
            let known = self.all.get(&endpoint.id()).filter(|known| *known.rules == **rules);
            if known.is_some() {
                continue;
            }
            let vitals = Vitals::known(endpoint.conduct().ejection.is_ill());
            let first = now + pace::first(rules.interval, rng);
            due.push((first, endpoint.id()));
            let (endpoint, rules) = (Arc::clone(endpoint), Arc::clone(rules));
            self.all.insert(endpoint.id(), Patient { endpoint, rules, vitals, due: Some(first) });
        }
        let listed: Vec<EndpointId> = members.iter().map(|member| member.id()).collect();
        let before = self.of_service.insert(service.key().clone(), listed).unwrap_or_default();
        let listed: HashSet<EndpointId> = members.iter().map(|member| member.id()).collect();
        for id in before.iter().filter(|id| !listed.contains(id)) {
            self.all.remove(id);
        }
        due
    }

    /// Forgets a service.
    pub(super) fn forget(&mut self, service: &ServiceKey) {
        for id in self.of_service.remove(service).unwrap_or_default() {
            if let Some(patient) = self.all.remove(&id) {
                patient.endpoint.set_illness(None);
            }
        }
    }

    /// The endpoint whose check is due, by a time that was given before. `None`: that time is not the one of now.
    pub(super) fn begin(
        &mut self,
        id: EndpointId,
        due: Instant,
    ) -> Option<(Arc<EndpointState>, Arc<CheckRules>)> {
        let patient = self.all.get_mut(&id).filter(|patient| patient.due == Some(due))?;
        patient.due = None;
        Some((Arc::clone(&patient.endpoint), Arc::clone(&patient.rules)))
    }

    /// The name of one, for logs.
    pub(super) fn name(&self, id: EndpointId) -> String {
        self.all.get(&id).map(|patient| patient.endpoint.key().to_string()).unwrap_or_default()
    }

    /// Takes note of a result. Gives when the next check is due, and what has changed. `None`: it is not checked any
    /// more, or in another way.
    pub(super) fn end(
        &mut self,
        id: EndpointId,
        result: &Result<(), String>,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<(Instant, Option<Turn>)> {
        let patient = self.all.get_mut(&id).filter(|patient| patient.due.is_none())?;
        let changed = patient.vitals.observe(result.is_ok(), patient.rules.thresholds);
        let ill = patient.vitals.is_ill();
        match result {
            Err(why) if ill => patient.endpoint.set_illness(Some(why)),
            _ if changed => patient.endpoint.set_illness(None),
            _ => {}
        }
        let next = now + pace::jittered(patient.rules.interval, rng);
        patient.due = Some(next);
        Some((next, changed.then_some(if ill { Turn::Worse } else { Turn::Better })))
    }
}
