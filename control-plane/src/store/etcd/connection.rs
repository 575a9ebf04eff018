//! The way to etcd: one connection at a time, to whichever endpoint answers.
//!
//! ```text
//!   call ──▶ the current endpoint ── answered ──▶ done
//!              ▲        │ no answer in a third of the time, connection lost, no leader
//!              │        ▼
//!              └── its connection is dropped, the next endpoint is current; the call is made again
//! ```
//!
//! Every call made here may be made twice without harm: reads, beats, grants of a lease whose id we chose, and
//! transactions that can succeed only once. So a lost answer is no reason to give up before the time is over.
//! A connection that does not answer is dropped, not waited for: its machine may be gone without a word.
//!
//! Deliberately absent: HTTP/2 keep-alive pings. etcd closes connections on which they come more often than it
//! likes; the watches ask for progress instead.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, Error};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Code;

use crate::store::StoreError;

/// How many times a call can be made again within its time.
const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The endpoints of one etcd.
pub(super) struct Connection {
    endpoints: Vec<Endpoint>,
    options: ConnectOptions,
    current: AtomicUsize,
    timeout: Duration,
    last_failure: Mutex<String>,
}

struct Endpoint {
    url: String,
    /// The connection, and how many there were before it.
    client: Mutex<(Option<Client>, u64)>,
}

/// A connection in use.
#[derive(Clone)]
pub(super) struct Lent {
    /// To make calls with.
    pub(super) client: Client,
    /// Which one it is.
    pub(super) which: Which,
}

/// Names a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Which {
    endpoint: usize,
    generation: u64,
}

impl Connection {
    /// Connects to nothing yet. Each operation may take as long as `timeout`.
    pub(super) fn new(urls: Vec<String>, options: ConnectOptions, timeout: Duration) -> Self {
        let endpoint = |url| Endpoint { url, client: Mutex::default() };
        let endpoints = urls.into_iter().map(endpoint).collect();
        let options = options.with_connect_timeout(timeout / ATTEMPTS).with_auto_token_refresh(true);
        Self { endpoints, options, current: AtomicUsize::new(0), timeout, last_failure: Mutex::default() }
    }

    /// Does what may take several calls, within the time of one operation.
    pub(super) async fn within_timeout<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        timeout(self.timeout, Box::pin(work)).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {:?}; {}", self.timeout, self.last_failure.lock());
            Err(StoreError::Unavailable(reason.trim_end_matches("; ").to_owned()))
        })
    }

    /// After how long without an answer a connection is taken for dead.
    pub(super) fn patience(&self) -> Duration {
        self.timeout / ATTEMPTS
    }

    /// The endpoints' addresses.
    pub(super) fn urls(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().map(|endpoint| endpoint.url.as_str())
    }

    /// A connection of its own to one endpoint, for a look at just that one.
    pub(super) async fn to(&self, url: &str) -> Result<Client, Error> {
        Client::connect([url], Some(self.options.clone())).await
    }

    /// Makes a call that may be made twice, until it is answered or refused or the time is over.
    pub(super) async fn call<T, F, R>(&self, call: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> R + Send,
        R: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        self.call_lent(move |lent| call(lent.client)).await
    }

    /// As [`Connection::call`], for calls that must know which connection they go over.
    pub(super) async fn call_lent<T, F, R>(&self, call: F) -> Result<T, StoreError>
    where
        F: Fn(Lent) -> R + Send,
        R: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let deadline = Instant::now() + self.timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match self.attempt(&call, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Lost(failure)) => failure,
            };
            self.last_failure.lock().clone_from(&failure);
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            if Instant::now() + jittered >= deadline {
                return Err(StoreError::Unavailable(failure));
            }
            sleep(jittered).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt<T, F, R>(&self, call: &F, deadline: Instant) -> Result<T, Failure>
    where
        F: Fn(Lent) -> R + Send,
        R: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let until = deadline.min(Instant::now() + self.patience());
        let lent = match timeout_at(until, Box::pin(self.lend())).await {
            Ok(Ok(lent)) => lent,
            Ok(Err((endpoint, error))) => {
                self.pass_over(endpoint);
                return Err(self.failure(endpoint, &error));
            }
            Err(_) => {
                let endpoint = self.current.load(Ordering::Relaxed) % self.endpoints.len();
                self.pass_over(endpoint);
                return Err(Failure::Lost(self.silent(endpoint)));
            }
        };
        let which = lent.which;
        let failure = match timeout_at(until, Box::pin(call(lent))).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.failure(which.endpoint, &error),
            Err(_) => Failure::Lost(self.silent(which.endpoint)),
        };
        if matches!(failure, Failure::Lost(_)) {
            self.drop_connection(which);
        }
        Err(failure)
    }

    /// The connection to the current endpoint; a new one where there is none.
    async fn lend(&self) -> Result<Lent, (usize, Error)> {
        let endpoint = self.current.load(Ordering::Relaxed) % self.endpoints.len();
        let place = &self.endpoints[endpoint];
        let known = || {
            let held = place.client.lock();
            held.0.clone().map(|client| Lent { client, which: Which { endpoint, generation: held.1 } })
        };
        if let Some(lent) = known() {
            return Ok(lent);
        }
        let client = self.to(&place.url).await.map_err(|error| (endpoint, error))?;
        // Another call may have been quicker; then that connection is used, and this one closed.
        Ok(known().unwrap_or_else(|| {
            let mut held = place.client.lock();
            *held = (Some(client.clone()), held.1 + 1);
            Lent { client, which: Which { endpoint, generation: held.1 } }
        }))
    }

    /// Drops a connection that has failed, unless somebody has replaced it already.
    pub(super) fn drop_connection(&self, which: Which) {
        let mut held = self.endpoints[which.endpoint].client.lock();
        if held.1 == which.generation {
            held.0 = None;
            self.pass_over(which.endpoint);
        }
    }

    fn pass_over(&self, endpoint: usize) {
        let count = self.endpoints.len();
        let next = |current: usize| (current % count == endpoint).then_some((endpoint + 1) % count);
        // Whoever was quicker has passed it over already.
        let _ = self.current.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn silent(&self, endpoint: usize) -> String {
        format!("{} does not answer", self.endpoints[endpoint].url)
    }

    fn failure(&self, endpoint: usize, error: &Error) -> Failure {
        let url = &self.endpoints[endpoint].url;
        match refusal(error) {
            Some(refusal) => Failure::Refused(refusal),
            None => Failure::Lost(format!("{url}: {}", innermost(error))),
        }
    }
}

/// Why an attempt has failed.
enum Failure {
    /// Nothing came back, or nothing that says what became of it.
    Lost(String),
    /// The answer is no, and will be.
    Refused(StoreError),
}

/// What an answer says that another attempt does not change; `None`: try again.
fn refusal(error: &Error) -> Option<StoreError> {
    let status = match error {
        Error::GRpcStatus(status) => status,
        Error::InvalidArgs(text) => return Some(StoreError::Refused(text.clone())),
        _ => return None,
    };
    let text = status.message();
    match status.code() {
        // The rights of a user have changed; a new token comes with the next connection.
        _ if text.contains("revision of auth store is old") || text.contains("not leader") => None,
        Code::ResourceExhausted if text.contains("space exceeded") => {
            Some(StoreError::Refused(format!("{text}: compact, defragment, then `etcdctl alarm disarm`")))
        }
        Code::PermissionDenied => Some(StoreError::Refused(format!(
            "{text}: the user needs read and write permission on the prefix, see ETCD.md"
        ))),
        Code::InvalidArgument | Code::Unauthenticated | Code::FailedPrecondition | Code::Unimplemented => {
            Some(StoreError::Refused(text.to_owned()))
        }
        Code::NotFound => Some(StoreError::Unavailable(text.to_owned())),
        Code::OutOfRange => Some(StoreError::Compacted { oldest: 0 }),
        _ => None,
    }
}

/// What is at the bottom of an error: "transport error" alone helps nobody.
pub(super) fn innermost(error: &Error) -> String {
    let outer: &dyn std::error::Error = match error {
        Error::GRpcStatus(status) if status.message().starts_with("etcdserver") => {
            return status.message().to_owned();
        }
        Error::GRpcStatus(status) => status,
        Error::TransportError(error) => error,
        Error::IoError(error) => error,
        other => return other.to_string(),
    };
    let mut inner = outer;
    while let Some(source) = inner.source() {
        inner = source;
    }
    match error {
        Error::GRpcStatus(status) if std::ptr::eq(inner, outer) => status.message().to_owned(),
        _ => inner.to_string(),
    }
}
