//! What ends by itself: overrides, and services that have been empty for long enough.
//!
//! The times that records carry were read off the wall clock of whichever replica made them, and clocks
//! disagree by minutes. So nothing is compared with a wall clock here: from the commit follows a length, and
//! that length is counted from when this process saw the commit. What was loaded has no commit; its rest is
//! reckoned by our own wall clock, with an allowance for clocks that disagree, so that nothing ends early.
//!
//! Deliberately absent: a clock, and the decision to end something (see `sweep`).

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use waypost_proto::name::{InstanceKey, ServiceKey};

use crate::store::{EmptyService, Now, Override, Record};

/// How this process came to know of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// By its commit, which says by its own clock when that was.
    Committed(Now),
    /// It was there when everything was loaded, at this time by our clock.
    Loaded(Now),
}

impl Seen {
    /// When this process learned of it.
    pub(super) fn at(self) -> Now {
        match self {
            Self::Committed(at) | Self::Loaded(at) => at,
        }
    }
}

/// What is over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Instances whose override has ended, and which override it was.
    pub(super) overrides: Vec<(InstanceKey, Override)>,
    /// Services that have been empty for longer than they are kept, and the revision that emptied each.
    pub(super) services: Vec<(ServiceKey, u64)>,
    /// When the next thing ends.
    pub(super) next: Option<Instant>,
}

/// By when each thing ends.
#[derive(Debug)]
pub(super) struct Deadlines {
    retention: Duration,
    allowance: Duration,
    overrides: HashMap<InstanceKey, (Instant, Override)>,
    services: HashMap<ServiceKey, (Instant, u64)>,
    overrides_by_time: BTreeSet<(Instant, InstanceKey)>,
    services_by_time: BTreeSet<(Instant, ServiceKey)>,
}

impl Deadlines {
    /// Nothing is due. `retention` is how long empty services are kept, `allowance` how far clocks may differ.
    pub(super) fn new(retention: Duration, allowance: Duration) -> Self {
        Self {
            retention,
            allowance,
            overrides: HashMap::new(),
            services: HashMap::new(),
            overrides_by_time: BTreeSet::new(),
            services_by_time: BTreeSet::new(),
        }
    }

    /// An instance is new or changed. An override that it had before goes on as it did.
    pub(super) fn put(&mut self, record: &Record, seen: Seen) {
        let Some(word) = &record.overridden else { return self.remove(record.key()) };
        if self.overrides.get(record.key()).is_some_and(|(_, held)| held == word) {
            return;
        }
        self.remove(record.key());
        let now = seen.at();
        let rest = word.expires_at.duration_since(now.wall).unwrap_or_default();
        let at = now.monotonic
            + match seen {
                Seen::Committed(_) => rest,
                Seen::Loaded(_) => rest + self.allowance,
            };
        self.overrides.insert(record.key().clone(), (at, word.clone()));
        self.overrides_by_time.insert((at, record.key().clone()));
    }

    /// An instance is gone, or is not overridden any more.
    pub(super) fn remove(&mut self, key: &InstanceKey) {
        if let Some((at, _)) = self.overrides.remove(key) {
            self.overrides_by_time.remove(&(at, key.clone()));
        }
    }

    /// A service is without instances.
    pub(super) fn empty(&mut self, service: &EmptyService, seen: Seen) {
        self.fill(&service.key);
        let now = seen.at();
        let rest = match seen {
            Seen::Committed(_) => self.retention,
            Seen::Loaded(_) => {
                let age = now.wall.duration_since(service.emptied_at).unwrap_or_default();
                (self.retention.saturating_sub(age) + self.allowance).min(self.retention)
            }
        };
        let at = now.monotonic + rest;
        self.services.insert(service.key.clone(), (at, service.revision));
        self.services_by_time.insert((at, service.key.clone()));
    }

    /// A service has instances again, or is forgotten.
    pub(super) fn fill(&mut self, service: &ServiceKey) {
        if let Some((at, _)) = self.services.remove(service) {
            self.services_by_time.remove(&(at, service.clone()));
        }
    }

    /// What ends at or before `now`.
    pub(super) fn due(&self, now: Instant) -> Due {
        let ended = self.overrides_by_time.iter().take_while(|(at, _)| *at <= now);
        let ended = ended.filter_map(|(_, key)| Some((key.clone(), self.overrides.get(key)?.1.clone())));
        let old = self.services_by_time.iter().take_while(|(at, _)| *at <= now);
        let old = old.filter_map(|(_, key)| Some((key.clone(), self.services.get(key)?.1)));
        let next_override = self.overrides_by_time.iter().map(|(at, _)| *at).find(|at| *at > now);
        let next_service = self.services_by_time.iter().map(|(at, _)| *at).find(|at| *at > now);
        Due {
            overrides: ended.collect(),
            services: old.collect(),
            next: next_override.into_iter().chain(next_service).min(),
        }
    }
}
