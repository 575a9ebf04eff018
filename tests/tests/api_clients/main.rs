//! The HTTP API with clients that nobody here wrote: Tapper's, unmodified, and a fuzzer that reads the OpenAPI document.
//!
//! Where they are not installed, their tests are listed as ignored, with the reason in their names.

mod schemathesis;
mod tapper;

use std::{path::PathBuf, process::ExitCode};

use libtest_mimic::{Arguments, Trial};
use waypost_tests::program::target_directory;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let missing = missing();
    let promises = [
        (
            "tapper: a service is reached through a proxy, survives a restart and leaves",
            tapper::the_whole_life as fn(),
        ),
        ("tapper: versions stand side by side, and a prefix is removed", tapper::versions_and_prefixes),
        ("tapper: one that an operator has removed stays away", tapper::a_removed_one_stays_away),
        ("schemathesis: every answer is one that the document names", schemathesis::the_document_holds),
        ("every line of a watch is one that the document describes", schemathesis::the_watch_is_documented),
    ];
    let trials = promises.map(|(says, show)| match &missing {
        None => Trial::test(says, move || {
            show();
            Ok(())
        }),
        Some(why) => Trial::test(format!("{says}: skipped: {why}"), || Ok(())).with_ignored_flag(true),
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// A program of the environment with what `requirements.txt` names.
fn program(name: &str) -> PathBuf {
    let target = target_directory();
    target.parent().unwrap_or(&target).join("api-clients-env/bin").join(name)
}

fn missing() -> Option<String> {
    let environment = program("python");
    let made = environment.ancestors().nth(2).is_some_and(|it| it.join("requirements.txt").is_file());
    (!made).then(|| "target/api-clients-env is not made: run tests/setup.sh --servers".to_owned())
}

/// Runs a test to its end.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}
