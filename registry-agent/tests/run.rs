//! What `waypost-agent run` promises, with real processes: a command is registered when it is ready, drained
//! before it is told to stop, gets every signal, and lends the agent its exit code.

mod agent;
#[path = "../../sdk/rust/tests/fake/mod.rs"]
mod fake;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    time::Duration,
};

use agent::{Agent, until};
use fake::{Fake, State, free_address};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// A folder through which a test and its command talk: `log` is what the command saw, `health` is the status
/// that it answers checks with.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.set_health(200);
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    fn until_logged(&self, words: &str) {
        until(&format!("{words:?} in the command's log"), || self.log().contains(words));
    }

    fn set_health(&self, status: u16) {
        fs::write(self.file("health.new"), status.to_string()).expect("it is written");
        fs::rename(self.file("health.new"), self.file("health")).expect("it is moved");
    }
}

/// An agent that runs [`the_command`] of this file.
fn run(fake: &Fake, folder: &Folder, options: &[&str]) -> (Agent, String) {
    let port = free_address().port().to_string();
    let own = std::env::current_exe().expect("this program has a path");
    let own = own.to_str().expect("a plain path");
    let url = fake.url();
    let mut arguments = vec!["run", "--control-plane", &url, "--service", "users", "--port", &port];
    arguments.extend(["--health", "http:/health", "--check-interval", "20ms", "--ttl", "1s"]);
    arguments.extend(options);
    arguments.extend(["--", own, "--exact", "the_command", "--ignored", "--nocapture"]);
    let variables = [("TEST_FOLDER", folder.0.path().display().to_string())];
    (Agent::start(&arguments, &variables), format!("users/127.0.0.1:{port}"))
}

/// Not a test: the command that the agent runs. It answers checks, writes down each signal, ends with 7 on
/// SIGTERM, with 8 on SIGINT, with 3 on SIGUSR2, and ignores SIGTERM if there is a file `stubborn`.
#[test]
#[ignore = "it is the command that the agent runs"]
fn the_command() {
    let Ok(folder) = std::env::var("TEST_FOLDER") else { return };
    let folder = PathBuf::from(folder);
    let write = |line: &str| {
        let mut log =
            fs::OpenOptions::new().append(true).create(true).open(folder.join("log")).expect("a file");
        writeln!(log, "{line}").expect("it is written");
    };
    let port = std::env::var("PORT").expect("the agent sets it");
    write(&format!("PORT={port} WAYPOST_SERVICE={}", std::env::var("WAYPOST_SERVICE").expect("it is set")));
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("the port is free");
    let agent = nix::unistd::getppid();
    let health = folder.join("health");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 1024]);
            let status = fs::read_to_string(&health).expect("a status");
            let _ = write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut signals = waypost_agent::signals::Signals::listen().expect("signals");
        write("ready");
        // An agent that a failed test has killed leaves no command behind.
        tokio::spawn(async move {
            let mut look = tokio::time::interval(Duration::from_millis(50));
            while nix::unistd::getppid() == agent {
                look.tick().await;
            }
            std::process::exit(1);
        });
        loop {
            let signal = signals.next().await;
            write(signal.as_str());
            match signal {
                Signal::SIGTERM if folder.join("stubborn").exists() => {}
                Signal::SIGTERM => std::process::exit(7),
                Signal::SIGINT => std::process::exit(8),
                Signal::SIGUSR2 => std::process::exit(3),
                _ => {}
            }
        }
    });
}

fn draining(state: &State) -> Option<()> {
    state.instances.values().any(|held| held.draining).then_some(())
}

#[tokio::test]
async fn a_command_is_registered_when_ready_and_drained_before_it_is_told_to_stop() {
    for (signal, code) in [(Signal::SIGTERM, 7), (Signal::SIGINT, 8)] {
        let (fake, folder) = (Fake::start(), Folder::new());
        fake.registry().with(|state| state.hold_drains = true);
        let (mut agent, key) = run(&fake, &folder, &["--version", "2", "--tag", "a", "--prefix", "/u"]);
        let held = fake.registry().until_registered(&key).await;
        let prefix = held.spec.prefix.as_deref();
        assert_eq!((&*held.spec.version, held.spec.tags, prefix), ("2", vec!["a".to_owned()], Some("/u")));
        assert!(folder.log().contains("WAYPOST_SERVICE=users\n"), "{}", folder.log());
        folder.until_logged("ready");
        agent.signal(signal);
        fake.registry().until("a drain", draining).await;
        let seen = fake.registry().with(|state| state.beats.len());
        fake.registry().until_beats(seen + 2).await;
        assert!(!folder.log().contains(signal.as_str()), "it is told to stop only after the drain");
        fake.registry().with(|state| state.hold_drains = false);
        assert_eq!(agent.exit_code(), code);
        assert!(folder.log().contains(signal.as_str()));
        fake.registry().until_gone(&key).await;
        assert!(fake.registry().with(|state| state.deregistrations.iter().all(|request| request.drain)));
    }
}

#[tokio::test]
async fn nothing_is_registered_before_its_check_passes_and_health_is_reported_from_then_on() {
    let (fake, folder) = (Fake::start(), Folder::new());
    folder.set_health(503);
    let (mut agent, key) = run(&fake, &folder, &[]);
    until("a few failed checks", || agent.get("/metrics").1.contains("result=\"fail\",service=\"users\"} 4"));
    assert_eq!(fake.registry().with(|state| state.registrations.len()), 0);
    assert_eq!(agent.get("/readyz").0, 503);
    folder.set_health(200);
    fake.registry().until_registered(&key).await;
    until("readiness", || agent.get("/readyz").0 == 200);
    let health = |wanted: bool| {
        move |state: &State| {
            let health = state.instances.values().next().and_then(|held| held.health.clone());
            health.filter(|health| health.healthy == wanted)
        }
    };
    folder.set_health(500);
    let report = fake.registry().until("a report", health(false)).await;
    assert_eq!(report.reason, "GET /health answered 500");
    folder.set_health(204);
    fake.registry().until("a report", health(true)).await;
    assert_eq!(fake.registry().with(|state| state.registrations.len()), 1);
}

#[tokio::test]
async fn signals_are_passed_on_and_asking_twice_cuts_the_drain_short() {
    let (fake, folder) = (Fake::start(), Folder::new());
    fake.registry().with(|state| state.hold_drains = true);
    let (mut agent, key) = run(&fake, &folder, &[]);
    fake.registry().until_registered(&key).await;
    folder.until_logged("ready");
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGWINCH, Signal::SIGQUIT] {
        agent.signal(signal);
        folder.until_logged(signal.as_str());
    }
    agent.signal(Signal::SIGTERM);
    fake.registry().until("a drain", draining).await;
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.exit_code(), 7);
    fake.registry().until_gone(&key).await;
}

#[tokio::test]
async fn a_command_that_ends_by_itself_is_deregistered_at_once() {
    let (fake, folder) = (Fake::start(), Folder::new());
    fake.registry().with(|state| state.hold_drains = true);
    let (mut agent, key) = run(&fake, &folder, &[]);
    fake.registry().until_registered(&key).await;
    folder.until_logged("ready");
    agent.signal(Signal::SIGUSR2);
    assert_eq!(agent.exit_code(), 3);
    fake.registry().until_gone(&key).await;
    assert!(fake.registry().with(|state| !state.deregistrations[0].drain));
}

#[tokio::test]
async fn a_command_that_ends_during_its_drain_is_not_waited_for() {
    let (fake, folder) = (Fake::start(), Folder::new());
    fake.registry().with(|state| state.hold_drains = true);
    let (mut agent, key) = run(&fake, &folder, &[]);
    fake.registry().until_registered(&key).await;
    folder.until_logged("ready");
    agent.signal(Signal::SIGTERM);
    fake.registry().until("a drain", draining).await;
    agent.signal(Signal::SIGUSR2);
    assert_eq!(agent.exit_code(), 3);
    fake.registry()
        .until("a deregistration", |state| {
            state.deregistrations.iter().any(|request| !request.drain).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_command_that_does_not_stop_is_killed_with_all_that_it_started() {
    let (fake, folder) = (Fake::start(), Folder::new());
    let file = folder.file("pid");
    let script =
        format!("trap '' TERM; sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
    let url = fake.url();
    let mut arguments = vec!["run", "--control-plane", &url, "--service", "users", "--port", "9"];
    arguments.extend(["--health", "none", "--stop-deadline", "100ms", "--", "sh", "-c", &script]);
    let mut agent = Agent::start(&arguments, &[]);
    fake.registry().until_registered("users/127.0.0.1:9").await;
    until("its own child", || file.exists());
    let pid: i32 = fs::read_to_string(&file).expect("a file").trim().parse().expect("a pid");
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.exit_code(), 137);
    until("the end of its child", || kill(Pid::from_raw(pid), None).is_err() || is_zombie(pid));
}

/// Killed and not yet reaped by whoever adopted it.
fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test]
async fn a_control_plane_that_is_away_keeps_neither_the_command_from_running_nor_the_agent_from_ending() {
    let (fake, folder) = (Fake::start(), Folder::new());
    let address = fake.kill();
    let url = format!("http://{address}");
    let arguments = ["run", "--control-plane", &url, "--service", "users", "--port", "9", "--health", "none"];
    let script = format!("touch {}; exit 5", folder.file("ran").display());
    let arguments = [&arguments[..], &["--", "sh", "-c", &script]].concat();
    let started = std::time::Instant::now();
    assert_eq!(Agent::start(&arguments, &[]).exit_code(), 5);
    assert!(folder.file("ran").exists());
    assert!(started.elapsed() < Duration::from_secs(15), "it took {:?}", started.elapsed());
}

#[test]
fn what_cannot_be_started_ends_as_in_a_shell() {
    let folder = Folder::new();
    fs::write(folder.file("text"), "no program").expect("it is written");
    let text = folder.file("text");
    let text = text.to_str().expect("a plain path");
    for (command, code, words) in
        [("/nowhere/at-all", 127, "it is not found"), (text, 126, "it may not be executed")]
    {
        let arguments = ["run", "--service", "users", "--port", "9", "--", command];
        let mut agent = Agent::start(&arguments, &[]);
        assert_eq!(agent.exit_code(), code);
        assert!(agent.until_logged(words).contains(command));
    }
}
