//! One service of a table: its instances in every state, and the sets of those that take traffic.

use std::{iter, sync::Arc, time::Duration};

use waypost_proto::{instance::Endpoint, name::ServiceKey};

use super::{
    breaker::{Admission, Breaker, Change, Stance},
    budget::{RetryAllowance, RetryBudget},
    concurrency::{Limiter, Turn},
    declared::Subset,
    endpoints::{EndpointSet, EndpointState, now},
    traffic::Traffic,
    usage::{Place, Usage, Use},
};
use crate::{
    balance::{Balancer, Policy},
    health::{Condition, Heed, described},
    overload::Priority,
};

/// An instance of a service, as it is declared, with its state here.
#[derive(Clone, Debug)]
pub struct Member {
    /// What the control plane says of it.
    pub endpoint: Arc<Endpoint>,
    /// What is known of it here.
    pub state: Arc<EndpointState>,
}

/// The endpoints of a subset of a service.
#[derive(Clone, Debug)]
struct Selected {
    subset: Subset,
    /// How many need it; declared routes together are one.
    needs: u32,
    set: Arc<EndpointSet>,
}

/// A service and its instances. Values are replaced, never changed.
#[derive(Clone, Debug)]
pub struct ServiceTable {
    key: ServiceKey,
    /// Sorted by id.
    members: Vec<Member>,
    all: Arc<EndpointSet>,
    subsets: Vec<Selected>,
    /// How it is treated, where that was declared.
    traffic: Option<Arc<Traffic>>,
    /// Goes on from table to table.
    retries: Arc<RetryBudget>,
    breaker: Arc<Breaker>,
    usage: Arc<Usage>,
    /// How many requests may be under way, where that follows how long answers take.
    limiter: Option<Arc<Limiter>>,
}

/// Why no request goes to a service now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its breaker is open, for so long at least.
    Open(Duration),
    /// As many are under way as may be.
    Full(u64),
    /// So many are under way, and with more of them answers would take longer.
    Slow(u32),
}

/// Why a request is not sent again, though it might be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRetry {
    /// The budget is used up.
    Budget,
    /// As many are under way as may be.
    Full(u64),
}

impl ServiceTable {
    /// A service without instances. `own` is the policy where none is declared.
    pub(super) fn new(key: ServiceKey, own: &Policy, traffic: Option<Arc<Traffic>>) -> Self {
        let policy = traffic.as_ref().map_or(own, |traffic| &traffic.policy);
        let all = Arc::new(EndpointSet::new(Vec::new(), policy()));
        let limiter = Limiter::renewed(None, traffic.as_ref().and_then(|traffic| traffic.concurrency));
        Self {
            key,
            members: Vec::new(),
            all,
            subsets: Vec::new(),
            traffic,
            retries: Arc::default(),
            breaker: Arc::default(),
            usage: Arc::default(),
            limiter,
        }
    }

    /// Its name.
    pub fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// Its instances in every state, sorted by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// An instance, by its id.
    pub fn member(&self, id: &str) -> Option<&Member> {
        self.place(id).ok().map(|at| &self.members[at])
    }

    /// How it is treated, where that was declared.
    pub fn traffic(&self) -> Option<&Arc<Traffic>> {
        self.traffic.as_ref()
    }

    /// How much the answers to its requests matter.
    pub fn priority(&self) -> Priority {
        self.traffic.as_ref().map_or_else(Priority::default, |traffic| traffic.priority)
    }

    /// Has it be treated in another way. Balancers begin anew only where another policy was declared.
    pub(super) fn treat(&mut self, traffic: Option<Arc<Traffic>>, own: &Policy) {
        let alike = Traffic::balances_alike(self.traffic.as_deref(), traffic.as_deref());
        let heeded = Traffic::heeded(self.traffic.as_deref());
        self.traffic = traffic;
        let bounds = self.traffic.as_ref().and_then(|traffic| traffic.concurrency);
        self.limiter = Limiter::renewed(self.limiter.take(), bounds);
        if alike && heeded != Traffic::heeded(self.traffic.as_deref()) {
            self.refresh();
        } else if !alike {
            let policy = self.traffic.as_ref().map_or(own, |traffic| &traffic.policy).clone();
            self.rebuild(|_| policy());
        }
    }

    /// How much of it is used.
    pub(crate) fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// The endpoints that take traffic.
    pub fn endpoints(&self) -> &Arc<EndpointSet> {
        &self.all
    }

    /// The endpoints of a subset that somebody needs, or of all.
    pub(super) fn endpoints_of(&self, subset: &Subset) -> Option<&Arc<EndpointSet>> {
        if subset.is_all() {
            return Some(&self.all);
        }
        self.subsets.iter().find(|selected| selected.subset == *subset).map(|selected| &selected.set)
    }

    /// Asks for one request, by what the service's policy says. What becomes of it is to be [reported](Self::report);
    /// where nothing is to be said of it, the admission is dropped.
    pub(crate) fn admit(&self) -> Result<Admission, Refusal> {
        let Some(traffic) = &self.traffic else { return Ok(Admission::Uncounted) };
        if let Some(most) = traffic.most_requests.filter(|most| self.under_way() >= *most) {
            return Err(Refusal::Full(most));
        }
        let Some(trip) = traffic.trip else { return Ok(Admission::Uncounted) };
        self.breaker.admit(trip, now()).map_err(Refusal::Open)
    }

    /// Asks for a place for one request until its answer begins, where the service's policy limits how many there are.
    /// What `uploads` takes it when it [begins](Turn::begin) to wait for the answer.
    pub(crate) fn enter(&self, uploads: bool) -> Result<Turn<'_>, Refusal> {
        let Some(limiter) = &self.limiter else { return Ok(Turn::default()) };
        let turn = if uploads { limiter.enter_later() } else { limiter.enter() };
        turn.map_err(Refusal::Slow)
    }

    /// How many requests may wait for an answer now, and how many do, where that follows how long answers take.
    pub fn concurrency(&self) -> Option<(u32, u32)> {
        self.limiter.as_ref().map(|limiter| limiter.shown())
    }

    /// Says whether a request that was admitted has failed. Answers whether the breaker opens by it.
    pub(crate) fn report(&self, admitted: Admission, failed: impl FnOnce() -> bool) -> bool {
        let Some(trip) = self.traffic.as_ref().and_then(|traffic| traffic.trip) else { return false };
        let change = self.breaker.report(trip, admitted, failed(), now());
        match change {
            Some(Change::Opens) => {
                tracing::warn!(service = %self.key, "too many requests failed: the circuit breaker opens");
            }
            Some(Change::Closes) => {
                tracing::info!(service = %self.key, "the request that tried was answered: the circuit breaker closes");
            }
            None => {}
        }
        change == Some(Change::Opens)
    }

    /// Whether its policy limits how many requests are under way, to it or to each instance.
    pub(crate) fn limits_requests(&self) -> bool {
        let limits = |traffic: &Arc<Traffic>| traffic.most_requests.is_some();
        self.traffic.as_ref().is_some_and(limits) || self.all.is_bounded()
    }

    /// Requests under way to its instances.
    pub(crate) fn under_way(&self) -> u64 {
        self.members.iter().map(|member| member.state.load()).sum()
    }

    /// How many requests may be sent again now, by the budget.
    pub(crate) fn retries_left(&self) -> u64 {
        self.retries.left(self.retry_allowance(), now(), || self.begun())
    }

    /// How its breaker is, where one is declared.
    pub(crate) fn breaker(&self) -> Option<Stance> {
        self.traffic.as_ref()?.trip?;
        Some(self.breaker.stance(now()))
    }

    /// Why so few of its endpoints are well that those that are not take requests too; `None` where that is not so. Of
    /// the versions and tags that routes select, those count for which it is.
    pub(crate) fn panics(&self) -> Option<String> {
        let sets = iter::once(&self.all).chain(self.subsets.iter().map(|selected| &selected.set));
        sets.into_iter().find_map(|set| set.panic_because())
    }

    /// Asks to send a request to it again; each time that it may be counts. Not for requests that are answered. The place
    /// is to be held for as long as the retry is under way; there is none where no limit is declared.
    pub(crate) fn retry(&self) -> Result<Option<Place>, NoRetry> {
        let traffic = self.traffic.as_ref();
        let most = traffic.and_then(|traffic| traffic.most_retries);
        let taken = most.map(|most| self.usage.take(Use::Retry, Some(most)).ok_or(NoRetry::Full(most)));
        let place = taken.transpose()?;
        let granted = self.retries.withdraw(self.retry_allowance(), now(), || self.begun());
        if granted { Ok(place) } else { Err(NoRetry::Budget) }
    }

    /// Notes that a request is sent again without [asking](Self::retry), so that it does not earn what others need.
    pub(crate) fn note_free_retry(&self) {
        self.retries.note_free();
    }

    fn retry_allowance(&self) -> RetryAllowance {
        self.traffic.as_ref().map(|traffic| traffic.retry_allowance).unwrap_or_default()
    }

    /// How many requests to its instances have begun.
    fn begun(&self) -> u64 {
        self.members.iter().map(|member| u64::from(member.state.begun())).sum()
    }

    fn place(&self, id: &str) -> Result<usize, usize> {
        self.members.binary_search_by(|member| member.endpoint.key.id().cmp(id))
    }

    /// Puts an instance, and returns what it replaces. The sets follow with [`Self::refresh`].
    pub(super) fn put(&mut self, member: Member) -> Option<Member> {
        match self.place(member.endpoint.key.id()) {
            Ok(at) => Some(std::mem::replace(&mut self.members[at], member)),
            Err(at) => {
                self.members.insert(at, member);
                None
            }
        }
    }

    /// Removes an instance. The sets follow with [`Self::refresh`].
    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        self.place(id).ok().map(|at| self.members.remove(at))
    }

    /// Makes the sets anew from the members. The balancers go on where they were.
    pub(super) fn refresh(&mut self) {
        self.rebuild(EndpointSet::renewed_balancer);
    }

    fn rebuild(&mut self, balancer: impl Fn(&EndpointSet) -> Box<dyn Balancer>) {
        self.all = Arc::new(self.select(&Subset::default(), balancer(&self.all)));
        let sets: Vec<_> = self
            .subsets
            .iter()
            .map(|selected| Arc::new(self.select(&selected.subset, balancer(&selected.set))))
            .collect();
        self.subsets.iter_mut().zip(sets).for_each(|(selected, set)| selected.set = set);
    }

    fn select(&self, subset: &Subset, balancer: Box<dyn Balancer>) -> EndpointSet {
        let Subset { versions, tags } = subset;
        let selected = self.members.iter().filter(|Member { endpoint, .. }| {
            endpoint.takes_traffic()
                && (versions.is_empty() || versions.contains(&endpoint.version))
                && (tags.is_empty() || endpoint.tags.iter().any(|tag| tags.contains(tag)))
        });
        let (heed, panic_below_percent, most_per_instance) = Traffic::heeded(self.traffic.as_deref());
        EndpointSet::new(selected.map(|member| Arc::clone(&member.state)).collect(), balancer)
            .heeding(heed, panic_below_percent)
            .bounded(most_per_instance)
    }

    /// How an endpoint is and why, in words, where a policy says who is passed over.
    pub fn health_of(&self, endpoint: &EndpointState) -> Option<String> {
        let health = &self.traffic.as_ref()?.health;
        let heed = health.heed();
        (heed != Heed::default())
            .then(|| described(endpoint.standing(heed), health, endpoint.illness().as_deref()))
    }

    /// How an endpoint takes requests here.
    pub(crate) fn condition_of(&self, endpoint: &EndpointState) -> Condition {
        let heed = self.traffic.as_ref().map(|traffic| traffic.health.heed()).unwrap_or_default();
        Condition::of(endpoint.standing(heed), !endpoint.cooling_down().is_zero())
    }

    /// Why it is in a condition, in words; empty where it is well.
    pub(crate) fn why(&self, endpoint: &EndpointState, condition: Condition) -> String {
        let rules = self.traffic.as_ref().map(|traffic| &traffic.health);
        condition.reason(rules, endpoint.illness().as_deref())
    }

    /// Takes note of somebody who needs a subset.
    pub(super) fn need(&mut self, subset: &Subset) {
        if let Some(selected) = self.subsets.iter_mut().find(|selected| selected.subset == *subset) {
            selected.needs += 1;
        } else if !subset.is_all() {
            let set = Arc::new(self.select(subset, self.all.renewed_balancer()));
            self.subsets.push(Selected { subset: subset.clone(), needs: 1, set });
        }
    }

    /// Takes note that somebody needs it no more.
    pub(super) fn release(&mut self, subset: &Subset) {
        if let Some(selected) = self.subsets.iter_mut().find(|selected| selected.subset == *subset) {
            selected.needs -= 1;
        }
        self.subsets.retain(|selected| selected.needs > 0);
    }
}
