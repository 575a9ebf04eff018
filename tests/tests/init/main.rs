//! Projects that `waypost init` makes: they pass their own tests, register by themselves, are called through a proxy,
//! and drain when they are told to end.
//!
//! A template whose language is not installed is listed as ignored, with the reason in its name.

mod axum;
mod fastapi;
mod project;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

/// A template of `waypost init service`.
struct Template {
    name: &'static str,
    /// Why its projects cannot run here, if they cannot.
    missing: fn() -> Option<String>,
    /// Makes a project and shows what it does.
    show: fn(&Runtime),
}

const TEMPLATES: &[Template] = &[
    Template { name: "axum", missing: || None, show: |runtime| runtime.block_on(axum::show()) },
    Template {
        name: "fastapi",
        missing: fastapi::missing,
        show: |runtime| runtime.block_on(fastapi::show()),
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let promise = "a new project passes its tests, registers, is called through a proxy and drains";
    let mut trials = vec![trial("the CLI's page works as it is written".to_owned(), |runtime| {
        runtime.block_on(axum::page());
    })];
    trials.extend(TEMPLATES.iter().map(|template| match (template.missing)() {
        Some(why) => {
            let name = format!("{}: skipped: {why}", template.name);
            Trial::test(name, || Ok(())).with_ignored_flag(true)
        }
        None => trial(format!("{}: {promise}", template.name), template.show),
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, show: fn(&Runtime)) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        show(&runtime);
        Ok(())
    })
}
