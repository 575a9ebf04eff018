//! `waypost`: every operation of the API from a terminal, and `waypost dev`, which runs all parts on one
//! machine.
//!
//! Options → command → exit code. What is printed goes through [`output`], what fails through [`failure`].

mod api;
mod args;
mod command;
mod dev;
mod failure;
mod init;
mod locate;
mod manifest;
mod output;
mod sample;
mod supervised;
mod tour;

use std::process::ExitCode;

use waypost_sdk::launch::{self, LaunchArgs, LogFormat};

use crate::{args::Cli, failure::Failure, output::Output};

fn main() -> ExitCode {
    let cli: Cli = launch::parse();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let output = Output::standard(cli.global.output, no_color);
    let log = cli.global.log.clone();
    launch::logging(&LaunchArgs {
        config: None,
        log: log.unwrap_or_else(|| "warn".to_owned()),
        log_format: LogFormat::Text,
    });
    match run(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.broken_pipe => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.silent {
                output.failure(&failure);
            }
            failure.exit.into()
        }
    }
}

fn run(cli: Cli, output: &Output) -> Result<(), Failure> {
    // One thread, and the one that lives as long as the process: the kernel ends supervised programs with
    // the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command::run(cli.command, &cli.global, output))
}
