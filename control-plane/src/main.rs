//! The control plane's process: options → listeners and store → run until a signal → take leave.

use std::process::ExitCode;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use waypost_control_plane::{
    config::Args,
    maintenance,
    server::{self, Listeners},
    store,
};
use waypost_sdk::launch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Args = launch::parse();
    launch::logging(&args.launch);
    let ended = match &args.maintenance {
        Some(maintenance) => maintenance::run(maintenance, &args, &mut std::io::stdout()).await,
        None => run(args).await.map(|()| ExitCode::SUCCESS),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let raised = raise_open_files();
    let options = args.store_options().context("--store-password-file cannot be read")?;
    let store = store::open(&args.store, &options).await.context("--store")?;
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
