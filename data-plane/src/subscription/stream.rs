//! The shell around the core: connects, sends and receives, compiles, and says what was applied.
//!
//! ```text
//!  connect ──▶ Hello, Applied ──▶ messages, reports ──▶ the stream ends ──▶ wait ──▶ the next one: connect
//! ```
//!
//! A control plane that is frozen is noticed by HTTP/2 pings, or by its silence when the stream is opened.
//!
//! After a rejection nothing is read for a while, longer with each one in a row: a control plane sends everything
//! again with each change to a proxy that holds nothing of use, and waits while nobody reads.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status as GrpcStatus, Streaming, transport::Endpoint};
use waypost_proto::{
    snapshot::SnapshotError,
    v1::{
        Applied, Hello, SubscribeRequest, SubscribeResponse, snapshots_client::SnapshotsClient,
        subscribe_request::Kind,
    },
};
use waypost_sdk::control_planes::{Backoff, ControlPlanes, Turn};

use super::{Core, Outcome, Status, observer::Observer, reports::Reports};
use crate::{metrics::Metrics, state_dir::Saved, table::Compiler};

/// How long a control plane may take to open the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream that held for so long was a good one: the next wait is a short one.
const GOOD_STREAM: Duration = Duration::from_secs(1);
/// The bounds of the wait before the first attempt after a failure, and before later ones. The first is wide
/// enough that the proxies of a control plane that restarts do not come to the others all at once.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The bound of the first pause after a change was rejected; it grows as the wait does.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A merged delta may hold very many entries.
const LARGEST_MESSAGE: usize = 512 * 1024 * 1024;
/// Window for a snapshot's chunks: more than arrives while one is decoded.
const WINDOW: u32 = 4 * 1024 * 1024;

/// How many messages may wait for the stream to take them.
const OUTBOX: usize = 16;
/// The answer's metadata has it where the control plane takes [`Kind::Observed`].
const TAKES_OBSERVED: &str = "waypost-observed";

/// Who subscribes.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Unique among proxies and the same after a restart where it can be.
    pub proxy_id: String,
    /// Where it listens for traffic.
    pub listen_address: String,
    /// Where its admin port is.
    pub admin_address: String,
    /// Its failure domain; empty means none.
    pub zone: String,
    /// Only services of these; empty means all.
    pub namespaces: Vec<String>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it cannot be connected to")]
    Connect(#[source] tonic::transport::Error),
    #[error("it did not open the stream within {OPEN_TIMEOUT:?}; it may be frozen or overloaded")]
    Silent,
    #[error("it ended the stream: {}", describe(.0))]
    Status(Box<GrpcStatus>),
    #[error("it closed the stream")]
    Closed,
    #[error("what it sent does not fit what is held, everything is asked for again")]
    Resync(#[source] SnapshotError),
}

/// What a subscriber works with.
#[derive(Debug)]
pub struct Wiring {
    /// Who subscribes.
    pub identity: Identity,
    /// To whom.
    pub planes: ControlPlanes,
    /// Told what happens.
    pub status: Arc<Status>,
    /// Counted in.
    pub metrics: Arc<Metrics>,
    /// Given what is to be stored.
    pub saved: watch::Sender<Option<Saved>>,
}

/// Keeps the table in step with a control plane.
pub struct Subscriber {
    wiring: Wiring,
    core: Core,
    compiler: Compiler,
    reports: Reports,
    observer: Observer,
    /// After rejections in a row.
    rejections: Backoff,
    /// Until when nothing is read.
    paused: Option<Instant>,
    /// Whom the stream leads to.
    turn: Turn,
    backoff: Backoff,
    /// Since when the stream is open.
    opened: Option<Instant>,
    /// Since when there is none.
    outage: Option<Instant>,
}

/// The sending side of one stream.
struct Outbox {
    requests: mpsc::Sender<SubscribeRequest>,
    /// To be sent as soon as the stream takes it. A newer `Applied` takes the place of an older one.
    waiting: Vec<Kind>,
}

impl Outbox {
    fn push(&mut self, kind: Kind) {
        if matches!(kind, Kind::Applied(_)) {
            self.waiting.retain(|waiting| !matches!(waiting, Kind::Applied(_)));
        }
        self.waiting.push(kind);
        while let Some(kind) = self.waiting.first().cloned() {
            if self.requests.try_send(SubscribeRequest { kind: Some(kind) }).is_err() {
                break;
            }
            self.waiting.remove(0);
        }
    }

    /// Sends one of those that wait. Pending while none does.
    async fn flush(&mut self) {
        let Some(kind) = self.waiting.first().cloned() else { return std::future::pending().await };
        match self.requests.reserve().await {
            Ok(permit) => {
                permit.send(SubscribeRequest { kind: Some(kind) });
                self.waiting.remove(0);
            }
            // The stream has ended, which its receiving side says as well.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Subscriber {
    /// A subscriber that goes on from `core`, whose contents `compiler` serves by already.
    pub fn new(wiring: Wiring, core: Core, compiler: Compiler) -> Self {
        let turn = wiring.planes.turn();
        let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT, fastrand::u64(..));
        let rejections = Backoff::new(FIRST_PAUSE, LONGEST_WAIT, fastrand::u64(..));
        let reports = Reports::default();
        Self {
            wiring,
            core,
            compiler,
            reports,
            observer: Observer::default(),
            rejections,
            paused: None,
            turn,
            backoff,
            opened: None,
            outage: None,
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                ended = self.stream() => ended,
                () = stop.cancelled() => break,
            };
            self.note_end(&ended);
            let wait = self.backoff.after_failure(LONGEST_WAIT);
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        self.wiring.status.disconnected();
        self.wiring.metrics.control.connected.set(0);
    }

    fn note_end(&mut self, ended: &Ended) {
        let Wiring { planes, status, metrics, .. } = &mut self.wiring;
        let (error, control_plane) = (chain(ended), planes.address(self.turn));
        if self.opened.take().is_some_and(|opened| opened.elapsed() >= GOOD_STREAM) {
            self.backoff.reset();
        }
        metrics.control.connected.set(0);
        status.disconnected();
        status.failed(&format!("{control_plane}: {error}"), self.core.resyncs());
        let revision = self.core.position().map(|position| position.revision);
        if let Ended::Resync(_) = ended {
            metrics.control.resyncs.inc();
            tracing::warn!(control_plane, error, resyncs = self.core.resyncs(), "out of step, resyncing");
            return;
        }
        planes.move_on(self.turn);
        if self.outage.is_none() {
            self.outage = Some(Instant::now());
            tracing::warn!(control_plane, error, serving = ?revision, "no control plane, going on without");
        } else {
            tracing::debug!(control_plane, error, serving = ?revision, "control plane failed");
        }
    }

    /// One stream, until it ends.
    async fn stream(&mut self) -> Ended {
        let (mut messages, mut outbox) = match self.open().await {
            Ok(open) => open,
            Err(ended) => return ended,
        };
        let reporter = Arc::clone(self.compiler.reporter());
        self.paused = None;
        loop {
            let (due, look) = (self.reports.due(), self.observer.due());
            tokio::select! {
                message = messages.message(), if self.paused.is_none() => match message {
                    Ok(Some(message)) => {
                        if let Err(ended) = self.receive(message, &mut outbox) {
                            return ended;
                        }
                    }
                    Ok(None) => return Ended::Closed,
                    Err(status) => return Ended::Status(Box::new(status)),
                },
                () = reporter.notified() => self.report(&mut outbox),
                () = until(due) => self.report(&mut outbox),
                () = until(look) => self.observe(&mut outbox),
                () = until(self.paused) => self.paused = None,
                () = outbox.flush() => {}
            }
        }
    }

    async fn open(&mut self) -> Result<(Streaming<SubscribeResponse>, Outbox), Ended> {
        self.turn = self.wiring.planes.turn();
        let channel = self.wiring.planes.connect(self.turn, tuned).await.map_err(Ended::Connect)?;
        let url = self.wiring.planes.address(self.turn);
        let mut client = SnapshotsClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let (requests, sent) = mpsc::channel(OUTBOX);
        let mut outbox = Outbox { requests, waiting: Vec::new() };
        let hello = self.hello();
        let resumes = hello.position.is_some();
        outbox.push(Kind::Hello(hello));
        if resumes {
            self.applied(&mut outbox);
        }
        let opening = client.subscribe(ReceiverStream::new(sent));
        let response = timeout(OPEN_TIMEOUT, opening).await.map_err(|_| Ended::Silent)?;
        let response = response.map_err(|status| Ended::Status(Box::new(status)))?;
        let listens = response.metadata().contains_key(TAKES_OBSERVED);
        let messages = response.into_inner();
        let now = Instant::now();
        self.opened = Some(now);
        self.observer.begin(self.compiler.table(), listens, fastrand::usize(..1 << 20), now);
        self.wiring.status.connected(&url);
        self.wiring.metrics.control.connected.set(1);
        self.wiring.metrics.control.connects.inc();
        let away = self.outage.take().map(|since| since.elapsed());
        tracing::info!(control_plane = url, resumes, ?away, "connected to a control plane");
        Ok((messages, outbox))
    }

    fn hello(&mut self) -> Hello {
        let identity = &self.wiring.identity;
        Hello {
            proxy_id: identity.proxy_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen_address: identity.listen_address.clone(),
            admin_address: identity.admin_address.clone(),
            zone: identity.zone.clone(),
            namespaces: identity.namespaces.clone(),
            position: self.core.hello(),
            resyncs: self.core.resyncs(),
        }
    }

    fn receive(&mut self, message: SubscribeResponse, outbox: &mut Outbox) -> Result<(), Ended> {
        match self.core.receive(message) {
            Outcome::Incomplete => Ok(()),
            Outcome::Changed { touched, full } => {
                self.rejections.reset();
                let control = &self.wiring.metrics.control;
                if full {
                    control.snapshots.inc();
                } else {
                    control.deltas.inc();
                }
                if let Some(source) = self.core.source() {
                    self.compiler.serve(&source, &touched);
                    self.wiring.saved.send_replace(Some(Saved::of(&source)));
                }
                self.wiring.status.applied(self.core.position());
                self.applied(outbox);
                let (position, changed) = (self.core.position().unwrap_or_default(), touched.instances.len());
                tracing::debug!(revision = position.revision, full, instances = changed, "applied");
                Ok(())
            }
            Outcome::Rejected(rejected) => {
                self.wiring.metrics.control.rejections.inc();
                let reason = &rejected.reason;
                let url = self.wiring.planes.address(self.turn);
                self.wiring.status.failed(&format!("{url}: {reason}"), self.core.resyncs());
                tracing::error!(
                    revision = rejected.revision,
                    reason,
                    "a change cannot be applied, the table stays as it was"
                );
                self.paused = Some(Instant::now() + self.rejections.after_failure(LONGEST_WAIT));
                outbox.push(Kind::Rejected(rejected));
                Ok(())
            }
            Outcome::Resync(error) => Err(Ended::Resync(error)),
        }
    }

    /// Says what is served by, and what is in flight to draining endpoints.
    fn applied(&mut self, outbox: &mut Outbox) {
        let draining = self.compiler.in_flight();
        self.reports.told(draining.clone(), Instant::now());
        outbox.push(Kind::Applied(Applied { position: self.core.position(), draining }));
    }

    /// A request to a draining endpoint has ended.
    fn report(&mut self, outbox: &mut Outbox) {
        // Before everything is there again, a position would only say once more that it is wrong.
        if self.core.awaits_everything() {
            return;
        }
        if self.reports.is_worth_telling(&self.compiler.in_flight(), Instant::now()) {
            self.applied(outbox);
        }
    }

    /// Says how endpoints answer.
    fn observe(&mut self, outbox: &mut Outbox) {
        let now = Instant::now();
        // While it does not take what it must know, it need not be told of this.
        if !outbox.waiting.is_empty() {
            return self.observer.put_off(now);
        }
        if let Some(observed) = self.observer.look(self.compiler.table(), now) {
            outbox.push(Kind::Observed(observed));
        }
    }
}

/// For a snapshot's chunks.
fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW)
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn describe(status: &GrpcStatus) -> String {
    if status.code() == Code::Unimplemented {
        return "something answers, but not as a control plane; is this its gRPC port?".to_owned();
    }
    format!("{}: {}", status.code(), status.message())
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
