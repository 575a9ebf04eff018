//! The command that the agent runs: start, signals, exit code.
//!
//! It runs in a process group of its own. Ctrl-C in a terminal goes to the whole foreground group, and would
//! otherwise reach the command before it is drained; and what the command leaves behind can be killed with
//! it. The price: a command that reads from the terminal is stopped (SIGTTIN), as in the background of a
//! shell.

use std::{ffi::OsString, io, os::unix::process::ExitStatusExt, process::ExitStatus};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::process::Command;

/// The command could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{command:?} cannot be started: {reason}")]
pub struct StartError {
    command: OsString,
    reason: String,
    /// What the agent ends with: 127 if it is not found, 126 if it is found and cannot be executed, as in
    /// a shell.
    pub exit_code: u8,
}

/// A command that runs.
#[derive(Debug)]
pub struct Child {
    child: tokio::process::Child,
    pid: Pid,
}

impl Child {
    /// Starts a command with these variables on top of the agent's own.
    ///
    /// # Errors
    /// It is not found, or cannot be executed.
    pub fn start(command: &[OsString], variables: &[(&str, String)]) -> Result<Self, StartError> {
        let program = command.first().cloned().unwrap_or_default();
        let refuse = |error: &io::Error| StartError {
            command: program.clone(),
            reason: match error.kind() {
                io::ErrorKind::NotFound => "it is not found; give a path, or a name on the PATH".to_owned(),
                io::ErrorKind::PermissionDenied => "it may not be executed; is it a program?".to_owned(),
                _ => error.to_string(),
            },
            exit_code: if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 },
        };
        let child = Command::new(&program)
            .args(command.iter().skip(1))
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .spawn()
            .map_err(|error| refuse(&error))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let pid = pid.ok_or_else(|| refuse(&io::Error::other("it has no process id")))?;
        Ok(Self { child, pid })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal. It must not have been waited for.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = kill(self.pid, signal) {
            tracing::debug!(%signal, %error, "signal not sent");
        }
    }

    /// Kills it and all that it has started and that is still in its group.
    pub fn kill_group(&self) {
        if let Err(error) = killpg(self.pid, Signal::SIGKILL) {
            tracing::debug!(%error, "process group not killed");
        }
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// The system has lost track of it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

/// What the agent ends with: the command's own code, or 128 and the signal's number, as in a shell.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_commands_own_or_names_the_signal() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
