//! `waypost dev` with the real programs: it starts them, keeps them running, and leaves nothing behind.

use std::{collections::BTreeMap, fs, path::Path};

use crate::support::{self, Running, eventually, programs_are_built, run};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const FREE: [&str; 8] = [
    "--grpc-listen",
    "127.0.0.1:0",
    "--http-listen",
    "127.0.0.1:0",
    "--listen",
    "127.0.0.1:0",
    "--admin-listen",
    "127.0.0.1:0",
];

struct Dev {
    running: Running,
    folder: TempDir,
    control_plane: String,
    traffic: String,
}

impl Dev {
    async fn start(flags: &[&str]) -> Self {
        programs_are_built();
        let folder = tempfile::tempdir().expect("a folder");
        let args = [&["dev", "-o", "json"], &FREE[..], flags].concat();
        let mut running = Running::start(&args, folder.path());
        let banner = running.document().await;
        let text = |value: &Value| value.as_str().expect("an address").to_owned();
        let (control_plane, traffic) =
            (text(&banner["control_plane"]), text(&banner["proxies"][0]["traffic"]));
        Self { running, folder, control_plane, traffic }
    }

    /// What it has started, by name, as it has written it down.
    fn children(&self) -> BTreeMap<String, i32> {
        let folder = self.folder.path().join("waypost");
        let mut records = fs::read_dir(folder).expect("its folder").flatten().map(|entry| entry.path());
        let Some(record) = records.find(|file| file.extension().is_some_and(|end| end == "json")) else {
            return BTreeMap::new();
        };
        let Ok(record) = fs::read(record) else { return BTreeMap::new() };
        let record: Value = serde_json::from_slice(&record).expect("JSON");
        let children = record["children"].as_object().expect("children");
        let pid =
            |child: &Value| i32::try_from(child["pid"].as_i64().expect("a number")).expect("a small one");
        children.iter().map(|(name, child)| (name.clone(), pid(child))).collect()
    }

    async fn ask(&self, args: &[&str]) -> support::Ran {
        run(&[args, &["--control-plane", &self.control_plane]].concat()).await
    }

    async fn instances(&self) -> Vec<String> {
        let ran = self.ask(&["instances", "-o", "json"]).await;
        let Ok(document) = serde_json::from_str::<Value>(&ran.stdout) else { return Vec::new() };
        let instances = document["instances"].as_array().expect("a list");
        instances.iter().map(|instance| instance["key"]["id"].as_str().expect("an id").to_owned()).collect()
    }
}

fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn get(url: &str, path: &str) -> String {
    let address = url.strip_prefix("http://").expect("a URL");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the proxy listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

#[tokio::test]
async fn the_demo_answers_restarts_what_dies_and_leaves_nothing_behind() {
    let mut dev = Dev::start(&["--demo"]).await;
    assert_eq!(dev.instances().await.len(), 6);
    let answer = get(&dev.traffic, "/greeter/hello").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""path":"/hello""#), "{answer}");
    assert!(get(&dev.traffic, "/clock").await.contains(r#""tick":3"#));

    let before = dev.children();
    assert_eq!(before.len(), 8, "{before:?}");
    kill(nix::unistd::Pid::from_raw(before["control-plane"]), Signal::SIGKILL).expect("it runs");
    eventually("the control plane is started again, on its ports, and services register again", async || {
        dev.instances().await.len() == 6
    })
    .await;
    assert_ne!(dev.children()["control-plane"], before["control-plane"]);
    assert!(get(&dev.traffic, "/greeter/hello").await.starts_with("HTTP/1.1 200"));

    let after = dev.children();
    // Twice at once, as `timeout` does it: that is one wish, and still ends everything in order.
    dev.running.signal(Signal::SIGINT);
    dev.running.signal(Signal::SIGTERM);
    assert_eq!(dev.running.ended().await.code(), Some(0));
    assert!(after.values().all(|pid| !runs(*pid)), "{after:?}");
    assert!(dev.children().is_empty(), "the record is gone");
    let errors = dev.running.errors().await;
    assert_eq!(errors.matches("drained outcome=complete").count(), 6, "{errors}");
    assert!(errors.contains("control-plane") && errors.contains("starting it again in 500 ms"), "{errors}");
}

#[tokio::test]
async fn programs_end_with_a_supervisor_that_is_killed() {
    let mut dev = Dev::start(&["--proxies", "2"]).await;
    let children = dev.children();
    assert_eq!(children.len(), 3, "{children:?}");
    dev.running.signal(Signal::SIGKILL);
    dev.running.ended().await;
    eventually("all programs end", async || children.values().all(|pid| !runs(*pid))).await;
    let ran = down(dev.folder.path()).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(dev.children().is_empty(), "the record is gone");
}

#[tokio::test]
async fn down_ends_what_runs_and_nothing_else() {
    let mut dev = Dev::start(&[]).await;
    let other = Dev::start(&[]).await;
    let ran = down(dev.folder.path()).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("ended waypost dev (pid"), "{}", ran.stdout);
    assert_eq!(dev.running.ended().await.code(), Some(0));
    assert!(other.children().values().all(|pid| runs(*pid)), "another one goes on");
    let ran = down(dev.folder.path()).await;
    assert!(ran.code == 0 && ran.stderr.contains("no waypost dev of this user runs"), "{}", ran.stderr);
}

async fn down(folder: &Path) -> support::Ran {
    let mut command = support::command(&["dev", "down"]);
    command.env("XDG_RUNTIME_DIR", folder).output().await.expect("it runs").into()
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_holder_and_the_way_out() {
    programs_are_built();
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("an address").to_string();
    let mut args = [&["dev"], &FREE[..]].concat();
    args[6] = &address;
    let ran = run(&args).await;
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for part in [&address, &format!("(pid {})", std::process::id()), "--listen 127.0.0.1:0"] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
}

#[tokio::test]
async fn a_registration_lives_as_long_as_its_command() {
    let dev = Dev::start(&[]).await;
    let args = [
        &["register", "--service", "files", "--address", "127.0.0.1:9", "--id", "one", "--tag", "a"][..],
        &[
            "--endpoint",
            "GET /files/{name}",
            "--metadata",
            "owner=ada",
            "--control-plane",
            &dev.control_plane,
        ],
    ];
    let mut register = Running::start(&args.concat(), dev.folder.path());
    assert!(register.line().await.starts_with("files/one is registered, at revision "));
    assert_eq!(dev.instances().await, ["one"]);
    let routes = dev.ask(&["routes"]).await.stdout;
    assert!(routes.contains("/files/*") && routes.contains("GET     /files/{"), "{routes}");

    let ran = dev.ask(&["override", "files", "down", "--reason", "maintenance"]).await;
    assert!(ran.stdout.contains("files/one is forced down"), "{}{}", ran.stdout, ran.stderr);
    assert!(dev.ask(&["instances", "--state", "down"]).await.stdout.contains("files/one"));
    assert_eq!(dev.ask(&["override", "files", "clear"]).await.code, 0);
    let ran = dev.ask(&["drain", "files/one", "--wait"]).await;
    assert!(ran.stdout.contains("nothing is in flight to it"), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(dev.ask(&["drain", "files/one", "--cancel"]).await.code, 0);
    assert_eq!(dev.ask(&["wait"]).await.code, 0);

    register.signal(Signal::SIGTERM);
    assert!(register.line_with("has left").await.contains("nothing was in flight to it"));
    assert_eq!(register.ended().await.code(), Some(0));
    assert!(dev.instances().await.is_empty());
    let events = dev.ask(&["events", "--service", "files"]).await.stdout;
    for event in ["registered", "override", "draining", "deregistered"] {
        assert!(events.contains(event), "{event} in {events}");
    }
    let proxies = dev.ask(&["proxies"]).await.stdout;
    assert!(proxies.contains("proxy-1") && proxies.contains("same"), "{proxies}");
}

#[tokio::test]
async fn the_tour_holds() {
    programs_are_built();
    let folder = tempfile::tempdir().expect("a folder");
    let mut tour = Running::start(&["dev", "--demo", "--tour", "-o", "json"], folder.path());
    let summary = tour.document().await;
    let status = tour.ended().await;
    let errors = tour.errors().await;
    assert_eq!(status.code(), Some(0), "{summary:#}\n{errors}");
    assert_eq!(summary["held"], true);
    let acts = summary["acts"].as_array().expect("acts");
    assert_eq!(acts.len(), 5);
    assert!(acts.iter().all(|act| act["requests"].as_u64() > Some(0) && act["failed"] == 0), "{summary:#}");
    assert!(summary["took_seconds"].as_f64() < Some(60.0), "{summary:#}");
}
