//! Documents whose commands are run as they are written, in a shell of their own.
//!
//! Documents name known ports and tests need free ones; nothing else is changed without the test saying so.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::time::timeout;

use crate::{
    program::{repository, target_directory},
    servers::free_port,
};

/// The blocks of a document of the repository that say `sh`, one after the other.
///
/// # Panics
/// There is no such document.
pub fn shell_blocks(document: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(document))
        .unwrap_or_else(|error| panic!("{document} cannot be read: {error}"));
    let blocks = text.split("\n```sh\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
    blocks.map(|(block, _)| block.to_owned()).collect()
}

/// Commands with free ports in place of the documented ones, and with the programs under test on the path.
pub fn on_free_ports(commands: &str) -> String {
    let [grpc, http, traffic, admin, one, two] = [(); 6].map(|()| free_port());
    let documented =
        [("8080", traffic), ("7400", grpc), ("7401", http), ("7410", admin), ("9001", one), ("9002", two)];
    // All of them are gone before the first free one comes, which may contain a documented one.
    let marked = documented.iter().enumerate().fold(commands.to_owned(), |commands, (at, (port, _))| {
        commands.replace(port, &format!("<port {at}>"))
    });
    let commands = documented.iter().enumerate().fold(marked, |commands, (at, (_, free))| {
        commands.replace(&format!("<port {at}>"), &free.to_string())
    });
    let target = target_directory().display().to_string();
    let commands = commands.replace("$PWD/target/debug", &target);
    let listen = format!(
        "--grpc-listen 127.0.0.1:{grpc} --http-listen 127.0.0.1:{http} --listen 127.0.0.1:{traffic} \
         --admin-listen 127.0.0.1:{admin}"
    );
    let commands = commands.replace("waypost dev", &format!("waypost dev {listen}"));
    format!(
        "set -euo pipefail\nexport PATH=\"{target}:$PATH\"\nexport WAYPOST_CONTROL_PLANE=http://127.0.0.1:{grpc}\n\
         export WAYPOST_REGISTRY_URL=http://127.0.0.1:{http}\n{commands}\n"
    )
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

/// Runs commands in a folder, each of which must succeed.
///
/// # Panics
/// One fails, or they do not end in time; what they said is printed.
pub async fn run(script: &str, folder: &Path, variables: &[(&str, &str)], patience: Duration) {
    let out = folder.join("out");
    let log = fs::File::create(&out).expect("a file");
    let mut command = Command::new("bash");
    command.args(["-x", "-c", script]).current_dir(folder).process_group(0).stdin(Stdio::null());
    command.envs(variables.iter().copied());
    command.stdout(log.try_clone().expect("a handle")).stderr(log);
    let mut child = tokio::process::Command::from(command).spawn().expect("bash can be started");
    let id = child.id().expect("a child that was not awaited has an id");
    let shell = Shell { group: Pid::from_raw(i32::try_from(id).expect("process ids are small")) };

    let status = timeout(patience, child.wait()).await;
    // What runs in the background ends as Ctrl-C would end it.
    let _ = killpg(shell.group, Signal::SIGTERM);
    let said = fs::read_to_string(&out).unwrap_or_default();
    let status = status.unwrap_or_else(|_| panic!("the commands do not end within {patience:?}:\n{said}"));
    assert!(status.expect("bash can be awaited").success(), "the commands fail:\n{said}");
}
