//! Tapper's client from PyPI, unmodified, in FastAPI services under uvicorn.

use std::{path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::timeout,
};
use waypost_proto::v1::DeregisterRequest;
use waypost_tests::{
    cluster::Cluster,
    http::get,
    servers::free_port,
    wait::{eventually, holds},
};

/// How long anything may take: Python takes a while to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn python(cluster: &Cluster, script: &str, arguments: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api_clients").join(script);
    let mut command = Command::new(super::program("python"));
    command.arg(script).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.env("TAPPER_REGISTRY_URL", format!("http://{}", cluster.control_plane.http));
    command
}

/// A service of Tapper's that runs.
struct Service {
    child: Child,
    port: String,
}

impl Service {
    /// Starts one: its name, its version, and then its prefix and tags, if it has some.
    fn start(cluster: &Cluster, name: &str, version: &str, more: &[&str]) -> Self {
        let port = free_port().to_string();
        let arguments = [&[name, version, port.as_str()], more].concat();
        let child = python(cluster, "service.py", &arguments).spawn().expect("python can be started");
        Self { child, port }
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(id).expect("process ids are small")), signal).expect("it runs");
    }

    /// Ends it as an operator would, and waits until it has.
    async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("it can be awaited");
    }
}

/// What the proxy answers to GET, once that is 200 and holds what is expected.
async fn reached(cluster: &Cluster, path: &str, expected: impl Fn(&Value) -> bool) -> Value {
    eventually(path, PATIENCE, async || {
        let answer = cluster.proxies[0].get(path).await;
        holds(answer.status == 200, || format!("{} {}", answer.status, answer.text()))?;
        let body = answer.json();
        holds(expected(&body), || body.to_string())?;
        Ok::<_, String>(body)
    })
    .await
}

async fn services(cluster: &Cluster) -> Value {
    get(cluster.control_plane.http, "/services").await.json()
}

/// Registers, is routed by its endpoints, outlives the control plane, which remembers it, and leaves.
pub(crate) fn the_whole_life() {
    super::run(async {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let data = directory.path().display().to_string();
        let mut cluster = Cluster::builder().control_plane(&["--data-dir", &data]).start().await;
        let service = Service::start(&cluster, "user-service", "1.0.0", &["", "two words"]);
        assert_eq!(reached(&cluster, "/users/1", |_| true).await["user_id"], 1);
        let listed = services(&cluster).await;
        assert_eq!(listed[0]["routes"][0]["path"], "/users/{user_id}");
        assert_eq!(
            (&listed[0]["tags"][0], &listed[0]["instances"][0]["healthy"]),
            (&"two words".into(), &true.into())
        );
        let seen = python(&cluster, "gateway.py", &[]).output().await.expect("python can be started");
        let seen: Value = serde_json::from_slice(&seen.stdout).unwrap_or_else(|_| panic!("{seen:?}"));
        assert_eq!(seen["matched"], "user-service", "{seen}");

        cluster.control_plane.process.kill9().await;
        cluster.control_plane.start_again().await;
        let beaten = services(&cluster).await[0]["instances"][0]["last_heartbeat"].clone();
        eventually("it beats on", PATIENCE, async || {
            let listed = services(&cluster).await;
            holds(listed[0]["instances"][0]["last_heartbeat"] != beaten, || listed.to_string())
        })
        .await;
        assert_eq!(reached(&cluster, "/users/2", |_| true).await["user_id"], 2);

        service.stop().await;
        assert_eq!(
            services(&cluster).await,
            Value::Array(Vec::new()),
            "it has left, and says so before it ends"
        );
    });
}

/// Two versions of one name are two instances; a prefix that the client adds is not the application's.
pub(crate) fn versions_and_prefixes() {
    super::run(async {
        let cluster = Cluster::builder().start().await;
        let one = Service::start(&cluster, "user-service", "1.0.0", &[]);
        let two = Service::start(&cluster, "user-service", "2.0.0", &[]);
        for version in ["1.0.0", "2.0.0"] {
            reached(&cluster, "/users/1", |body| body["version"] == version).await;
        }
        assert_eq!(services(&cluster).await[0]["instances"].as_array().map(Vec::len), Some(2));
        one.stop().await;
        reached(&cluster, "/users/1", |body| body["version"] == "2.0.0").await;
        two.stop().await;
        let _below = Service::start(&cluster, "shop", "1.0.0", &["/shop"]);
        assert_eq!(reached(&cluster, "/shop/users/3", |_| true).await["user_id"], 3, "the prefix is removed");
        // A service that is gone keeps its claims for a while, so this one stands elsewhere.
        let cluster = Cluster::builder().start().await;
        let _kept = Service::start(&cluster, "people", "1.0.0", &["/users", "waypost.strip-prefix=false"]);
        assert_eq!(reached(&cluster, "/users/4", |_| true).await["user_id"], 4, "a tag says that it is kept");
    });
}

/// It beats on, and never registers again.
pub(crate) fn a_removed_one_stays_away() {
    super::run(async {
        let cluster = Cluster::builder().start().await;
        let service = Service::start(&cluster, "user-service", "1.0.0", &[]);
        reached(&cluster, "/users/1", |_| true).await;
        let instance = cluster.api().instances("user-service").await.expect("a list").pop().expect("one");
        let request = DeregisterRequest { key: instance.key, ..Default::default() };
        cluster.api().registry().deregister(request).await.expect("it is removed");
        let beat = format!(r#"{{"instance_url": "http://127.0.0.1:{}"}}"#, service.port);
        let answer = post(&cluster, "/heartbeat/user-service", &beat).await;
        assert_eq!(answer, 404);
        assert_eq!(services(&cluster).await, Value::Array(Vec::new()));
    });
}

async fn post(cluster: &Cluster, path: &str, body: &str) -> u16 {
    let request = http::Request::post(path).header("host", "test");
    let request = request.body(http_body_util::Full::from(body.to_owned())).expect("a request");
    let answer = waypost_tests::http::send(cluster.control_plane.http, request).await.expect("an answer");
    answer.status.as_u16()
}
