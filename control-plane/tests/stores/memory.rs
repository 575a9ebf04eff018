//! The memory store.

use std::sync::Arc;

use libtest_mimic::Trial;
use waypost_control_plane::store::{
    Memory,
    conformance::{Fixture, ManualClock, Time},
};

use crate::{Histories, Open, Opened, every_promise, history, trial};

pub(crate) fn trials() -> Vec<Trial> {
    let open: Open = Arc::new(|| {
        Box::pin(async {
            let fixture = Fixture::new(Arc::new(Memory::new()), Time::Manual(ManualClock::new()));
            Opened { fixture, _holds: Box::new(()) }
        })
    });
    let mut trials = every_promise("memory", &open, Histories { count: 50, steps: 60 });
    trials.push(trial("memory", "a history of concurrent operations is linearizable", async || {
        let store = Arc::new(Memory::new());
        history::hold_under(vec![store.clone(), store], async {}).await;
    }));
    trials
}
