//! The commands of `control-plane/HTTP.md` hold as they are written.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};
use waypost_tests::{cluster::ControlPlane, program::repository};

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_http_api_works_as_it_is_written() {
    let control_plane = ControlPlane::start(&[]).await;
    let document = std::fs::read_to_string(repository().join("control-plane/HTTP.md")).expect("there is one");
    let blocks = document.split("\n```sh\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
    let commands: Vec<&str> = blocks.map(|(block, _)| block).collect();
    assert!(commands.len() >= 5, "the document has shell blocks: {commands:?}");
    let script = commands.join("\n").replace("127.0.0.1:7401", &control_plane.http.to_string());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut bash = Command::new("bash");
    bash.args(["-x", "-e", "-u", "-o", "pipefail", "-c", &script]).current_dir(directory.path());
    bash.stdin(Stdio::null()).kill_on_drop(true);
    let ended = timeout(Duration::from_secs(120), bash.output()).await.expect("the commands end");
    let output = ended.expect("bash can be started");
    let said = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the commands fail:\n{}\n{}", said.0, said.1);
}
