//! The registry's state machine: commits in the store's order go in, views and publications come out.
//!
//! It is a plain function of the commits: replicas that follow the same store hold the same.
//!
//! Deliberately absent: a clock, I/O, and the decision to change anything (see `plan` and `sweep`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    snapshot::{Change, Snapshot},
    v1,
};

use super::{
    Publication,
    view::{LostClaim, Summary, View},
};
use crate::{
    compile::{Compiled, Compiler, Reelection},
    store::{Commit, EmptyService, Loaded, Now, PastEvent, Record, Written},
};

/// What follows from one commit.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// For proxies, if it matters to them.
    pub(super) publication: Option<Publication>,
    /// The instance that changed, came or left.
    pub(super) changed: Option<InstanceKey>,
    /// The claims that lost by this, and had not before.
    pub(super) new_conflicts: Vec<v1::Conflict>,
}

/// What ends by itself, by the wall clock.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Instances whose override has ended.
    pub(super) overrides: Vec<InstanceKey>,
    /// Services that have been empty for longer than they are kept.
    pub(super) services: Vec<ServiceKey>,
    /// When the next thing ends.
    pub(super) next: Option<SystemTime>,
}

/// The state.
#[derive(Debug)]
pub(super) struct State {
    view: View,
    compiler: Compiler,
    /// By when they end.
    overrides: BTreeSet<(SystemTime, InstanceKey)>,
    /// By when they were emptied.
    empty_services: BTreeSet<(SystemTime, ServiceKey)>,
    history_limit: usize,
}

enum Step {
    Write(Written),
    Keep(Arc<EmptyService>),
}

impl State {
    /// What a store holds. `history_limit` is the number of events that are kept.
    pub(super) fn load(loaded: Loaded, history_limit: usize, at: Now) -> Self {
        let mut state = Self {
            view: View::empty(loaded.history.clone()),
            compiler: Compiler::default(),
            overrides: BTreeSet::new(),
            empty_services: BTreeSet::new(),
            history_limit,
        };
        state.catch_up(loaded, at);
        state
    }

    /// The view as of now.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// All that proxies need as of now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let change = Change {
            services: self.view.services.keys().cloned().collect(),
            instances: self.view.instances.values().map(|record| record.endpoint()).collect(),
            routes: self.view.routes.values().map(|election| (*election.route).clone()).collect(),
            ..Change::default()
        };
        Snapshot::empty(&self.view.history)
            .change(change, self.view.head, self.view.settled)
            .expect("every instance and every elected route has its service in the view")
            .0
    }

    /// Takes the next commit.
    pub(super) fn apply(&mut self, commit: &Commit) -> Applied {
        let applied = self.step(&Step::Write(commit.written.clone()), commit.revision, commit.at);
        if let Some(event) = &commit.event {
            let past = PastEvent { revision: commit.revision, at: commit.at.wall, event: event.clone() };
            self.remember(Arc::new(past));
        }
        applied
    }

    fn remember(&mut self, past: Arc<PastEvent>) {
        self.view.events.push_back(past);
        while self.view.events.len() > self.history_limit {
            self.view.events.pop_front();
        }
    }

    /// Takes all that a store holds, in place of commits that it no longer remembers. Each difference stands
    /// for at least one of these commits, and takes the place of one in the order of revisions.
    pub(super) fn catch_up(&mut self, mut loaded: Loaded, at: Now) -> Vec<Applied> {
        let revision = loaded.revision;
        let known = self.view.revision;
        let missed = std::mem::take(&mut loaded.events).into_iter();
        missed.filter(|past| past.revision > known).for_each(|past| self.remember(past));
        let steps = self.differences(loaded);
        let count = steps.len() as u64;
        let apply = |(index, step): (u64, Step)| {
            let place = revision.saturating_sub(count - 1 - index).max(self.view.revision);
            self.step(&step, place, at)
        };
        let applied = (0..).zip(steps).map(apply).collect();
        self.view.revision = revision;
        applied
    }

    /// What ends by itself at or before `now`, where empty services are kept since `kept_since`.
    pub(super) fn due(&self, now: SystemTime, kept_since: SystemTime) -> Due {
        let ended = self.overrides.iter().take_while(|(at, _)| *at <= now);
        let old = self.empty_services.iter().take_while(|(at, _)| *at <= kept_since);
        let kept = now.duration_since(kept_since).unwrap_or_default();
        let next_override = self.overrides.iter().map(|(at, _)| *at).find(|at| *at > now);
        let next_service = self.empty_services.iter().map(|(at, _)| *at).find(|at| *at > kept_since);
        Due {
            overrides: ended.map(|(_, key)| key.clone()).collect(),
            services: old.map(|(_, key)| key.clone()).collect(),
            next: next_override.into_iter().chain(next_service.map(|at| at + kept)).min(),
        }
    }

    /// The steps from here to what a store holds. New instances come before old ones go, so that no service
    /// is without instances in between.
    fn differences(&self, loaded: Loaded) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut left: BTreeMap<ServiceKey, usize> = BTreeMap::new();
        let mut kept: BTreeSet<InstanceKey> = BTreeSet::new();
        for record in loaded.records {
            *left.entry(record.key().service().clone()).or_default() += 1;
            kept.insert(record.key().clone());
            if self.view.record(record.key()).is_none_or(|held| held.revision != record.revision) {
                steps.push(Step::Write(Written::Put(record)));
            }
        }
        let empty: BTreeMap<&ServiceKey, &Arc<EmptyService>> =
            loaded.empty_services.iter().map(|empty| (&empty.key, empty)).collect();
        let gone: Vec<&InstanceKey> = self.view.instances.keys().filter(|key| !kept.contains(key)).collect();
        for (at, key) in gone.iter().enumerate() {
            let last = gone.get(at + 1).is_none_or(|next| next.service() != key.service());
            let emptied = last && !left.contains_key(key.service());
            let emptied = empty.get(key.service()).filter(|_| emptied).map(|empty| Arc::clone(empty));
            steps.push(Step::Write(Written::Removed { key: (*key).clone(), emptied }));
        }
        for (service, summary) in &self.view.services {
            if !left.contains_key(service) && !empty.contains_key(service) {
                steps.push(Step::Write(Written::Forgotten(service.clone())));
            } else if let (Some(held), Some(now)) = (&summary.empty, empty.get(service))
                && held.revision != now.revision
            {
                steps.push(Step::Keep(Arc::clone(now)));
            }
        }
        let unknown = empty.values().filter(|empty| !self.view.services.contains_key(&empty.key));
        steps.extend(unknown.map(|empty| Step::Keep(Arc::clone(empty))));
        if loaded.complete && !self.view.settled {
            steps.push(Step::Write(Written::Completed));
        }
        steps
    }

    fn step(&mut self, step: &Step, revision: u64, at: Now) -> Applied {
        let mut changed = None;
        let mut completed = false;
        let compiled = match step {
            Step::Write(Written::Put(record)) => {
                changed = Some(record.key().clone());
                self.put(record)
            }
            Step::Write(Written::Removed { key, emptied }) => {
                changed = Some(key.clone());
                self.remove(key, emptied.as_ref())
            }
            Step::Write(Written::Forgotten(service)) => {
                self.fill(service);
                self.view.services.remove(service);
                self.compiler.forget(service)
            }
            Step::Write(Written::Completed) => {
                completed = !self.view.settled;
                self.view.settled = true;
                Compiled::default()
            }
            Step::Keep(empty) => {
                self.empty(empty);
                self.compiler.keep(empty.clone())
            }
        };
        self.view.revision = revision;
        let new_conflicts =
            compiled.elections.into_iter().flat_map(|election| self.reelect(election)).collect();
        let matters = completed || !compiled.change.is_empty();
        let publication = matters.then(|| {
            self.view.head = revision;
            Publication {
                revision,
                change: compiled.change,
                committed_at: (at.monotonic, at.wall),
                settled: self.view.settled,
            }
        });
        Applied { publication, changed, new_conflicts }
    }

    fn put(&mut self, record: &Arc<Record>) -> Compiled {
        let key = record.key();
        self.fill(key.service());
        let before = self.view.instances.insert(key.clone(), record.clone());
        let since = record.service_since;
        let fresh = || Arc::new(Summary { since, counts: [0; 4], empty: None });
        let summary = Arc::make_mut(self.view.services.entry(key.service().clone()).or_insert_with(fresh));
        if let Some(before) = &before {
            *summary.count(before.state()) -= 1;
        }
        *summary.count(record.state()) += 1;
        if let Some(before) = &before {
            self.forget_override(before);
        }
        if let Some(word) = &record.overridden {
            self.overrides.insert((word.expires_at, key.clone()));
        }
        self.compiler.put(before.as_deref(), record)
    }

    fn remove(&mut self, key: &InstanceKey, emptied: Option<&Arc<EmptyService>>) -> Compiled {
        let Some(before) = self.view.instances.remove(key) else { return Compiled::default() };
        self.forget_override(&before);
        if let Some(summary) = self.view.services.get_mut(key.service()) {
            *Arc::make_mut(summary).count(before.state()) -= 1;
        }
        if let Some(empty) = emptied {
            self.empty(empty);
        }
        self.compiler.remove(&before, emptied.cloned())
    }

    fn forget_override(&mut self, record: &Record) {
        if let Some(word) = &record.overridden {
            self.overrides.remove(&(word.expires_at, record.key().clone()));
        }
    }

    /// A service is without instances from now on.
    fn empty(&mut self, empty: &Arc<EmptyService>) {
        self.fill(&empty.key);
        self.empty_services.insert((empty.emptied_at, empty.key.clone()));
        let fresh = || Arc::new(Summary { since: empty.since, counts: [0; 4], empty: None });
        let summary = self.view.services.entry(empty.key.clone()).or_insert_with(fresh);
        Arc::make_mut(summary).empty = Some(empty.clone());
    }

    /// A service is not without instances any more.
    fn fill(&mut self, service: &ServiceKey) {
        if self.view.services.get(service).is_some_and(|summary| summary.empty.is_some()) {
            let summary = self.view.services.get_mut(service).expect("it was there a line ago");
            if let Some(empty) = Arc::make_mut(summary).empty.take() {
                self.empty_services.remove(&(empty.emptied_at, service.clone()));
            }
        }
    }

    /// Takes over how an election came out. Answers the conflicts that are new.
    fn reelect(&mut self, election: Reelection) -> Vec<v1::Conflict> {
        let Reelection { route, before, after } = election;
        let lost_before = before.as_ref().map_or(&[][..], |before| &before.shadowed);
        for lost in lost_before {
            self.view.lost.remove(&(lost.service.clone(), route.clone()));
        }
        let Some(after) = after else {
            self.view.routes.remove(&route);
            return Vec::new();
        };
        for lost in &after.shadowed {
            let claim = LostClaim { election: after.clone(), claimed_at: lost.claimed_at };
            self.view.lost.insert((lost.service.clone(), route.clone()), claim);
        }
        self.view.routes.insert(route, after.clone());
        let known = |service: &ServiceKey| lost_before.iter().any(|lost| lost.service == *service);
        let new = after.shadowed.iter().filter(|lost| !known(&lost.service));
        new.map(|lost| after.conflict(&lost.service)).collect()
    }
}

#[cfg(test)]
mod tests;
