//! The sets of endpoints that requests pick from.
//!
//! An endpoint that is busy, as the control plane says by its [`Share`], is passed by with the rest of the chance, and the
//! balancer is asked again, as in slow start: so its share falls under every policy. Requests that go by a key are not sent
//! elsewhere for that; bounded load does it for them.
//!
//! Deliberately absent: which endpoint is chosen (see [`crate::balance`]).

use std::sync::Arc;

use fastrand::Rng;
use waypost_proto::load::Share;

use super::{EndpointId, EndpointState, InFlight, health::Care, now};
use crate::balance::{Balancer, Candidates, Weights};

/// How many times the balancer is asked before the whole set is looked through.
const DRAWS: usize = 4;
/// How many times it is asked at most because whom it has chosen is busy.
const PASSES: usize = 16;

/// The endpoints of a service, or of some of its versions, that take traffic; with the balancer's state.
#[derive(Debug)]
pub struct EndpointSet {
    pub(super) members: Vec<Arc<EndpointState>>,
    weights: Weights,
    balancer: Box<dyn Balancer>,
    /// Whether the balancer asks how long answers take.
    measures_latency: bool,
    pub(super) care: Care,
    /// The largest share, where shares differ.
    fullest: Option<Share>,
}

impl EndpointSet {
    /// A set of endpoints that take traffic. Endpoints of weight 0 are left out.
    pub fn new(mut members: Vec<Arc<EndpointState>>, mut balancer: Box<dyn Balancer>) -> Self {
        members.retain(|member| member.weight() > 0);
        members.shrink_to_fit();
        let weights = Weights::of(members.iter().map(|member| member.weight()));
        balancer.prepare(&members);
        let measures_latency = balancer.needs_latency();
        let shares = || members.iter().map(|member| member.share());
        let fullest = shares().max().filter(|fullest| shares().any(|share| share < *fullest));
        Self { members, weights, balancer, measures_latency, care: Care::none(), fullest }
    }

    /// Whether answers' times are to be [reported](EndpointState::report_latency).
    pub fn measures_latency(&self) -> bool {
        self.measures_latency
    }

    /// The endpoints that take traffic.
    pub fn members(&self) -> &[Arc<EndpointState>] {
        &self.members
    }

    /// What chooses among them.
    pub fn balancer(&self) -> &dyn Balancer {
        &*self.balancer
    }

    /// The balancer that goes on where this one's is, for the set that comes after this one.
    pub(crate) fn renewed_balancer(&self) -> Box<dyn Balancer> {
        self.balancer.renewed()
    }

    /// Whom the balancer chooses, if it is not passed by because it is busy.
    fn propose(&self, among: &Candidates<'_>, seed: &mut Rng) -> usize {
        let Some(fullest) = self.fullest.filter(|_| among.key().is_none()) else {
            return self.balancer.choose(among, seed);
        };
        for _ in 1..PASSES {
            let at = self.balancer.choose(among, seed);
            if seed.u8(..fullest.as_percent()) < self.members[at].share().as_percent() {
                return at;
            }
        }
        self.balancer.choose(among, seed)
    }

    /// Picks an endpoint that is not in `tried` and begins a request to it.
    ///
    /// Endpoints that are ejected or ill are passed over, unless too few are well, and those that are full always.
    /// Endpoints that cool down after failures come last: where no other is left, the one that is due
    /// soonest. `None` means that all are tried or drain. A request that holds an older table should then
    /// look at the current one before it gives up: the endpoints that replace those may be there.
    pub fn pick(&self, tried: &[EndpointId], seed: &mut Rng) -> Option<InFlight> {
        self.pick_by(None, tried, seed)
    }

    /// [`Self::pick`] for a request with a key: policies that go by keys send the same key to the same endpoint.
    pub fn pick_by(&self, key: Option<u64>, tried: &[EndpointId], seed: &mut Rng) -> Option<InFlight> {
        self.pick_at(key, tried, seed, now)
    }

    /// [`Self::pick_by`] with a steady clock in milliseconds, which is asked only where an endpoint cools down or the
    /// policy wants to know.
    pub fn pick_at(
        &self,
        key: Option<u64>,
        tried: &[EndpointId],
        seed: &mut Rng,
        now: impl Fn() -> u64,
    ) -> Option<InFlight> {
        if self.members.is_empty() {
            return None;
        }
        let open = |member: &EndpointState| !member.is_draining() && !tried.contains(&member.id());
        let guard = self.guard(&now);
        let usable = |at: usize| {
            let member = &self.members[at];
            open(member) && member.hot.cooldown.is_over(&now) && guard.lets(member)
        };
        let begin = |at: usize| {
            let member = &self.members[at];
            (member.hot.cooldown.claim(&now) && guard.claim(member)).then(|| guard.begin(member)).flatten()
        };
        let among = Candidates::new(&self.members, &self.weights, &usable, key, &now);
        for _ in 0..DRAWS {
            let at = self.propose(&among, seed);
            if usable(at)
                && let Some(begun) = begin(at)
            {
                return Some(begun);
            }
        }
        // Few are usable: one look at all of them, and again where another thread was quicker.
        for _ in 0..DRAWS {
            let Some(at) = among.draw_usable(seed) else { break };
            if let Some(begun) = begin(at) {
                return Some(begun);
            }
        }
        self.members
            .iter()
            .filter(|member| open(member) && guard.lets(member))
            .min_by_key(|member| member.hot.cooldown.due())
            .filter(|member| guard.claim(member))
            .and_then(|member| guard.begin(member))
    }
}
