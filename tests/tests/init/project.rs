//! A project made by `waypost init`, its commands, and what any service made by it must do.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};
use waypost_proto::v1::EventKind;
use waypost_tests::{
    cluster::Cluster,
    http::try_get,
    program::{Program, repository},
    wait::{eventually, holds},
};

/// How long a build may take on a slow machine that has nothing of it yet.
pub(crate) const BUILD: Duration = Duration::from_secs(1200);
const SOON: Duration = Duration::from_secs(60);
/// The name of every service made here.
const NAME: &str = "greetings";

/// A new project in a folder of its own.
pub(crate) struct Project {
    outer: TempDir,
}

impl Project {
    /// Makes one.
    ///
    /// # Panics
    /// `waypost init` fails.
    pub(crate) async fn make(template: &str) -> Self {
        let project = Self { outer: tempfile::tempdir().expect("a temporary directory") };
        let mut command = plain(&Program::Cli.path());
        let sdk = repository();
        command.args(["init", "service", "--template", template, NAME, "--sdk"]).arg(sdk);
        let said = run(command.current_dir(project.outer.path()), SOON).await;
        for next in ["cd greetings", "make test", "make run", "http://127.0.0.1:8080/greetings/hello/you"] {
            assert!(said.contains(next), "it says how to go on: {next}: {said}");
        }
        project
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.outer.path().join(NAME)
    }

    /// A folder beside it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.outer.path().join(name)
    }

    /// A program to run in it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = plain(program);
        command.current_dir(self.folder());
        command
    }

    /// Runs a command to its end, which must be a good one, and gives what it said.
    pub(crate) async fn build(&self, command: &mut Command) -> String {
        run(command, BUILD).await
    }

    /// Starts the service, calls it through a proxy, and ends it with SIGTERM while it is called.
    ///
    /// # Panics
    /// It does not register, answer, drain or end well.
    pub(crate) async fn serves(&self, mut service: Command) {
        let cluster = Cluster::builder().start().await;
        service.env("WAYPOST_CONTROL_PLANE", format!("http://{}", cluster.control_plane.grpc));
        service.env("WAYPOST_REGISTRY_URL", format!("http://{}", cluster.control_plane.http));
        let log = self.beside("log");
        let output = fs::File::create(&log).expect("a file");
        service.stdout(output.try_clone().expect("a handle")).stderr(output);
        let mut running = service.spawn().expect("it starts");
        let said = || fs::read_to_string(&log).unwrap_or_default();

        let path = format!("/{NAME}/hello/ada");
        eventually("it is called through the proxy", SOON, async || {
            let answer = try_get(cluster.traffic(), &path).await?;
            let right = answer.status.is_success() && answer.text().contains("hello, ada");
            holds(right, || format!("{} {}\n{}", answer.status, answer.text(), said()))
        })
        .await;
        let held = cluster.api().instances(NAME).await.expect("instances");
        let spec = held.first().and_then(|instance| instance.spec.as_ref()).expect("an instance");
        assert_eq!(spec.version, "0.1.0");

        let pid = running.id().expect("it has not been awaited");
        let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
        kill(pid, Signal::SIGTERM).expect("it runs");
        let ended =
            timeout(SOON, running.wait()).await.unwrap_or_else(|_| panic!("it does not end: {}", said()));
        let ended = ended.expect("it can be awaited");
        // uvicorn ends by the signal that it was sent.
        let code = std::os::unix::process::ExitStatusExt::signal(&ended);
        assert!(ended.success() || code == Some(15), "{ended}: {}", said());
        let held = cluster.api().instances(NAME).await.expect("instances");
        assert!(held.is_empty(), "it has left before it ended: {held:?}");
        let events = cluster.api().events(NAME).await.expect("events");
        assert!(events.iter().any(|event| event.kind() == EventKind::Draining), "{events:?}");
    }
}

/// A program without the variables that configure Waypost, which ends with the test.
fn plain(program: &Path) -> Command {
    let mut command = std::process::Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WAYPOST_")) {
        command.env_remove(name);
    }
    command.process_group(0).stdin(Stdio::null());
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

async fn run(command: &mut Command, patience: Duration) -> String {
    let ended = timeout(patience, command.output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{command:?} does not end within {patience:?}"));
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}
