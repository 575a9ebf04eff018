//! Where the registry is kept: what an operator does with stores, on the command line.

use std::time::Duration;

use waypost_proto::v1::BeatOutcome;
use waypost_tests::{
    api::spec,
    cluster::{ControlPlane, strings},
    process::run,
    program::Program,
};

const LEASE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_registry_is_there_again_after_a_kill() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path().display().to_string();
    let mut plane = ControlPlane::start(&strings(&["--data-dir", &directory])).await;
    let lease = plane.api.register(&spec("shop", "127.0.0.1:9"), LEASE).await.expect("a lease");
    let before = plane.api.status().await.expect("a status");

    plane.process.kill9().await;
    plane.start_again().await;

    let after = plane.api.status().await.expect("a status");
    assert!(after.revision >= before.revision, "revisions go on: {after:?}");
    assert_eq!(
        after.head.map(|head| head.history),
        before.head.map(|head| head.history),
        "it is the same registry"
    );
    let key = lease.key.expect("a key");
    let beat = plane.api.beat(&key, lease.epoch).await.expect("it answers");
    assert_eq!(beat, BeatOutcome::Renewed, "its lease has outlived the process");

    plane.process.stop().await;
    let nobody = "plugin://127.0.0.1:1";
    let copy = [
        "store",
        "copy",
        "--from",
        "memory://",
        "--to",
        nobody,
        "--data-dir",
        &directory,
        "--store-timeout",
        "1s",
    ];
    let ended = run(Program::Cli, &copy).await;
    assert_eq!(ended.code, Some(1), "there is no such server: {ended:?}");
    assert!(ended.stderr.contains("the target cannot be used"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_looked_at_before_it_is_used() {
    let ended = run(Program::Cli, &["store", "check", "memory://"]).await;
    assert!(ended.code == Some(0) && ended.stdout.contains("ok  reachable"), "{ended:?}");

    let ended =
        run(Program::Cli, &["store", "check", "redis://me:secret@127.0.0.1:1", "--store-timeout", "1s"])
            .await;
    assert_eq!(ended.code, Some(1), "nobody listens there: {ended:?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(
        said.contains("BAD reachable") && said.contains("127.0.0.1:1") && !said.contains("secret"),
        "{ended:?}"
    );

    let ended = run(Program::Cli, &["store", "check", "cassandra://127.0.0.1"]).await;
    assert!(ended.code == Some(2) && ended.stderr.contains("there are memory://"), "{ended:?}");

    let ended = run(Program::Cli, &["store", "--help"]).await;
    assert!(ended.code == Some(0) && ended.stdout.contains("copy"), "{ended:?}");
}
