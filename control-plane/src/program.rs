//! The control plane as a program: options → store → listeners → run until a signal → take leave.
//!
//! `main.rs` is this with the stores that are built in; a program of one's own is this with another one (see
//! `examples/custom_store.rs`).
//!
//! Deliberately absent: the choice of an allocator, which is the program's.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use waypost_sdk::launch;

use crate::{
    config::Args,
    maintenance,
    server::{self, Listeners},
    store::{self, Kind, Location, Store},
};

/// Reads the options, does what they ask for, and answers how that ended. `open` opens the store to run on.
pub async fn main(open: impl AsyncFnOnce(&Args) -> anyhow::Result<Arc<dyn Store>>) -> ExitCode {
    let args: Args = launch::parse();
    launch::logging(&args.launch);
    let ended = match &args.maintenance {
        Some(maintenance) => maintenance::run(maintenance, &args, &mut std::io::stdout()).await,
        None => run(&args, open).await.map(|()| ExitCode::SUCCESS),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Opens the store that `--store` names.
///
/// # Errors
/// Names the option that is wrong, and what is wrong with it.
pub async fn open_store(args: &Args) -> anyhow::Result<Arc<dyn Store>> {
    let options = args.store_options().context("--store-password-file cannot be read")?;
    let location = Location::parse(&args.store).context("--store")?;
    if options.data_dir.is_some() && location.kind != Kind::Memory {
        anyhow::bail!("--data-dir is for memory:// only; leave it away, {location} keeps the registry");
    }
    store::open(&args.store, &options).await.context("--store")
}

async fn run(
    args: &Args,
    open: impl AsyncFnOnce(&Args) -> anyhow::Result<Arc<dyn Store>>,
) -> anyhow::Result<()> {
    let raised = raise_open_files();
    let store = open(args).await?;
    let listeners = Listeners::bind(args.grpc_listen, args.http_listen).await?;
    let server = server::start(args.options(), listeners, store).await.context("cannot start")?;
    tracing::info!(grpc = %server.grpc, http = %server.http, "listening");
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    for address in args.open_to_others() {
        tracing::warn!(%address, "reachable from other machines, and nobody is asked who they are");
    }

    let signal = launch::shutdown().await.context("cannot listen for signals")?;
    tracing::info!(signal, "stopping");
    server.stop(args.shutdown_deadline).await;
    tracing::info!("stopped");
    Ok(())
}

/// Each connection is an open file, and the usual soft limit of 1,024 is for programs that use `select`.
fn raise_open_files() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}
