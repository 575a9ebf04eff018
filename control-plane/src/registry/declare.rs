//! How resources are declared: planned from the newest view, committed, and planned again after a conflict.
//!
//! One commit takes a limited number of resources and bytes, so a large declaration is several, in the order of the
//! plan: whoever plans puts first what others need, so that each of them leaves something that works. Declarations of
//! one control plane come one after another; those of others are noticed where they change the same resource.
//!
//! Deliberately absent: what a good declaration is.

use std::time::SystemTime;

use waypost_proto::error::Error;

use super::{Registry, View};
use crate::store::{Declare, Mutation};

/// What a plan comes to.
#[derive(Debug)]
pub struct Declaration<T> {
    /// The resources to be written, each once; none where all is as it should be.
    pub declares: Vec<Declare>,
    /// What the caller wants to know of it.
    pub told: T,
}

impl Registry {
    /// Carries out a plan: a plain function of what there is and the time. Answers the revision that has all of it, and
    /// what the plan told when it was made for the last time.
    ///
    /// # Errors
    /// The plan's own, and that the store cannot be reached. Where the declaration is larger than one commit, a part
    /// of it may be done by then: the message says so.
    pub async fn declare<T>(
        &self,
        plan: impl Fn(&View, SystemTime) -> Result<Declaration<T>, Error>,
    ) -> Result<(u64, T), Error> {
        let _turn = self.declaring.lock().await;
        let mut written = 0;
        for _ in 0..super::change::ATTEMPTS {
            let view = self.view();
            let planned = plan(&view, self.planning_time(self.now()).wall);
            let Declaration { declares, told } = planned.map_err(|error| in_part(error, written))?;
            if declares.is_empty() {
                return Ok((view.revision(), told));
            }
            let mut newest = None;
            for batch in Declare::batches(declares) {
                let size = batch.len();
                let ours = self.now();
                let now = self.planning_time(ours);
                let committed = self.attempt(Mutation::Declare(batch), now, ours).await;
                newest = committed.map_err(|error| in_part(error, written))?;
                if newest.is_none() {
                    break;
                }
                written += size;
            }
            if let Some(revision) = newest {
                return Ok((revision, told));
            }
        }
        Err(in_part(super::change::contended("resources"), written))
    }
}

/// Says how much of a large declaration is done, if any is.
fn in_part(mut error: Error, written: usize) -> Error {
    if written > 0 {
        let done = format!("{written} of the resources are declared, the others are not: ");
        error.message.insert_str(0, &done);
    }
    error
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use waypost_proto::{
        error::ErrorCode,
        resource::{Kind, ResourceKey},
    };

    use super::*;
    use crate::{
        registry::Options,
        store::{MOST_DECLARED, Memory, Resource, Store},
    };

    async fn open(store: &Arc<Memory>) -> Arc<Registry> {
        let store: Arc<dyn Store> = store.clone();
        Registry::open(store, Options { shared: true, ..Options::default() }).await.expect("it opens")
    }

    fn key(number: usize) -> ResourceKey {
        ResourceKey::new(Kind::ConfigMap, "", &format!("config-{number}")).expect("a good name")
    }

    fn manifest(key: &ResourceKey, value: u64) -> String {
        let name = key.name();
        format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"default"}},"data":{{"n":"{value}"}}}}"#
        )
    }

    fn value(view: &View, key: &ResourceKey) -> u64 {
        let text = view.resource(key).map(|held| held.resource.manifest.to_string()).unwrap_or_default();
        let digits = text.split("\"n\":\"").nth(1).unwrap_or_default();
        digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or_default()
    }

    fn next(view: &View, key: &ResourceKey, value: u64, now: SystemTime) -> Declare {
        let manifest: Arc<str> = manifest(key, value).into();
        let held = view.resource(key).map(|held| &held.resource);
        let resource = match held {
            Some(held) => held.next(manifest, "test", now),
            None => Resource::first(key.clone(), manifest, "test", now),
        };
        Declare { resource, expected: held.map(|held| held.revision) }
    }

    #[tokio::test]
    async fn none_of_those_who_declare_the_same_resource_at_once_is_lost() {
        let store = Arc::new(Memory::new());
        let replicas = [open(&store).await, open(&store).await];
        let count = |registry: Arc<Registry>| async move {
            for _ in 0..20 {
                let increment = |view: &View, now: SystemTime| {
                    let declares = vec![next(view, &key(0), value(view, &key(0)) + 1, now)];
                    Ok(Declaration { declares, told: () })
                };
                registry.declare(increment).await.expect("it is declared");
            }
        };
        let each =
            [&replicas[0], &replicas[0], &replicas[1]].map(|registry| tokio::spawn(count(registry.clone())));
        for task in each {
            task.await.expect("it goes through");
        }
        for registry in &replicas {
            assert!(registry.wait_for(60).await);
            let view = registry.view();
            assert_eq!(value(&view, &key(0)), 60, "each has seen the one before");
            let held = view.resource(&key(0)).expect("it is there");
            assert_eq!((held.resource.generation, held.resource.revision), (60, 60));
            assert_eq!(held.in_force().map(|declared| declared.generation), Some(60));
        }
    }

    #[tokio::test]
    async fn a_declaration_larger_than_a_commit_is_finished_from_where_another_one_came_between() {
        let store = Arc::new(Memory::new());
        let (registry, other) = (open(&store).await, open(&store).await);
        let interfere = |view: &View, now: SystemTime| {
            Ok(Declaration { declares: vec![next(view, &key(30), 7, now)], told: () })
        };
        let attempts = std::sync::atomic::AtomicUsize::new(0);
        let all = |view: &View, now: SystemTime| {
            attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let missing = (0..40).map(key).filter(|key| value(view, key) != 1);
            let declares: Vec<Declare> = missing.map(|key| next(view, &key, 1, now)).collect();
            Ok(Declaration { told: declares.len(), declares })
        };
        // The registry has planned before it learns of what the other one does.
        let before = registry.view();
        other.declare(interfere).await.expect("it is declared");
        let stale = |view: &View, now: SystemTime| {
            let first = attempts.load(std::sync::atomic::Ordering::Relaxed) == 0;
            all(if first { &before } else { view }, now)
        };
        let (revision, told) = registry.declare(stale).await.expect("it is declared");
        assert_eq!(told, 40 - MOST_DECLARED, "the second attempt goes on behind the first commit");
        assert_eq!(attempts.into_inner(), 2);
        assert_eq!(revision, 1 + 3, "the other one's, and three");
        let view = registry.view();
        assert!((0..40).all(|number| value(&view, &key(number)) == 1));
        assert_eq!(view.resource(&key(30)).map(|held| held.resource.generation), Some(2));
    }

    #[tokio::test]
    async fn a_plan_that_fails_changes_nothing() {
        let registry = open(&Arc::new(Memory::new())).await;
        let refused = |_: &View, _| Err::<Declaration<()>, _>(Error::new(ErrorCode::NotFound, "no"));
        assert_eq!(registry.declare(refused).await.expect_err("it is refused").message, "no");
        let nothing = |_: &View, _| Ok(Declaration { declares: Vec::new(), told: () });
        assert_eq!(registry.declare(nothing).await.expect("nothing to do").0, 0);
        assert_eq!(registry.view().revision(), 0);
    }
}
