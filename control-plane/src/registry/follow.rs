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
use waypost_proto::v1::{self, EventKind};

use super::{
    InstancesChanged, Registry,
    state::{Applied, State},
};
use crate::store::{Commit, Loaded, StoreError, Watch};

/// How many commits are applied before a view shows them, at most.
const BATCH: usize = 1024;
/// How long to wait before the store is followed again after an error.
const FOLLOW_AGAIN: Duration = Duration::from_millis(500);

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
    loop {
        if let Some(error) = &failure {
            tracing::warn!(%error, "the store cannot be followed, trying again");
            tokio::time::sleep(FOLLOW_AGAIN).await;
        }
        let registry = registry.upgrade()?;
        let after = registry.view().revision();
        match registry.store.watch(after).await {
            Ok(watch) => return Some(watch),
            Err(StoreError::Compacted { oldest }) => {
                tracing::info!(after, oldest, "the store no longer remembers all changes, loading it again");
                let loaded = registry.store.load().await;
                failure = loaded.and_then(|loaded| registry.catch_up(loaded)).err();
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
        EventKind::Suspect => {
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
            let applied = state.apply(commit);
            self.epochs.fetch_max(commit.event.as_ref().map_or(0, |event| event.epoch), Ordering::AcqRel);
            log(commit);
            results.push(applied);
        }
        self.show(&state, results);
    }

    /// Applies all that a store holds, where the commits in between are not remembered.
    fn catch_up(&self, loaded: Loaded) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if *loaded.history != *state.view().history() {
            let message = "it has begun a new history; restart this control plane to follow it";
            return Err(StoreError::Unavailable(message.to_owned()));
        }
        let greatest = loaded.records.iter().map(|record| record.epoch).max().unwrap_or(0);
        self.epochs.fetch_max(greatest, Ordering::AcqRel);
        let applied = state.catch_up(loaded, self.now());
        self.show(&state, applied);
        Ok(())
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
        if !keys.is_empty() && self.changes.receiver_count() > 0 {
            // Nobody may be listening any more, which is no failure.
            let _ = self.changes.send(Arc::new(InstancesChanged { revision, keys }));
        }
    }
}
