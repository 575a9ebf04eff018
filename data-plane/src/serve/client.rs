//! A client's connection, as its worker sees it: who is at the other end, what it is doing, since when.
//!
//! ```text
//!            first byte            head complete          answer ended
//!   Waiting ───────────▶ Head ───────────────────▶ Busy ───────────────▶ Waiting
//!      │                   │                         │
//!      │ client_idle       │ client_header           │ stream_idle (HTTP/1.1)
//!      ▼                   ▼                         ▼
//!    closed            408, closed                aborted          Busy ──101──▶ Tunnel (no timeout)
//! ```
//!
//! Timeouts are looked at by the worker's sweep, so that they cost requests nothing but a few stores.

use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode};

use super::{Timeouts, Worker};
use crate::{
    table::{Edge, OWN_PORT, TlsSite},
    tls::Demand,
    upgrade::Switched,
};

/// What nginx made customary for a request whose client went away before there was an answer.
const CLIENT_CLOSED: u16 = 499;

/// What the connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No request is under way.
    Waiting,
    /// A request's head is coming in.
    Head,
    /// Requests are being answered.
    Busy,
    /// The connection was handed over to another protocol.
    Tunnel,
}

/// What a client's handshake has settled.
pub(crate) struct TlsClient {
    /// The hostname of the listener that it came in by; empty is any.
    pub(crate) hostname: Arc<str>,
    /// The name that was asked for, in lower case.
    pub(crate) server_name: Option<String>,
    /// Whether requests for that name belong to that listener.
    pub(crate) is_direct: bool,
    /// What it had to show.
    pub(crate) demand: Arc<Demand>,
}

/// One client's connection.
pub(crate) struct ClientConnection {
    /// Where it comes from.
    pub(crate) peer: SocketAddr,
    /// The port that it came in by; 0 is the proxy's own.
    port: u16,
    listener_port: u16,
    tls: OnceCell<TlsClient>,
    /// Whether it is to end with the answer that it carries.
    retiring: Cell<bool>,
    /// The client's address as forwarding headers carry it.
    pub(crate) forwarded_for: HeaderValue,
    /// Whether what it says about who is behind it is believed.
    pub(crate) trusted: bool,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// Requests under way.
    active: Cell<u32>,
    /// Whether there has been a request.
    used: Cell<bool>,
    /// How long the answer that it carries may pause by a policy, where that is longer than others may.
    longest_pause: Cell<Duration>,
    multiplexed: Cell<bool>,
    expired: Cell<Option<Phase>>,
    /// When its task wants to look at the clock.
    alarm: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
    switched: RefCell<Option<Box<Switched>>>,
}

impl ClientConnection {
    pub(crate) fn new(peer: SocketAddr, port: u16, worker: &Worker) -> Rc<Self> {
        let address = peer.ip().to_canonical();
        let text = address.to_string();
        Rc::new(Self {
            peer,
            port,
            listener_port: if port == OWN_PORT { worker.own_port } else { port },
            tls: OnceCell::new(),
            retiring: Cell::new(false),
            forwarded_for: HeaderValue::try_from(text).expect("an address is visible ASCII"),
            trusted: worker.config.trusted_proxies.iter().any(|network| network.contains(address)),
            phase: Cell::new(Phase::Waiting),
            since: Cell::new(worker.now()),
            active: Cell::new(0),
            used: Cell::new(false),
            longest_pause: Cell::default(),
            multiplexed: Cell::new(false),
            expired: Cell::new(None),
            alarm: Cell::new(None),
            waker: RefCell::new(None),
            switched: RefCell::new(None),
        })
    }

    /// The port that it came in by, as listeners name it: 0 is the proxy's own.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The number of that port.
    pub(crate) fn listener_port(&self) -> u16 {
        self.listener_port
    }

    /// What its handshake has settled; none where it is in the clear.
    pub(crate) fn tls(&self) -> Option<&TlsClient> {
        self.tls.get()
    }

    /// Notes that hands were shaken. The first request's head has its own time from here.
    pub(super) fn set_tls(&self, tls: TlsClient, now: Instant) {
        // There is one handshake on a connection.
        let _ = self.tls.set(tls);
        self.since.set(now);
    }

    /// Has it end with the answer that it carries.
    pub(super) fn retire(&self) {
        self.retiring.set(true);
        self.wake();
    }

    /// Whether it is to end with the answer that it carries.
    pub(super) fn is_retiring(&self) -> bool {
        self.retiring.get()
    }

    /// Whether it came in by a listener that is no more, or that asks something else of clients now.
    pub(super) fn is_outdated(&self, edge: &Edge) -> bool {
        let Some(tls) = self.tls.get() else { return false };
        let site = edge.port(self.port).and_then(|port| port.tls_site(tls.server_name.as_deref()));
        let asks_the_same =
            |site: &Arc<TlsSite>| site.tls.as_ref().is_some_and(|now| Arc::ptr_eq(&now.demand, &tls.demand));
        !site.is_some_and(asks_the_same)
    }

    /// What it is doing.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Requests under way.
    pub(crate) fn active(&self) -> u32 {
        self.active.get()
    }

    /// Whether there has been a request.
    pub(crate) fn is_used(&self) -> bool {
        self.used.get()
    }

    /// Notes that it carries many requests at a time, so that bytes say nothing about any one of them.
    pub(crate) fn set_multiplexed(&self) {
        self.multiplexed.set(true);
    }

    /// Notes that bytes came in.
    pub(crate) fn received(&self, now: Instant) {
        match self.phase.get() {
            Phase::Waiting if !self.multiplexed.get() => self.enter(Phase::Head, now),
            Phase::Busy => self.since.set(now),
            Phase::Waiting | Phase::Head | Phase::Tunnel => {}
        }
    }

    /// Notes that bytes went out. The rest of an answer may still be on its way while the next request is
    /// waited for.
    pub(crate) fn sent(&self, now: Instant) {
        if self.phase.get() == Phase::Busy || !self.multiplexed.get() {
            self.since.set(now);
        }
    }

    /// Lets the answer that it carries pause for so long, if others may not.
    pub(crate) fn allow_pause(&self, limit: Duration) {
        self.longest_pause.set(limit);
    }

    /// Leaves what is to follow a 101 for the task that owns the connection.
    pub(crate) fn switch(&self, switched: Switched) {
        *self.switched.borrow_mut() = Some(Box::new(switched));
    }

    /// Takes what follows a 101, if there was one.
    pub(crate) fn take_switched(&self, now: Instant) -> Option<Box<Switched>> {
        let switched = self.switched.borrow_mut().take()?;
        self.enter(Phase::Tunnel, now);
        Some(switched)
    }

    /// Remembers whom to wake when the connection expires or the worker winds down.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut registered = self.waker.borrow_mut();
        if !registered.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *registered = Some(waker.clone());
        }
    }

    /// Wakes the task that owns the connection.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Has its task woken once it is this late, exact to the worker's sweep.
    pub(super) fn set_alarm(&self, at: Option<Instant>) {
        self.alarm.set(at);
    }

    /// What it was doing for too long, if it was.
    pub(crate) fn expired(&self) -> Option<Phase> {
        self.expired.get()
    }

    /// Looks at the clock. `hasty` shortens the wait for a first request when the worker winds down.
    pub(crate) fn expire(&self, now: Instant, timeouts: &Timeouts, hasty: Option<Duration>) {
        if self.alarm.get().is_some_and(|alarm| now >= alarm) {
            self.alarm.set(None);
            self.wake();
        }
        let phase = self.phase.get();
        let limit = match phase {
            Phase::Waiting if self.used.get() => timeouts.client_idle,
            Phase::Waiting => hasty.unwrap_or(timeouts.client_header).min(timeouts.client_header),
            Phase::Head => timeouts.client_header,
            Phase::Busy if !self.multiplexed.get() => timeouts.stream_idle.max(self.longest_pause.get()),
            // Each stream watches its own bodies; a tunnel may be silent for as long as it likes.
            Phase::Busy | Phase::Tunnel => return,
        };
        if now.saturating_duration_since(self.since.get()) >= limit {
            self.expired.set(Some(phase));
            self.wake();
        }
    }

    fn enter(&self, phase: Phase, now: Instant) {
        self.phase.set(phase);
        self.since.set(now);
    }
}

/// A request under way on a connection; dropping it ends the request.
pub(crate) struct RequestScope {
    pub(crate) worker: Rc<Worker>,
    pub(crate) client: Rc<ClientConnection>,
    began: Instant,
    status: Cell<StatusCode>,
}

impl RequestScope {
    /// Begins a request.
    pub(crate) fn begin(worker: Rc<Worker>, client: Rc<ClientConnection>) -> Self {
        client.active.set(client.active.get() + 1);
        client.used.set(true);
        client.longest_pause.set(Duration::ZERO);
        client.enter(Phase::Busy, worker.now());
        worker.metrics.request_began();
        let status = StatusCode::from_u16(CLIENT_CLOSED).expect("it is within the range");
        Self { worker, client, began: Instant::now(), status: Cell::new(status) }
    }

    /// When it began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Notes the status of the answer.
    pub(crate) fn set_status(&self, status: StatusCode) {
        self.status.set(status);
    }
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        let client = &self.client;
        client.active.set(client.active.get() - 1);
        if client.active.get() == 0 && client.phase.get() == Phase::Busy {
            client.enter(Phase::Waiting, self.worker.now());
        }
        self.worker.metrics.request_ended(self.status.get(), self.began.elapsed());
    }
}
