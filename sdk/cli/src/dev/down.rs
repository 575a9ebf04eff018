//! `waypost dev down`: ends what runs, or what a `waypost dev` that was killed has left behind.
//!
//! Only processes that were written down, and that started when it was written, are told to end. Ports say
//! nothing about who holds them, and are not looked at.

use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::Instant;

use super::record::{self, Identity, Processes};
use crate::{
    failure::{Exit, Failure},
    output::{Output, text},
};

const POLL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);
const CHILD_PATIENCE: Duration = Duration::from_secs(15);

/// Ends everything that was written down.
///
/// # Errors
/// The records cannot be read, or something does not end.
pub(super) async fn run(output: &Output) -> Result<(), Failure> {
    let records = record::all()
        .map_err(|error| Failure::new(Exit::Failed, format!("what runs cannot be read: {error}")))?;
    let mut ended = 0;
    for (file, processes) in records {
        ended += end(output, &processes).await?;
        let _ = fs::remove_file(file);
    }
    if ended == 0 {
        output.note("no waypost dev of this user runs, and none has left anything behind");
    }
    Ok(())
}

async fn end(output: &Output, processes: &Processes) -> Result<usize, Failure> {
    let supervisor = processes.supervisor;
    let mut ended = 0;
    if supervisor.is_alive() {
        send(supervisor, Signal::SIGTERM);
        if !gone(supervisor, PATIENCE).await {
            let message =
                format!("waypost dev (pid {}) has not ended within {}", supervisor.pid, text::span(PATIENCE));
            return Err(Failure::new(Exit::Failed, message).way_out("see why in its terminal"));
        }
        output.line(format!("ended waypost dev (pid {})", supervisor.pid))?;
        ended += 1;
    }
    let left: Vec<_> = processes.children.iter().filter(|(_, child)| child.is_alive()).collect();
    left.iter().for_each(|(_, child)| send(**child, Signal::SIGTERM));
    for (name, child) in left {
        let how = if gone(*child, CHILD_PATIENCE).await {
            "ended"
        } else {
            send(*child, Signal::SIGKILL);
            "killed"
        };
        output.line(format!("{how} {name} (pid {}), which was left behind", child.pid))?;
        ended += 1;
    }
    Ok(ended)
}

fn send(process: Identity, signal: Signal) {
    if process.is_alive() {
        let _ = kill(Pid::from_raw(process.pid.cast_signed()), signal);
    }
}

async fn gone(process: Identity, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    while process.is_alive() {
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}
