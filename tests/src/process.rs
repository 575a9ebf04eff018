//! A program under test: started, watched, signalled and ended by its process id.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::Notify,
    time::timeout,
};

use crate::{program::Program, servers::stand_still};

/// How long a program may take until it listens, and until it has ended after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many of its last lines are printed where a test failed.
const TAIL: usize = 60;

/// What a program wrote, line by line.
#[derive(Default)]
pub struct Log {
    lines: Mutex<Vec<String>>,
    grew: Notify,
}

impl Log {
    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    /// Waits for the first line in which `find` finds something.
    async fn wait_for<T>(&self, find: impl Fn(&str) -> Option<T>) -> T {
        loop {
            let grew = self.grew.notified();
            if let Some(found) = self.lines.lock().iter().find_map(|line| find(line)) {
                return found;
            }
            grew.await;
        }
    }

    async fn read(self: Arc<Self>, source: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(source).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.lines.lock().push(line);
            self.grew.notify_waiters();
        }
    }
}

/// A running program. It is killed when this is dropped.
pub struct Process {
    program: Program,
    arguments: Vec<String>,
    child: Child,
    pid: Pid,
    /// What it writes to stderr: its log.
    pub log: Arc<Log>,
    /// What it writes to stdout.
    pub output: Arc<Log>,
    addresses: BTreeMap<String, SocketAddr>,
}

impl Process {
    /// Starts a program, without the variables that configure Waypost.
    ///
    /// # Panics
    /// It has not been built, or the system cannot start it.
    pub fn spawn(program: Program, arguments: &[String]) -> Self {
        Self::spawn_from(&program.path(), program, arguments, &[])
    }

    fn spawn_from(file: &Path, program: Program, arguments: &[String], variables: &[(&str, &str)]) -> Self {
        let mut child = command(file, arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.name()));
        let id = child.id().expect("a child that was not awaited has an id");
        let pid = Pid::from_raw(i32::try_from(id).expect("process ids are small"));
        let (log, output) = (Arc::<Log>::default(), Arc::<Log>::default());
        tokio::spawn(Arc::clone(&log).read(child.stderr.take().expect("stderr is piped")));
        tokio::spawn(Arc::clone(&output).read(child.stdout.take().expect("stdout is piped")));
        let arguments = arguments.to_vec();
        Self { program, arguments, child, pid, log, output, addresses: BTreeMap::new() }
    }

    /// Starts a program and waits for its first log line, which names the addresses that it bound.
    ///
    /// # Panics
    /// As [`Self::spawn`]; or it ends, or does not listen in time.
    pub async fn start(program: Program, arguments: &[String]) -> Self {
        Self::spawn(program, arguments).listening().await
    }

    /// As [`Self::start`], from another file than the one that was built: another version of it.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_from(file: &Path, program: Program, arguments: &[String]) -> Self {
        Self::spawn_from(file, program, arguments, &[]).listening().await
    }

    /// As [`Self::start`], with variables in its environment.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(program: Program, arguments: &[String], variables: &[(&str, &str)]) -> Self {
        Self::spawn_from(&program.path(), program, arguments, variables).listening().await
    }

    /// Waits for the line that says where it listens.
    async fn listening(mut self) -> Self {
        let log = Arc::clone(&self.log);
        let addresses = async {
            tokio::select! {
                addresses = log.wait_for(listening) => Some(addresses),
                _ = self.child.wait() => None,
            }
        };
        let found = timeout(PATIENCE, addresses).await;
        let (name, arguments) = (self.program.name(), &self.arguments);
        match found {
            Ok(Some(addresses)) => self.addresses = addresses,
            Ok(None) => panic!("{name} {arguments:?} ended before it listened"),
            Err(_) => panic!("{name} {arguments:?} does not listen"),
        }
        self
    }

    /// An address that it listens on, by the name in its first log line.
    ///
    /// # Panics
    /// It said no such name.
    pub fn address(&self, name: &str) -> SocketAddr {
        *self.addresses.get(name).unwrap_or_else(|| {
            panic!("{} listens on {:?}, and not on {name}", self.program.name(), self.addresses)
        })
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// The process is gone.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal)
            .unwrap_or_else(|error| panic!("{} cannot be sent {signal}: {error}", self.program.name()));
    }

    /// Stops it from running, without ending it; [`Self::thaw`] lets it go on.
    pub fn freeze(&self) {
        stand_still(self.pid);
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Kills it, which it cannot notice, and waits until it is gone.
    pub async fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Asks it to end with SIGTERM and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// It does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = timeout(PATIENCE, self.ended_whenever()).await;
        status.unwrap_or_else(|_| panic!("{} does not end", self.program.name()))
    }

    /// Waits until it has ended, for as long as that takes.
    pub async fn ended_whenever(&mut self) -> ExitStatus {
        self.child.wait().await.expect("a child can be awaited")
    }

    fn print_log(&self) {
        let lines = self.log.lines();
        let tail = lines.len().saturating_sub(TAIL);
        show(&format!("--- {} (pid {}), the last of {} lines:", self.program.name(), self.pid, lines.len()));
        lines[tail..].iter().for_each(|line| show(line));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_log();
        }
    }
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// Runs a program to its end.
///
/// # Panics
/// It cannot be started or does not end.
pub async fn run(program: Program, arguments: &[&str]) -> Ended {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let running = command(&program.path(), &arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(PATIENCE, running).await;
    let output = output.unwrap_or_else(|_| panic!("{} {arguments:?} does not end", program.name()));
    let output = output.unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.name()));
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn command(file: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new(file);
    command.args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WAYPOST_")) {
        command.env_remove(name);
    }
    command
}

/// The addresses in a line like `… INFO waypost_proxy: listening traffic=127.0.0.1:1 admin=127.0.0.1:2`.
fn listening(line: &str) -> Option<BTreeMap<String, SocketAddr>> {
    let (_, fields) = line.split_once("listening ")?;
    let field = |field: &str| {
        let (name, address) = field.split_once('=')?;
        Some((name.to_owned(), address.parse().ok()?))
    };
    let addresses: BTreeMap<String, SocketAddr> = fields.split_whitespace().filter_map(field).collect();
    (!addresses.is_empty()).then_some(addresses)
}

/// Prints through the test runner, which shows it only where the test failed.
#[expect(clippy::print_stderr, reason = "the test runner captures it")]
fn show(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_log_line_names_the_addresses() {
        let line = "2026-01-01T00:00:00Z  INFO waypost_proxy: listening traffic=127.0.0.1:81 admin=[::1]:82";
        let addresses = listening(line).expect("two addresses");
        assert_eq!(addresses["traffic"], "127.0.0.1:81".parse().expect("an address"));
        assert_eq!(addresses["admin"], "[::1]:82".parse().expect("an address"));
        assert!(listening("INFO waypost_proxy: started").is_none());
    }
}
