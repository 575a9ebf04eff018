//! HTTP/2 connections to an instance, shared by the requests of one worker.
//!
//! Requests that come while a connection is being made wait for it instead of making their own. A further
//! connection is made only when all carry as many streams as most servers allow.
//!
//! ```text
//! request ─▶ exchange ─▶ h2 ◀─ driver ─▶ gathered writes ─▶ instance
//!               │        ▲ │
//!               └ upload ┘ └▶ body ─▶ client
//! ```
//!
//! A request is sent by its own task, and so is its body until the answer begins; only a body that is on its way longer than
//! that gets a task. Each connection has one task, which reads, writes and asks whether the instance is there ([`driver`]).
//! h2 does the framing, the flow control and the checks of RFC 9113.
//!
//! Deliberately absent: server push, which is refused; extended `CONNECT`, for which WebSocket takes HTTP/1.1.

mod body;
mod driver;
mod exchange;
mod streams;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use tokio::{sync::Notify, time::timeout_at};

pub(crate) use self::{
    body::Http2Body,
    exchange::{Http2, SendError},
    streams::StreamPermit,
};
use self::{driver::Dialect, streams::Load};
use super::{ConnectError, connect, terms::Terms};
use crate::{
    serve::ServeConfig,
    table::{EndpointState, Place, Usage},
};

/// Streams beyond which another connection is made: what RFC 9113 asks servers to allow at least.
const STREAMS: u32 = 100;
/// How many connections a request waits for, where each is closed or full by the time it is its turn.
const DIALS: usize = 3;
/// A connection with a place on it, and whether it was there before.
pub(crate) struct Dialled {
    pub(crate) connection: Http2,
    pub(crate) permit: StreamPermit,
    pub(crate) reused: bool,
}

/// The HTTP/2 connections to one endpoint.
#[derive(Default)]
pub(super) struct SharedHttp2 {
    connections: RefCell<Vec<Http2>>,
    dialling: RefCell<Option<Rc<Dialling>>>,
}

/// A connection being made.
#[derive(Default)]
struct Dialling {
    over: Notify,
    failed: RefCell<Option<ConnectError>>,
}

/// Begins HTTP/2 on sockets.
#[derive(Clone)]
pub(super) struct Dialler {
    dialect: Dialect,
}

impl Dialler {
    pub(super) fn new(config: &ServeConfig) -> Self {
        Self { dialect: Dialect::new(u32::try_from(config.limits.header_bytes).unwrap_or(u32::MAX)) }
    }

    /// Makes a connection, with its place or the next one that comes back.
    async fn dial(
        &self,
        endpoint: &EndpointState,
        terms: &Terms,
        place: Option<Place>,
    ) -> Result<Http2, ConnectError> {
        let place = match place {
            Some(place) => place,
            None => terms.in_time(terms.next_place()).await?,
        };
        let tls = endpoint.tls().map(|tls| &**tls);
        let stream = connect(endpoint.address(), tls, true, terms.limit, terms.until).await?;
        let load = Load::new(Arc::clone(&terms.usage));
        let begun = timeout_at(terms.until, self.dialect.begin(TokioIo::new(stream), load)).await;
        let (connection, driver) =
            begun.map_err(|_| ConnectError::Timeout(terms.limit))?.map_err(ConnectError::Handshake)?;
        tokio::task::spawn_local(async move {
            // How it ended is told to the streams that it carries.
            driver.await;
            drop(place);
        });
        Ok(connection)
    }
}

impl SharedHttp2 {
    pub(super) fn new() -> Rc<Self> {
        Rc::default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.borrow().is_empty() && self.dialling.borrow().is_none()
    }

    /// A place on a new connection; where the service may have no more of them, on one that is full, if there is one.
    /// `free` is asked for the connection's place.
    pub(super) async fn stream(
        self: Rc<Self>,
        endpoint: &Arc<EndpointState>,
        dialler: &Dialler,
        terms: &Terms,
        most: usize,
        free: impl Fn() -> Option<Place>,
    ) -> Result<Dialled, ConnectError> {
        let _pending = terms.wait()?;
        for _ in 0..DIALS {
            let under_way = self.dialling.borrow().clone();
            let dialling = match under_way {
                Some(dialling) => dialling,
                None => {
                    let place = free();
                    if place.is_none()
                        && let Some(dialled) = self.place(true, 0)
                    {
                        return Ok(dialled);
                    }
                    self.dial(endpoint, dialler, terms, place)
                }
            };
            dialling.over.notified().await;
            if let Some(error) = &*dialling.failed.borrow() {
                return Err(error.shared());
            }
            if let Some(dialled) = self.place(false, most) {
                return Ok(dialled);
            }
        }
        // Those that are there may be full, and there may be no more of them.
        if let Some(dialled) = self.place(false, 0) {
            return Ok(dialled);
        }
        let why = "connections were closed as soon as they were made".to_owned();
        Err(ConnectError::Shared { why, tls: false })
    }

    /// A place on the connection that carries least, unless it is full and another one may be made.
    pub(super) fn place(&self, reused: bool, most: usize) -> Option<Dialled> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(Http2::is_open);
        let least = connections.iter().min_by_key(|connection| connection.load().streams())?;
        let full = least.load().streams() >= STREAMS;
        (!full || connections.len() >= most.max(1)).then(|| {
            let permit = StreamPermit::of(least.load());
            Dialled { connection: least.clone(), permit, reused }
        })
    }

    /// Begins to make a connection in a task of its own: it is to go on where the request that began it goes away.
    fn dial(
        self: &Rc<Self>,
        endpoint: &Arc<EndpointState>,
        dialler: &Dialler,
        terms: &Terms,
        place: Option<Place>,
    ) -> Rc<Dialling> {
        let dialling = Rc::new(Dialling::default());
        *self.dialling.borrow_mut() = Some(Rc::clone(&dialling));
        let (shared, endpoint, dialler) = (Rc::clone(self), Arc::clone(endpoint), dialler.clone());
        let (begun, terms) = (Rc::clone(&dialling), terms.clone());
        tokio::task::spawn_local(async move {
            match dialler.dial(&endpoint, &terms, place).await {
                Ok(connection) => shared.connections.borrow_mut().push(connection),
                Err(error) => *begun.failed.borrow_mut() = Some(error),
            }
            *shared.dialling.borrow_mut() = None;
            begun.over.notify_waiters();
        });
        dialling
    }

    /// Closes connections that have been idle for `limit`, and those that are idle while somebody waits for another one to
    /// the service.
    pub(super) fn close_idle(&self, now: Instant, limit: Duration) {
        self.connections.borrow_mut().retain(|connection| {
            let load = connection.load();
            let is_over = || load.usage().is_starved() || load.idle_for(now) >= limit;
            let idle = load.streams() == 0 && is_over();
            !idle && connection.is_open()
        });
    }

    /// Closes a connection of a service that is idle. Its place comes back soon.
    pub(super) fn give_up_idle(&self, usage: &Arc<Usage>) -> bool {
        let mut connections = self.connections.borrow_mut();
        let is_idle = |connection: &Http2| {
            connection.load().streams() == 0 && Arc::ptr_eq(connection.load().usage(), usage)
        };
        let found = connections.iter().position(is_idle);
        found.map(|at| connections.swap_remove(at)).is_some()
    }
}
