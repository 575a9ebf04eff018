//! What `waypost-agent --config` promises, with the real program: services that run by themselves are
//! registered, the file can change under it, and all are drained together.

mod agent;
#[path = "../../sdk/rust/tests/fake/mod.rs"]
mod fake;

use std::{fs, net::TcpListener, path::PathBuf};

use agent::{Agent, until};
use fake::{Fake, State, free_address};
use nix::sys::signal::Signal;
use tempfile::TempDir;

struct Files {
    folder: TempDir,
    services: Vec<TcpListener>,
}

impl Files {
    /// Services that listen, so that their checks pass.
    fn new(services: usize) -> Self {
        let listener = |_| TcpListener::bind(free_address()).expect("a free port");
        let services = (0..services).map(listener).collect();
        Self { folder: tempfile::tempdir().expect("a folder"), services }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("agent.yaml")
    }

    fn port(&self, service: usize) -> u16 {
        self.services[service].local_addr().expect("it is bound").port()
    }

    fn key(&self, service: usize) -> String {
        format!("service-{service}/127.0.0.1:{}", self.port(service))
    }

    /// Writes the file: these services, each with these extra lines.
    fn write(&self, fake: &Fake, services: &[(usize, &str)]) {
        let mut text = format!("control-plane: {}\nservices:\n", fake.url());
        for (service, extra) in services {
            let port = self.port(*service);
            text += &format!(
                "  - service: service-{service}\n    port: {port}\n    check-interval: 20ms\n{extra}"
            );
        }
        fs::write(self.path(), text).expect("it is written");
    }

    fn start(&self) -> Agent {
        Agent::start(&["--config", self.path().to_str().expect("a plain path")], &[])
    }
}

#[tokio::test]
async fn services_are_registered_and_all_are_drained_together() {
    let (fake, files) = (Fake::start(), Files::new(3));
    fake.registry().with(|state| state.hold_drains = true);
    files.write(&fake, &[(0, ""), (1, ""), (2, "")]);
    let mut agent = files.start();
    for service in 0..3 {
        fake.registry().until_registered(&files.key(service)).await;
    }
    until("readiness", || agent.get("/readyz").0 == 200);
    agent.signal(Signal::SIGTERM);
    let draining = |state: &State| state.instances.values().filter(|held| held.draining).count();
    fake.registry().until("three drains", |state| (draining(state) == 3).then_some(())).await;
    assert_eq!(agent.get("/readyz").0, 503, "nobody is to wait for it any more");
    fake.registry().with(|state| state.hold_drains = false);
    assert_eq!(agent.exit_code(), 0);
    assert!(fake.registry().with(|state| state.instances.is_empty()));
}

#[tokio::test]
async fn asked_twice_it_ends_at_once() {
    let (fake, files) = (Fake::start(), Files::new(1));
    fake.registry().with(|state| state.hold_drains = true);
    files.write(&fake, &[(0, "")]);
    let mut agent = files.start();
    fake.registry().until_registered(&files.key(0)).await;
    agent.signal(Signal::SIGTERM);
    fake.registry().until("a drain", |state| state.deregistrations.first().map(|_| ())).await;
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.exit_code(), 130);
}

#[tokio::test]
async fn sighup_adds_changes_and_removes_and_a_mistake_changes_nothing() {
    let (fake, files) = (Fake::start(), Files::new(3));
    files.write(&fake, &[(0, ""), (1, "    version: '1'\n")]);
    let mut agent = files.start();
    let before = fake.registry().until_registered(&files.key(0)).await;
    fake.registry().until_registered(&files.key(1)).await;

    fs::write(files.path(), "services: [{service: a b, port: 1}]").expect("it is written");
    agent.signal(Signal::SIGHUP);
    let line = agent.until_logged("nothing is changed");
    assert!(line.contains("agent.yaml:1: ") && line.contains("a b"), "{line}");

    fs::write(files.path(), "").expect("it is emptied, to be written anew");
    agent.signal(Signal::SIGHUP);
    let line = agent.until_logged("has no list of services");
    assert!(line.contains("agent.yaml") && line.contains("services: []"), "{line}");

    files.write(&fake, &[(0, "    check-timeout: 2s\n"), (1, "    version: '2'\n"), (2, "")]);
    agent.signal(Signal::SIGHUP);
    fake.registry().until_registered(&files.key(2)).await;
    let key = files.key(1).parse().expect("a key");
    let version = |state: &State| state.instances.get(&key).map(|held| held.spec.version.clone());
    fake.registry().until("the new version", |state| version(state).filter(|version| version == "2")).await;

    files.write(&fake, &[(0, ""), (2, "")]);
    agent.signal(Signal::SIGHUP);
    fake.registry().until_gone(&files.key(1)).await;
    fake.registry()
        .until("a drain", |state| state.deregistrations.iter().find(|request| request.drain).map(|_| ()))
        .await;
    assert_eq!(
        fake.registry().until_registered(&files.key(0)).await.epoch,
        before.epoch,
        "it was left alone"
    );
    until("two services", || agent.get("/status").1.matches("\"lease\":\"active\"").count() == 2);
}

#[tokio::test]
async fn the_admin_port_says_what_is_registered_and_what_is_not() {
    let (fake, mut files) = (Fake::start(), Files::new(2));
    files.write(&fake, &[(0, ""), (1, "")]);
    let dead = files.services.pop().expect("two of them").local_addr().expect("it is bound").port();
    let mut agent = files.start();
    fake.registry().until_registered(&files.key(0)).await;
    assert_eq!(agent.get("/healthz"), (200, "ok\n".to_owned()));
    until("a failed check", || agent.get("/status").1.contains("refused"));
    until("one that is missing", || {
        let (status, body) = agent.get("/readyz");
        status == 503 && body.contains("service-1") && !body.contains("service-0")
    });
    files.services.push(TcpListener::bind(format!("127.0.0.1:{dead}")).expect("the port is free again"));
    until("readiness", || agent.get("/readyz").0 == 200);
    let (_, metrics) = agent.get("/metrics");
    let labels = format!("{{instance=\"127.0.0.1:{}\",service=\"service-0\"}}", files.port(0));
    for metric in ["waypost_agent_healthy", "waypost_agent_registered"] {
        assert!(metrics.contains(&format!("{metric}{labels} 1")), "{metrics}");
    }
}

#[test]
fn a_bad_file_starts_nothing() {
    let files = Files::new(0);
    fs::write(files.path(), "services:\n  - service: users\n    port: 9001\n    helth: tcp\n")
        .expect("written");
    let mut agent = files.start();
    assert_eq!(agent.exit_code(), 2);
    let line = agent.until_logged("error:");
    assert!(line.contains("agent.yaml:4: unknown key 'helth'; did you mean 'health'?"), "{line}");
}

#[test]
fn the_admin_port_can_be_switched_off() {
    let arguments = ["--admin-listen", "none", "run", "--service", "users", "--port", "9", "--", "true"];
    let mut agent = Agent::start(&arguments, &[]);
    assert_eq!(agent.admin(), "none");
    assert_eq!(agent.exit_code(), 0);
}
