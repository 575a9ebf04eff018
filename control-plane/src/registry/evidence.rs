//! What speaks for an instance whose lease has lapsed: that proxies see it answer; and against one that beats: that they
//! see it fail.
//!
//! ```text
//!        lapsed, and proxies see it answer          nobody has for a while, or the longest hold is over
//!   UP ────────────────────────────────▶ SUSPECT ───────────────────────────────────────────────▶ expired
//!    ▲                                      │
//!    └──────────────── a beat ──────────────┘
//! ```
//!
//! Busy is not dead: a process that is too busy to renew its lease, or cut off from us and not from proxies, still
//! serves. That it does is seen by proxies within seconds; a process that is gone fails there at once. So a lease that
//! lapsed is held only while answers are seen, which bounds how long somebody dead can stay, and never for longer than
//! three times its length or five minutes, which bounds how long traffic alone can keep somebody.
//!
//! The other way round, an instance that beats while its requests fail at every proxy gets little of its share
//! until one of them sees an answer. It is not taken out: beats and traffic disagree, so that neither is believed
//! alone; and what is left of its traffic shows when it is well again.
//!
//! Who has held an instance watches it. If that control plane ends, the instance stays until its hold is over.
//!
//! Deliberately absent: where the answers are seen (`hub`), and mass expiry (`guard`), which needs no evidence.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use waypost_proto::name::InstanceKey;

/// Proxies report each second. Within less than this none could speak for an instance.
const SHORTEST_WITHIN: Duration = Duration::from_secs(3);
/// The answers must be this fresh, however long the lease.
const LONGEST_WITHIN: Duration = Duration::from_secs(5);
/// How many times its lease an instance is held at most.
const MOST_LEASES: u32 = 3;
/// How long it is held at most.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// An instance of which it is asked whether it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InQuestion {
    /// Its name.
    pub key: InstanceKey,
    /// Its epoch.
    pub epoch: u64,
    /// How lately it must have answered.
    pub within: Duration,
}

/// It answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How many proxies have seen it.
    pub proxies: u32,
    /// How long ago the last answer was, at most.
    pub ago: Duration,
}

/// It fails: at least one proxy has seen failures of late, and none an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Its name.
    pub key: InstanceKey,
    /// Its epoch.
    pub epoch: u64,
    /// How many requests have failed.
    pub failed: u64,
    /// At how many proxies.
    pub proxies: u32,
}

impl fmt::Display for Failing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failed, proxies, .. } = self;
        let proxies = if *proxies == 1 { "a proxy".to_owned() } else { format!("{proxies} proxies") };
        write!(formatter, "it beats, but {proxies} saw {failed} requests to it fail, and none an answer")
    }
}

/// Whoever knows what proxies see.
#[tonic::async_trait]
pub trait Evidence: Send + Sync {
    /// The instances that fail at the proxies of this control plane. Others' may see them answer.
    fn failing(&self) -> Vec<Failing>;

    /// What speaks for instances, in their order; `None`: nothing.
    async fn of(&self, asked: &[InQuestion]) -> Vec<Option<Seen>>;
}

/// How lately an instance must have answered when its lease, of this length, has lapsed.
pub(super) fn within(ttl: Duration) -> Duration {
    ttl.clamp(SHORTEST_WITHIN, LONGEST_WITHIN)
}

/// How long it is held at most because it answers.
pub(super) fn longest_hold(ttl: Duration) -> Duration {
    (ttl * MOST_LEASES).min(LONGEST_HOLD)
}

/// An instance that is held.
#[derive(Debug)]
struct Held {
    epoch: u64,
    ttl: Duration,
    /// The revision that holds it.
    revision: u64,
    /// When it was last seen to answer.
    answered: Instant,
}

/// An instance that is held and answers no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quiet {
    pub(super) key: InstanceKey,
    pub(super) epoch: u64,
    /// The length of its lease.
    pub(super) ttl: Duration,
    /// For how long nobody has seen an answer.
    pub(super) length: Duration,
}

/// The instances that this control plane holds because they answer.
#[derive(Debug, Default)]
pub(super) struct Holds(BTreeMap<InstanceKey, Held>);

impl Holds {
    /// An instance is held from a revision on.
    pub(super) fn hold(&mut self, one: &InQuestion, ttl: Duration, seen: Seen, revision: u64, now: Instant) {
        let answered = now.checked_sub(seen.ago).unwrap_or(now);
        self.0.insert(one.key.clone(), Held { epoch: one.epoch, ttl, revision, answered });
    }

    /// Drops those that are held no more. `is_held` is told the instance, its epoch, and the revision that holds it.
    pub(super) fn retain(&mut self, is_held: impl Fn(&InstanceKey, u64, u64) -> bool) {
        self.0.retain(|key, held| is_held(key, held.epoch, held.revision));
    }

    /// Whom to ask about.
    pub(super) fn in_question(&self) -> Vec<InQuestion> {
        let one = |(key, held): (&InstanceKey, &Held)| InQuestion {
            key: key.clone(),
            epoch: held.epoch,
            within: within(held.ttl),
        };
        self.0.iter().map(one).collect()
    }

    /// Takes note of what is seen now, of those that were asked about; answers who has been quiet for too long.
    pub(super) fn quiet(&mut self, asked: &[InQuestion], seen: &[Option<Seen>], now: Instant) -> Vec<Quiet> {
        for (one, seen) in asked.iter().zip(seen) {
            if let (Some(held), Some(seen)) = (self.0.get_mut(&one.key), seen) {
                held.answered = held.answered.max(now.checked_sub(seen.ago).unwrap_or(now));
            }
        }
        let quiet = self.0.iter().map(|(key, held)| Quiet {
            key: key.clone(),
            epoch: held.epoch,
            ttl: held.ttl,
            length: now.saturating_duration_since(held.answered),
        });
        quiet.filter(|quiet| quiet.length > within(quiet.ttl)).collect()
    }
}

#[cfg(test)]
mod tests;
