//! Keeps all leases of a client alive over one heartbeat stream, from one task.
//!
//! ```text
//! open stream ──▶ beat (all at once) ──▶ beat what is due ──▶ stream lost or no answer in time
//!     ▲                                                              │
//!     └────────────── back-off, next control plane ◀────────────────┘
//! ```
//!
//! What is due when, and what a result means, is decided by [`leases`], which is pure. This is the shell:
//! the stream, the timers, and the registrations that follow an UNKNOWN.

mod leases;
mod task;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use waypost_proto::{error::Error as ContractError, error::ErrorCode, name::InstanceKey, time::duration, v1};

use crate::{control_planes::ControlPlanes, error::Error, registered::View};

/// Names a lease within a client, whatever its epoch is.
pub(crate) type LeaseId = u64;

/// A lease that a control plane has granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) key: InstanceKey,
    pub(crate) epoch: u64,
    pub(crate) ttl: Duration,
    pub(crate) interval: Duration,
}

impl Grant {
    pub(crate) fn from_response(response: &v1::RegisterResponse) -> Result<Self, Error> {
        let key = InstanceKey::from_wire(response.key.as_ref())?;
        let ttl = response.ttl.as_ref().and_then(duration).filter(|ttl| !ttl.is_zero());
        let Some(ttl) = ttl else {
            let message = format!("the control plane granted {key} a lease without a length");
            return Err(ContractError::new(ErrorCode::Internal, message).into());
        };
        let interval = response.heartbeat_interval.as_ref().and_then(duration);
        let interval = interval.filter(|interval| !interval.is_zero() && *interval < ttl).unwrap_or(ttl / 3);
        Ok(Self { key, epoch: response.epoch, ttl, interval })
    }
}

/// What a handle tells the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// A new lease.
    Keep { id: LeaseId, grant: Grant, request: Box<v1::RegisterRequest>, view: Arc<View> },
    /// The instance's own health.
    Health { id: LeaseId, report: v1::HealthReport },
    /// How busy it is, if that is known.
    Load { id: LeaseId, report: Option<v1::LoadReport> },
    /// It is about to be deregistered: answer with its epoch when no registration of it is under way, and
    /// do not register it again.
    Leave { id: LeaseId, ready: oneshot::Sender<u64> },
    /// It is deregistered: stop.
    Forget { id: LeaseId },
    /// Its handle is gone: deregister it, and stop.
    Abandon { id: LeaseId },
}

/// The task's handle. The task runs from the first registration on, and ends with the last handle.
#[derive(Debug)]
pub(crate) struct Keeper {
    planes: Arc<ControlPlanes>,
    client: Arc<str>,
    next_id: AtomicU64,
    commands: Mutex<Option<mpsc::UnboundedSender<Command>>>,
}

impl Keeper {
    pub(crate) fn new(planes: Arc<ControlPlanes>, client: Arc<str>) -> Self {
        Self { planes, client, next_id: AtomicU64::new(1), commands: Mutex::new(None) }
    }

    pub(crate) fn planes(&self) -> &ControlPlanes {
        &self.planes
    }

    pub(crate) fn client_name(&self) -> &str {
        &self.client
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        self.planes.call_timeout
    }

    /// Keeps a lease alive from now on.
    pub(crate) fn keep(&self, grant: Grant, request: v1::RegisterRequest, view: Arc<View>) -> LeaseId {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut commands = self.commands.lock();
        // The task is gone if the runtime that it was started in is.
        if commands.as_ref().is_none_or(mpsc::UnboundedSender::is_closed) {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(task::Task::new(self.planes.clone(), self.client.clone(), receiver).run());
            *commands = Some(sender);
        }
        if let Some(sender) = &*commands {
            let _ = sender.send(Command::Keep { id, grant, request: Box::new(request), view });
        }
        id
    }

    /// Tells the task; without a task there is nothing to tell.
    pub(crate) fn send(&self, command: Command) {
        if let Some(sender) = &*self.commands.lock() {
            let _ = sender.send(command);
        }
    }

    /// Prepares a lease for its deregistration and returns its epoch; `None` if the task is gone.
    pub(crate) async fn leave(&self, id: LeaseId) -> Option<u64> {
        let (ready, epoch) = oneshot::channel();
        self.send(Command::Leave { id, ready });
        epoch.await.ok()
    }
}
