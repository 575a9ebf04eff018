//! The keep-alive's task: the stream, the timers and the registrations around [`Leases`].

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{
    FutureExt, Stream, StreamExt, TryStreamExt, future::BoxFuture, stream, stream::FuturesUnordered,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use waypost_proto::v1;

use super::{
    Command, Grant, LeaseId,
    leases::{Leases, Leaving, Verdict},
};
use crate::{
    backoff::Backoff,
    client::registry,
    control_planes::{ControlPlanes, Picked, no_answer},
    error::Error,
    registered::{LeaseStatus, View},
};

/// The most beats that one message may carry.
const MAX_BEATS: usize = 10_000;
/// Beats that are not answered within this, or a third of the lease, go to another control plane.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

type Responses = Pin<Box<dyn Stream<Item = Result<v1::HeartbeatResponse, Status>> + Send>>;
type Registration = BoxFuture<'static, (LeaseId, Result<v1::RegisterResponse, Error>)>;

pub(super) struct Task {
    planes: Arc<ControlPlanes>,
    client: Arc<str>,
    commands: mpsc::UnboundedReceiver<Command>,
    leases: Leases,
    holders: HashMap<LeaseId, Holder>,
    registering: FuturesUnordered<Registration>,
    backoff: Backoff,
    lost_since: Option<Instant>,
}

/// What belongs to a lease besides its state.
struct Holder {
    request: Box<v1::RegisterRequest>,
    view: Arc<View>,
    leaving: Vec<oneshot::Sender<u64>>,
    backoff: Backoff,
}

enum Event {
    Command(Command),
    Closed,
    Answer(Option<Result<v1::HeartbeatResponse, Status>>),
    Registered(LeaseId, Result<v1::RegisterResponse, Error>),
    Timer,
}

/// Why a stream is given up.
enum End {
    /// No handle is left.
    Closed,
    /// No lease is left.
    Idle,
    /// The control plane is about to stop.
    GoingAway,
    /// It failed.
    Lost(String),
    /// It did not answer in time.
    Silent(String),
}

impl Task {
    pub(super) fn new(
        planes: Arc<ControlPlanes>,
        client: Arc<str>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        Self {
            planes,
            client,
            commands,
            leases: Leases::default(),
            holders: HashMap::new(),
            registering: FuturesUnordered::new(),
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT, fastrand::u64(..)),
            lost_since: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            while self.leases.is_empty() {
                match self.event(None, None).await {
                    Event::Closed => return,
                    event => self.handle(event),
                }
            }
            let picked = self.planes.pick();
            let turn = picked.turn;
            match self.stream(picked).await {
                End::Closed => return,
                End::Idle => continue,
                End::GoingAway => self.planes.move_on(turn),
                End::Lost(reason) | End::Silent(reason) => {
                    let address = self.planes.address(turn);
                    self.planes.move_on(turn);
                    self.lost(&address, &reason);
                }
            }
            if !self.wait().await {
                return;
            }
        }
    }

    /// Beats over one stream for as long as it lasts.
    async fn stream(&mut self, picked: Picked) -> End {
        let (beats, outgoing) = mpsc::channel(64);
        let mut client = registry(picked.channel);
        // The first beats wait in the stream before it opens, because a server may send its headers no
        // sooner than its first answer.
        let opening = async move {
            client.heartbeat(ReceiverStream::new(outgoing)).await.map(tonic::Response::into_inner)
        };
        let mut responses: Responses = Box::pin(stream::once(opening).try_flatten());
        self.leases.start_over(Instant::now());
        loop {
            let now = Instant::now();
            let patience = self.patience();
            if self.leases.answer_by(patience).is_some_and(|by| by <= now) {
                return End::Silent("heartbeats are not answered".to_owned());
            }
            self.register_due(now);
            let due = self.leases.beats(now);
            for chunk in due.chunks(MAX_BEATS) {
                if beats.try_send(v1::HeartbeatRequest { beats: chunk.to_vec() }).is_err() {
                    return End::Lost("the stream takes no more heartbeats".to_owned());
                }
            }
            let timers =
                [self.leases.next_beat(), self.leases.answer_by(patience), self.leases.next_registration()];
            match self.event(Some(&mut responses), timers.into_iter().flatten().min()).await {
                Event::Closed => return End::Closed,
                Event::Answer(Some(Ok(response))) => {
                    self.answered(&response);
                    if response.going_away {
                        return End::GoingAway;
                    }
                }
                Event::Answer(Some(Err(status))) => {
                    return End::Lost(no_answer(&status).unwrap_or_else(|| status.message().to_owned()));
                }
                Event::Answer(None) => return End::Lost("the control plane closed the stream".to_owned()),
                event => self.handle(event),
            }
            if self.leases.is_empty() {
                return End::Idle;
            }
        }
    }

    /// How long beats may stay without an answer: so short that another control plane can renew every lease
    /// before it lapses.
    fn patience(&self) -> Duration {
        let third = self.leases.shortest_interval().unwrap_or(LONGEST_SILENCE);
        self.planes.call_timeout.min(LONGEST_SILENCE).min(third)
    }

    /// Waits before the next attempt, and goes on with everything that needs no stream. False if no handle
    /// is left.
    async fn wait(&mut self) -> bool {
        let at_most = self.leases.shortest_interval().unwrap_or(LONGEST_WAIT);
        let until = Instant::now() + self.backoff.after_failure(at_most);
        while Instant::now() < until {
            self.register_due(Instant::now());
            let timer = self.leases.next_registration().map_or(until, |at| at.min(until));
            match self.event(None, Some(timer)).await {
                Event::Closed => return false,
                event => self.handle(event),
            }
        }
        true
    }

    async fn event(&mut self, responses: Option<&mut Responses>, timer: Option<Instant>) -> Event {
        let answer = async {
            match responses {
                Some(responses) => responses.next().await,
                None => std::future::pending().await,
            }
        };
        let timer = async {
            match timer {
                Some(timer) => tokio::time::sleep_until(timer).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv() => command.map_or(Event::Closed, Event::Command),
            answer = answer => Event::Answer(answer),
            Some((id, result)) = self.registering.next() => Event::Registered(id, result),
            () = timer => Event::Timer,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Command(command) => self.command(command),
            Event::Registered(id, result) => self.registered(id, result),
            Event::Closed | Event::Answer(_) | Event::Timer => {}
        }
    }

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Keep { id, grant, request, view } => {
                self.leases.insert(id, grant, now);
                let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT, fastrand::u64(..));
                self.holders.insert(id, Holder { request, view, leaving: Vec::new(), backoff });
            }
            Command::Health { id, report } => self.leases.report(id, report, now),
            Command::Load { id, report } => self.leases.report_load(id, report),
            Command::Leave { id, ready } => match self.leases.leave(id) {
                Leaving::Ready(epoch) => drop(ready.send(epoch)),
                Leaving::Later => {
                    if let Some(holder) = self.holders.get_mut(&id) {
                        holder.leaving.push(ready);
                    }
                }
                Leaving::Unknown => {}
            },
            Command::Forget { id } => {
                self.leases.remove(id);
                if let Some(holder) = self.holders.remove(&id) {
                    holder.view.status.send_replace(LeaseStatus::Left);
                }
            }
            Command::Abandon { id } => {
                if let Some(grant) = self.leases.remove(id) {
                    self.deregister(grant);
                }
                if let Some(holder) = self.holders.remove(&id) {
                    holder.view.status.send_replace(LeaseStatus::Left);
                }
            }
        }
    }

    fn answered(&mut self, response: &v1::HeartbeatResponse) {
        let now = Instant::now();
        self.backoff.reset();
        if let Some(since) = self.lost_since.take() {
            tracing::info!(after = ?since.elapsed(), "heartbeats are answered again");
        }
        for result in &response.results {
            let Some((id, verdict)) = self.leases.result(result, now) else { continue };
            let Some(holder) = self.holders.get(&id) else { continue };
            let status = match verdict {
                Verdict::Renewed => LeaseStatus::Active,
                Verdict::Lost => LeaseStatus::Reconnecting("the control plane has lost the lease".to_owned()),
                Verdict::Superseded => {
                    tracing::warn!(lease = ?result.key, epoch = result.epoch, "another process has registered under the same name");
                    LeaseStatus::Superseded
                }
            };
            show(&holder.view, status);
        }
    }

    /// Tells the holders that the stream is gone.
    fn lost(&mut self, address: &str, reason: &str) {
        if self.lost_since.is_none() {
            self.lost_since = Some(Instant::now());
            tracing::warn!(control_plane = address, reason, "heartbeat stream lost, reconnecting");
        } else {
            tracing::debug!(control_plane = address, reason, "heartbeat stream still lost");
        }
        for id in self.leases.held() {
            if let Some(holder) = self.holders.get(&id) {
                show(&holder.view, LeaseStatus::Reconnecting(format!("{address}: {reason}")));
            }
        }
    }

    fn register_due(&mut self, now: Instant) {
        for id in self.leases.registrations(now) {
            let Some(holder) = self.holders.get(&id) else { continue };
            let mut request = (*holder.request).clone();
            if let (Some(spec), Some(health)) = (&mut request.instance, self.leases.health(id)) {
                spec.start_unhealthy = !health.healthy;
            }
            let planes = self.planes.clone();
            let send = async move {
                let timeout = planes.call_timeout;
                let call = planes.call(timeout, |channel| {
                    let request = request.clone();
                    async move { registry(channel).register(request).await }
                });
                (id, call.await)
            };
            self.registering.push(send.boxed());
        }
    }

    fn registered(&mut self, id: LeaseId, result: Result<v1::RegisterResponse, Error>) {
        let now = Instant::now();
        match result.and_then(|response| Grant::from_response(&response)) {
            Ok(grant) => {
                let epoch = grant.epoch;
                if !self.leases.granted(id, grant.clone(), now) {
                    return self.deregister(grant);
                }
                tracing::info!(instance = %grant.key, epoch, "registered again");
                let Some(holder) = self.holders.get_mut(&id) else { return };
                holder.backoff.reset();
                holder.view.epoch.store(epoch, Ordering::Release);
                show(&holder.view, LeaseStatus::Active);
                for ready in holder.leaving.drain(..) {
                    let _ = ready.send(epoch);
                }
            }
            Err(error) => {
                let Some(holder) = self.holders.get_mut(&id) else { return };
                tracing::warn!(%error, "registering again failed");
                self.leases.refused(id, now + holder.backoff.after_failure(LONGEST_WAIT));
                show(&holder.view, LeaseStatus::Reconnecting(error.to_string()));
                let epoch = holder.view.epoch.load(Ordering::Acquire);
                for ready in holder.leaving.drain(..) {
                    let _ = ready.send(epoch);
                }
            }
        }
    }

    /// Deregisters in the background what nobody waits for.
    fn deregister(&self, grant: Grant) {
        let planes = self.planes.clone();
        let request = v1::DeregisterRequest {
            key: Some(grant.key.to_wire()),
            epoch: grant.epoch,
            drain: false,
            drain_deadline: None,
            reason: "dropped by its own process".to_owned(),
            client: self.client.to_string(),
        };
        tokio::spawn(async move {
            let call = planes.call(planes.call_timeout, |channel| {
                let request = request.clone();
                async move { registry(channel).deregister(request).await }
            });
            if let Err(error) = call.await {
                tracing::debug!(instance = %grant.key, %error, "background deregistration failed");
            }
        });
    }
}

/// Shows a status, and wakes those who watch it only if it is another one.
fn show(view: &View, status: LeaseStatus) {
    view.status.send_if_modified(|shown| {
        let modified = *shown != status;
        if modified {
            *shown = status;
        }
        modified
    });
}
