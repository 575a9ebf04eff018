//! Runs the `waypost` program as a user would, and stands in for a control plane where one with known answers
//! is wanted.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpSocket,
    process::{Child, Command},
};

/// The program under test.
pub(crate) const WAYPOST: &str = env!("CARGO_BIN_EXE_waypost");
/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it was not killed"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

/// The program with nothing of this process's settings.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(WAYPOST);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WAYPOST_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs the program to its end.
pub(crate) async fn run(args: &[&str]) -> Ran {
    let output = tokio::time::timeout(PATIENCE, command(args).output());
    output.await.unwrap_or_else(|_| panic!("waypost {args:?} does not end")).expect("waypost starts").into()
}

/// A program that goes on, with its standard output and its standard error as they come.
pub(crate) struct Running {
    pub(crate) child: Child,
    output: BufReader<tokio::process::ChildStdout>,
    errors: Option<tokio::task::JoinHandle<String>>,
}

impl Running {
    /// Starts the program. What it keeps for `waypost dev down` goes to `folder`.
    pub(crate) fn start(args: &[&str], folder: &Path) -> Self {
        let mut command = command(args);
        command.env("XDG_RUNTIME_DIR", folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("waypost starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut errors = child.stderr.take().expect("it is piped");
        let errors = tokio::spawn(async move {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text).await;
            text
        });
        Self { child, output, errors: Some(errors) }
    }

    /// The next line of its standard output.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.output.read_line(&mut line)).await;
        if read.is_ok_and(|read| read.is_ok_and(|length| length > 0)) {
            return line.trim_end().to_owned();
        }
        let _ = self.child.start_kill();
        panic!("waypost says no more; on standard error it said: {}", self.errors().await);
    }

    /// Lines up to one that holds `text`.
    pub(crate) async fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line().await;
            if line.contains(text) {
                return line;
            }
        }
    }

    /// A whole JSON document.
    pub(crate) async fn document(&mut self) -> serde_json::Value {
        let mut text = String::new();
        loop {
            text.push_str(&self.line().await);
            if let Ok(value) = serde_json::from_str(&text) {
                return value;
            }
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self.child.id().expect("it has not been waited for");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends").expect("it can be waited for")
    }

    /// All that it wrote to standard error, after its end.
    pub(crate) async fn errors(&mut self) -> String {
        self.errors.take().expect("asked once").await.expect("it is read")
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let until = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An address where nobody listens, now or later: it stays taken.
pub(crate) fn nobody() -> String {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = socket.local_addr().expect("an address").to_string();
    std::mem::forget(socket);
    address
}

/// Asserts that the programs that `waypost dev` starts have been built.
pub(crate) fn programs_are_built() {
    for name in ["waypost-control-plane", "waypost-proxy"] {
        let program: PathBuf = Path::new(WAYPOST).with_file_name(name);
        assert!(
            program.exists(),
            "{} is not there; build it with: cargo build --workspace",
            program.display()
        );
    }
}
