//! A newcomer's first five minutes: what the README and the tour say holds as it is written.

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::time::timeout;
use waypost_tests::{
    process::Process,
    program::{Program, repository, target_directory},
};

/// Ports that nobody holds now. Documents need known ports, and tests free ones.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let held = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("an address").port())
}

/// The blocks of a document that say `sh`, one after the other.
fn shell_blocks(document: &str) -> Vec<String> {
    let blocks = document.split("\n```sh\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
    blocks.map(|(block, _)| block.to_owned()).collect()
}

/// The README's commands, unchanged but for the ports, which may be taken on this machine.
fn script() -> String {
    let readme = fs::read_to_string(repository().join("README.md")).expect("there is a README");
    let blocks = shell_blocks(&readme);
    assert!(blocks.len() >= 3, "the README has shell blocks: {blocks:?}");
    let [grpc, http, traffic, admin, one, two] = free_ports();
    let mut commands = blocks.join("\n");
    let documented =
        [("8080", traffic), ("7400", grpc), ("7401", http), ("7410", admin), ("9001", one), ("9002", two)];
    for (port, free) in documented {
        commands = commands.replace(port, &free.to_string());
    }
    let target = target_directory();
    commands = commands.replace("$PWD/target/debug", &target.display().to_string());
    let listen = format!(
        "--grpc-listen 127.0.0.1:{grpc} --http-listen 127.0.0.1:{http} --listen 127.0.0.1:{traffic} \
         --admin-listen 127.0.0.1:{admin}"
    );
    let commands = commands.replace("waypost dev", &format!("waypost dev {listen}"));
    format!("set -euo pipefail\nexport WAYPOST_CONTROL_PLANE=http://127.0.0.1:{grpc}\n{commands}\n")
}

/// A shell with all that it starts, which is a process group, so that nothing is left behind.
struct Shell {
    group: Pid,
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The group is gone where everything in it has ended.
        let _ = killpg(self.group, Signal::SIGKILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_works_as_it_is_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::copy(repository().join("README.md"), directory.path().join("README.md")).expect("a copy");
    let (out, script) = (directory.path().join("out"), script());
    let log = fs::File::create(&out).expect("a file");
    let mut command = Command::new("bash");
    command.args(["-x", "-c", &script]).current_dir(directory.path()).process_group(0).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a handle")).stderr(log);
    let mut child = tokio::process::Command::from(command).spawn().expect("bash can be started");
    let id = child.id().expect("a child that was not awaited has an id");
    let shell = Shell { group: Pid::from_raw(i32::try_from(id).expect("process ids are small")) };

    let status = timeout(Duration::from_secs(120), child.wait()).await;
    // What runs in the background ends as Ctrl-C would end it.
    let _ = killpg(shell.group, Signal::SIGTERM);
    let said = fs::read_to_string(&out).unwrap_or_default();
    let status = status.unwrap_or_else(|_| panic!("the README's commands do not end:\n{said}"));
    assert!(status.expect("bash can be awaited").success(), "the README's commands fail:\n{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_ends_well_and_counts_no_failure() {
    let arguments = ["dev", "--demo", "--tour"].map(str::to_owned);
    let mut tour = Process::spawn(Program::Cli, &arguments);
    let status = timeout(Duration::from_secs(120), tour.ended_whenever()).await;
    let said = tour.output.lines().join("\n");
    let status = status.unwrap_or_else(|_| panic!("the tour takes longer than two minutes:\n{said}"));
    assert!(status.success(), "{status}:\n{said}\n{}", tour.log.lines().join("\n"));
    assert!(said.contains(" 0 failed"), "it says how many requests failed:\n{said}");
}
