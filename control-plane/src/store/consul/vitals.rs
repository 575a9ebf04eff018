//! Who is alive: the checks in Consul, beats that come through this process, and whether Consul itself stood still.
//!
//! Deliberately absent: what becomes of a lease that has lapsed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use waypost_proto::name::InstanceKey;

use super::{
    Inner,
    answers::{Check, ServiceHealth},
    api::{Answer, CallError, Reading},
    catalog::Because,
    layout::{OURS, catalog_name, epoch_in},
};
use crate::store::{Renewal, StoreError};

/// How many beats are passed on at once.
const BEATS: usize = 32;
/// How often Consul is asked whether it answers.
const PULSE: Duration = Duration::from_secs(1);
/// Answering later than this, Consul stood still, and beats with it.
const STANDSTILL: Duration = Duration::from_secs(1);
/// A beat that took longer than this may have come too late for the check that it renewed.
const PROMPT: Duration = Duration::from_millis(300);
/// Every answer has all checks: how long to wait before the next one, for each of them, at least, and at most.
const PER_CHECK: Duration = Duration::from_micros(100);
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The checks are not asked for while every lease lives for longer than this by what is known without them.
const QUIET: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(500);
const PASSING: &str = "passing";
/// Consul's own service.
pub(super) const CONSUL: &str = "consul";
/// The check of a node by its peers.
const SERF: &str = "serfHealth";

/// What the checks of services say that are not ours: a digest for each service's name. It changes when one of its
/// checks does, or one of a node.
pub(super) type Others = BTreeMap<String, u64>;

/// Keeps up with all checks until the store is closed.
pub(super) async fn run(inner: Arc<Inner>, closed: CancellationToken) {
    let mut index = 0;
    let ours = inner.layout.ids().replace('.', "\\.");
    // Without discovery nothing else is of interest.
    let filter = format!("CheckID == \"{SERF}\" or ServiceID matches \"^{ours}\"");
    let filter = (!inner.discovers).then_some(filter.as_str());
    loop {
        while !inner.discovers && inner.is_quiet() {
            index = 0;
            tokio::select! {
                () = tokio::time::sleep(LONGEST_PAUSE) => {}
                () = closed.cancelled() => return,
            }
        }
        inner.sees_checks.store(index > 0, Ordering::Release);
        let asked = inner.api.get::<Vec<Check>>("health/state/any", filter, Reading::After(index));
        let outcome = tokio::select! {
            outcome = asked => outcome,
            () = closed.cancelled() => return,
        };
        match outcome.and_then(with_nodes) {
            Ok(answer) => {
                index = if answer.index < index { 0 } else { answer.index.max(1) };
                inner.take_checks(&answer.value);
                inner.sees_checks.store(false, Ordering::Release);
                let pause = PER_CHECK * u32::try_from(answer.value.len()).unwrap_or(u32::MAX);
                tokio::time::sleep(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
            }
            Err(error) => {
                tracing::debug!(?error, "the checks cannot be read, trying again");
                inner.sees_checks.store(false, Ordering::Release);
                index = 0;
                tokio::select! {
                    () = tokio::time::sleep(ASK_AGAIN) => {}
                    () = closed.cancelled() => return,
                }
            }
        }
    }
}

/// Notices when Consul stands still or is away, until the store is closed: no beat comes through then, so that all
/// leases get their full length when it is back.
pub(super) async fn feel_pulse(inner: Arc<Inner>, closed: CancellationToken) {
    let mut missed = false;
    loop {
        let asked = inner.api.get::<String>("status/leader", None, Reading::Default);
        tokio::pin!(asked);
        let mut outcome = tokio::select! {
            outcome = &mut asked => Some(outcome),
            () = tokio::time::sleep(STANDSTILL) => None,
            () = closed.cancelled() => return,
        };
        if outcome.is_none() {
            missed = true;
            inner.stands_still.store(true, Ordering::Release);
            outcome = tokio::select! {
                outcome = asked => Some(outcome),
                () = closed.cancelled() => return,
            };
        }
        let leads = matches!(&outcome, Some(Ok(leader)) if !leader.value.is_empty());
        if leads && missed {
            inner.give_time();
            tracing::warn!(
                store = inner.url,
                "Consul did not answer for a while, leases get time to be renewed"
            );
        }
        missed = !leads;
        inner.stands_still.store(missed, Ordering::Release);
        tokio::select! {
            () = tokio::time::sleep(PULSE) => {}
            () = closed.cancelled() => return,
        }
    }
}

impl Inner {
    fn give_time(&self) {
        if let Some(mirror) = &mut self.state.lock().mirror {
            mirror.give_time(Instant::now());
        }
    }

    /// Whether no lease can lapse soon, whatever its check says.
    fn is_quiet(&self) -> bool {
        let now = Instant::now();
        let state = self.state.lock();
        let ends = state.mirror.as_ref().map(|mirror| mirror.first_lease_ends());
        // Before anything is known something may.
        ends.is_some_and(|ends| ends.is_none_or(|ends| ends.saturating_duration_since(now) > QUIET))
    }

    fn take_checks(&self, checks: &[Check]) {
        let passing = passing(checks, self.layout.ids());
        let others = others(checks);
        self.others.send_if_modified(|before| std::mem::replace(before, others.clone()) != others);
        if let Some(mirror) = &mut self.state.lock().mirror {
            mirror.set_passing(passing, Instant::now());
        }
    }

    /// Renews leases; the answers are in the same order.
    pub(super) async fn beats(&self, beats: &[(InstanceKey, u64)]) -> Result<Vec<Renewal>, StoreError> {
        if !self.is_open() || beats.iter().any(|(key, epoch)| self.standing(key, *epoch).is_some()) {
            // What another process has committed a moment ago counts.
            self.catch_up().await?;
        }
        let beats = beats.iter().cloned();
        let pass_on = stream::iter(beats.map(async |(key, epoch)| self.one_beat(&key, epoch).await));
        let outcomes: Vec<Result<Renewal, StoreError>> = pass_on.buffered(BEATS).collect().await;
        outcomes.into_iter().collect()
    }

    /// Why a lease cannot be renewed; `None`: it can.
    fn standing(&self, key: &InstanceKey, epoch: u64) -> Option<Renewal> {
        let state = self.state.lock();
        match state.mirror.as_ref().and_then(|mirror| mirror.contents.lease(key)) {
            None => Some(Renewal::Unknown),
            Some((held, _)) => Some(Renewal::of(epoch, held)).filter(|renewal| *renewal != Renewal::Renewed),
        }
    }

    async fn one_beat(&self, key: &InstanceKey, epoch: u64) -> Result<Renewal, StoreError> {
        if let Some(renewal) = self.standing(key, epoch) {
            return Ok(renewal);
        }
        let begun = Instant::now();
        let seen = self.sees_checks.load(Ordering::Acquire);
        let (rest, passed) = {
            let mut state = self.state.lock();
            let Some(mirror) = &mut state.mirror else { return Ok(Renewal::Unknown) };
            let before = (mirror.own_rest(key, begun), seen && mirror.passes(key, epoch));
            // It is in our hands now: that Consul is slow is not its fault.
            mirror.beat(key, epoch, begun);
            before
        };
        let shown = match self.show(key, Because::Beat).await {
            // It may not be shown, or was removed in this moment: the head tells, and can keep the lease alive.
            Err(error @ (CallError::Refused(_) | CallError::Failed(..))) => {
                tracing::debug!(instance = %key, ?error, "Consul's catalog does not show it");
                false
            }
            outcome => outcome.map(|()| true)?,
        };
        let took = begun.elapsed();
        let passes = || {
            let state = self.state.lock();
            let passes = state.mirror.as_ref().is_some_and(|mirror| mirror.passes(key, epoch));
            passes && self.sees_checks.load(Ordering::Acquire)
        };
        // Nobody can have found the lease lapsed where it had not, by our clock or by Consul's, until it was renewed.
        if shown && (took < rest || (passed && took < PROMPT && passes())) {
            return Ok(Renewal::Renewed);
        }
        match self.jobs.revive(key.clone(), epoch, self.api.timeout()).await {
            Ok(()) => Ok(Renewal::Renewed),
            Err(StoreError::Conflict { .. }) => {
                if shown && !self.has_lease(key) {
                    // Where this fails, the check does so in a while, and Consul forgets the service.
                    let _ = self.hide(key).await;
                }
                Ok(self.standing(key, epoch).unwrap_or(Renewal::Unknown))
            }
            Err(error) => Err(error),
        }
    }

    fn has_lease(&self, key: &InstanceKey) -> bool {
        self.state.lock().mirror.as_ref().is_some_and(|mirror| mirror.contents.lease(key).is_some())
    }

    /// Makes sure that what Consul does not show is not there: to a token that may not read, it answers as if there
    /// were nothing. Consul itself is always there.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the token may not read.
    pub(super) async fn must_see_nodes(&self) -> Result<(), StoreError> {
        let path = format!("health/service/{CONSUL}");
        let found = self.api.get::<Vec<ServiceHealth>>(path, None, Reading::Consistent).await?.value;
        if found.is_empty() { Err(blind().into()) } else { Ok(()) }
    }

    /// Looks once more, at the leader, whether a lease has lapsed.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where it has not.
    pub(super) async fn must_have_lapsed(&self, key: &InstanceKey) -> Result<(), StoreError> {
        let (alive, lease, conflict) = {
            let state = self.state.lock();
            let Some(mirror) = &state.mirror else { return Ok(()) };
            let lapsed = mirror.has_lapsed(key, Instant::now());
            (!lapsed, mirror.contents.lease(key), mirror.contents.conflict(key))
        };
        let Some((epoch, _)) = lease else { return Ok(()) };
        if alive {
            return Err(conflict);
        }
        let path = format!("health/service/{}", catalog_name(key.service()));
        let filter = format!("Service.ID == \"{}\"", self.layout.service_id(key));
        let found = self.api.get::<Vec<ServiceHealth>>(path, Some(&filter), Reading::Consistent).await;
        let found = found?.value;
        if found.is_empty() {
            self.must_see_nodes().await?;
        }
        let checks: Vec<Check> = found.into_iter().flat_map(|service| service.checks).collect();
        let epochs = passing(&checks, self.layout.ids()).remove(&self.layout.service_id(key));
        if epochs.is_some_and(|epochs| epochs.contains(&epoch)) { Err(conflict) } else { Ok(()) }
    }
}

/// All checks; every node of Consul's has one, so that none at all means that the token may not see them.
fn with_nodes(answer: Answer<Vec<Check>>) -> Result<Answer<Vec<Check>>, CallError> {
    if answer.value.iter().any(|check| check.check_id == SERF) { Ok(answer) } else { Err(blind()) }
}

fn blind() -> CallError {
    CallError::Refused(
        "Consul shows not even itself: give the token node_prefix \"\" and service_prefix \"\" { policy = \"read\" }"
            .to_owned(),
    )
}

/// The epochs of our leases that are alive, by the instance's id in the catalog.
fn passing(checks: &[Check], ours: &str) -> HashMap<String, Vec<u64>> {
    let failed: HashSet<&str> = checks
        .iter()
        .filter(|check| check.check_id == SERF && check.status != PASSING)
        .map(|check| check.node.as_str())
        .collect();
    let mut passing: HashMap<String, Vec<u64>> = HashMap::new();
    let leases = checks.iter().filter(|check| check.service_id.starts_with(ours) && check.status == PASSING);
    for check in leases.filter(|check| !failed.contains(check.node.as_str())) {
        if let Some(epoch) = epoch_in(&check.notes) {
            passing.entry(check.service_id.clone()).or_default().push(epoch);
        }
    }
    passing
}

fn others(checks: &[Check]) -> Others {
    let digest = |check: &Check| {
        let mut hasher = DefaultHasher::new();
        (&check.node, &check.check_id, &check.status, check.modify_index).hash(&mut hasher);
        hasher.finish()
    };
    let nodes = checks.iter().filter(|check| check.service_id.is_empty());
    let nodes = nodes.fold(0_u64, |sum, check| sum.wrapping_add(digest(check)));
    let mut others = Others::new();
    for check in
        checks.iter().filter(|check| !check.service_id.is_empty() && !check.service_id.starts_with(OURS))
    {
        let sum = others.entry(check.service_name.clone()).or_insert(nodes);
        *sum = sum.wrapping_add(digest(check));
    }
    others
}
