//! A newcomer's first five minutes: what the README and the tour say holds as it is written.

use std::{fs, time::Duration};

use tokio::time::timeout;
use waypost_tests::{
    document,
    process::Process,
    program::{Program, repository},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_works_as_it_is_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::copy(repository().join("README.md"), directory.path().join("README.md")).expect("a copy");
    let blocks = document::shell_blocks("README.md");
    assert!(blocks.len() >= 3, "the README has shell blocks: {blocks:?}");
    let script = document::on_free_ports(&blocks.join("\n"));
    document::run(&script, directory.path(), &[], Duration::from_secs(120)).await;
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
