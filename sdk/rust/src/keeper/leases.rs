//! What is due when, and what a result means: the pure core of the keep-alive.
//!
//! ```text
//! Held ──UNKNOWN──▶ Wanted(at) ──at──▶ Registering ──granted──▶ Held
//!  │                    ▲                   │
//!  │                    └──── refused ──────┘
//!  └──STALE──▶ Over            (while leaving: UNKNOWN and refused lead to Over, too)
//! ```
//!
//! Deliberately absent: the stream, the calls and the clock. `now` comes in, beats and verdicts go out.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;
use waypost_proto::{
    name::InstanceKey,
    v1::{self, BeatOutcome},
};

use super::{Grant, LeaseId};

#[derive(Debug)]
struct Lease {
    grant: Grant,
    health: Option<v1::HealthReport>,
    load: Option<v1::LoadReport>,
    phase: Phase,
    leaving: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// As far as known. The next beat is due at `due`; the oldest beat without a result was sent at `sent`.
    Held { due: Instant, sent: Option<Instant> },
    /// The control plane does not know it: to be registered again at `at`.
    Wanted { at: Instant },
    /// A registration is under way.
    Registering,
    /// Superseded, or gone while it was leaving.
    Over,
}

/// What a result means for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It lives for its full length again.
    Renewed,
    /// It is not known and is to be registered again.
    Lost,
    /// Another process has taken its place.
    Superseded,
}

/// Whether a lease can be deregistered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Under this epoch.
    Ready(u64),
    /// A registration is under way; wait for its end.
    Later,
    /// There is no such lease.
    Unknown,
}

/// All leases of a client.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
    by_epoch: HashMap<(InstanceKey, u64), LeaseId>,
}

impl Leases {
    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// A new lease; its first beat is due after one interval.
    pub(super) fn insert(&mut self, id: LeaseId, grant: Grant, now: Instant) {
        self.by_epoch.insert((grant.key.clone(), grant.epoch), id);
        let phase = Phase::Held { due: now + grant.interval, sent: None };
        self.leases.insert(id, Lease { grant, health: None, load: None, phase, leaving: false });
    }

    /// Forgets a lease, and returns what was granted where it may still be held.
    pub(super) fn remove(&mut self, id: LeaseId) -> Option<Grant> {
        let lease = self.leases.remove(&id)?;
        self.by_epoch.remove(&(lease.grant.key.clone(), lease.grant.epoch));
        matches!(lease.phase, Phase::Held { .. }).then_some(lease.grant)
    }

    /// The instance's own health; it is sent with a beat that is due now.
    pub(super) fn report(&mut self, id: LeaseId, health: v1::HealthReport, now: Instant) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.health = Some(health);
        if let Phase::Held { due, .. } = &mut lease.phase {
            *due = now;
        }
    }

    /// How busy the instance is; it is sent with each beat from the next one on.
    pub(super) fn report_load(&mut self, id: LeaseId, load: Option<v1::LoadReport>) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.load = load;
        }
    }

    /// The health that was last reported.
    pub(super) fn health(&self, id: LeaseId) -> Option<&v1::HealthReport> {
        self.leases.get(&id)?.health.as_ref()
    }

    /// From now on it is kept alive, but not registered again.
    pub(super) fn leave(&mut self, id: LeaseId) -> Leaving {
        let Some(lease) = self.leases.get_mut(&id) else { return Leaving::Unknown };
        lease.leaving = true;
        match lease.phase {
            Phase::Registering => Leaving::Later,
            Phase::Wanted { .. } => {
                lease.phase = Phase::Over;
                Leaving::Ready(lease.grant.epoch)
            }
            Phase::Held { .. } | Phase::Over => Leaving::Ready(lease.grant.epoch),
        }
    }

    /// A stream has opened: everything is due at once, and no result of an older stream will come.
    pub(super) fn start_over(&mut self, now: Instant) {
        for lease in self.leases.values_mut() {
            if let Phase::Held { due, sent } = &mut lease.phase {
                (*due, *sent) = (now, None);
            }
        }
    }

    /// The beats that are due, or nearly so: those of one interval go together.
    pub(super) fn beats(&mut self, now: Instant) -> Vec<v1::Beat> {
        let mut beats = Vec::new();
        for lease in self.leases.values_mut() {
            let Phase::Held { due, sent } = &mut lease.phase else { continue };
            if *due > now && (beats.is_empty() || *due > now + lease.grant.interval / 8) {
                continue;
            }
            *due = now + lease.grant.interval;
            sent.get_or_insert(now);
            beats.push(v1::Beat {
                key: Some(lease.grant.key.to_wire()),
                epoch: lease.grant.epoch,
                health: lease.health.clone(),
                load: lease.load,
            });
        }
        beats
    }

    /// When the next beat is due.
    pub(super) fn next_beat(&self) -> Option<Instant> {
        let due = |lease: &Lease| match lease.phase {
            Phase::Held { due, .. } => Some(due),
            _ => None,
        };
        self.leases.values().filter_map(due).min()
    }

    /// When the oldest beat without a result has waited for its interval, or for `patience`.
    pub(super) fn answer_by(&self, patience: Duration) -> Option<Instant> {
        let by = |lease: &Lease| match lease.phase {
            Phase::Held { sent: Some(sent), .. } => Some(sent + lease.grant.interval.min(patience)),
            _ => None,
        };
        self.leases.values().filter_map(by).min()
    }

    /// Takes the result of a beat. A result for another epoch than the present one changes nothing.
    pub(super) fn result(&mut self, result: &v1::BeatResult, now: Instant) -> Option<(LeaseId, Verdict)> {
        let key = InstanceKey::from_wire(result.key.as_ref()).ok()?;
        let id = *self.by_epoch.get(&(key, result.epoch))?;
        let lease = self.leases.get_mut(&id)?;
        let Phase::Held { sent, .. } = &mut lease.phase else { return None };
        let verdict = match result.outcome() {
            BeatOutcome::Renewed => {
                *sent = None;
                Verdict::Renewed
            }
            BeatOutcome::Unknown if lease.leaving => {
                lease.phase = Phase::Over;
                return None;
            }
            BeatOutcome::Unknown => {
                lease.phase = Phase::Wanted { at: now };
                Verdict::Lost
            }
            BeatOutcome::Stale => {
                lease.phase = Phase::Over;
                Verdict::Superseded
            }
            BeatOutcome::Unspecified => return None,
        };
        Some((id, verdict))
    }

    /// The leases to register now; each is handed out once.
    pub(super) fn registrations(&mut self, now: Instant) -> Vec<LeaseId> {
        let mut wanted = Vec::new();
        for (id, lease) in &mut self.leases {
            if matches!(lease.phase, Phase::Wanted { at } if at <= now) {
                lease.phase = Phase::Registering;
                wanted.push(*id);
            }
        }
        wanted
    }

    /// When the next registration is to be tried.
    pub(super) fn next_registration(&self) -> Option<Instant> {
        let at = |lease: &Lease| match lease.phase {
            Phase::Wanted { at } => Some(at),
            _ => None,
        };
        self.leases.values().filter_map(at).min()
    }

    /// A registration was granted. False where nobody wants it any more: it is to be deregistered.
    pub(super) fn granted(&mut self, id: LeaseId, grant: Grant, now: Instant) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        self.by_epoch.remove(&(lease.grant.key.clone(), lease.grant.epoch));
        self.by_epoch.insert((grant.key.clone(), grant.epoch), id);
        let due = if lease.health.is_some() { now } else { now + grant.interval };
        lease.phase = Phase::Held { due, sent: None };
        lease.grant = grant;
        true
    }

    /// A registration failed; it is tried again at `at`, unless the lease is leaving.
    pub(super) fn refused(&mut self, id: LeaseId, at: Instant) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.phase = if lease.leaving { Phase::Over } else { Phase::Wanted { at } };
        }
    }

    /// The shortest interval of all: nothing may take longer without a lease being in danger.
    pub(super) fn shortest_interval(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.grant.interval).min()
    }

    /// The leases that are meant to be held.
    pub(super) fn held(&self) -> impl Iterator<Item = LeaseId> {
        let held = |lease: &Lease| !lease.leaving && lease.phase != Phase::Over;
        self.leases.iter().filter(move |(_, lease)| held(lease)).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests;
