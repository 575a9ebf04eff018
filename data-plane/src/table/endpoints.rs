//! Endpoints: the state that balances load. What requests pick from is an [`EndpointSet`].
//!
//! The state of an endpoint belongs to its instance's name and epoch. It outlives the tables that list it:
//! every table and every thread counts on the same [`EndpointState`].
//!
//! The drain barrier rests on one rule. A pick counts itself in and then looks at the draining flag, and
//! counts itself out again where it is set; whoever sets the flag reads the count after that. All four are
//! sequentially consistent, so either the pick sees the flag or the reader sees the pick.
//!
//! A state that no table lists any more is retired by the same rule: its flag is set after the new table is
//! served by, so that a request with an old table looks at the new one. What is in flight to it counts for
//! the state that took its place, also by limits and for balancing: the process behind the address may be the
//! same, as after a restart of the control plane, which gives every lease a new epoch.
//!
//! Deliberately absent: which endpoint is chosen (see [`crate::balance`]) and connections.

mod health;
mod in_flight;
mod seen;
mod set;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::Notify;
use waypost_proto::{
    address::Address,
    instance::{Endpoint, Protocol},
    load::Share,
    name::InstanceKey,
};

pub(crate) use self::seen::News;
use self::seen::Seen;
pub use self::{in_flight::InFlight, set::EndpointSet};
use super::{
    cooldown::Cooldown,
    failing::Failing,
    latency::{Latency, Outcome},
    since::Since,
};
use crate::{health::Conduct, tls::BackendTls};

/// Identifies an [`EndpointState`] in this process: no two ever share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(u64);

impl EndpointId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What every request to an endpoint touches, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Hot {
    /// How many have begun, modulo 2^32 << 32 | how many are in flight.
    requests: AtomicU64,
    draining: AtomicBool,
    /// Whether requests may be in flight to a predecessor.
    succeeds: AtomicBool,
    seen: Seen,
    cooldown: Cooldown,
    failing: Failing,
    /// Written only where the set's policy needs it.
    latency: Latency,
    /// Looked at only where the service's policy asks for it.
    conduct: Conduct,
}

// A second line would be fetched for every request.
const _: () = assert!(size_of::<Hot>() == 64);

/// One process that answers requests, and what is known of it here.
pub struct EndpointState {
    hot: Hot,
    id: EndpointId,
    declared: Arc<Endpoint>,
    /// How to speak TLS to it; none: in the clear.
    tls: Option<Arc<BackendTls>>,
    since: Since,
    /// How much of its share it gets, in percent.
    share: AtomicU8,
    /// How many requests had ended when that was last told of.
    told: AtomicU32,
    /// Woken when the count changes while draining.
    reporter: Arc<Notify>,
    /// The retired state of the same address, while requests are in flight to it.
    predecessor: ArcSwapOption<EndpointState>,
    /// Why checks say that it is ill. Not for the request path.
    illness: Mutex<Option<Arc<str>>>,
}

/// One more that has begun.
const BEGUN: u64 = 1 << 32;
/// The part of the word that counts what is in flight.
const IN_FLIGHT: u64 = BEGUN - 1;

impl EndpointState {
    /// A state with nothing in flight. `reporter` is woken whenever the count falls while it drains.
    pub fn new(declared: Arc<Endpoint>, reporter: Arc<Notify>) -> Arc<Self> {
        Self::succeeding(declared, None, reporter, None)
    }

    /// A state of an endpoint that is spoken to over TLS where `tls` says how.
    pub(crate) fn with_tls(
        declared: Arc<Endpoint>,
        tls: Option<Arc<BackendTls>>,
        reporter: Arc<Notify>,
    ) -> Arc<Self> {
        Self::succeeding(declared, tls, reporter, None)
    }

    fn succeeding(
        declared: Arc<Endpoint>,
        tls: Option<Arc<BackendTls>>,
        reporter: Arc<Notify>,
        predecessor: Option<Arc<EndpointState>>,
    ) -> Arc<Self> {
        let since = predecessor.as_ref().map(|before| before.since.clone()).unwrap_or_default();
        // The same lease is the same process: it is as well as it was.
        let before = predecessor.as_ref().filter(|before| before.epoch() == declared.epoch);
        let conduct = before.map(|before| Conduct::continued(&before.hot.conduct)).unwrap_or_default();
        let illness = Mutex::new(before.and_then(|before| before.illness()));
        // What could not be connected to may be spoken to in the right way now.
        let before = before.filter(|before| {
            before.protocol() == declared.protocol && is_same_tls(before.tls.as_ref(), tls.as_ref())
        });
        let cooldown = before.map(|before| Cooldown::continued(&before.hot.cooldown)).unwrap_or_default();
        let latency = before.map(|before| Latency::continued(&before.hot.latency)).unwrap_or_default();
        let succeeds = AtomicBool::new(predecessor.is_some());
        let hot = Hot { conduct, cooldown, latency, succeeds, ..Hot::default() };
        let (id, predecessor) = (EndpointId::next(), ArcSwapOption::new(predecessor));
        let (told, share) = (AtomicU32::default(), AtomicU8::new(declared.share.as_percent()));
        Arc::new(Self { hot, id, declared, tls, since, share, told, reporter, predecessor, illness })
    }

    /// The state after an endpoint was declared anew. It is the same one where only `state`, `share` or labels that
    /// have no part in forwarding differ. Otherwise the old one is to be [retired](Self::retire): connections belong to
    /// a state, so that none that was made by other settings of TLS is used again.
    pub(crate) fn declared_anew(
        self: &Arc<Self>,
        declared: &Arc<Endpoint>,
        tls: Option<&Arc<BackendTls>>,
    ) -> Arc<Self> {
        let (old, new) = (&self.declared, declared);
        let same = old.epoch == new.epoch && old.protocol == new.protocol && old.weight == new.weight;
        let same = same && old.zone == new.zone;
        if same && old.address == new.address && is_same_tls(self.tls.as_ref(), tls) {
            self.share.store(new.share.as_percent(), Ordering::Relaxed);
            return Arc::clone(self);
        }
        let predecessor = (old.address == new.address).then(|| Arc::clone(self));
        Self::succeeding(Arc::clone(declared), tls.cloned(), Arc::clone(&self.reporter), predecessor)
    }

    /// Its identity in this process, for pools and lists of what was tried.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// The instance's name.
    pub fn key(&self) -> &InstanceKey {
        &self.declared.key
    }

    /// The epoch of the instance's lease.
    pub fn epoch(&self) -> u64 {
        self.declared.epoch
    }

    /// Where to connect.
    pub fn address(&self) -> &Address {
        &self.declared.address
    }

    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        self.declared.protocol
    }

    /// How to speak TLS to it; none: in the clear.
    pub(crate) fn tls(&self) -> Option<&Arc<BackendTls>> {
        self.tls.as_ref()
    }

    /// Its share of traffic; 0 means none.
    pub fn weight(&self) -> u16 {
        self.declared.weight
    }

    /// How much of the share that its weight gives it it gets, while it is busy.
    pub fn share(&self) -> Share {
        Share::percent(self.share.load(Ordering::Relaxed))
    }

    /// Its failure domain; empty means none.
    pub fn zone(&self) -> &str {
        &self.declared.zone
    }

    /// Notes that it takes traffic from now on; only the first note counts. `now` is in milliseconds of the clock that
    /// picks go by; `None`: it may have taken traffic for long, and is not new.
    pub fn note_use(&self, now: Option<u64>) {
        self.since.note(now);
    }

    /// Since when it has taken traffic, in milliseconds of the clock that picks go by; `None` where it is not new.
    pub fn new_since(&self) -> Option<u64> {
        self.since.get()
    }

    /// Requests and upgraded connections to the address that have begun and not ended.
    pub fn in_flight(&self) -> u64 {
        self.inherited() + self.own_in_flight()
    }

    fn own_in_flight(&self) -> u64 {
        self.hot.requests.load(Ordering::SeqCst) & IN_FLIGHT
    }

    /// What of them is in flight through the states before this one.
    #[inline]
    fn inherited(&self) -> u64 {
        if self.hot.succeeds.load(Ordering::Relaxed) { self.in_flight_before() } else { 0 }
    }

    #[cold]
    fn in_flight_before(&self) -> u64 {
        let held = self.predecessor.load();
        let Some(before) = &*held else { return 0 };
        // In this order, so that a count of 0 is final.
        let is_retired = before.is_draining();
        let (own, inherited) = (before.own_in_flight(), before.inherited());
        if is_retired && own == 0 {
            // What is before it comes in its place, so that the chain does not grow with every change.
            let next = before.predecessor.load_full();
            if next.is_none() {
                self.hot.succeeds.store(false, Ordering::Relaxed);
            }
            self.predecessor.store(next);
        }
        own + inherited
    }

    /// Lets nobody begin a request any more, once no table that is served by lists it.
    pub(crate) fn retire(&self) {
        self.hot.draining.store(true, Ordering::SeqCst);
    }

    /// Whether it takes no new requests because its instance drains.
    pub fn is_draining(&self) -> bool {
        self.hot.draining.load(Ordering::SeqCst)
    }

    /// Sets or clears the draining flag. Read [`Self::in_flight`] after setting it, never before.
    pub fn set_draining(&self, draining: bool) {
        self.hot.draining.store(draining, Ordering::SeqCst);
    }

    /// Begins a request: counts it in, unless the endpoint drains. Dropping the value ends it.
    pub fn begin(self: &Arc<Self>) -> Option<InFlight> {
        self.begin_below(u64::MAX)
    }

    /// The same where fewer than `most` are in flight.
    #[inline]
    fn begin_below(self: &Arc<Self>, most: u64) -> Option<InFlight> {
        let inherited = if most == u64::MAX { 0 } else { self.inherited() };
        let before = inherited + (self.hot.requests.fetch_add(BEGUN | 1, Ordering::SeqCst) & IN_FLIGHT);
        let begun = InFlight { endpoint: Arc::clone(self) };
        // Dropping `begun` counts out again and wakes the reporter, which may have seen the count.
        (before < most && !self.is_draining()).then_some(begun)
    }

    /// Says that a connect failed, or that a connection ended before it had answered: the endpoint is
    /// skipped for 1 s, doubling with each further failure up to 30 s.
    pub fn report_failure(&self) {
        self.hot.cooldown.failed(now());
    }

    /// Says that it answered: it is in the picking order at once.
    pub fn report_success(&self) {
        self.hot.cooldown.succeeded();
    }

    /// How long it is still skipped after failures; zero where it is not.
    pub fn cooling_down(&self) -> Duration {
        self.hot.cooldown.remaining(now())
    }

    /// Says how long a request has taken to its answer's head, for policies that need it.
    pub fn report_latency(&self, took: Duration, outcome: Outcome) {
        self.report_latency_at(took, outcome, elapsed());
    }

    /// [`Self::report_latency`] with a clock.
    pub fn report_latency_at(&self, took: Duration, outcome: Outcome, now: Duration) {
        self.hot.latency.observe(took, outcome, now);
    }

    /// How long an answer is expected to take, where that is measured and known.
    pub fn latency(&self) -> Option<Duration> {
        self.latency_at(elapsed()).map(|micros| Duration::from_secs_f32(micros / 1e6))
    }

    /// How many microseconds an answer is expected to take.
    pub(crate) fn latency_at(&self, now: Duration) -> Option<f32> {
        self.hot.latency.expected(now)
    }

    /// Says whether it failed when it last answered, or did not answer. `now` is in milliseconds of a steady clock.
    pub fn report_outcome(&self, failed: bool, now: impl FnOnce() -> u64) {
        if failed {
            self.hot.failing.failed(now());
        } else {
            self.hot.failing.answered();
        }
    }

    /// Whether it failed when it last answered, less than a second ago.
    pub(crate) fn is_failing(&self, now: impl FnOnce() -> u64) -> bool {
        self.hot.failing.is_on(now)
    }

    /// What is in flight, for balancing and limits.
    #[inline]
    pub(crate) fn load(&self) -> u64 {
        self.inherited() + (self.hot.requests.load(Ordering::Relaxed) & IN_FLIGHT)
    }

    /// How many requests have begun through this very value, modulo 2^32.
    pub(super) fn begun(&self) -> u32 {
        u32::try_from(self.hot.requests.load(Ordering::Relaxed) >> 32).unwrap_or(u32::MAX)
    }
}

impl fmt::Debug for EndpointState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EndpointState")
            .field("key", self.key())
            .field("epoch", &self.epoch())
            .field("in_flight", &self.in_flight())
            .field("draining", &self.is_draining())
            .finish_non_exhaustive()
    }
}

fn is_same_tls(one: Option<&Arc<BackendTls>>, other: Option<&Arc<BackendTls>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

/// A steady clock: never less than a millisecond.
fn elapsed() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed() + Duration::from_millis(1)
}

/// Milliseconds of the same clock, never 0.
pub(super) fn now() -> u64 {
    u64::try_from(elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests;
