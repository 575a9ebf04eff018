//! The handle of a registered instance: its health, its status, and how it leaves.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use waypost_proto::{
    error::ErrorCode,
    load::Load,
    name::InstanceKey,
    time::{duration, wire_duration},
    v1,
};

use crate::{
    backoff::Backoff,
    client::registry,
    error::Error,
    keeper::{Command, Grant, Keeper, LeaseId},
};

/// How much longer than the deadline to wait for the answer that says that it has passed.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// How a lease is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseStatus {
    /// The last heartbeat was accepted.
    Active,
    /// Heartbeats do not get through, or the control plane has lost the lease; the SDK is at it. The
    /// instance stays in rotation for as long as proxies know it.
    Reconnecting(String),
    /// Another process has registered under the same name. This one no longer takes new requests and does
    /// not come back by itself; it should end, or register under another id.
    Superseded,
    /// It has left.
    Left,
}

/// What a lease's task and its handle share.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) status: watch::Sender<LeaseStatus>,
    pub(crate) epoch: AtomicU64,
}

/// A registered instance. Heartbeats go on from a task of their own for as long as this handle lives.
///
/// Call [`Registered::drain`] before the program ends. Dropping the handle without it deregisters in the
/// background, as well as it can be done: without waiting for requests in flight, and not at all if the
/// runtime ends first, in which case the lease runs out.
#[derive(Debug)]
pub struct Registered {
    keeper: Arc<Keeper>,
    id: LeaseId,
    key: InstanceKey,
    view: Arc<View>,
    response: v1::RegisterResponse,
    left: AtomicBool,
}

impl Registered {
    pub(crate) fn new(
        keeper: Arc<Keeper>,
        grant: Grant,
        request: v1::RegisterRequest,
        response: v1::RegisterResponse,
    ) -> Result<Self, Error> {
        let key = grant.key.clone();
        let view = Arc::new(View {
            status: watch::Sender::new(LeaseStatus::Active),
            epoch: AtomicU64::new(grant.epoch),
        });
        let id = keeper.keep(grant, request, view.clone());
        Ok(Self { keeper, id, key, view, response, left: AtomicBool::new(false) })
    }

    /// The instance's name.
    pub fn key(&self) -> &InstanceKey {
        &self.key
    }

    /// The epoch of its lease. It grows when the SDK registers again.
    pub fn epoch(&self) -> u64 {
        self.view.epoch.load(Ordering::Acquire)
    }

    /// The revision that the registration made.
    pub fn revision(&self) -> u64 {
        self.response.revision
    }

    /// The routes that an older claim of another service holds, as they were when it registered.
    pub fn conflicts(&self) -> &[v1::Conflict] {
        &self.response.conflicts
    }

    /// How the lease is doing, now and from now on.
    pub fn status(&self) -> watch::Receiver<LeaseStatus> {
        self.view.status.subscribe()
    }

    /// Reports what the instance's own check says, with the next heartbeat, which is sent at once.
    pub fn set_health(&self, healthy: bool, reason: impl Into<String>) {
        let report = v1::HealthReport { healthy, reason: reason.into() };
        self.keeper.send(Command::Health { id: self.id, report });
    }

    /// Says how busy the instance is, with the next heartbeat and each one after it, until something else is said; `None`:
    /// nothing is known. An instance that says it is busy gets less of its share, and all of it again when it is not.
    ///
    /// # Errors
    /// A number is negative or not finite; what was said before stays.
    pub fn set_load(&self, load: Option<Load>) -> Result<(), Error> {
        let report = load.map(Load::to_wire);
        if let Some(report) = &report {
            Load::from_wire(report)?;
        }
        self.keeper.send(Command::Load { id: self.id, report });
        Ok(())
    }

    /// Takes the instance out of rotation, waits until no live proxy has a request in flight to it or the
    /// deadline (at most 1 h) passes, and removes it. Heartbeats go on meanwhile, and where a control plane
    /// does not answer, the others are tried until the deadline.
    ///
    /// If the control plane restarts meanwhile and has lost the registration, the outcome is
    /// [`DrainOutcome::Gone`]: the barrier cannot be waited for, and proxies may go by what they knew until
    /// the control plane has settled (10 s by default). Keep serving for that long if it matters.
    pub async fn drain(&self, deadline: Duration) -> DrainOutcome {
        self.leave(deadline, true).await
    }

    /// Removes the instance at once, without waiting for requests in flight.
    ///
    /// # Errors
    /// No control plane has taken it in time (the call timeout). That there was no such instance any more
    /// is no error.
    pub async fn deregister(&self) -> Result<(), Error> {
        match self.leave(self.keeper.call_timeout(), false).await {
            DrainOutcome::Failed { error, .. } => Err(error),
            DrainOutcome::Complete { .. } | DrainOutcome::Incomplete { .. } | DrainOutcome::Gone { .. } => {
                Ok(())
            }
        }
    }

    async fn leave(&self, deadline: Duration, drain: bool) -> DrainOutcome {
        let started = Instant::now();
        let until = started + deadline;
        let epoch = match tokio::time::timeout_at(until, self.keeper.leave(self.id)).await {
            Ok(Some(epoch)) => epoch,
            Ok(None) | Err(_) => self.epoch(),
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1), fastrand::u64(..));
        let outcome = loop {
            let remaining = until.saturating_duration_since(Instant::now());
            let error = match self.send_deregister(epoch, drain, remaining).await {
                Ok(response) => break DrainOutcome::of_response(&response, started.elapsed()),
                Err(error) => error,
            };
            if let Some(outcome) = DrainOutcome::of_answer(&error, started.elapsed()) {
                break outcome;
            }
            let wait = backoff.after_failure(Duration::MAX);
            if !error.is_retryable() || Instant::now() + wait >= until {
                break DrainOutcome::Failed { took: started.elapsed(), error };
            }
            tokio::time::sleep(wait).await;
        };
        self.left.store(true, Ordering::Release);
        self.keeper.send(Command::Forget { id: self.id });
        outcome
    }

    async fn send_deregister(
        &self,
        epoch: u64,
        drain: bool,
        remaining: Duration,
    ) -> Result<v1::DeregisterResponse, Error> {
        let request = v1::DeregisterRequest {
            key: Some(self.key.to_wire()),
            epoch,
            drain,
            drain_deadline: drain.then(|| wire_duration(remaining)),
            reason: if drain { "drained by its own process" } else { "left by its own process" }.to_owned(),
            client: self.keeper.client_name().to_owned(),
        };
        self.keeper
            .planes()
            .call(remaining + ANSWER_GRACE, |channel| {
                let request = request.clone();
                async move { registry(channel).deregister(request).await }
            })
            .await
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if !self.left.load(Ordering::Acquire) {
            self.keeper.send(Command::Abandon { id: self.id });
        }
    }
}

/// How a drain ended. However it did, the SDK has stopped its heartbeats.
#[derive(Clone, Debug)]
pub enum DrainOutcome {
    /// Every live proxy had applied it, with nothing in flight. The program can end.
    Complete {
        /// How long it took.
        took: Duration,
    },
    /// The deadline passed first. The instance is removed.
    Incomplete {
        /// How long it took.
        took: Duration,
        /// The requests and upgraded connections that were still in flight.
        in_flight: u64,
        /// The proxies that were waited for.
        waiting_for: Vec<String>,
    },
    /// There was nothing to remove: the control plane had lost the registration, the lease had run out, or
    /// another process had taken its place.
    Gone {
        /// How long it took.
        took: Duration,
        /// What the control plane said.
        reason: String,
    },
    /// It could not be done in time; the lease runs out by itself.
    Failed {
        /// How long it took.
        took: Duration,
        /// Why.
        error: Error,
    },
}

impl DrainOutcome {
    /// Whether no request can have been cut off.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Complete { .. })
    }

    /// How long it took.
    pub fn took(&self) -> Duration {
        match self {
            Self::Complete { took }
            | Self::Incomplete { took, .. }
            | Self::Gone { took, .. }
            | Self::Failed { took, .. } => *took,
        }
    }

    fn of_response(response: &v1::DeregisterResponse, took: Duration) -> Self {
        match &response.drain {
            Some(drain) if !drain.complete => Self::Incomplete {
                took: drain.took.as_ref().and_then(duration).unwrap_or(took),
                in_flight: drain.in_flight,
                waiting_for: drain.waiting_for.clone(),
            },
            _ => Self::Complete { took },
        }
    }

    fn of_answer(error: &Error, took: Duration) -> Option<Self> {
        match error {
            Error::Answer(answer) if matches!(answer.code, ErrorCode::NotFound | ErrorCode::StaleEpoch) => {
                Some(Self::Gone { took, reason: answer.message.clone() })
            }
            _ => None,
        }
    }
}

impl fmt::Display for DrainOutcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete { took } => write!(formatter, "complete after {took:.3?}"),
            Self::Incomplete { took, in_flight, waiting_for } => write!(
                formatter,
                "incomplete after {took:.3?}: {in_flight} in flight, waiting for {}",
                waiting_for.join(", ")
            ),
            Self::Gone { took, reason } => write!(formatter, "nothing to drain after {took:.3?}: {reason}"),
            Self::Failed { took, error } => write!(formatter, "failed after {took:.3?}: {error}"),
        }
    }
}
