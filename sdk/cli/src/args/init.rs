//! What `waypost init` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::value;

/// What to make.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    #[command(subcommand)]
    pub(crate) what: InitWhat,
}

/// The projects that can be made.
#[derive(Debug, Subcommand)]
pub(crate) enum InitWhat {
    /// Make a service's project: it runs, tests and registers itself
    Service(InitServiceArgs),
}

/// A service's project.
#[derive(Args, Debug)]
pub(crate) struct InitServiceArgs {
    /// The service's name, and that of the new folder
    #[arg(value_name = "NAME", value_parser = value::service)]
    pub(crate) name: String,
    /// What it is made with
    #[arg(long, value_enum, value_name = "TEMPLATE")]
    pub(crate) template: Template,
    /// Take the SDK from a checkout of Waypost [default: the one that this command runs in or was built in, else the
    /// released version]
    #[arg(long, value_name = "PATH")]
    pub(crate) sdk: Option<PathBuf>,
}

/// What a service is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    /// Python, FastAPI
    Fastapi,
    /// Rust, axum
    Axum,
}
