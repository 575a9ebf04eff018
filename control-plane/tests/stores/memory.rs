//! The memory store.

use std::sync::Arc;

use libtest_mimic::Trial;
use waypost_control_plane::store::{
    Memory,
    conformance::{Fixture, ManualClock, Time},
};

use crate::{Histories, Open, Opened, every_promise};

pub(crate) fn trials() -> Vec<Trial> {
    let open: Open = Arc::new(|| {
        Box::pin(async {
            let fixture = Fixture::new(Arc::new(Memory::new()), Time::Manual(ManualClock::new()));
            Opened { fixture, _holds: Box::new(()) }
        })
    });
    every_promise("memory", &open, Histories { count: 50, steps: 60 })
}
