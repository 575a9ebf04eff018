//! Which services panic, looked at once a second while any may: so that the log says when one begins to, and when it is over.
//!
//! Requests find a panic out for themselves ([`super::panic`]), each set on its own and only while somebody is passed over.
//! None of them sees its end.
//!
//! Deliberately absent: what is done about it.

use std::collections::HashMap;

use tokio::time::{Duration, Instant};
use waypost_proto::name::ServiceKey;

use super::Heed;
use crate::table::{ServiceTable, Table};

/// From one look to the next.
const PACE: Duration = Duration::from_secs(1);

/// Those that panic.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    due: Option<Instant>,
    /// Each with whether it was found by the last look.
    panicking: HashMap<ServiceKey, bool>,
}

impl Alarm {
    /// When to look next; `None`: never by this table.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Follows a table. Where no service may panic there is nothing to look at, but for the end of what was.
    pub(super) fn follow(&mut self, table: &Table, now: Instant) {
        let watches = !self.panicking.is_empty() || table.services().any(|service| may_panic(service));
        self.due = watches.then(|| self.due.unwrap_or(now + PACE));
    }

    /// Looks, and gives who began to panic and why, and whose panic is over.
    pub(super) fn look(
        &mut self,
        table: &Table,
        now: Instant,
    ) -> (Vec<(ServiceKey, String)>, Vec<ServiceKey>) {
        self.panicking.values_mut().for_each(|found| *found = false);
        let mut began = Vec::new();
        for service in table.services().filter(|service| may_panic(service)) {
            if let Some(why) = service.panics()
                && self.panicking.insert(service.key().clone(), true).is_none()
            {
                began.push((service.key().clone(), why));
            }
        }
        let over = self.panicking.extract_if(|_, found| !*found).map(|(key, _)| key).collect();
        self.due = None;
        self.follow(table, now);
        (began, over)
    }
}

fn may_panic(service: &ServiceTable) -> bool {
    service.traffic().is_some_and(|traffic| traffic.health.heed() != Heed::default())
}
