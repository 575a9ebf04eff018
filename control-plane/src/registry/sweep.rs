//! What happens without being asked for: leases lapse, overrides end, empty services are forgotten, and the
//! registry settles.
//!
//! The sweep sleeps until the next of these is due. A lease is at least a second long, so that one granted
//! while it sleeps cannot lapse before it looks again.
//!
//! Where the sweep itself wakes far too late, the whole process has been standing still (suspended, or
//! starved), and heartbeats with it: then leases get as long again before any of them expires.
//!
//! A lease that lapses while proxies see its instance answer is held, and an instance that beats while they see it fail
//! gets less (see `evidence`).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    v1::InstanceState,
};

use super::{
    Evidence, Failing, InQuestion, Registry, Seen,
    evidence::{self, Holds, Quiet},
    guard::{Guard, Standing, Verdict},
    plan::{self, Lapse, Plan},
    reserved::is_reserved,
};
use crate::store::{LeaseStatus, Mutation, Now, Record, StoreError};

/// The shortest sleep, so that deadlines that are close together are swept together.
const GRANULARITY: Duration = Duration::from_millis(20);
/// The longest sleep: the shortest lease.
const LONGEST: Duration = Duration::from_secs(1);
/// Waking later than this is a standstill.
const STANDSTILL: Duration = Duration::from_secs(1);
/// The longest time that is given back after a standstill, and the longest lease.
const MOST_PATIENCE: Duration = Duration::from_secs(30);
const LONGEST_LEASE: Duration = Duration::from_secs(3600);
/// How often it is looked at who beats and fails; proxies report each second.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// How often the same instance is found to fail at most, so that one which answers now and then, or not to all proxies, does
/// not change all the time; and how lately somebody must have seen an answer for it not to fail.
const BETWEEN_MARKS: Duration = Duration::from_secs(30);

/// Sweeps until `shutdown`.
pub(super) async fn run(
    registry: &Registry,
    evidence: Option<Arc<dyn Evidence>>,
    shutdown: CancellationToken,
) {
    let mut sweep = Sweep { evidence, ..Sweep::new(registry) };
    loop {
        let now = registry.now();
        let next = match sweep.all(now).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "the store cannot be swept, trying again");
                None
            }
        };
        let latest = now.monotonic + LONGEST;
        let wake = next.unwrap_or(latest).clamp(now.monotonic + GRANULARITY, latest);
        // A sweep that has taken long is no standstill.
        let wake = wake.max(registry.now().monotonic);
        tokio::select! {
            () = tokio::time::sleep_until(wake.into()) => {}
            () = shutdown.cancelled() => return,
        }
        sweep.notice_standstill(wake);
    }
}

/// The sweep's own memory, from one time to the next.
pub(super) struct Sweep<'a> {
    registry: &'a Registry,
    guard: Guard,
    /// Who may speak for instances whose lease has lapsed.
    evidence: Option<Arc<dyn Evidence>>,
    /// For whom it speaks.
    holds: Holds,
    /// No lease expires before this.
    patient_until: Instant,
    /// Who was found to fail lately, and when.
    marked: BTreeMap<InstanceKey, Instant>,
    /// When it is next looked at who fails.
    next_look: Instant,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        let guard = Guard::new(registry.options.suspect_window);
        let now = registry.now().monotonic;
        let holds = Holds::default();
        let marked = BTreeMap::new();
        Self { registry, guard, evidence: None, holds, patient_until: now, marked, next_look: now }
    }

    /// The same, asking for what speaks for instances.
    #[cfg(test)]
    pub(super) fn corroborated_by(self, evidence: Arc<dyn Evidence>) -> Self {
        Self { evidence: Some(evidence), ..self }
    }

    /// Sees from when it was to wake whether the process stood still.
    pub(super) fn notice_standstill(&mut self, wake: Instant) {
        let now = self.registry.now().monotonic;
        let late = now.saturating_duration_since(wake);
        if late > STANDSTILL {
            let patience = late.min(MOST_PATIENCE);
            self.patient_until = now + patience;
            tracing::warn!(?late, ?patience, "this process stood still, leases get time to be renewed");
        }
    }

    /// Sweeps everything that is due; answers when something is due again.
    pub(super) async fn all(&mut self, now: Now) -> Result<Option<Instant>, StoreError> {
        let settling = self.settle(now).await?;
        let leases = if now.monotonic < self.patient_until {
            Some(self.patient_until)
        } else {
            self.leases(now).await?
        };
        self.corroborate(now).await?;
        let ends = self.ends(now).await?;
        Ok([settling, leases, ends].into_iter().flatten().min())
    }

    async fn settle(&self, now: Now) -> Result<Option<Instant>, StoreError> {
        if self.registry.view().settled() {
            return Ok(None);
        }
        // Nobody can come back while the store is away.
        let Some(steady) = self.registry.store.steady_since() else { return Ok(None) };
        let at = steady.max(*self.registry.began.lock()) + self.registry.options.settle;
        if now.monotonic < at {
            return Ok(Some(at));
        }
        let revision = self.registry.commit(Mutation::Complete, now).await?;
        tracing::info!(revision, "settled: what is not registered by now is gone");
        self.registry.wait_for(revision).await;
        Ok(None)
    }

    async fn leases(&mut self, now: Now) -> Result<Option<Instant>, StoreError> {
        let lapsed = self.registry.store.lapsed(now).await?;
        let mut by_service: BTreeMap<ServiceKey, BTreeMap<InstanceKey, u64>> = BTreeMap::new();
        for (key, epoch) in lapsed.leases {
            by_service.entry(key.service().clone()).or_default().insert(key, epoch);
        }
        for (key, at) in std::mem::take(&mut *self.registry.expired.lock()) {
            self.guard.note(&key, at);
        }
        let mut next = lapsed.next;
        by_service.retain(|_, lapsed| {
            next = next.into_iter().chain(self.spare_young(lapsed, now)).min();
            !lapsed.is_empty()
        });
        let mut seen = self.seen(&by_service).await;
        for (service, lapsed) in by_service {
            for (key, verdict) in self.judge(&service, now).await? {
                let Some(epoch) = lapsed.get(&key) else { continue };
                let seen = seen.remove(&key);
                self.lapse(&key, *epoch, verdict, seen, now).await?;
            }
        }
        self.let_go(now).await?;
        if let Some(limit) = now.monotonic.checked_sub(LONGEST_LEASE) {
            self.guard.forget_before(limit);
        }
        Ok(next)
    }

    /// What speaks for instances whose lease has lapsed, of those that are in rotation.
    async fn seen(
        &self,
        lapsed: &BTreeMap<ServiceKey, BTreeMap<InstanceKey, u64>>,
    ) -> BTreeMap<InstanceKey, (InQuestion, Seen)> {
        let Some(evidence) = &self.evidence else { return BTreeMap::new() };
        let view = self.registry.view();
        let one = |(key, epoch): (&InstanceKey, &u64)| {
            let record = view.record(key).filter(|record| record.epoch == *epoch)?;
            let in_rotation = record.state() == InstanceState::Up && !is_reserved(key.service());
            let within = evidence::within(record.ttl);
            in_rotation.then(|| InQuestion { key: key.clone(), epoch: *epoch, within })
        };
        let asked: Vec<InQuestion> = lapsed.values().flatten().filter_map(one).collect();
        if asked.is_empty() {
            return BTreeMap::new();
        }
        let seen = evidence.of(&asked).await;
        asked.into_iter().zip(seen).filter_map(|(one, seen)| Some((one.key.clone(), (one, seen?)))).collect()
    }

    /// Ends a lease that has lapsed, or holds its instance.
    async fn lapse(
        &mut self,
        key: &InstanceKey,
        epoch: u64,
        verdict: Verdict,
        seen: Option<(InQuestion, Seen)>,
        now: Now,
    ) -> Result<(), StoreError> {
        let view = self.registry.view();
        let ttl = view.record(key).map(|record| record.ttl).unwrap_or_default();
        let (lapse, seen) = match (verdict, seen) {
            (Verdict::Hold, _) => (Lapse::Hold(self.registry.options.suspect_hold), None),
            (Verdict::Expire, None) => (Lapse::Expire, None),
            (Verdict::Expire, Some((one, seen))) => {
                (Lapse::Answering(evidence::longest_hold(ttl), seen), Some((one, seen)))
            }
        };
        let plan = plan::lapse(&view, key, epoch, lapse, self.registry.planning_time(now));
        let revision = self.commit(plan, now).await?;
        if let (Some(revision), Some((one, seen))) = (revision, seen) {
            self.holds.hold(&one, ttl, seen, revision, now.monotonic);
        }
        Ok(())
    }

    /// Ends the leases of those that were held because they answered, and answer no more.
    async fn let_go(&mut self, now: Now) -> Result<(), StoreError> {
        let view = self.registry.view();
        self.holds.retain(|key, epoch, revision| {
            let is_held = |record: &Arc<Record>| record.epoch == epoch && record.suspect.is_some();
            view.revision() < revision || view.record(key).is_some_and(is_held)
        });
        let (asked, Some(evidence)) = (self.holds.in_question(), &self.evidence) else { return Ok(()) };
        if asked.is_empty() {
            return Ok(());
        }
        let seen = evidence.of(&asked).await;
        // As for leases that lapse: not before clients could have renewed them through us.
        let steady = self.registry.store.steady_since();
        for Quiet { key, epoch, ttl, length } in self.holds.quiet(&asked, &seen, now.monotonic) {
            if steady.is_some_and(|since| since + ttl <= now.monotonic) {
                let time = self.registry.planning_time(now);
                self.commit(plan::lapse(&view, &key, epoch, Lapse::Quiet(length), time), now).await?;
            }
        }
        Ok(())
    }

    /// Has instances that beat and fail get less, and those that answer again what they had.
    async fn corroborate(&mut self, now: Now) -> Result<(), StoreError> {
        let Some(evidence) = self.evidence.clone() else { return Ok(()) };
        if now.monotonic < self.next_look {
            return Ok(());
        }
        self.next_look = now.monotonic + BETWEEN_LOOKS;
        let view = self.registry.view();
        let is_new = |failing: &Failing| {
            view.record(&failing.key).is_some_and(|record| {
                record.epoch == failing.epoch
                    && record.state() == InstanceState::Up
                    && record.failing.is_none()
            })
        };
        let failing: Vec<Failing> = evidence.failing().into_iter().filter(is_new).collect();
        self.marked.retain(|_, at| now.monotonic.saturating_duration_since(*at) < BETWEEN_MARKS);
        let failing: Vec<Failing> =
            failing.into_iter().filter(|failing| !self.marked.contains_key(&failing.key)).collect();
        let known = view.failing.iter().filter_map(|key| view.record(key).map(|record| (key, record.epoch)));
        let asked = failing.iter().map(|failing| (&failing.key, failing.epoch)).chain(known);
        let within = BETWEEN_MARKS;
        let asked = asked.map(|(key, epoch)| InQuestion { key: key.clone(), epoch, within });
        let asked: Vec<InQuestion> = asked.collect();
        if asked.is_empty() {
            return Ok(());
        }
        let seen = evidence.of(&asked).await;
        for (at, (one, seen)) in asked.iter().zip(seen).enumerate() {
            let failing = failing.get(at);
            // The new ones come first: of these, those that nobody sees answer; of the others, those that somebody does.
            if failing.is_some() == seen.is_none() {
                if failing.is_some() {
                    self.marked.insert(one.key.clone(), now.monotonic);
                }
                self.commit(plan::fail(&view, &one.key, one.epoch, failing), now).await?;
            }
        }
        Ok(())
    }

    /// Leaves out the leases that clients may not have been able to renew: those as long as we have not been in
    /// touch with the store without a gap. Answers when the first of them counts.
    fn spare_young(&self, lapsed: &mut BTreeMap<InstanceKey, u64>, now: Now) -> Option<Instant> {
        let view = self.registry.view();
        let steady = self.registry.store.steady_since();
        let mut next: Option<Instant> = None;
        lapsed.retain(|key, _| {
            let Some(record) = view.record(key) else { return true };
            let counts = steady.map(|since| since + record.ttl);
            if counts.is_some_and(|at| at <= now.monotonic) {
                return true;
            }
            next = next.into_iter().chain(counts).min();
            false
        });
        next
    }

    async fn judge(
        &mut self,
        service: &ServiceKey,
        now: Now,
    ) -> Result<Vec<(InstanceKey, Verdict)>, StoreError> {
        let view = self.registry.view();
        if is_reserved(service) {
            // Control planes that go together have stopped; nothing is routed by them.
            let expire = |record: &Arc<Record>| (record.key().clone(), Verdict::Expire);
            return Ok(view.records_of(service).map(expire).collect());
        }
        let leases = self.registry.store.leases(service, now).await?.into_iter();
        let standing = |lease: LeaseStatus| Standing {
            suspect: view.record(&lease.key).is_some_and(|record| record.suspect.is_some()),
            key: lease.key,
            ttl: lease.ttl,
            remaining: lease.remaining,
        };
        let leases: Vec<Standing> = leases.map(standing).collect();
        Ok(self.guard.judge(service, &leases, now.monotonic))
    }

    /// Ends what is over.
    async fn ends(&self, now: Now) -> Result<Option<Instant>, StoreError> {
        let due = self.registry.state.lock().due(now.monotonic);
        for (key, ended) in due.overrides {
            self.commit(plan::end_override(&self.registry.view(), &key, &ended), now).await?;
        }
        for (service, expected) in due.services {
            let forget = Plan::Commit(Box::new(Mutation::Forget { service, expected }));
            self.commit(forget, now).await?;
        }
        Ok(due.next)
    }

    /// Commits, unless something has changed since: then the next sweep sees what there is to do. Answers the
    /// revision, where there is one.
    async fn commit(&self, plan: Plan, now: Now) -> Result<Option<u64>, StoreError> {
        let Plan::Commit(mutation) = plan else { return Ok(None) };
        match self.registry.commit(*mutation, now).await {
            Ok(revision) => Ok(Some(revision)),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
