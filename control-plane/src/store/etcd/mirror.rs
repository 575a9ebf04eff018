//! What this process knows of all leases: a copy of the leases' folder, kept by a watch.
//!
//! So a beat finds its etcd lease without a read, and the sweep costs nothing while nothing lapses. What is
//! decided by it is decided again by etcd: a beat by the lease's own answer, a removal by its transaction.
//!
//! A copy lags. Who asks what has lapsed waits until it has caught up with what this process itself has
//! written; where the watch is broken the copy is out of step, and nothing is answered from it.
//!
//! Deliberately absent: I/O; `follow.rs` feeds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;
use waypost_proto::name::InstanceKey;

use super::keys::{Alive, Granted};
use crate::store::StoreError;

/// The copy, and how far it is.
#[derive(Default)]
pub(super) struct Mirror {
    copy: Mutex<Table>,
    /// The revision that it shows; `None`: it is out of step.
    shows: watch::Sender<Option<u64>>,
    /// Why it is out of step.
    reason: Mutex<Option<StoreError>>,
    /// The newest revision in which this process has written to the folder.
    written: AtomicU64,
}

#[derive(Default)]
struct Table {
    leases: BTreeMap<InstanceKey, Lease>,
    lapsed: BTreeSet<InstanceKey>,
}

#[derive(Clone, Copy, Default)]
struct Lease {
    granted: Option<Granted>,
    alive: Option<Alive>,
    /// It lives at least until then, as far as this process has renewed it or asked.
    lives_until: Option<Instant>,
}

/// A change of one of an instance's two keys.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// What the lease is, if it is.
    Granted(Option<Granted>),
    /// Under which etcd lease it lives, if it does.
    Alive(Option<Alive>),
}

impl Mirror {
    /// Replaces all of it by what the folder holds at a revision.
    pub(super) fn replace(&self, revision: u64, changes: impl IntoIterator<Item = (InstanceKey, Change)>) {
        let mut copy = self.copy.lock();
        let before = std::mem::take(&mut *copy);
        for (key, change) in changes {
            copy.apply(key, change);
        }
        for (key, lease) in before.leases {
            if let Some(now) = copy.leases.get_mut(&key).filter(|now| now.alive == lease.alive) {
                now.lives_until = lease.lives_until;
            }
        }
        drop(copy);
        self.shows.send_replace(Some(revision));
    }

    /// Takes in what has changed up to a revision.
    pub(super) fn apply(&self, revision: u64, changes: impl IntoIterator<Item = (InstanceKey, Change)>) {
        let mut copy = self.copy.lock();
        for (key, change) in changes {
            copy.apply(key, change);
        }
        drop(copy);
        self.shows.send_replace(Some(revision));
    }

    /// From now on it is not known what has changed.
    pub(super) fn out_of_step(&self, reason: StoreError) {
        *self.reason.lock() = Some(reason);
        self.shows.send_replace(None);
    }

    /// Why it is out of step, if it is.
    pub(super) fn reason(&self) -> Option<StoreError> {
        self.reason.lock().clone().filter(|_| self.shows.borrow().is_none())
    }

    /// Notes that this process has written to the folder.
    pub(super) fn wrote(&self, revision: u64) {
        self.written.fetch_max(revision, Ordering::AcqRel);
    }

    /// The newest revision in which this process has written to the folder.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Notes at which revision etcd was when `written` was known: where that is older, etcd has lost what was written
    /// since, and nobody needs to wait for it.
    pub(super) fn stands_at(&self, revision: u64, written: u64) {
        if revision < written {
            let _ = self.written.compare_exchange(written, revision, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Waits until it shows all that this process has written.
    pub(super) async fn in_step(&self) {
        let written = self.written();
        let mut shows = self.shows.subscribe();
        // The sender lives as long as the mirror.
        let _ = shows.wait_for(|shows| shows.is_some_and(|shows| shows >= written)).await;
    }

    /// The etcd lease that a beat renews; `None`: etcd must be asked.
    pub(super) fn beaten(&self, key: &InstanceKey, epoch: u64) -> Option<i64> {
        let copy = self.copy.lock();
        let lease = copy.leases.get(key)?;
        let alive = lease.alive.filter(|alive| !alive.held)?;
        (lease.granted?.epoch == epoch).then_some(alive.lease)
    }

    /// The etcd lease by which an instance lives, where that has this length; not a hold's.
    pub(super) fn kept(&self, key: &InstanceKey, ttl: Duration) -> Option<i64> {
        let copy = self.copy.lock();
        let lease = copy.leases.get(key)?;
        let alive = lease.alive.filter(|alive| !alive.held)?;
        (lease.granted?.ttl == ttl).then_some(alive.lease)
    }

    /// Notes that a lease was renewed: it lives at least for its full length from when the beat was sent.
    pub(super) fn renewed(&self, key: &InstanceKey, lease: i64, sent: Instant) {
        let mut copy = self.copy.lock();
        let known = copy.leases.get_mut(key);
        if let Some(known) = known.filter(|known| known.alive.is_some_and(|alive| alive.lease == lease)) {
            let until = known.granted.map(|granted| sent + granted.ttl);
            known.lives_until = known.lives_until.max(until);
        }
    }

    /// What is left of a lease at least; zero if that is not known.
    pub(super) fn remaining(&self, key: &InstanceKey, lease: i64, now: Instant) -> Duration {
        let copy = self.copy.lock();
        let known = copy.leases.get(key);
        let known = known.filter(|known| known.alive.is_some_and(|alive| alive.lease == lease));
        let until = known.and_then(|known| known.lives_until);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// The leases that have lapsed, and whether there are others.
    pub(super) fn lapsed(&self) -> (Vec<(InstanceKey, u64)>, bool) {
        let copy = self.copy.lock();
        let epoch = |key: &InstanceKey| copy.leases.get(key).and_then(|lease| lease.granted);
        let lapsed: Vec<_> =
            copy.lapsed.iter().filter_map(|key| Some((key.clone(), epoch(key)?.epoch))).collect();
        let others = copy.leases.len() > lapsed.len();
        (lapsed, others)
    }
}

impl Table {
    fn apply(&mut self, key: InstanceKey, change: Change) {
        let lease = self.leases.entry(key.clone()).or_default();
        match change {
            Change::Granted(granted) => lease.granted = granted,
            Change::Alive(alive) => {
                if lease.alive != alive {
                    lease.lives_until = None;
                }
                lease.alive = alive;
            }
        }
        let Lease { granted, alive, .. } = *lease;
        if granted.is_none() && alive.is_none() {
            self.leases.remove(&key);
        }
        if granted.is_some() && alive.is_none() {
            self.lapsed.insert(key);
        } else {
            self.lapsed.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    fn key(text: &str) -> InstanceKey {
        text.parse().expect("a good key")
    }

    fn granted(epoch: u64) -> Change {
        Change::Granted(Some(Granted { epoch, ttl: TTL }))
    }

    fn alive(lease: i64, held: bool) -> Change {
        Change::Alive(Some(Alive { lease, held }))
    }

    #[test]
    fn what_is_granted_and_not_alive_has_lapsed() {
        let mirror = Mirror::default();
        let [a, b] = ["users/a", "users/b"].map(key);
        mirror.apply(1, [(a.clone(), granted(1)), (a.clone(), alive(7, false)), (b.clone(), granted(2))]);
        assert_eq!(mirror.lapsed(), (vec![(b.clone(), 2)], true));
        mirror.apply(2, [(b.clone(), alive(8, true)), (a.clone(), Change::Alive(None))]);
        assert_eq!(mirror.lapsed(), (vec![(a.clone(), 1)], true));
        mirror.apply(3, [(a, Change::Granted(None)), (b.clone(), Change::Alive(None))]);
        assert_eq!(mirror.lapsed(), (vec![(b, 2)], false));
        mirror.replace(4, []);
        assert_eq!(mirror.lapsed(), (Vec::new(), false));
    }

    #[test]
    fn a_beat_finds_its_lease_and_no_other() {
        let mirror = Mirror::default();
        let a = key("users/a");
        mirror.apply(1, [(a.clone(), granted(3)), (a.clone(), alive(7, false))]);
        assert_eq!(mirror.beaten(&a, 3), Some(7));
        assert_eq!((mirror.beaten(&a, 2), mirror.beaten(&key("users/b"), 3)), (None, None));
        assert_eq!((mirror.kept(&a, TTL), mirror.kept(&a, TTL * 2)), (Some(7), None), "by its length");
        let now = Instant::now();
        mirror.renewed(&a, 6, now);
        assert_eq!(mirror.remaining(&a, 7, now), Duration::ZERO, "another lease's beat");
        mirror.renewed(&a, 7, now);
        mirror.replace(2, [(a.clone(), granted(3)), (a.clone(), alive(7, false))]);
        assert_eq!(mirror.remaining(&a, 7, now), TTL, "reading it again forgets no beat");
        mirror.apply(3, [(a.clone(), alive(9, true))]);
        assert_eq!(mirror.kept(&a, TTL), None, "nor is it kept");
        assert_eq!(mirror.beaten(&a, 3), None, "a hold's lease is replaced, not renewed");
        assert_eq!(mirror.remaining(&a, 9, now), Duration::ZERO);
    }

    #[tokio::test]
    async fn it_is_in_step_once_it_shows_what_was_written() {
        let mirror = Mirror::default();
        let waits = async |mirror: &Mirror| {
            tokio::time::timeout(Duration::from_millis(20), mirror.in_step()).await.is_err()
        };
        assert!(waits(&mirror).await, "nothing was read yet");
        mirror.replace(5, []);
        assert!(!waits(&mirror).await);
        mirror.wrote(7);
        assert!(waits(&mirror).await);
        mirror.apply(7, []);
        assert!(!waits(&mirror).await);
        mirror.wrote(9);
        mirror.replace(3, []);
        mirror.stands_at(3, 7);
        assert!(waits(&mirror).await, "it was written after that");
        mirror.stands_at(3, mirror.written());
        assert!(!waits(&mirror).await, "etcd has lost what was written");
        mirror.out_of_step(StoreError::Unavailable("gone".to_owned()));
        assert!(waits(&mirror).await && mirror.reason().is_some());
    }
}
