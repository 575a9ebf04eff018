//! Connections to instances: one worker's, by endpoint.
//!
//! HTTP/1.1 connections are kept while idle and taken last in, first out, so that those that are not needed
//! run into their timeout. HTTP/2 connections are shared. Connections belong to an endpoint, which is a process
//! at an address: another epoch is another endpoint and gets connections of its own.
//!
//! How many connections there may be to a service, from all workers, is its policy's to say (see [`terms`]). Where somebody
//! waits for one, those that are idle make room: in the same worker at once, in others at their next sweep.
//!
//! Deliberately absent: a limit of connections to one instance.

mod connect;
mod http1;
mod http2;
mod terms;

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

pub(crate) use self::{
    connect::{ConnectError, connect},
    http1::Http1,
    http2::{Http2Body, SendError},
    terms::Full,
};
use self::{
    http1::IdleHttp1,
    http2::{Dialled, SharedHttp2},
    terms::Terms,
};
use crate::{
    http1::Connection,
    rule::TimeLimit,
    serve::{PoolLimits, ServeConfig},
    table::{EndpointId, EndpointState, Place, ServiceTable, Usage},
};

/// Where the limit for connections is set that holds where no policy says another one.
const OWN_CONNECT: &str = "--connect-timeout of the proxy";

/// One worker's connections to instances.
pub(crate) struct Pools {
    limits: PoolLimits,
    /// How long a connection may take to be made, where the service's policy does not say.
    connect: TimeLimit,
    /// Bytes that an answer's head may have.
    most_head: usize,
    http2: http2::Dialler,
    endpoints: RefCell<HashMap<EndpointId, EndpointPool, BuildHasherDefault<IdHasher>>>,
}

/// Hashes ids, which are consecutive numbers that no client chooses.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing (Knuth, volume 3, section 6.4).
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// The connections to one endpoint.
struct EndpointPool {
    endpoint: Arc<EndpointState>,
    idle: Vec<IdleHttp1>,
    shared: Rc<SharedHttp2>,
    /// Told of each connection that becomes idle. Whoever waits for one holds it.
    kept: Rc<Notify>,
}

/// What a request has waited for.
enum Next {
    Idle(Box<Http1>),
    Place(Place),
}

impl Pools {
    pub(crate) fn new(config: &ServeConfig) -> Self {
        Self {
            limits: config.pool,
            connect: TimeLimit::new(config.timeouts.connect, OWN_CONNECT),
            most_head: config.limits.header_bytes.max(8192),
            http2: http2::Dialler::new(config),
            endpoints: RefCell::default(),
        }
    }

    /// The idle connection that was used last. That its peer has closed it meanwhile shows when it is used.
    pub(crate) fn idle_http1(&self, endpoint: &EndpointState) -> Option<Box<Http1>> {
        let mut endpoints = self.endpoints.borrow_mut();
        Some(endpoints.get_mut(&endpoint.id())?.idle.pop()?.into_connection())
    }

    /// A connection to an endpoint of a service, where none is idle or a `fresh` one is wanted. It is a new one, unless there
    /// may be no more of them and one has become idle meanwhile; whether it is such is said with it.
    pub(crate) async fn connect_http1(
        &self,
        endpoint: &Arc<EndpointState>,
        service: &ServiceTable,
        fresh: bool,
    ) -> Result<(Box<Http1>, bool), ConnectError> {
        let terms = Terms::of(service, self.connect);
        let _pending = terms.wait()?;
        let place = match self.free_place(&terms) {
            Some(place) => place,
            None => match terms.in_time(self.next(endpoint, &terms, fresh)).await? {
                Next::Idle(connection) => return Ok((connection, true)),
                Next::Place(place) => place,
            },
        };
        let tls = endpoint.tls().map(|tls| &**tls);
        let stream = connect(endpoint.address(), tls, false, terms.limit, terms.until).await?;
        let connection = Connection::new(stream, self.most_head);
        Ok((Box::new(Http1 { connection, keep_alive: None, place }), false))
    }

    /// A place for a connection: one that is free, or that of an idle connection, which is closed.
    fn free_place(&self, terms: &Terms) -> Option<Place> {
        terms.place().or_else(|| if self.make_room(&terms.usage) { terms.place() } else { None })
    }

    /// Closes a connection to the service that is idle. Whether its place is free at once.
    fn make_room(&self, usage: &Arc<Usage>) -> bool {
        let mut endpoints = self.endpoints.borrow_mut();
        let of_service = |pool: &&mut EndpointPool| {
            // The first one was idle for longest.
            pool.idle.first().is_some_and(|idle| idle.place().is_of(usage))
        };
        if let Some(pool) = endpoints.values_mut().find(of_service) {
            pool.idle.remove(0);
            return true;
        }
        // Those over HTTP/2 end in a task of their own.
        let _closes = endpoints.values().any(|pool| pool.shared.give_up_idle(usage));
        false
    }

    /// Waits for an idle connection to an endpoint, or for a place for another one.
    async fn next(&self, endpoint: &Arc<EndpointState>, terms: &Terms, fresh: bool) -> Next {
        if fresh {
            return Next::Place(terms.next_place().await);
        }
        let kept = {
            let mut endpoints = self.endpoints.borrow_mut();
            let pool = endpoints.entry(endpoint.id()).or_insert_with(|| EndpointPool::new(endpoint));
            Rc::clone(&pool.kept)
        };
        let idle = async {
            loop {
                if let Some(idle) = self.idle_http1(endpoint) {
                    return idle;
                }
                kept.notified().await;
            }
        };
        tokio::select! {
            biased;
            idle = idle => Next::Idle(idle),
            place = terms.next_place() => Next::Place(place),
        }
    }

    /// Keeps a connection for the next request, unless there are enough, it is not wanted any more, or somebody waits for a
    /// connection elsewhere.
    pub(crate) fn keep_http1(&self, endpoint: &Arc<EndpointState>, connection: Box<Http1>, now: Instant) {
        if endpoint.is_draining() {
            return;
        }
        let mut endpoints = self.endpoints.borrow_mut();
        let pool = endpoints.entry(endpoint.id()).or_insert_with(|| EndpointPool::new(endpoint));
        if pool.is_waited_for() {
            pool.kept.notify_one();
        } else if connection.place.is_wanted() {
            return;
        }
        if pool.idle.len() < self.limits.max_idle {
            pool.idle.push(IdleHttp1::new(connection, now, self.limits.idle_timeout));
        }
    }

    /// A stream's place on an HTTP/2 connection to an endpoint of a service, which is made if there is none.
    pub(crate) async fn http2(
        &self,
        endpoint: &Arc<EndpointState>,
        service: &ServiceTable,
    ) -> Result<Dialled, ConnectError> {
        let shared = {
            let mut endpoints = self.endpoints.borrow_mut();
            let pool = endpoints.entry(endpoint.id()).or_insert_with(|| EndpointPool::new(endpoint));
            Rc::clone(&pool.shared)
        };
        let most = self.limits.http2_connections;
        if let Some(dialled) = shared.place(true, most) {
            return Ok(dialled);
        }
        let terms = Terms::of(service, self.connect);
        shared.stream(endpoint, &self.http2, &terms, most, || self.free_place(&terms)).await
    }

    /// Closes what has been idle for too long, what its peer has closed, and what leads to draining endpoints; and one idle
    /// connection to each endpoint of a service that has no room for others.
    pub(crate) fn sweep(&self, now: Instant) {
        self.endpoints.borrow_mut().retain(|_, pool| {
            if pool.endpoint.is_draining() {
                pool.idle.clear();
            }
            if pool.idle.first().is_some_and(|idle| idle.place().is_wanted()) {
                pool.idle.remove(0);
            }
            pool.idle.retain_mut(|idle| idle.is_worth_keeping(now));
            let limit = if pool.endpoint.is_draining() { Duration::ZERO } else { self.limits.idle_timeout };
            pool.shared.close_idle(now, limit);
            !(pool.idle.is_empty() && pool.shared.is_empty()) || pool.is_waited_for()
        });
    }

    /// Closes all idle connections.
    pub(crate) fn close_idle(&self) {
        for pool in self.endpoints.borrow_mut().values_mut() {
            pool.idle.clear();
        }
    }
}

impl EndpointPool {
    fn new(endpoint: &Arc<EndpointState>) -> Self {
        let (shared, kept) = (SharedHttp2::new(), Rc::default());
        Self { endpoint: Arc::clone(endpoint), idle: Vec::new(), shared, kept }
    }

    /// Whether somebody waits for a connection that becomes idle.
    fn is_waited_for(&self) -> bool {
        Rc::strong_count(&self.kept) > 1
    }
}
