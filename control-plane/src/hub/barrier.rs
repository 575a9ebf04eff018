//! Waiting for the fleet: until a drained instance has nothing left, until a revision is applied.
//!
//! Both wait for an event and look again; neither polls. A proxy that connects meanwhile counts as well.

use std::{sync::Arc, time::Duration};

use tokio::{
    select,
    time::{Instant, sleep_until},
};
use waypost_proto::{time::wire_duration, v1};

use super::{Barrier, Hub};

/// A revision is applied by every live proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedEverywhere {
    /// The watermark now.
    pub watermark: u64,
    /// How many proxies are live.
    pub proxies: usize,
}

/// The deadline has passed, and some have not applied a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Those, sorted by id; none where the revision has not come to the hub.
    pub proxies: Vec<Arc<str>>,
    /// How many are live.
    pub live: usize,
    /// The newest revision that the hub knows.
    pub newest: u64,
    /// The watermark now.
    pub watermark: u64,
}

impl Hub {
    /// Waits until every live proxy has applied the barrier's revision and has nothing in flight to its
    /// instance, or for `deadline`. A proxy whose stream ends, or ended lately, is waited for a little
    /// longer: it may come back with requests still in flight. So are proxies of which nothing is known yet
    /// because the control plane has just started.
    pub async fn wait_drained(&self, barrier: &Barrier, deadline: Duration) -> v1::DrainOutcome {
        let started = Instant::now();
        let until = started + deadline;
        let mut moved = self.moved.subscribe();
        let mut last: Option<Arc<str>> = None;
        loop {
            moved.borrow_and_update();
            let now = Instant::now();
            // Most events do not concern the one that was waited for; then the others need no look.
            let same = last.as_ref().filter(|_| now < until).is_some_and(|id| {
                let core = self.core.lock();
                core.fleet().get(id).is_some_and(|record| record.connected)
                    && core.is_waited_for(id, barrier, now.into_std())
            });
            let mut wake = until;
            if !same {
                let remaining = self.core.lock().remaining(barrier, now.into_std());
                if remaining.is_nobody() || now >= until {
                    return v1::DrainOutcome {
                        complete: remaining.is_nobody(),
                        took: Some(wire_duration(now - started)),
                        in_flight: remaining.in_flight,
                        waiting_for: remaining.names(),
                    };
                }
                wake = remaining.look_again.map_or(until, |at| until.min(Instant::from_std(at)));
                last = remaining.proxies.into_iter().next();
            }
            select! {
                _ = moved.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Waits until every live proxy has applied a revision.
    ///
    /// # Errors
    /// `deadline` has passed; the error names the proxies that are behind.
    pub async fn wait_applied(&self, revision: u64, deadline: Duration) -> Result<AppliedEverywhere, Behind> {
        let until = Instant::now() + deadline;
        let mut moved = self.moved.subscribe();
        loop {
            moved.borrow_and_update();
            let behind = {
                let core = self.core.lock();
                let (newest, watermark, live) =
                    (core.newest(), core.watermark(), core.fleet().live().count());
                let proxies = core.behind(revision);
                if newest >= revision && proxies.is_empty() {
                    return Ok(AppliedEverywhere { watermark, proxies: live });
                }
                Behind { proxies, live, newest, watermark }
            };
            if Instant::now() >= until {
                return Err(behind);
            }
            select! {
                _ = moved.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }
}
