//! Leases: who has not been heard of for longer than they said.
//!
//! A lease belongs to an epoch; a beat for another epoch changes nothing. A lease that lapses stays, as a
//! candidate for expiry, until it is renewed, held or revoked: what becomes of it is the registry's decision.
//!
//! A beat only moves the lease's deadline. The queue of deadlines is put right when the old deadline comes,
//! so that a beat costs one look-up and a lease costs one queue operation for each of its lengths.
//!
//! Deliberately absent: a clock, and what is leased.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use waypost_proto::name::{InstanceKey, ServiceKey};

use super::{Lapsed, record::first_key};

/// What became of a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives for its full length again.
    Renewed,
    /// There is no such lease, or one of an older epoch: the store has lost the beat's own.
    Unknown,
    /// The lease lives under a newer epoch.
    Stale,
}

impl Renewal {
    /// What becomes of a beat under one epoch where the lease has another, or the same. Epochs only grow: one that is
    /// newer than the lease's is from a time that the store has lost, and nobody has taken its place.
    pub fn of(beaten: u64, held: u64) -> Self {
        match beaten.cmp(&held) {
            Ordering::Equal => Self::Renewed,
            Ordering::Less => Self::Stale,
            Ordering::Greater => Self::Unknown,
        }
    }
}

/// How a lease stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Whose.
    pub key: InstanceKey,
    /// Its epoch.
    pub epoch: u64,
    /// Its full length.
    pub ttl: Duration,
    /// What is left of it; zero if it has lapsed.
    pub remaining: Duration,
}

/// Whether a lease is there, and lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Absent,
    Alive,
    Lapsed,
}

#[derive(Clone, Debug)]
struct Lease {
    epoch: u64,
    ttl: Duration,
    deadline: Instant,
    /// Where the queue has it; never later than the deadline.
    queued: Instant,
}

/// The state of all leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    leases: BTreeMap<InstanceKey, Lease>,
    queue: BTreeSet<(Instant, InstanceKey)>,
}

impl Leases {
    /// Begins a lease; one that is there under the same key ends.
    pub(super) fn grant(&mut self, key: &InstanceKey, epoch: u64, ttl: Duration, now: Instant) {
        self.revoke(key);
        let deadline = now + ttl;
        self.queue.insert((deadline, key.clone()));
        self.leases.insert(key.clone(), Lease { epoch, ttl, deadline, queued: deadline });
    }

    /// Takes a beat: the lease lives for its full length from now.
    pub(super) fn renew(&mut self, key: &InstanceKey, epoch: u64, now: Instant) -> Renewal {
        match self.leases.get_mut(key) {
            None => Renewal::Unknown,
            Some(lease) if lease.epoch != epoch => Renewal::of(epoch, lease.epoch),
            Some(lease) => {
                let deadline = now + lease.ttl;
                if deadline < lease.queued {
                    // Only the end of a hold lies further away than a beat reaches.
                    self.queue.remove(&(lease.queued, key.clone()));
                    self.queue.insert((deadline, key.clone()));
                    lease.queued = deadline;
                }
                lease.deadline = deadline;
                Renewal::Renewed
            }
        }
    }

    /// Lets a lease that has lapsed live on for a while, without a beat. `false` if it has not lapsed.
    pub(super) fn hold(&mut self, key: &InstanceKey, length: Duration, now: Instant) -> bool {
        let Some(lease) = self.leases.get_mut(key).filter(|lease| lease.deadline <= now) else {
            return false;
        };
        lease.deadline = now + length;
        true
    }

    /// How a lease stands.
    pub(super) fn standing(&self, key: &InstanceKey, now: Instant) -> Standing {
        match self.leases.get(key) {
            None => Standing::Absent,
            Some(lease) if lease.deadline <= now => Standing::Lapsed,
            Some(_) => Standing::Alive,
        }
    }

    /// Whose leases there are, their epochs and full lengths.
    pub(super) fn all(&self) -> impl Iterator<Item = (&InstanceKey, u64, Duration)> {
        self.leases.iter().map(|(key, lease)| (key, lease.epoch, lease.ttl))
    }

    /// No lease lapses before this; that of one which has lapsed is past. `None`: there is no lease.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    /// Ends a lease.
    pub(super) fn revoke(&mut self, key: &InstanceKey) {
        if let Some(lease) = self.leases.remove(key) {
            self.queue.remove(&(lease.queued, key.clone()));
        }
    }

    /// The leases that have lapsed, and when to look again.
    pub(super) fn lapsed(&mut self, now: Instant) -> Lapsed {
        let due: Vec<_> = self.queue.iter().take_while(|(at, _)| *at <= now).cloned().collect();
        let mut leases = Vec::new();
        for entry in due {
            let Some(lease) = self.leases.get_mut(&entry.1) else { continue };
            if lease.deadline <= now {
                leases.push((entry.1, lease.epoch));
            } else {
                self.queue.remove(&entry);
                lease.queued = lease.deadline;
                self.queue.insert((lease.deadline, entry.1));
            }
        }
        let next = self.queue.iter().map(|(at, _)| *at).find(|at| *at > now);
        Lapsed { leases, next }
    }

    /// How the leases of a service stand, sorted by id.
    pub(super) fn of(&self, service: &ServiceKey, now: Instant) -> Vec<LeaseStatus> {
        let status = |(key, lease): (&InstanceKey, &Lease)| LeaseStatus {
            key: key.clone(),
            epoch: lease.epoch,
            ttl: lease.ttl,
            remaining: lease.deadline.saturating_duration_since(now),
        };
        let from = first_key(service);
        self.leases.range(from..).take_while(|(key, _)| key.service() == service).map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const KEYS: u8 = 4;

    fn key(number: u8) -> InstanceKey {
        // Two services, so that the range of one must not reach into the other.
        format!("s{}/i{}", number % 2, number / 2).parse().expect("a good key")
    }

    #[derive(Clone, Debug)]
    enum Input {
        Grant { key: u8, epoch: u64, ttl: u64 },
        Renew { key: u8, epoch: u64 },
        Hold { key: u8, length: u64 },
        Revoke { key: u8 },
        Lapsed,
        Pass { time: u64 },
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            (0..KEYS, 1..4_u64, 1..9_u64).prop_map(|(key, epoch, ttl)| Input::Grant { key, epoch, ttl }),
            (0..KEYS, 1..4_u64).prop_map(|(key, epoch)| Input::Renew { key, epoch }),
            (0..KEYS, 1..40_u64).prop_map(|(key, length)| Input::Hold { key, length }),
            (0..KEYS).prop_map(|key| Input::Revoke { key }),
            Just(Input::Lapsed),
            (0..12_u64).prop_map(|time| Input::Pass { time }),
        ]
    }

    /// What leases are, said as simply as it can be: a map from key to epoch, length and deadline in seconds.
    type Model = BTreeMap<InstanceKey, (u64, u64, u64)>;

    fn expected_lapsed(model: &Model, at: u64) -> BTreeSet<(InstanceKey, u64)> {
        let lapsed = model.iter().filter(|(_, (_, _, deadline))| *deadline <= at);
        lapsed.map(|(key, (epoch, ..))| (key.clone(), *epoch)).collect()
    }

    proptest! {
        #[test]
        fn leases_do_what_the_naive_model_does(inputs in vec(input(), 1..80)) {
            let start = Instant::now();
            let mut leases = Leases::default();
            let mut model = Model::new();
            let mut at = 0;
            for input in inputs {
                let now = start + Duration::from_secs(at);
                match input {
                    Input::Grant { key: number, epoch, ttl } => {
                        leases.grant(&key(number), epoch, Duration::from_secs(ttl), now);
                        model.insert(key(number), (epoch, ttl, at + ttl));
                    }
                    Input::Renew { key: number, epoch } => {
                        let expected = match model.get_mut(&key(number)) {
                            None => Renewal::Unknown,
                            Some((held, ..)) if *held > epoch => Renewal::Stale,
                            Some((held, ..)) if *held < epoch => Renewal::Unknown,
                            Some((_, ttl, deadline)) => {
                                *deadline = at + *ttl;
                                Renewal::Renewed
                            }
                        };
                        prop_assert_eq!(leases.renew(&key(number), epoch, now), expected);
                    }
                    Input::Hold { key: number, length } => {
                        let lapsed = model.get_mut(&key(number)).filter(|(_, _, deadline)| *deadline <= at);
                        let held = lapsed.map(|(_, _, deadline)| *deadline = at + length).is_some();
                        prop_assert_eq!(leases.hold(&key(number), Duration::from_secs(length), now), held);
                    }
                    Input::Revoke { key: number } => {
                        leases.revoke(&key(number));
                        model.remove(&key(number));
                    }
                    Input::Lapsed => {
                        let got = leases.lapsed(now);
                        let expected = expected_lapsed(&model, at);
                        prop_assert_eq!(got.leases.into_iter().collect::<BTreeSet<_>>(), expected);
                        let next = model.values().map(|(_, _, deadline)| *deadline).filter(|at_| *at_ > at).min();
                        // It may ask to be called too early, but never too late, and never now.
                        prop_assert_eq!(got.next.is_some(), next.is_some());
                        let seconds = got.next.map(|next| next.duration_since(start).as_secs());
                        prop_assert!(seconds <= next && seconds.is_none_or(|seconds| seconds > at));
                    }
                    Input::Pass { time } => at += time,
                }
                let now = start + Duration::from_secs(at);
                for number in 0..KEYS {
                    let gone = model.get(&key(number)).is_none_or(|(_, _, deadline)| *deadline <= at);
                    prop_assert_eq!(leases.standing(&key(number), now) != Standing::Alive, gone);
                }
                let service: ServiceKey = "s0".parse().expect("a good key");
                let listed: Vec<_> = leases.of(&service, now).into_iter()
                    .map(|status| (status.key, status.epoch, status.remaining.as_secs())).collect();
                let expected: Vec<_> = model.iter().filter(|(key, _)| *key.service() == service)
                    .map(|(key, (epoch, _, deadline))| (key.clone(), *epoch, deadline.saturating_sub(at))).collect();
                prop_assert_eq!(listed, expected);
            }
        }
    }

    #[test]
    fn a_beat_of_an_older_epoch_does_not_keep_a_ghost_alive() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut leases = Leases::default();
        leases.grant(&key(0), 1, second, start);
        leases.grant(&key(0), 2, second, start);
        assert_eq!(leases.renew(&key(0), 1, start + second / 2), Renewal::Stale);
        assert_eq!(leases.lapsed(start + second).leases, [(key(0), 2)]);
    }
}
