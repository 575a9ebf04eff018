//! HTTP/2 connections to an instance, shared by the requests of one worker.
//!
//! Requests that come while a connection is being made wait for it instead of making their own. A further
//! connection is made only when all carry as many streams as most servers allow.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http2::{Builder, SendRequest},
    },
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Notify, time::timeout_at};

use super::{ConnectError, connect, terms::Terms};
use crate::{
    forward::RequestBody,
    serve::{LocalExecutor, ServeConfig},
    table::{EndpointState, Place, Usage},
};

/// Streams beyond which another connection is made: what RFC 9113 asks servers to allow at least.
const STREAMS: u32 = 100;
/// How many connections a request waits for, where each is closed or full by the time it is its turn.
const DIALS: usize = 3;
/// How often an instance is asked whether it is there, and how long it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// One HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Http2 {
    sender: SendRequest<RequestBody>,
    load: Rc<Load>,
}

/// Why a request has no answer.
pub(crate) enum SendError {
    /// Nothing of it was sent. The request comes back.
    Unsent(Box<Request<RequestBody>>),
    /// Something of it may have been sent.
    Failed(hyper::Error),
    /// No answer came in time.
    Timeout,
}

/// How much a connection carries.
struct Load {
    streams: Cell<u32>,
    /// When the last stream ended.
    idle_since: Cell<Instant>,
    /// The service's, which it counts on.
    usage: Arc<Usage>,
}

/// A stream's place on a connection, given back when dropped.
pub(crate) struct StreamPermit(Rc<Load>);

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
    builder: Builder<LocalExecutor>,
}

impl Dialler {
    pub(super) fn new(config: &ServeConfig) -> Self {
        let mut builder = Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_header_list_size(u32::try_from(config.limits.header_bytes).unwrap_or(u32::MAX));
        Self { builder }
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
        let begun = timeout_at(terms.until, self.builder.handshake(TokioIo::new(stream))).await;
        let (sender, connection) =
            begun.map_err(|_| ConnectError::Timeout(terms.limit))?.map_err(ConnectError::Handshake)?;
        tokio::task::spawn_local(async move {
            // How it ended is told to the streams that it carries.
            let _ = connection.await;
            drop(place);
        });
        let usage = Arc::clone(&terms.usage);
        let load = Load { streams: Cell::new(0), idle_since: Cell::new(Instant::now()), usage };
        Ok(Http2 { sender, load: Rc::new(load) })
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
        let why = "connections were closed as soon as they were made".to_owned();
        Err(ConnectError::Shared { why, tls: false })
    }

    /// A place on the connection that carries least, unless it is full and another one may be made.
    pub(super) fn place(&self, reused: bool, most: usize) -> Option<Dialled> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.sender.is_closed());
        let least = connections.iter().min_by_key(|connection| connection.load.streams.get())?;
        let full = least.load.streams.get() >= STREAMS;
        (!full || connections.len() >= most.max(1)).then(|| {
            let load = Rc::clone(&least.load);
            load.streams.set(load.streams.get() + 1);
            Dialled { connection: least.clone(), permit: StreamPermit(load), reused }
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
            let load = &connection.load;
            let is_over =
                || load.usage.is_starved() || now.saturating_duration_since(load.idle_since.get()) >= limit;
            let idle = load.streams.get() == 0 && is_over();
            !idle && !connection.sender.is_closed()
        });
    }

    /// Closes a connection of a service that is idle. Its place comes back soon.
    pub(super) fn give_up_idle(&self, usage: &Arc<Usage>) -> bool {
        let mut connections = self.connections.borrow_mut();
        let is_idle = |connection: &Http2| {
            connection.load.streams.get() == 0 && Arc::ptr_eq(&connection.load.usage, usage)
        };
        let found = connections.iter().position(is_idle);
        found.map(|at| connections.swap_remove(at)).is_some()
    }
}

impl Http2 {
    /// Sends a request and waits for the answer's head. `limit` counts from when `is_sent` says so.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        limit: Duration,
        is_sent: impl AsyncFn(),
    ) -> Result<Response<Incoming>, SendError> {
        let answer = self.sender.try_send_request(request);
        let late = async {
            is_sent().await;
            tokio::time::sleep(limit).await;
        };
        tokio::select! {
            biased;
            answered = answer => answered.map_err(SendError::from_hyper),
            () = late => Err(SendError::Timeout),
        }
    }
}

impl SendError {
    fn from_hyper(mut error: TrySendError<Request<RequestBody>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(Box::new(request)),
            None => Self::Failed(error.into_error()),
        }
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}
