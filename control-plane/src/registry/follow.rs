//! How the registry keeps up with its store: commits come in, in order, and what they change is shown.
//!
//! A watch that breaks is resumed from the view's revision; where the store no longer remembers that, all
//! that it holds is loaded and the difference applied.
//!
//! Deliberately absent: decisions; all of them were made before the commit.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::sync::broadcast;
use waypost_proto::v1::{self, EventKind};

use super::{
    Held, InstancesChanged, Registry, WATCH_BUFFER, greatest_epoch,
    state::{Applied, State},
};
use crate::store::{Commit, Loaded, StoreError, Watch, Written};

/// How many commits are applied before a view shows them, at most.
const BATCH: usize = 1024;
/// How long to wait before the store is followed again after an error.
const FOLLOW_AGAIN: Duration = Duration::from_millis(500);
/// How many expiries are noted between two sweeps, at most.
const MOST_EXPIRED: usize = 10_000;

/// Follows the store as long as the registry lives.
pub(super) async fn follow(registry: Weak<Registry>) {
    let mut watch = resume(&registry, None).await;
    while let Some(commits) = watch {
        let Some(failure) = follow_watch(&registry, commits).await else { return };
        watch = resume(&registry, Some(failure)).await;
    }
}

/// Applies commits until the watch fails, and answers why it did; `None` once the registry is gone.
async fn follow_watch(registry: &Weak<Registry>, watch: Watch) -> Option<StoreError> {
    let mut chunks = watch.ready_chunks(BATCH);
    while let Some(chunk) = chunks.next().await {
        let registry = registry.upgrade()?;
        let mut failure = None;
        let good = |commit: Result<_, StoreError>| commit.map_err(|error| failure = Some(error)).ok();
        let commits: Vec<Arc<Commit>> = chunk.into_iter().map_while(good).collect();
        if let Some(back) = registry.goes_back(&commits) {
            tracing::warn!(revision = back, "the store's revisions go back, loading it again");
            return match registry.store.load().await {
                Ok(loaded) => {
                    registry.catch_up(loaded);
                    Some(StoreError::Unavailable("its revisions went back".to_owned()))
                }
                Err(error) => Some(error),
            };
        }
        registry.apply(&commits);
        if failure.is_some() {
            return failure;
        }
    }
    Some(StoreError::Unavailable("the watch has ended".to_owned()))
}

/// Begins to follow the store, at once or a while after a failure, from where the view stands or, if that is no longer remembered, from all
/// that the store holds. `None` once the registry is gone.
async fn resume(registry: &Weak<Registry>, mut failure: Option<StoreError>) -> Option<Watch> {
    let mut loaded_before = false;
    loop {
        if let Some(error) = &failure {
            let stopping = {
                let registry = registry.upgrade()?;
                registry.store.unwatched(error);
                registry.stopping.clone()
            };
            // At the end the store may well be gone first, which is nobody's concern then.
            if stopping.is_cancelled() {
                return None;
            }
            tracing::warn!(%error, "the store cannot be followed, trying again");
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_AGAIN) => {}
                () = stopping.cancelled() => return None,
            }
        }
        let registry = registry.upgrade()?;
        let after = registry.view().revision();
        match registry.store.watch(after).await {
            Ok(watch) => {
                registry.store.watched();
                return Some(watch);
            }
            Err(StoreError::Compacted { oldest }) => {
                tracing::info!(after, oldest, "the store no longer remembers all changes, loading it again");
                let loaded = registry.store.load().await;
                failure = loaded.map(|loaded| registry.catch_up(loaded)).err();
                if std::mem::replace(&mut loaded_before, true) {
                    tokio::time::sleep(FOLLOW_AGAIN).await;
                }
            }
            Err(error) => failure = Some(error),
        }
    }
}

fn log(commit: &Commit) {
    let Some(event) = &commit.event else { return };
    let (revision, instance, epoch) = (commit.revision, &event.instance, event.epoch);
    let (kind, reason, actor) = (event.kind.as_str_name(), &event.reason, &*event.actor);
    match event.kind {
        EventKind::Suspect | EventKind::Share => {
            tracing::warn!(revision, %instance, epoch, reason, actor, kind, "instance changed");
        }
        EventKind::Expired | EventKind::Override => {
            tracing::info!(revision, %instance, epoch, reason, actor, kind, "instance changed");
        }
        _ => tracing::debug!(revision, %instance, epoch, reason, actor, kind, "instance changed"),
    }
}

impl Registry {
    /// Applies commits, in order, and then shows all of them at once.
    fn apply(&self, commits: &[Arc<Commit>]) {
        let mut state = self.state.lock();
        let mut results = Vec::with_capacity(commits.len());
        for commit in commits {
            self.note_expiry(&state, commit);
            let applied = state.apply(commit);
            if let Written::Declared(resources) = &commit.written {
                let held = resources.iter().filter_map(|resource| state.view().resource(&resource.key));
                held.for_each(Held::log);
            }
            self.epochs.fetch_max(commit.event.as_ref().map_or(0, |event| event.epoch), Ordering::AcqRel);
            log(commit);
            results.push(applied);
        }
        self.show(&state, results);
    }

    /// The first revision that should have come long ago; a store that has lost its data counts anew.
    fn goes_back(&self, commits: &[Arc<Commit>]) -> Option<u64> {
        let mut newest = self.view().revision();
        for commit in commits {
            if commit.revision <= newest {
                return Some(commit.revision);
            }
            newest = commit.revision;
        }
        None
    }

    /// A lease that another replica has found to be lapsed counts for our own judgement as well.
    fn note_expiry(&self, state: &State, commit: &Commit) {
        let Some(event) = commit.event.as_ref().filter(|event| event.kind == EventKind::Expired) else {
            return;
        };
        if state.view().record(&event.instance).is_some_and(|record| record.suspect.is_none()) {
            let mut expired = self.expired.lock();
            if expired.len() < MOST_EXPIRED {
                expired.push((event.instance.clone(), commit.at.monotonic));
            }
        }
    }

    /// Applies all that a store holds, where the commits in between are not remembered. A store that has begun
    /// a new history, or gone back in its own, has lost what it held: then everything begins anew, and what is
    /// missing is not known to be gone.
    fn catch_up(&self, mut loaded: Loaded) {
        let now = self.now();
        self.epochs.fetch_max(greatest_epoch(&loaded), Ordering::AcqRel);
        let mut state = self.state.lock();
        if *loaded.history == *state.view().history() && loaded.revision >= state.view().revision() {
            let applied = state.catch_up(loaded, now);
            state.view().resources().for_each(Held::log);
            return self.show(&state, vec![applied]);
        }
        tracing::error!(
            lost = state.view().revision(),
            history = &*loaded.history,
            revision = loaded.revision,
            "the store has lost what it held; clients register again by themselves"
        );
        loaded.complete = false;
        *state = State::load(loaded, self.options.limits(), now);
        state.view().resources().for_each(Held::log);
        *self.began.lock() = now.monotonic;
        // Whoever follows the old history is cut off, and asks again.
        self.feeds.lock().clear();
        *self.changes.lock() = broadcast::Sender::new(WATCH_BUFFER);
        self.show(&state, Vec::new());
    }

    /// Shows the state: the view, then what waits for it. Called under the state's lock, so that a feed that
    /// begins misses nothing and gets nothing twice.
    fn show(&self, state: &State, applied: Vec<Applied>) {
        let view = Arc::new(state.view().clone());
        let revision = view.revision();
        *self.view.write() = view;
        let mut keys = Vec::new();
        let mut feeds = self.feeds.lock();
        for applied in applied {
            for conflict in &applied.new_conflicts {
                let name = |key: &Option<v1::ServiceKey>| key.as_ref().map(|key| key.name.clone());
                tracing::warn!(
                    route = conflict.route,
                    winner = name(&conflict.winner),
                    loser = name(&conflict.loser),
                    "two services claim the same route, the older claim wins"
                );
            }
            keys.extend(applied.changed);
            if let Some(publication) = applied.publication {
                feeds.retain(|feed| feed.send(publication.clone()).is_ok());
            }
        }
        drop(feeds);
        self.applied.send_replace(revision);
        let changes = self.changes.lock();
        if !keys.is_empty() && changes.receiver_count() > 0 {
            // Nobody may be listening any more, which is no failure.
            let _ = changes.send(Arc::new(InstancesChanged { revision, keys }));
        }
    }
}
