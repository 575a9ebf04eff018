//! Connections to instances: one worker's, by endpoint.
//!
//! HTTP/1.1 connections are kept while idle and taken last in, first out, so that those that are not needed
//! run into their timeout. HTTP/2 connections are shared. Connections belong to an endpoint, which is a process
//! at an address: another epoch is another endpoint and gets connections of its own.
//!
//! Deliberately absent: a limit of connections to an instance, which belongs to a policy.

mod connect;
mod http1;
mod http2;

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use self::{
    connect::{ConnectError, connect},
    http1::Http1,
    http2::{SendError, StreamPermit},
};
use self::{
    http1::IdleHttp1,
    http2::{Dialled, SharedHttp2},
};
use crate::{
    http1::Connection,
    rule::TimeLimit,
    serve::{PoolLimits, ServeConfig},
    table::{EndpointId, EndpointState, ServiceTable},
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

    /// A new connection to an endpoint of a service, whatever is idle.
    pub(crate) async fn connect_http1(
        &self,
        endpoint: &EndpointState,
        service: &ServiceTable,
    ) -> Result<Box<Http1>, ConnectError> {
        let tls = endpoint.tls().map(|tls| &**tls);
        let stream = connect(endpoint.address(), tls, false, self.limit(service)).await?;
        Ok(Box::new(Http1 { connection: Connection::new(stream, self.most_head), keep_alive: None }))
    }

    /// Keeps a connection for the next request, unless there are enough or it is not wanted any more.
    pub(crate) fn keep_http1(&self, endpoint: &Arc<EndpointState>, connection: Box<Http1>, now: Instant) {
        if endpoint.is_draining() {
            return;
        }
        let mut endpoints = self.endpoints.borrow_mut();
        let pool = endpoints.entry(endpoint.id()).or_insert_with(|| EndpointPool::new(endpoint));
        if pool.idle.len() < self.limits.max_idle {
            pool.idle.push(IdleHttp1::new(connection, now, self.limits.idle_timeout));
        }
    }

    /// How long a connection to a service's endpoint may take to be made.
    fn limit(&self, service: &ServiceTable) -> TimeLimit {
        service.traffic().and_then(|traffic| traffic.waits.connect).unwrap_or(self.connect)
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
        shared.stream(endpoint, &self.http2, self.limit(service), self.limits.http2_connections).await
    }

    /// Closes what has been idle for too long, what its peer has closed, and what leads to draining endpoints.
    pub(crate) fn sweep(&self, now: Instant) {
        self.endpoints.borrow_mut().retain(|_, pool| {
            if pool.endpoint.is_draining() {
                pool.idle.clear();
            }
            pool.idle.retain_mut(|idle| idle.is_worth_keeping(now));
            let limit = if pool.endpoint.is_draining() { Duration::ZERO } else { self.limits.idle_timeout };
            pool.shared.close_idle(now, limit);
            !(pool.idle.is_empty() && pool.shared.is_empty())
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
        Self { endpoint: Arc::clone(endpoint), idle: Vec::new(), shared: SharedHttp2::new() }
    }
}
