//! The agent: it registers what knows nothing of Waypost, and drains it before it is told to stop.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use waypost_proto::v1::InstanceState;
use waypost_tests::{
    cluster::{Cluster, strings},
    load::{Load, Plan},
    process::Process,
    program::Program,
    servers::free_port,
    service::{RegisteredService, SampleService},
    wait::{eventually, holds},
};

const SOON: Duration = Duration::from_secs(20);

/// An agent that runs a sample service.
async fn agent(cluster: &Cluster, port: u16, more: &[&str], service: &[&str]) -> Process {
    let control_plane = format!("http://{}", cluster.control_plane.grpc);
    let (port, listen) = (port.to_string(), format!("127.0.0.1:{port}"));
    let program = Program::SampleService.path().display().to_string();
    let mut arguments =
        strings(&["run", "--service", "shop", "--port", &port, "--control-plane", &control_plane]);
    arguments.extend(strings(&["--admin-listen", "127.0.0.1:0"]));
    arguments.extend(strings(more));
    arguments.extend(strings(&["--", &program, "--instance", "behind-the-agent", "--listen", &listen]));
    arguments.extend(strings(service));
    Process::start(Program::Agent, &arguments).await
}

async fn answers(cluster: &Cluster) {
    eventually("the command is reachable through the proxy", SOON, async || {
        let answer = cluster.proxies[0].get("/shop/").await;
        holds(answer.header("x-instance") == "behind-the-agent", || answer.text())
    })
    .await;
}

async fn gone(cluster: &Cluster) {
    eventually("the instance is gone", SOON, async || {
        let held = cluster.api().instances("shop").await.map_err(|status| status.to_string())?;
        holds(held.is_empty(), || format!("{held:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_drained_before_it_is_stopped_and_its_exit_code_is_the_agents() {
    let cluster = Cluster::builder().start().await;
    let mut agent = agent(&cluster, free_port(), &["--health", "http:/health"], &["--exit-code", "7"]).await;
    answers(&cluster).await;
    let _other = RegisteredService::start(&cluster.client(), "shop", "other").await;
    cluster.converged().await;

    let load = Load::http1(&Plan::new(cluster.traffic(), "/shop/slow?ms=50"));
    eventually("both take requests", SOON, async || {
        let report = load.so_far();
        holds(report.by_instance.len() == 2, || format!("{report:?}"))
    })
    .await;
    load.has_sent(50).await;
    let status = agent.stop().await;
    assert_eq!(status.code(), Some(7), "{status}: {:?}", agent.log.lines());
    load.stop().await.assert_lossless("load while the agent leaves", 50);
    let held = cluster.api().instances("shop").await.expect("instances");
    assert_eq!(held.len(), 1, "only the other one is left: {held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_takes_no_request_before_its_check_passes() {
    let cluster = Cluster::builder().start().await;
    let port = free_port();
    let control_plane = format!("http://{}", cluster.control_plane.grpc);
    let (shown, marker) = (port.to_string(), tempfile::tempdir().expect("a temporary directory"));
    let ready = marker.path().join("ready").display().to_string();
    let check = format!("exec:test -e {ready}");
    let arguments =
        ["run", "--service", "shop", "--port", &shown, "--health", &check, "--admin-listen", "127.0.0.1:0"];
    let service = Program::SampleService.path().display().to_string();
    let listen = format!("127.0.0.1:{port}");
    let command = ["--", &service, "--instance", "behind-the-agent", "--listen", &listen];
    let arguments = [arguments.as_slice(), &["--control-plane", &control_plane], &command].concat();
    let _agent = Process::start(Program::Agent, &strings(&arguments)).await;

    eventually("the command listens", SOON, async || {
        let address = listen.parse().expect("an address");
        waypost_tests::http::try_get(address, "/").await.map(|_| ())
    })
    .await;
    let up = async || {
        let held = cluster.api().instances("shop").await.map_err(|status| status.to_string())?;
        let up = held.iter().any(|instance| instance.state() == InstanceState::Up);
        Ok::<_, String>((up, format!("{held:?}")))
    };
    waypost_tests::wait::throughout("it is not in rotation", Duration::from_secs(2), async || {
        let (up, seen) = up().await?;
        holds(!up, || seen)
    })
    .await;
    fs::write(&ready, "").expect("the marker can be written");
    answers(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_dies_is_deregistered_and_the_agent_ends_as_it_did() {
    let cluster = Cluster::builder().start().await;
    let mut agent = agent(&cluster, free_port(), &["--health", "tcp"], &[]).await;
    answers(&cluster).await;

    kill(child_of(agent.id()), Signal::SIGKILL).expect("the command runs");
    let status = agent.ended().await;
    assert_eq!(status.code(), Some(128 + 9), "{status}: {:?}", agent.log.lines());
    gone(&cluster).await;
}

/// The one child of a process, whichever of its threads has started it.
fn child_of(parent: i32) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).expect("the process runs");
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children = children.collect::<Vec<_>>().join(" ");
    let [child] = children.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("the agent has one child, and not {children:?}")
    };
    Pid::from_raw(child.parse().expect("the kernel prints numbers"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_costs_no_more_than_a_lease() {
    let cluster = Cluster::builder().start().await;
    let mut agent = agent(&cluster, free_port(), &["--health", "tcp", "--ttl", "1s"], &[]).await;
    answers(&cluster).await;
    let child = child_of(agent.id());
    agent.kill9().await;
    let begin = Instant::now();
    gone(&cluster).await;
    // Where the command outlives its agent, the test ends it.
    let _ = kill(child, Signal::SIGKILL);
    assert!(begin.elapsed() < Duration::from_secs(15), "after {:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_names_services_that_already_run() {
    let cluster = Cluster::builder().start().await;
    let (one, two) = (SampleService::start("one").await, SampleService::start("two").await);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("agent.yaml");
    let text = format!(
        "control_plane: [\"http://{}\"]\nadmin_listen: 127.0.0.1:0\nservices:\n  - service: shop\n    address: {}\n    \
         health: http:/health\n  - service: users\n    address: {}\n    health: tcp\n",
        cluster.control_plane.grpc, one.address, two.address
    );
    fs::write(&file, text).expect("the file can be written");
    let mut agent =
        Process::start(Program::Agent, &strings(&["--config", &file.display().to_string()])).await;
    for (path, instance) in [("/shop/", "one"), ("/users/", "two")] {
        eventually("both are reachable", SOON, async || {
            let answer = cluster.proxies[0].get(path).await;
            holds(answer.header("x-instance") == instance, || answer.text())
        })
        .await;
    }
    // One stops answering: its check fails, and it is out of rotation.
    one.stop();
    eventually("the failing one is down", SOON, async || {
        let held = cluster.api().instances("shop").await.map_err(|status| status.to_string())?;
        let down = held.first().is_some_and(|instance| instance.state() == InstanceState::Down);
        holds(down, || format!("{held:?}"))
    })
    .await;
    let status = agent.stop().await;
    assert!(status.success(), "{status}: {:?}", agent.log.lines());
    gone(&cluster).await;
}
