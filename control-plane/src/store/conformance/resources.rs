//! What stores promise of declared resources.

use std::{collections::BTreeMap, sync::Arc};

use super::{Fixture, put, samples::declare};
use crate::store::{Loaded, MOST_BYTES, MOST_DECLARED, Mutation, Resource, Written};

/// Several at once, all or none, with the past that they were given.
pub(super) async fn are_declared_together(fixture: &Fixture) {
    let start = fixture.load().await.revision;
    let first = fixture.committed(Mutation::Declare(vec![declare(1, None), declare(2, None)])).await;
    for wrong in [None, Some(start), Some(first + 9)] {
        let together = vec![declare(3, None), declare(1, Some(first)), declare(2, wrong)];
        assert!(fixture.is_conflict(Mutation::Declare(together)).await, "expected {wrong:?}");
    }
    assert!(fixture.is_conflict(Mutation::Declare(vec![declare(3, Some(first))])).await);
    let held = |loaded: Loaded| -> BTreeMap<String, Arc<Resource>> {
        loaded.resources.into_iter().map(|held| (held.key.name().to_owned(), held)).collect()
    };
    let before = held(fixture.load().await);
    assert_eq!(before.len(), 2, "what was refused has left nothing: {before:?}");
    let mut next = declare(2, Some(first));
    next.resource = before["route-2"].next("".into(), "bob", fixture.now().wall);
    let second = fixture.committed(Mutation::Declare(vec![next.clone(), declare(3, None)])).await;
    let loaded = held(fixture.load().await);
    assert_eq!(*loaded["route-2"], Resource { revision: second, ..next.resource });
    assert_eq!(loaded["route-2"].past[0].revision, first);
    let revisions: Vec<u64> = loaded.values().map(|held| held.revision).collect();
    assert_eq!(revisions, [first, second, second]);
    let mut watched = BTreeMap::new();
    for commit in fixture.collect(start, 2).await {
        let Written::Declared(resources) = &commit.written else { panic!("{commit:?}") };
        assert!(resources.iter().all(|resource| resource.revision == commit.revision), "{commit:?}");
        watched.extend(resources.iter().map(|held| (held.key.name().to_owned(), held.clone())));
    }
    assert_eq!(watched, loaded, "watching and loading come to the same");
}

/// The largest commit fits, beside others.
pub(super) async fn fill_a_commit(fixture: &Fixture) {
    let start = fixture.load().await.revision;
    let most = u8::try_from(MOST_DECLARED).expect("a small number");
    let mut all: Vec<_> = (0..most).map(|number| declare(number, None)).collect();
    for declare in &mut all {
        declare.resource.manifest = "\"".repeat(MOST_BYTES / MOST_DECLARED).into();
    }
    let (together, others) = tokio::join!(
        fixture.commit(Mutation::Declare(all)),
        futures_util::future::join_all(
            (0..30)
                .map(|number| { fixture.commit(put(fixture.record(&format!("users/i{number}"), 1), None)) })
        )
    );
    let revision = together.expect("it fits");
    assert!(others.iter().all(Result::is_ok), "{others:?}");
    let loaded = fixture.load().await;
    assert_eq!((loaded.resources.len(), loaded.records.len()), (MOST_DECLARED, 30));
    assert!(loaded.resources.iter().all(|held| held.revision == revision && held.manifest.len() > 1000));
    let watched = fixture.collect(start, 31).await;
    assert!(
        watched
            .iter()
            .any(|commit| matches!(&commit.written, Written::Declared(all) if all.len() == MOST_DECLARED))
    );
}
