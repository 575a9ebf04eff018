//! An agent under test: the real program as a process, its log, its admin port, its exit code.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a condition may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The program as a process; it is killed when this is dropped.
pub(crate) struct Agent {
    process: Child,
    log: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Agent {
    /// Starts it with these arguments, its admin port on a free port, and these variables.
    pub(crate) fn start(arguments: &[&str], variables: &[(&str, String)]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_waypost-agent"))
            .env("WAYPOST_ADMIN_LISTEN", "127.0.0.1:0")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let stderr = process.stderr.take().expect("it is piped");
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, log, seen: Vec::new() }
    }

    /// Waits for a line of its log that contains these words.
    pub(crate) fn until_logged(&mut self, words: &str) -> String {
        if let Some(line) = self.seen.iter().find(|line| line.contains(words)) {
            return line.clone();
        }
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.seen.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
        panic!("never logged: {words}\n{}", self.seen.join("\n"));
    }

    /// Where its admin port listens, as its first log line says.
    pub(crate) fn admin(&mut self) -> String {
        let line = self.until_logged("listening");
        assert_eq!(self.seen.first(), Some(&line), "it is the first line");
        let (_, address) = line.split_once("admin=").expect("it names the address");
        address.to_owned()
    }

    /// Asks its admin port. Returns the status and the body.
    pub(crate) fn get(&mut self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin()).expect("the admin port is open");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// Waits for its end, and returns its exit code.
    pub(crate) fn exit_code(&mut self) -> i32 {
        let mut ended = None;
        until("the agent's end", || {
            ended = self.process.try_wait().expect("it can be waited for");
            ended.is_some()
        });
        ended.and_then(|status| status.code()).expect("it ended by itself")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until a condition holds that nothing announces.
#[expect(clippy::disallowed_methods, reason = "another process's state has no notification to wait for")]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
