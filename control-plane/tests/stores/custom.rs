//! A store of one's own: the example keeps every promise, and does what it is an example of.

use std::sync::Arc;

use libtest_mimic::Trial;
use waypost_control_plane::store::{
    Memory, Mutation, Store,
    conformance::{Fixture, ManualClock, Time},
};

use self::custom_store::Audited;
use crate::{Histories, Open, Opened, every_promise, trial};

#[allow(dead_code, unreachable_pub)] // its `main` starts a control plane
#[path = "../../examples/custom_store.rs"]
mod custom_store;

const NAME: &str = "a store of one's own";

pub(crate) fn trials() -> Vec<Trial> {
    let open: Open = Arc::new(|| {
        Box::pin(async {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let audited = Audited::new(Arc::new(Memory::new()), &directory.path().join("audit.log"));
            let store = Arc::new(audited.expect("a file"));
            let fixture = Fixture::new(store, Time::Manual(ManualClock::new()));
            Opened { fixture, _holds: Box::new(directory) }
        })
    });
    let mut trials = every_promise(NAME, &open, Histories { count: 5, steps: 60 });
    trials.push(trial(NAME, "every commit is noted", every_commit_is_noted));
    trials
}

async fn every_commit_is_noted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("audit.log");
    let store = Audited::new(Arc::new(Memory::new()), &file).expect("a file");
    let now = ManualClock::new().now();
    let service = "users".parse().expect("a service");
    store.commit(Mutation::Complete, now).await.expect("it commits");
    store.commit(Mutation::Forget { service, expected: 7 }, now).await.expect_err("there is none");
    store.commit(Mutation::Complete, now).await.expect("it commits");
    let noted = std::fs::read_to_string(&file).expect("it is there");
    assert_eq!(noted, "1 complete\n2 complete\n");
}
