//! The hub's state as a plain value: commits and reports go in, what to send comes out.
//!
//! Every function takes the time; nothing here waits, and no lock is taken. What a proxy says is judged
//! against the ring of its scope: contents that the scope never had do not count as applied, and the proxy
//! is sent everything again.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use waypost_proto::{
    name::InstanceKey,
    snapshot::{Snapshot, SnapshotError},
    v1,
};

use super::{
    Barrier, Greeting, HubOptions, Now,
    fleet::{Fleet, Line, Record, SessionId},
    propagation::Propagation,
    scope::{Due, Known, Namespaces, ScopeFeed, Sent},
};
use crate::registry::Publication;

/// A proxy whose digest differs is sent everything again at most this often within one stream.
const RESYNC_PAUSE: Duration = Duration::from_secs(5);

/// What became of a report.
#[derive(Debug, Default)]
pub(super) struct Reported {
    /// From commit to applied, of each revision that this report was the first to name.
    pub(super) samples: Vec<Duration>,
    /// Whether the digest was wrong and everything is sent again.
    pub(super) resync: bool,
}

/// Whom a drain still waits for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Remaining {
    /// Proxies, sorted by id.
    pub(super) proxies: Vec<Arc<str>>,
    /// Whether there may be more, which have not come back since the control plane started.
    pub(super) unknown: bool,
    /// What is in flight in them, as last reported.
    pub(super) in_flight: u64,
    /// When to look again although nothing has happened: the first grace ends.
    pub(super) look_again: Option<Instant>,
}

/// What a new session starts with.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) session: SessionId,
    pub(super) line: Line,
    pub(super) changed: tokio::sync::watch::Receiver<u64>,
    /// How many times the proxy has resynced since it was last heard of.
    pub(super) resyncs: u64,
}

impl Remaining {
    /// Whom the drain waits for, in words.
    pub(super) fn names(&self) -> Vec<String> {
        let returning = self.unknown.then(|| "proxies that may still reconnect after the restart".to_owned());
        self.proxies.iter().map(ToString::to_string).chain(returning).collect()
    }

    /// Whether the drain waits for nobody.
    pub(super) fn is_nobody(&self) -> bool {
        self.proxies.is_empty() && !self.unknown
    }
}

/// Scopes and proxies.
#[derive(Debug)]
pub(super) struct Core {
    options: HubOptions,
    /// Until when proxies that were there before a restart may still be on their way back.
    returning_until: Instant,
    newest: u64,
    scopes: HashMap<Namespaces, ScopeFeed>,
    fleet: Fleet,
    propagation: Propagation,
}

impl Core {
    /// The hub of a registry whose contents are `head`.
    pub(super) fn new(head: &Snapshot, options: HubOptions, now: Now) -> Self {
        let all = Namespaces::default();
        let feed = ScopeFeed::new(head, all.clone(), options.ring, options.chunk_entries);
        Self {
            newest: head.revision(),
            returning_until: now.monotonic + options.drain_grace,
            options,
            scopes: HashMap::from([(all, feed)]),
            fleet: Fleet::default(),
            propagation: Propagation::default(),
        }
    }

    /// The contents of the scope of everything.
    pub(super) fn head(&self) -> &Snapshot {
        self.scopes.get(&Namespaces::default()).expect("the scope of everything is never dropped").head()
    }

    /// The newest revision that was published.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// The proxies.
    pub(super) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// From commit to applied.
    pub(super) fn propagation(&self) -> &Propagation {
        &self.propagation
    }

    /// Takes a change into every scope.
    ///
    /// # Errors
    /// The change does not fit a scope, which keeps what it has; start over with [`Core::replace`].
    pub(super) fn publish(&mut self, publication: &Publication) -> Result<(), SnapshotError> {
        self.newest = self.newest.max(publication.revision);
        self.scopes.values_mut().try_for_each(|feed| feed.publish(publication).map(|_| ()))
    }

    /// Starts over with other contents, maybe of another history: every subscriber is sent everything.
    pub(super) fn replace(&mut self, head: &Snapshot) {
        let same = self.head().history() == head.history();
        self.newest = if same { self.newest.max(head.revision()) } else { head.revision() };
        self.fleet.forget_applied();
        self.scopes.values_mut().for_each(|feed| feed.replace(head));
    }

    /// Opens a session.
    pub(super) fn connect(&mut self, greeting: Greeting, now: Now) -> Opened {
        self.prune(now);
        let namespaces = greeting.namespaces.clone();
        if !self.scopes.contains_key(&namespaces) {
            let (ring, chunk) = (self.options.ring, self.options.chunk_entries);
            let feed = ScopeFeed::new(self.head(), namespaces.clone(), ring, chunk);
            self.scopes.insert(namespaces.clone(), feed);
        }
        let feed = &self.scopes[&namespaces];
        let before = self.fleet.get(&greeting.id).map_or(0, |record| record.resyncs);
        let judged = greeting.position.as_ref().map(|position| judge(feed, position));
        let held = greeting.position.as_ref().and_then(|position| held(feed, position));
        let record = self.fleet.connect(greeting, now);
        record.applied = judged.and_then(|(_, revision)| revision);
        record.digest_ok = held.is_some();
        record.sent = held;
        record.measured = feed.head().revision();
        Opened {
            session: record.session,
            line: record.line.clone(),
            changed: feed.watch(),
            resyncs: record.resyncs.saturating_sub(before),
        }
    }

    /// Ends a session; false if it had ended before.
    pub(super) fn disconnect(&mut self, session: SessionId, now: Now) -> bool {
        self.fleet.disconnect(session, now)
    }

    /// Whether a session, which has not disconnected, has made room for a newer one.
    pub(super) fn is_replaced(&mut self, session: SessionId) -> bool {
        self.fleet.session(session).is_none()
    }

    /// What a session is due; `None` if it has ended. It counts as sent.
    pub(super) fn due(&mut self, session: SessionId) -> Option<Due> {
        let record = self.fleet.session(session)?;
        let feed = self.scopes.get_mut(&record.greeting.namespaces)?;
        if record.hold.is_some_and(|rejected| feed.head().revision() <= rejected) {
            return Some(Due::Nothing);
        }
        let due = feed.due(record.sent);
        let sent = match &due {
            Due::Nothing => return Some(due),
            Due::Delta(delta) => {
                record.deltas += 1;
                delta.sent()
            }
            Due::Full(full) => {
                record.full_snapshots += 1;
                ScopeFeed::sent_by(full)
            }
        };
        record.hold = None;
        record.sent = Some(sent);
        record.sent_revision = sent.named;
        record.sent_at = sent.at;
        Some(due)
    }

    /// A proxy serves by a position, with that much in flight; `None` if the session has ended.
    pub(super) fn applied(
        &mut self,
        session: SessionId,
        position: v1::Position,
        in_flight: HashMap<(InstanceKey, u64), u64>,
        now: Now,
    ) -> Option<Reported> {
        let record = self.fleet.session(session)?;
        let feed = self.scopes.get(&record.greeting.namespaces)?;
        let (known, applied) = judge(feed, &position);
        let mut reported = Reported::default();
        if let Some(revision) = applied {
            let committed = feed.committed(record.measured, revision);
            reported.samples = committed.map(|at| now.monotonic.saturating_duration_since(at)).collect();
            record.measured = record.measured.max(revision);
        }
        match known {
            Known::Yes(_) => record.digest_ok = true,
            Known::Forgotten => {}
            Known::No => {
                record.digest_ok = false;
                let again = |at| now.monotonic >= at + RESYNC_PAUSE;
                // What it came with, or nothing, it may name while everything is on its way to it.
                let told =
                    !position.history.is_empty() && record.greeting.position.as_ref() != Some(&position);
                if told && record.resynced_at.is_none_or(again) {
                    record.resynced_at = Some(now.monotonic);
                    record.sent = None;
                    record.hold = None;
                    record.resyncs += 1;
                    record.line.nudge.notify_one();
                    reported.resync = true;
                }
            }
        }
        record.applied = applied;
        record.position = Some(position);
        record.in_flight = in_flight;
        record.reported = true;
        reported.samples.iter().for_each(|sample| self.propagation.add(*sample));
        Some(reported)
    }

    /// A proxy could not take a revision and still serves by `position`; false if the session has ended.
    /// It is sent nothing before there is something newer, and then from where it is.
    pub(super) fn rejected(&mut self, session: SessionId, rejected: &v1::Rejected) -> bool {
        let Some(record) = self.fleet.session(session) else { return false };
        let Some(feed) = self.scopes.get(&record.greeting.namespaces) else { return false };
        let held = rejected.position.as_ref().and_then(|position| held(feed, position));
        record.last_rejection = format!("revision {}: {}", rejected.revision, rejected.reason);
        record.hold = Some(record.sent_at);
        record.sent = held;
        true
    }

    /// The revision up to which a proxy has applied everything that concerns it.
    fn covered(&self, record: &Record) -> u64 {
        let feed = self.scopes.get(&record.greeting.namespaces);
        record.applied.zip(feed).map_or(0, |(applied, feed)| feed.covers(applied, self.newest))
    }

    /// The lowest revision applied by all live proxies; the newest one where there is no proxy.
    pub(super) fn watermark(&self) -> u64 {
        self.fleet.live().map(|record| self.covered(record)).min().unwrap_or(self.newest)
    }

    /// The live proxies that have not applied a revision.
    pub(super) fn behind(&self, revision: u64) -> Vec<Arc<str>> {
        let behind = self.fleet.live().filter(|record| self.covered(record) < revision);
        behind.map(|record| record.greeting.id.clone()).collect()
    }

    /// Whether a drain still waits for one proxy.
    pub(super) fn is_waited_for(&self, id: &str, barrier: &Barrier, now: Instant) -> bool {
        self.fleet.get(id).is_some_and(|record| self.waits_for(record, barrier, now))
    }

    /// Whom a drain still waits for.
    pub(super) fn remaining(&self, barrier: &Barrier, now: Instant) -> Remaining {
        let mut remaining = Remaining::default();
        for record in self.fleet.all().filter(|record| self.waits_for(record, barrier, now)) {
            remaining.proxies.push(record.greeting.id.clone());
            remaining.in_flight += record.in_flight_to(&barrier.key, barrier.epoch);
            if !record.connected {
                let until = record.turned_at + self.options.drain_grace;
                remaining.look_again = Some(remaining.look_again.map_or(until, |at| at.min(until)));
            }
        }
        // What is registered is not all known yet, so neither is who serves by it.
        remaining.unknown = !self.head().settled() && now < self.returning_until;
        if remaining.unknown {
            let until = self.returning_until;
            remaining.look_again = Some(remaining.look_again.map_or(until, |at| at.min(until)));
        }
        remaining
    }

    fn waits_for(&self, record: &Record, barrier: &Barrier, now: Instant) -> bool {
        if record.connected {
            return !record.reported
                || record.in_flight_to(&barrier.key, barrier.epoch) > 0
                || self.covered(record) < barrier.revision;
        }
        // It may come back, with requests still in flight in it; if not, it is gone with them.
        now < record.turned_at + self.options.drain_grace
    }

    /// Forgets proxies that left long ago, and scopes that nobody uses.
    pub(super) fn prune(&mut self, now: Now) {
        self.fleet.prune(now.monotonic, self.options.proxy_retention);
        let fleet = &self.fleet;
        self.scopes.retain(|namespaces, _| namespaces.is_empty() || fleet.uses(namespaces));
    }
}

/// What a position is worth in a scope, and its revision if it is sound.
fn judge(feed: &ScopeFeed, position: &v1::Position) -> (Known, Option<u64>) {
    if position.history != feed.head().history() {
        return (Known::No, None);
    }
    match feed.knows(position.revision, position.digest) {
        known @ Known::Yes(at) => (known, Some(at)),
        Known::Forgotten => (Known::Forgotten, Some(position.revision)),
        Known::No => (Known::No, None),
    }
}

/// What a subscriber holds that names a position, where the scope had these contents.
fn held(feed: &ScopeFeed, position: &v1::Position) -> Option<Sent> {
    match judge(feed, position).0 {
        Known::Yes(at) => Some(Sent { at, named: position.revision, settled: None }),
        Known::Forgotten | Known::No => None,
    }
}
