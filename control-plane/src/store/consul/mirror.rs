//! What this process knows of the store: the contents at the newest revision that it has seen, how the leases stand,
//! and who watches.
//!
//! A lease is alive as long as a check of its instance with its epoch passes in Consul, on a node that is alive; or
//! as long as this process knows better: for a lease's length after it granted it, took a beat, or learned of
//! either, and for as long as a hold says. All of these are counted by the monotonic clock from when this process
//! saw them, so that no two clocks are ever compared.
//!
//! Deliberately absent: I/O.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use waypost_proto::name::{InstanceKey, ServiceKey};

use super::{
    contents::{Contents, Step},
    layout::{Head, Layout},
};
use crate::store::{
    Commit, Lapsed, LeaseChange, LeaseStatus, Now, StoreError, Written,
    codec::Malformed,
    leases::{Leases, Standing},
};

/// How long a check may have failed before its lease has lapsed: a beat may be on its way to it.
const GRACE: Duration = Duration::from_millis(500);

/// What a watcher gets.
pub(super) type Watched = Result<Arc<Commit>, StoreError>;

/// All that is in Consul below the prefix, as it was at one moment.
pub(super) struct Reading {
    pub(super) head: Head,
    /// The index of the head.
    pub(super) index: u64,
    pub(super) contents: Contents,
    /// All commits that the log has, oldest first.
    pub(super) log: Vec<Step>,
}

/// What this process knows.
pub(super) struct Mirror {
    pub(super) head: Head,
    pub(super) head_index: u64,
    pub(super) contents: Contents,
    leases: Leases,
    /// The epochs whose checks pass, by the id in the catalog.
    passing: HashMap<String, Vec<u64>>,
    /// Those that passed until a moment ago, and when that was.
    stopped: HashMap<String, (Vec<u64>, Instant)>,
    /// Leases that this process has last renewed in Consul: the epoch, and when.
    own: HashMap<InstanceKey, (u64, Instant)>,
    /// The newest commits with the ids that their makers gave them, oldest first.
    log: VecDeque<(u64, Arc<Commit>)>,
    watchers: Vec<mpsc::UnboundedSender<Watched>>,
    /// Who is told of instances that have changed.
    changes: mpsc::UnboundedSender<InstanceKey>,
    remembered: usize,
    layout: Layout,
}

/// Whether a head follows on what is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// It does, and it is taken in.
    Yes,
    /// The log must be read to get from here to there.
    Gap,
    /// It is another history, or this one at an earlier time.
    Other,
}

impl Mirror {
    /// Begins with what was read: every lease has its full length.
    pub(super) fn new(
        reading: &Reading,
        remembered: usize,
        layout: Layout,
        changes: mpsc::UnboundedSender<InstanceKey>,
        now: Now,
    ) -> Self {
        let mut mirror = Self {
            head: reading.head.clone(),
            head_index: reading.index,
            contents: reading.contents.clone(),
            leases: Leases::default(),
            passing: HashMap::new(),
            stopped: HashMap::new(),
            own: HashMap::new(),
            log: reading.log.iter().map(|step| (step.id, step.commit.clone())).collect(),
            watchers: Vec::new(),
            changes,
            remembered,
            layout,
        };
        mirror.forget_old();
        for (key, kept) in &reading.contents.records {
            if kept.leased {
                mirror.leases.grant(key, kept.record.epoch, kept.record.ttl, now.monotonic);
                if let Some(length) = kept.hold {
                    extend(
                        &mut mirror.leases,
                        key,
                        kept.record.epoch,
                        kept.record.ttl,
                        length,
                        now.monotonic,
                    );
                }
            }
        }
        mirror
    }

    /// Takes over from what was known before of the same history, where commits in between are missing: leases that
    /// are the same stay as they are.
    pub(super) fn take_over(&mut self, before: Self, now: Instant) {
        for (key, kept) in &self.contents.records {
            let (epoch, ttl) = (kept.record.epoch, kept.record.ttl);
            if kept.leased && before.contents.lease(key) == Some((epoch, ttl)) && before.has_lapsed(key, now)
            {
                extend(&mut self.leases, key, epoch, ttl, Duration::ZERO, now);
            }
        }
        self.passing = before.passing;
        self.stopped = before.stopped;
        self.own = before.own;
        // They cannot be told what they have missed.
        let oldest = self.contents.revision;
        for watcher in before.watchers {
            let _ = watcher.send(Err(StoreError::Compacted { oldest }));
        }
    }

    /// Takes in a newer head.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn follow(&mut self, head: &Head, index: u64, now: Now) -> Result<Followed, Malformed> {
        if head.history != self.head.history
            || (index > self.head_index && head.revision < self.head.revision)
        {
            return Ok(Followed::Other);
        }
        if index <= self.head_index {
            return Ok(Followed::Yes);
        }
        let known = self.contents.revision;
        let newer = |entry: &&super::layout::LogEntry| {
            entry.commit.as_ref().is_some_and(|commit| commit.revision > known)
        };
        let steps = head.tail.iter().filter(newer).cloned().map(|entry| Step::from_entry(entry, now));
        let steps: Vec<Step> = steps.collect::<Result<_, _>>()?;
        if !self.follows(&steps, head.revision) {
            return Ok(Followed::Gap);
        }
        self.apply(&steps, now);
        self.adopt(head.clone(), index, now.monotonic)?;
        Ok(Followed::Yes)
    }

    /// Takes in what the log has, up to a newer head.
    pub(super) fn follow_log(&mut self, reading: &Reading, now: Now) -> Result<Followed, Malformed> {
        let known = self.contents.revision;
        if reading.head.history != self.head.history {
            return Ok(Followed::Other);
        }
        if reading.index <= self.head_index {
            return Ok(Followed::Yes);
        }
        let steps: Vec<Step> =
            reading.log.iter().filter(|step| step.commit.revision > known).cloned().collect();
        if !self.follows(&steps, reading.head.revision) {
            return Ok(Followed::Gap);
        }
        self.apply(&steps, now);
        self.adopt(reading.head.clone(), reading.index, now.monotonic)?;
        Ok(Followed::Yes)
    }

    /// Takes in what this process has committed, unless it has come back already, or this begins anew with what was
    /// read before it.
    pub(super) fn install(&mut self, steps: &[Step], contents: Contents, head: Head, index: u64, now: Now) {
        if index <= self.head_index || !self.follows(steps, contents.revision) {
            return;
        }
        for step in steps {
            self.take_in(step, now.monotonic);
        }
        self.contents = contents;
        self.head = head;
        self.head_index = index;
        self.publish(steps);
    }

    /// The commits after a revision, and those to come.
    pub(super) fn watch(&mut self, after: u64) -> Result<mpsc::UnboundedReceiver<Watched>, StoreError> {
        let oldest = self.contents.revision - self.log.len() as u64;
        if after < oldest || after > self.contents.revision {
            return Err(StoreError::Compacted { oldest });
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for (_, commit) in self.log.iter().filter(|(_, commit)| commit.revision > after) {
            sender.send(Ok(commit.clone())).expect("the receiver is still here");
        }
        self.watchers.push(sender);
        Ok(receiver)
    }

    /// The revision of the commit to which this id was given, if it is remembered.
    pub(super) fn committed(&self, id: u64) -> Option<u64> {
        self.log.iter().rev().find(|(given, _)| *given == id).map(|(_, commit)| commit.revision)
    }

    /// Ends all watches.
    pub(super) fn end_watches(&mut self, error: &StoreError) {
        for watcher in self.watchers.drain(..) {
            let _ = watcher.send(Err(error.clone()));
        }
    }

    /// Notes which checks pass: the instance's id in the catalog, and the epochs.
    pub(super) fn set_passing(&mut self, passing: HashMap<String, Vec<u64>>, now: Instant) {
        self.stopped.retain(|_, (_, at)| now.saturating_duration_since(*at) < GRACE);
        for (id, epochs) in std::mem::replace(&mut self.passing, passing) {
            if self.passing.get(&id).is_none_or(|passing| !epochs.iter().all(|epoch| passing.contains(epoch)))
            {
                self.stopped.insert(id, (epochs, now));
            }
        }
    }

    /// Whether a check passes for this epoch, as far as is known.
    pub(super) fn passes(&self, key: &InstanceKey, epoch: u64) -> bool {
        self.passing.get(&self.layout.service_id(key)).is_some_and(|epochs| epochs.contains(&epoch))
    }

    /// Whether it passes or did so a moment ago.
    fn is_vouched_for(&self, key: &InstanceKey, epoch: u64, now: Instant) -> bool {
        let recently = |(epochs, at): &(Vec<u64>, Instant)| {
            epochs.contains(&epoch) && now.saturating_duration_since(*at) < GRACE
        };
        self.passes(key, epoch) || self.stopped.get(&self.layout.service_id(key)).is_some_and(recently)
    }

    /// Takes a beat that is not in Consul yet.
    pub(super) fn beat(&mut self, key: &InstanceKey, epoch: u64, now: Instant) {
        self.leases.renew(key, epoch, now);
    }

    /// Notes that a beat that came at `at` is in Consul.
    pub(super) fn beat_is_in(&mut self, key: &InstanceKey, epoch: u64, at: Instant) {
        self.own.insert(key.clone(), (epoch, at));
    }

    /// For how much longer a lease lives by beats that this process has put into Consul.
    pub(super) fn own_rest(&self, key: &InstanceKey, now: Instant) -> Duration {
        match (self.contents.lease(key), self.own.get(key)) {
            (Some((epoch, ttl)), Some((renewed, at))) if epoch == *renewed => {
                (*at + ttl).saturating_duration_since(now)
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether a lease has lapsed, as far as this process knows. A lease that is not there has.
    pub(super) fn has_lapsed(&self, key: &InstanceKey, now: Instant) -> bool {
        let vouched = self.contents.lease(key).is_some_and(|(epoch, _)| self.is_vouched_for(key, epoch, now));
        !vouched && self.leases.standing(key, now) != Standing::Alive
    }

    /// Gives all leases time to be renewed: beats could not come through.
    pub(super) fn give_time(&mut self, now: Instant) {
        for (key, kept) in &self.contents.records {
            let held = kept.hold.is_some() && self.leases.standing(key, now) == Standing::Alive;
            if kept.leased && !held {
                self.leases.grant(key, kept.record.epoch, kept.record.ttl, now);
            }
        }
    }

    /// When the first lease ends by what is known without the checks, at the earliest; `None`: there is no lease.
    pub(super) fn first_lease_ends(&self) -> Option<Instant> {
        self.leases.first_deadline()
    }

    /// The leases that have lapsed.
    pub(super) fn lapsed(&mut self, now: Instant) -> Lapsed {
        let Lapsed { leases, next } = self.leases.lapsed(now);
        let mut lapsed = Lapsed { leases: Vec::new(), next };
        for (key, epoch) in leases {
            let Some((_, ttl)) = self.contents.lease(&key) else { continue };
            if !self.is_vouched_for(&key, epoch, now) {
                lapsed.leases.push((key, epoch));
                continue;
            }
            // Somebody keeps it alive. Who does so sees first that it lapses, and knows best what to make of it.
            let look_again = if self.is_own(&key, ttl, now) { ttl / 8 } else { ttl / 2 };
            self.leases.hold(&key, look_again, now);
            lapsed.next = Some(lapsed.next.map_or(now + look_again, |next| next.min(now + look_again)));
        }
        lapsed
    }

    /// How the leases of a service stand.
    pub(super) fn leases(&self, service: &ServiceKey, now: Instant) -> Vec<LeaseStatus> {
        let mut leases = self.leases.of(service, now);
        for lease in &mut leases {
            if self.is_vouched_for(&lease.key, lease.epoch, now) {
                // Of beats that came through others only their outcome is known.
                let least =
                    if self.is_own(&lease.key, lease.ttl, now) { lease.ttl / 8 } else { lease.ttl / 2 };
                lease.remaining = lease.remaining.max(least);
            }
        }
        leases
    }

    fn is_own(&self, key: &InstanceKey, ttl: Duration, now: Instant) -> bool {
        self.own.get(key).is_some_and(|(_, at)| now.saturating_duration_since(*at) < ttl * 2)
    }

    fn follows(&self, steps: &[Step], revision: u64) -> bool {
        let last = steps.last().map_or(self.contents.revision, |step| step.commit.revision);
        let first = steps.first().map_or(last, |step| step.commit.revision - 1);
        first == self.contents.revision
            && last == revision
            && steps.windows(2).all(|pair| pair[0].commit.revision + 1 == pair[1].commit.revision)
    }

    fn apply(&mut self, steps: &[Step], now: Now) {
        for step in steps {
            self.take_in(step, now.monotonic);
            self.contents.apply(step);
        }
        self.publish(steps);
    }

    fn adopt(&mut self, head: Head, index: u64, now: Instant) -> Result<(), Malformed> {
        let unseen = head.revivals.saturating_sub(self.head.revivals);
        if unseen > head.revived.len() as u64 {
            self.give_time(now);
        } else {
            let seen = head.revived.len() - usize::try_from(unseen).unwrap_or(0);
            for revival in &head.revived[seen..] {
                let key = InstanceKey::from_wire(revival.key.as_ref())?;
                self.leases.renew(&key, revival.epoch, now);
            }
        }
        self.head = head;
        self.head_index = index;
        Ok(())
    }

    /// What a commit does to its lease.
    fn take_in(&mut self, step: &Step, now: Instant) {
        match &step.commit.written {
            Written::Put(record) => match step.lease {
                LeaseChange::Grant => self.leases.grant(record.key(), record.epoch, record.ttl, now),
                LeaseChange::Hold(length) => {
                    extend(&mut self.leases, record.key(), record.epoch, record.ttl, length, now);
                }
                LeaseChange::Keep => {}
            },
            Written::Removed { key, .. } => {
                self.leases.revoke(key);
                self.own.remove(key);
            }
            Written::Forgotten(_) | Written::Completed | Written::Declared(_) => {}
        }
    }

    fn publish(&mut self, steps: &[Step]) {
        for step in steps {
            self.watchers.retain(|watcher| watcher.send(Ok(step.commit.clone())).is_ok());
            self.log.push_back((step.id, step.commit.clone()));
            let changed = match &step.commit.written {
                Written::Put(record) => record.key(),
                Written::Removed { key, .. } => key,
                Written::Forgotten(_) | Written::Completed | Written::Declared(_) => continue,
            };
            // Nobody listens any more once the store is closed.
            let _ = self.changes.send(changed.clone());
        }
        self.forget_old();
    }

    fn forget_old(&mut self) {
        while self.log.len() > self.remembered {
            self.log.pop_front();
        }
    }
}

/// Lets a lease live until `length` from now, whatever was known of it.
fn extend(leases: &mut Leases, key: &InstanceKey, epoch: u64, ttl: Duration, length: Duration, now: Instant) {
    leases.grant(key, epoch, ttl, now.checked_sub(ttl).unwrap_or(now));
    leases.hold(key, length, now);
}
