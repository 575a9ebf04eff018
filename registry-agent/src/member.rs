//! One service from its first check to its departure, in a task of its own.
//!
//! ```text
//! check … ──first passes──▶ register (for as long as it takes) ──▶ report changes of health
//!                                                                        │ leave
//!                                           drain, or deregister at once ▼
//! ```

mod status;
mod task;

use tokio::sync::{mpsc, oneshot, watch};
use waypost_sdk::{Client, DrainOutcome};

pub use self::status::MemberStatus;
use crate::{config::ServiceConfig, metrics::Metrics};

/// How a service is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Out of rotation first; it is removed when nothing is in flight to it, or at its deadline.
    Drain,
    /// At once. It also cuts a drain short.
    AtOnce,
}

#[derive(Debug)]
enum Command {
    Reconfigure(Box<ServiceConfig>),
    Leave(Departure, oneshot::Sender<Option<DrainOutcome>>),
}

/// A service that the agent cares for.
#[derive(Debug)]
pub struct Member {
    commands: mpsc::UnboundedSender<Command>,
    status: watch::Receiver<MemberStatus>,
}

impl Member {
    /// Starts to check it, and registers it when a check first passes.
    pub fn start(config: ServiceConfig, client: Client, metrics: Metrics) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (sender, status) = watch::channel(MemberStatus::of(&config));
        tokio::spawn(task::Task::new(config, client, metrics, receiver, sender).run());
        Self { commands, status }
    }

    /// Another configuration of the same instance, from now on.
    pub fn reconfigure(&self, config: ServiceConfig) {
        let _ = self.commands.send(Command::Reconfigure(Box::new(config)));
    }

    /// Leaves, and returns how a drain ended; `None` if there was nothing to drain, or no time to wait.
    pub async fn leave(&self, departure: Departure) -> Option<DrainOutcome> {
        let (done, outcome) = oneshot::channel();
        // It has left already if nobody listens.
        self.commands.send(Command::Leave(departure, done)).ok()?;
        outcome.await.ok().flatten()
    }

    /// How it is doing, now and from now on.
    pub fn status(&self) -> watch::Receiver<MemberStatus> {
        self.status.clone()
    }
}
