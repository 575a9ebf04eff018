//! The command line: every command, for people and for programs.

use std::time::Duration;

use serde_json::Value;
use waypost_sdk::Registration;
use waypost_tests::{
    cluster::{Cluster, strings},
    process::{Ended, Process, run},
    program::Program,
    service::{RegisteredService, SampleService},
    wait::{eventually, holds},
};

const SOON: Duration = Duration::from_secs(20);

async fn waypost(cluster: &Cluster, arguments: &[&str]) -> Ended {
    let control_plane = format!("http://{}", cluster.control_plane.grpc);
    run(Program::Cli, &[&["--control-plane", &control_plane], arguments].concat()).await
}

#[track_caller]
fn assert_code(ended: &Ended, code: i32, what: &[&str]) {
    assert_eq!(ended.code, Some(code), "{what:?}: {ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{what:?}: {ended:?}");
}

async fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let ended = waypost(cluster, &[arguments, &["-o", "json"]].concat()).await;
    assert_code(&ended, 0, arguments);
    serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", ended.stdout))
}

async fn with_shop() -> (Cluster, RegisteredService) {
    let cluster = Cluster::builder().start().await;
    let client = cluster.client();
    let more = |shop: Registration| shop.version("1.2.3").tag("canary").endpoint("GET /orders/{id}");
    let shop = RegisteredService::start_with(&client, "shop", "shop-1", more).await;
    cluster.converged().await;
    (cluster, shop)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_question_is_answered_for_people_and_for_programs() {
    let (cluster, shop) = with_shop().await;
    let questions: [(&[&str], &str); 8] = [
        (&["services"], "shop"),
        (&["services", "shop"], "shop"),
        (&["instances"], "shop-1"),
        (&["instances", "shop", "--version", "1.2.3", "--tag", "canary", "--state", "up"], "shop-1"),
        (&["routes"], "/orders/{}"),
        (&["proxies"], "127.0.0.1"),
        (&["events", "--service", "shop"], "shop-1"),
        (&["status"], "memory"),
    ];
    for (question, named) in questions {
        let table = waypost(&cluster, question).await;
        assert_code(&table, 0, question);
        assert!(table.stdout.contains(named), "{question:?} shows {named}: {}", table.stdout);
        let document = json(&cluster, question).await;
        assert!(document.is_object(), "{question:?}: {document}");
        assert!(document.to_string().contains(named), "{question:?} holds {named}: {document}");
        let yaml = waypost(&cluster, &[question, &["-o", "yaml"]].concat()).await;
        assert_code(&yaml, 0, question);
        let read: Value =
            serde_saphyr::from_str(&yaml.stdout).unwrap_or_else(|error| panic!("{question:?}: {error}"));
        assert!(read.is_object(), "{question:?}: {read}");
    }
    let instances = json(&cluster, &["instances", "shop"]).await;
    let instance = &instances["instances"][0];
    assert_eq!(instance["spec"]["address"], shop.service.address.to_string(), "{instance}");
    assert_eq!(instance["spec"]["version"], "1.2.3", "{instance}");
}

#[tokio::test(flavor = "multi_thread")]
async fn register_stays_and_drains_at_the_end() {
    let cluster = Cluster::builder().start().await;
    let service = SampleService::start("by-hand").await;
    let (address, control_plane) = (service.address.to_string(), cluster.control_plane.grpc.to_string());
    let arguments =
        ["register", "--service", "shop", "--address", &address, "--prefix", "/store", "--version", "2"];
    let arguments = [arguments.as_slice(), &["--ttl", "5s", "--control-plane", &control_plane]].concat();
    let mut register = Process::spawn(Program::Cli, &strings(&arguments));
    eventually("it is reachable", SOON, async || {
        let answer = cluster.proxies[0].get("/store/").await;
        holds(answer.header("x-instance") == "by-hand", || answer.text())
    })
    .await;
    // It lives longer than its lease, because it beats.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(cluster.proxies[0].get("/store/").await.status, 200);

    let status = register.stop().await;
    assert!(status.success(), "{status}: {:?}", register.log.lines());
    assert!(cluster.api().instances("shop").await.expect("instances").is_empty());
    let events = cluster.api().events("shop").await.expect("events");
    let last = events.last().expect("an event");
    assert_eq!(last.kind(), waypost_proto::v1::EventKind::Deregistered, "it left by itself: {events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_carried_out_and_said() {
    let (cluster, _shop) = with_shop().await;
    let state = async || {
        let instances = json(&cluster, &["instances", "shop"]).await;
        instances["instances"][0]["state"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(state().await, "INSTANCE_STATE_UP");
    assert_code(
        &waypost(&cluster, &["override", "shop/shop-1", "down", "--ttl", "1m"]).await,
        0,
        &["override"],
    );
    assert_eq!(state().await, "INSTANCE_STATE_DOWN");
    assert_code(&waypost(&cluster, &["override", "shop/shop-1", "clear"]).await, 0, &["override", "clear"]);
    assert_eq!(state().await, "INSTANCE_STATE_UP");
    assert_code(&waypost(&cluster, &["drain", "shop/shop-1", "--wait"]).await, 0, &["drain"]);
    assert_eq!(state().await, "INSTANCE_STATE_DRAINING");
    assert_code(&waypost(&cluster, &["drain", "shop/shop-1", "--cancel"]).await, 0, &["drain", "--cancel"]);
    assert_eq!(state().await, "INSTANCE_STATE_UP");
    assert_code(&waypost(&cluster, &["wait"]).await, 0, &["wait"]);
    assert_code(&waypost(&cluster, &["deregister", "shop/shop-1", "--drain"]).await, 0, &["deregister"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_failures_apart() {
    let (mut cluster, _shop) = with_shop().await;
    for (code, arguments) in [
        (2, ["services", "a b"].as_slice()),
        (2, &["register", "--service", "shop", "--address", "nowhere"]),
        (3, &["services", "shob"]),
        (3, &["drain", "shop/nobody"]),
    ] {
        let ended = waypost(&cluster, arguments).await;
        assert_code(&ended, code, arguments);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
    }
    let near = waypost(&cluster, &["services", "shob"]).await;
    assert!(near.stderr.contains("shop"), "it names what is near: {}", near.stderr);

    cluster.control_plane.process.kill9().await;
    let ended = waypost(&cluster, &["services", "--timeout", "1s"]).await;
    assert_code(&ended, 4, &["services"]);
    let address = cluster.control_plane.grpc.to_string();
    assert!(ended.stderr.contains(&address), "it names whom it asked: {}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_shows_changes_as_they_come() {
    let (cluster, shop) = with_shop().await;
    let control_plane = cluster.control_plane.grpc.to_string();
    let watch = Process::spawn(Program::Cli, &strings(&["watch", "shop", "--control-plane", &control_plane]));
    let shows = async |what: &str| {
        eventually(what, SOON, async || {
            let lines = watch.output.lines();
            holds(lines.iter().any(|line| line.contains(what)), || format!("{lines:?}"))
        })
        .await;
    };
    shows("shop-1").await;
    let _second = RegisteredService::start(&cluster.client(), "shop", "shop-2").await;
    shows("shop-2").await;
    shop.retire(SOON).await;
    shows("gone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = run(Program::Cli, &["completions", shell]).await;
        assert_code(&ended, 0, &["completions", shell]);
        assert!(ended.stdout.contains("waypost"), "{shell}");
    }
}
