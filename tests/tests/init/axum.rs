//! The axum template: built offline, with the crates that Waypost itself is built with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tokio::process::Command;
use waypost_tests::{
    document,
    program::{repository, target_directory},
};

use crate::project::{BUILD, Project};

/// Makes a project and shows what it does.
pub(crate) async fn show() {
    let project = Project::make("axum").await;
    // What Waypost is built with is on this machine already, and only that.
    let lock = project.folder().join("Cargo.lock");
    fs::copy(repository().join("Cargo.lock"), lock).expect("a copy of the lock file");
    let mut test = cargo(&project);
    let said = project.build(test.args(["test", "--offline", "--quiet"])).await;
    assert!(said.contains("2 passed"), "{said}");
    project.build(Command::new("cargo").args(["fmt", "--check"]).current_dir(project.folder())).await;
    project.build(cargo(&project).args(["build", "--offline", "--quiet"])).await;
    let program = target().join("debug/greetings");
    project.serves(project.command(&program)).await;
}

/// Runs what the page of the CLI says about `init`.
pub(crate) async fn page() {
    let blocks = document::shell_blocks("sdk/cli/README.md");
    let block = blocks.iter().find(|block| block.contains("waypost init")).expect("a block about init");
    let (sdk, lock) = (repository(), repository().join("Cargo.lock"));
    let script = block
        // The programs under test need not lie in the checkout.
        .replace("--template axum", &format!("--template axum --sdk {}", sdk.display()))
        .replace("\ncd greetings", &format!("\ncd greetings\ncp {} .", lock.display()));
    assert!(script.contains("Cargo.lock"), "{script}");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (target, variables) = (target().display().to_string(), profile());
    let mut variables: Vec<(&str, &str)> = variables.to_vec();
    variables.extend([("CARGO_TARGET_DIR", target.as_str()), ("CARGO_NET_OFFLINE", "true")]);
    document::run(&document::on_free_ports(&script), folder.path(), &variables, BUILD).await;
}

/// Beside Waypost's own programs.
fn target() -> PathBuf {
    let built = target_directory();
    built.parent().unwrap_or(&built).join("init")
}

/// As little as a build can do.
fn profile() -> [(&'static str, &'static str); 2] {
    [("CARGO_PROFILE_DEV_OPT_LEVEL", "0"), ("CARGO_PROFILE_DEV_DEBUG", "0")]
}

fn cargo(project: &Project) -> Command {
    let mut command = project.command(Path::new("cargo"));
    command.env("CARGO_TARGET_DIR", target()).envs(profile());
    command
}
