//! A check by a command. It runs in a process group of its own, which is killed when the check is over, so
//! that a check that hangs leaves nothing behind.

use std::{os::unix::process::ExitStatusExt, process::Stdio};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::Command;

pub(super) async fn check(command: &str) -> Result<(), String> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("sh cannot be started: {error}"))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(|id| Group(Pid::from_raw(id)));
    let status = child.wait().await.map_err(|error| format!("{command:?} was lost: {error}"))?;
    drop(group);
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(format!("{command:?} ended with {code}")),
        (None, signal) => Err(format!("{command:?} was killed by signal {}", signal.unwrap_or_default())),
    }
}

/// Kills the group when it is dropped. A group that is gone is no matter.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}
