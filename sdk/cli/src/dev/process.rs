//! One process: where it listens, its log, its end.
//!
//! A task owns the child, so that a signal can only go to a process that has not been waited for: its number
//! cannot have been given to another one.

use std::{
    collections::BTreeMap, ffi::OsString, net::SocketAddr, path::PathBuf, process::ExitStatus,
    process::Stdio, time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::{mpsc, watch},
};

use super::log::Log;
use crate::{
    failure::{Exit, Failure},
    locate,
};

/// The addresses that a program says it listens on, by their names.
pub(super) type Addresses = BTreeMap<String, SocketAddr>;

/// What to start.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    /// What it is called here.
    pub(super) name: String,
    /// The program.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) args: Vec<OsString>,
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    addresses: watch::Receiver<Option<Addresses>>,
    ended: watch::Receiver<Option<ExitStatus>>,
    signals: mpsc::UnboundedSender<Signal>,
}

impl Process {
    /// Starts a program in a process group of its own, so that the terminal's Ctrl-C reaches the supervisor
    /// alone. Its variables are this process's, without Waypost's own: flags say it all.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) fn spawn(launch: &Launch, log: &Log) -> Result<Self, Failure> {
        let mut command = Command::new(locate::this_program()?);
        command.args(["supervised", "--parent", &std::process::id().to_string(), "--"]);
        command.arg(&launch.program).args(&launch.args);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WAYPOST_"))
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("{} ({}) cannot be started: {error}", launch.name, launch.program.display()),
            )
        })?;
        let pid = child.id().unwrap_or_default();
        let (bound, addresses) = watch::channel(None);
        let reader = Reader { name: launch.name.clone(), log: log.clone(), bound };
        let readers = [
            child.stdout.take().map(|pipe| tokio::spawn(reader.clone().read(pipe))),
            child.stderr.take().map(|pipe| tokio::spawn(reader.read(pipe))),
        ];
        let (end, ended) = watch::channel(None);
        let (signals, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let status = wait(&mut child, pid, received).await;
            // What it wrote last is shown before its end is told.
            for reader in readers.into_iter().flatten() {
                let _ = tokio::time::timeout(Duration::from_secs(1), reader).await;
            }
            end.send_replace(Some(status));
        });
        Ok(Self { pid, addresses, ended, signals })
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal, unless it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        // A closed channel is an ended process.
        let _ = self.signals.send(signal);
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> Option<ExitStatus> {
        // The sender lives until it has sent, unless the runtime ends.
        self.ended.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    /// Waits until it has said where it listens; `None` where it ends first.
    pub(super) async fn listening(&mut self) -> Option<Addresses> {
        let (addresses, ended) = (&mut self.addresses, &mut self.ended);
        tokio::select! {
            found = addresses.wait_for(Option::is_some) => found.ok().and_then(|found| found.clone()),
            _ = ended.wait_for(Option::is_some) => None,
        }
    }
}

async fn wait(child: &mut Child, pid: u32, mut signals: mpsc::UnboundedReceiver<Signal>) -> ExitStatus {
    loop {
        tokio::select! {
            // A child of ours that has not been waited for can always be waited for.
            status = child.wait() => break status.unwrap_or_default(),
            Some(signal) = signals.recv() => {
                let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
            }
        }
    }
}

#[derive(Clone)]
struct Reader {
    name: String,
    log: Log,
    bound: watch::Sender<Option<Addresses>>,
}

impl Reader {
    async fn read(self, pipe: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if self.bound.borrow().is_none()
                && let Some(addresses) = parse_listening(&line)
            {
                self.bound.send_replace(Some(addresses));
            }
            self.log.line(&self.name, &line);
        }
    }
}

/// The addresses of a line such as `… INFO … listening grpc=127.0.0.1:7400 http=127.0.0.1:7401`.
fn parse_listening(line: &str) -> Option<Addresses> {
    let mut words = line.split_whitespace();
    words.find(|word| *word == "listening")?;
    let named = |word: &str| {
        let (name, address) = word.split_once('=')?;
        Some((name.to_owned(), address.trim_matches('"').parse().ok()?))
    };
    let addresses: Addresses = words.filter_map(named).collect();
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_log_line_tells_the_addresses() {
        let line = "2026-11-20T10:00:00Z  INFO waypost_control_plane: listening grpc=127.0.0.1:7400 http=[::1]:7401 id=a";
        let found = parse_listening(line).expect("addresses");
        assert_eq!(found["grpc"], "127.0.0.1:7400".parse().expect("an address"));
        assert_eq!(found["http"], "[::1]:7401".parse().expect("an address"));
        assert_eq!(found.len(), 2);
        assert_eq!(parse_listening("INFO proxy: listening soon"), None);
        assert_eq!(parse_listening("INFO proxy: grpc=127.0.0.1:7400"), None);
    }
}
