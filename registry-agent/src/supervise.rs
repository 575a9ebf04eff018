//! `waypost-agent run`: one command and its registration, from start to exit code.
//!
//! ```text
//! Serving ──TERM or INT──▶ Draining ──drained, or asked again──▶ Stopping ──stop deadline──▶ killed
//!    │                        │                                     │                          │
//!    └──────── the command ends by itself: deregister at once ──────┴──── its exit code ◀──────┘
//! ```

use std::{ffi::OsString, io, process::ExitStatus, time::Duration};

use nix::sys::signal::Signal;
use waypost_sdk::Client;

use crate::{
    admin::Roster,
    child::{Child, StartError, exit_code},
    config::ServiceConfig,
    member::{Departure, Member},
    metrics::Metrics,
    signals::{Signals, asks_to_end},
};

/// How long the agent stays after its command, to deregister it.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(2);

/// What `run` runs.
#[derive(Clone, Debug)]
pub struct Run {
    /// The service.
    pub config: ServiceConfig,
    /// The port for the command's PORT, if it is given.
    pub port: Option<u16>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// How long the command may take to end before it is killed.
    pub stop_deadline: Duration,
}

/// Why a command could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It was lost.
    #[error("the command's end could not be waited for")]
    Lost(#[from] io::Error),
}

struct Supervised {
    child: Child,
    member: Member,
    signals: Signals,
    stop_deadline: Duration,
}

/// Starts the command, registers it when its check first passes, and returns its exit code when it ends.
///
/// # Errors
/// The command cannot be started.
pub async fn run(
    run: Run,
    client: Client,
    roster: Roster,
    metrics: Metrics,
    signals: Signals,
) -> Result<u8, RunError> {
    let mut variables = vec![("WAYPOST_SERVICE", run.config.spec.key.service().name().to_owned())];
    variables.extend(run.port.map(|port| ("PORT", port.to_string())));
    let child = Child::start(&run.command, &variables)?;
    tracing::info!(pid = %child.pid(), command = ?run.command, "started");
    let name = run.config.spec.key.to_string();
    let member = Member::start(run.config, client, metrics);
    roster.add(name, member.status()).await;
    let stop_deadline = run.stop_deadline;
    let mut supervised = Supervised { child, member, signals, stop_deadline };
    let status = supervised.until_ended().await?;
    tracing::info!(%status, "the command has ended");
    // A member that has left already says so at once.
    let left = tokio::time::timeout(DEREGISTER_TIMEOUT, supervised.member.leave(Departure::AtOnce)).await;
    if left.is_err() {
        tracing::warn!("no control plane has taken the deregistration, the lease will run out");
    }
    Ok(exit_code(status))
}

impl Supervised {
    async fn until_ended(&mut self) -> io::Result<ExitStatus> {
        let asked = loop {
            tokio::select! {
                status = self.child.wait() => return status,
                signal = self.signals.next() => if asks_to_end(signal) {
                    break signal;
                } else {
                    self.child.signal(signal);
                }
            }
        };
        if let Some(status) = self.drain(asked).await? {
            return Ok(status);
        }
        self.stop().await
    }

    /// Drains, and then tells the command to stop. Returns its status if it has ended before that.
    async fn drain(&mut self, asked: Signal) -> io::Result<Option<ExitStatus>> {
        tracing::info!(signal = %asked, "draining before the command is told to stop");
        let drained = self.member.leave(Departure::Drain);
        tokio::pin!(drained);
        loop {
            tokio::select! {
                _ = &mut drained => break,
                status = self.child.wait() => return status.map(Some),
                signal = self.signals.next() => {
                    if asks_to_end(signal) {
                        tracing::warn!(%signal, "asked again: the command is told to stop at once");
                        self.child.signal(signal);
                        return Ok(None);
                    }
                    self.child.signal(signal);
                }
            }
        }
        self.child.signal(asked);
        Ok(None)
    }

    /// Waits for the command's end, and kills it at the deadline.
    async fn stop(&mut self) -> io::Result<ExitStatus> {
        let deadline = tokio::time::sleep(self.stop_deadline);
        tokio::pin!(deadline);
        let mut killed = false;
        loop {
            tokio::select! {
                status = self.child.wait() => return status,
                () = &mut deadline, if !killed => {
                    tracing::warn!(after = ?self.stop_deadline, "the command has not ended, killing its process group");
                    self.child.kill_group();
                    killed = true;
                }
                signal = self.signals.next() => self.child.signal(signal),
            }
        }
    }
}
