//! The registry's state machine: commits in the store's order go in, views and publications come out.
//!
//! It is a plain function of the commits: replicas that follow the same store hold the same.
//!
//! Deliberately absent: a clock, I/O, and the decision to change anything (see `plan` and `sweep`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    resource::ResourceKey,
    snapshot::{Change, Snapshot, Touched},
    v1,
};

use super::{
    Publication,
    deadlines::{Deadlines, Due, Seen},
    declared::{Declarations, give_way},
    reserved::is_reserved,
    view::{LostClaim, Summary, View},
};
use crate::{
    compile::{Compiled, Compiler, Reelection},
    store::{Commit, EmptyService, Loaded, Now, PastEvent, Record, Resource, Written},
};

/// What follows from one commit, or from all that a store holds.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// For proxies, if it matters to them.
    pub(super) publication: Option<Publication>,
    /// The instances that changed, came or left.
    pub(super) changed: Vec<InstanceKey>,
    /// The claims that lost by this, and had not before.
    pub(super) new_conflicts: Vec<v1::Conflict>,
}

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The number of events.
    pub(super) history: usize,
    /// How long services without instances are kept.
    pub(super) retention: Duration,
    /// How far the clocks of replicas may differ.
    pub(super) allowance: Duration,
}

/// The state.
#[derive(Debug)]
pub(super) struct State {
    view: View,
    compiler: Compiler,
    declarations: Declarations,
    deadlines: Deadlines,
    limits: Limits,
}

enum Step {
    Write(Written),
    Keep(Arc<EmptyService>),
    /// Resources that are not even kept for their past any more.
    Lose(Vec<ResourceKey>),
}

/// What a step does.
#[derive(Debug, Default)]
struct Stepped {
    /// To what proxies know.
    change: Change,
    /// Whether what is missing is known to be gone from now on, and was not before.
    completed: bool,
    changed: Option<InstanceKey>,
    new_conflicts: Vec<v1::Conflict>,
}

impl State {
    /// What a store holds.
    pub(super) fn load(loaded: Loaded, limits: Limits, at: Now) -> Self {
        let mut state = Self {
            view: View::empty(loaded.history.clone()),
            compiler: Compiler::default(),
            declarations: Declarations::default(),
            deadlines: Deadlines::new(limits.retention, limits.allowance),
            limits,
        };
        state.catch_up(loaded, at);
        // Which revision was the last to matter is not known; that these are the contents here is.
        state.view.head = state.view.revision;
        state
    }

    /// The view as of now.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// All that proxies need as of now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let routed = |service: &&ServiceKey| !is_reserved(service);
        let instances = self.view.instances.values().filter(|record| routed(&record.key().service()));
        let mut change = Change {
            services: self.view.services.keys().filter(routed).cloned().collect(),
            instances: instances.map(|record| record.endpoint()).collect(),
            routes: self.view.routes.values().map(|election| (*election.route).clone()).collect(),
            declared: self.view.gateway.entries.values().map(|entry| (**entry).clone()).collect(),
            ..Change::default()
        };
        for (service, endpoints) in self.view.externals() {
            change.services.push(service.clone());
            change.instances.extend(endpoints.iter().cloned());
        }
        Snapshot::empty(&self.view.history)
            .change(change, self.view.head, self.view.settled)
            .expect("every instance and every elected route has its service in the view")
            .0
    }

    /// Takes the next commit.
    pub(super) fn apply(&mut self, commit: &Commit) -> Applied {
        let seen = Seen::Committed(commit.at);
        let Stepped { change, completed, changed, new_conflicts } =
            self.step(&Step::Write(commit.written.clone()), commit.revision, seen);
        let after = commit.revision.saturating_sub(1);
        let publication = self.publication(change, completed, after, commit.at);
        if let Some(event) = &commit.event {
            let past = PastEvent { revision: commit.revision, at: commit.at.wall, event: event.clone() };
            self.remember(Arc::new(past));
        }
        Applied { publication, changed: changed.into_iter().collect(), new_conflicts }
    }

    /// Keeps an event. The order is that of the commits, whatever the clocks of those who made them say.
    fn remember(&mut self, mut past: Arc<PastEvent>) {
        if let Some(newest) = self.view.events.back().filter(|newest| newest.at > past.at) {
            past = Arc::new(PastEvent { at: newest.at, ..PastEvent::clone(&past) });
        }
        self.view.events.push_back(past);
        while self.view.events.len() > self.limits.history {
            self.view.events.pop_front();
        }
    }

    /// Takes all that a store holds, in place of commits that it no longer remembers. All differences are one
    /// change, at the revision that was loaded: the contents at those in between are not known.
    pub(super) fn catch_up(&mut self, mut loaded: Loaded, at: Now) -> Applied {
        let revision = loaded.revision;
        let known = self.view.revision;
        let missed = std::mem::take(&mut loaded.events).into_iter();
        missed.filter(|past| past.revision > known).for_each(|past| self.remember(past));
        let steps = self.differences(loaded);
        let mut applied = Applied::default();
        let mut touched = Touched::default();
        let mut completed = false;
        for step in steps {
            let stepped = self.step(&step, revision, Seen::Loaded(at));
            completed |= stepped.completed;
            note(&mut touched, stepped.change);
            applied.changed.extend(stepped.changed);
            applied.new_conflicts.extend(stepped.new_conflicts);
        }
        self.view.revision = revision;
        let change = self.change_of(touched);
        applied.publication = self.publication(change, completed, known, at);
        applied
    }

    /// What ends by itself at or before `now`.
    pub(super) fn due(&self, now: Instant) -> Due {
        self.deadlines.due(now)
    }

    /// What proxies are told, if it matters to them: the view's revision is the newest that did then.
    fn publication(&mut self, change: Change, completed: bool, after: u64, at: Now) -> Option<Publication> {
        if !completed && change.is_empty() {
            return None;
        }
        self.view.head = self.view.revision;
        Some(Publication {
            revision: self.view.revision,
            after,
            change,
            committed_at: (at.monotonic, at.wall),
            settled: self.view.settled,
        })
    }

    /// How what was touched is now.
    fn change_of(&self, touched: Touched) -> Change {
        let mut change = Change::default();
        for key in touched.services {
            if self.view.is_known(&key) {
                change.services.push(key);
            } else {
                change.removed_services.push(key);
            }
        }
        for key in touched.instances {
            match self.view.endpoint(&key) {
                Some(endpoint) => change.instances.push(endpoint),
                None => change.removed_instances.push(key),
            }
        }
        for id in touched.routes {
            match self.view.routes.get(&id) {
                Some(election) => change.routes.push((*election.route).clone()),
                None => change.removed_routes.push(id),
            }
        }
        for id in touched.declared {
            match self.view.gateway.entry(&id) {
                Some(entry) => change.declared.push((**entry).clone()),
                None => change.removed_declared.push(id),
            }
        }
        change
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
        steps.extend(self.declared_differently(&loaded.resources));
        if loaded.complete && !self.view.settled {
            steps.push(Step::Write(Written::Completed));
        }
        steps
    }

    /// The same for resources.
    fn declared_differently(&self, loaded: &[Arc<Resource>]) -> Vec<Step> {
        let kept: BTreeSet<&ResourceKey> = loaded.iter().map(|resource| &resource.key).collect();
        let gone = self.view.resources.keys().filter(|key| !kept.contains(key)).cloned().collect();
        let held = |key: &ResourceKey| self.view.resources.get(key).map(|held| held.resource.revision);
        let new = loaded.iter().filter(|resource| held(&resource.key) != Some(resource.revision));
        vec![Step::Lose(gone), Step::Write(Written::Declared(new.cloned().collect()))]
    }

    fn step(&mut self, step: &Step, revision: u64, seen: Seen) -> Stepped {
        let mut changed = None;
        let mut completed = false;
        let mut compiled = match step {
            Step::Write(Written::Put(record)) => {
                changed = Some(record.key().clone());
                self.put(record, seen)
            }
            Step::Write(Written::Removed { key, emptied }) => {
                changed = Some(key.clone());
                self.remove(key, emptied.as_ref(), seen)
            }
            Step::Write(Written::Forgotten(service)) => {
                self.fill(service);
                self.view.services.remove(service);
                if is_reserved(service) { Compiled::default() } else { self.compiler.forget(service) }
            }
            Step::Write(Written::Completed) => {
                completed = !self.view.settled;
                self.view.settled = true;
                Compiled::default()
            }
            Step::Write(Written::Declared(resources)) => self.declare(resources, &[], revision),
            Step::Lose(gone) => self.declare(&[], gone, revision),
            Step::Keep(empty) => {
                self.empty(empty, seen);
                if is_reserved(&empty.key) { Compiled::default() } else { self.compiler.keep(empty.clone()) }
            }
        };
        if !matches!(step, Step::Write(Written::Declared(_)) | Step::Lose(_)) {
            give_way(&self.view, &mut compiled.change);
        }
        self.view.revision = revision;
        let new_conflicts =
            compiled.elections.into_iter().flat_map(|election| self.reelect(election)).collect();
        Stepped { change: compiled.change, completed, changed, new_conflicts }
    }

    fn declare(&mut self, resources: &[Arc<Resource>], gone: &[ResourceKey], revision: u64) -> Compiled {
        if resources.is_empty() && gone.is_empty() {
            return Compiled::default();
        }
        let change = self.declarations.take(&mut self.view, resources, gone, revision);
        Compiled { change, ..Compiled::default() }
    }

    fn put(&mut self, record: &Arc<Record>, seen: Seen) -> Compiled {
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
        if record.failing.is_some() {
            self.view.failing.insert(key.clone());
        } else {
            self.view.failing.remove(key);
        }
        self.deadlines.put(record, seen);
        if is_reserved(key.service()) {
            return Compiled::default();
        }
        self.compiler.put(before.as_deref(), record)
    }

    fn remove(&mut self, key: &InstanceKey, emptied: Option<&Arc<EmptyService>>, seen: Seen) -> Compiled {
        let Some(before) = self.view.instances.remove(key) else { return Compiled::default() };
        self.deadlines.remove(key);
        self.view.failing.remove(key);
        if let Some(summary) = self.view.services.get_mut(key.service()) {
            *Arc::make_mut(summary).count(before.state()) -= 1;
        }
        if let Some(empty) = emptied {
            self.empty(empty, seen);
        }
        if is_reserved(key.service()) {
            return Compiled::default();
        }
        self.compiler.remove(&before, emptied.cloned())
    }

    /// A service is without instances from now on.
    fn empty(&mut self, empty: &Arc<EmptyService>, seen: Seen) {
        self.fill(&empty.key);
        self.deadlines.empty(empty, seen);
        let fresh = || Arc::new(Summary { since: empty.since, counts: [0; 4], empty: None });
        let summary = self.view.services.entry(empty.key.clone()).or_insert_with(fresh);
        Arc::make_mut(summary).empty = Some(empty.clone());
    }

    /// A service is not without instances any more.
    fn fill(&mut self, service: &ServiceKey) {
        if self.view.services.get(service).is_some_and(|summary| summary.empty.is_some()) {
            let summary = self.view.services.get_mut(service).expect("it was there a line ago");
            Arc::make_mut(summary).empty = None;
            self.deadlines.fill(service);
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

/// Notes what a change touches.
fn note(touched: &mut Touched, change: Change) {
    touched.services.extend(change.services.into_iter().chain(change.removed_services));
    touched.instances.extend(change.instances.into_iter().map(|endpoint| endpoint.key));
    touched.instances.extend(change.removed_instances);
    touched.routes.extend(change.routes.into_iter().map(|route| route.id));
    touched.routes.extend(change.removed_routes);
    touched.declared.extend(change.declared.into_iter().map(|entry| entry.id.into()));
    touched.declared.extend(change.removed_declared);
}

#[cfg(test)]
mod tests;
