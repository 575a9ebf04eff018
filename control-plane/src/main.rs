//! The control plane's process: options → listeners and store → run until a signal → take leave.

use anyhow::Context;
use waypost_control_plane::{
    config::Args,
    server::{self, Listeners},
    store,
};
use waypost_sdk::launch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Args = launch::parse();
    launch::logging(&args.launch);

    let store = store::open(&args.store).context("--store")?;
    let listeners = Listeners::bind(args.grpc_listen, args.http_listen).await?;
    let server = server::start(args.options(), listeners, store).await.context("cannot start")?;
    tracing::info!(grpc = %server.grpc, http = %server.http, "listening");
    for address in args.open_to_others() {
        tracing::warn!(%address, "reachable from other machines, and nobody is asked who they are");
    }

    let signal = launch::shutdown().await.context("cannot listen for signals")?;
    tracing::info!(signal, "stopping");
    server.stop(args.shutdown_deadline).await;
    tracing::info!("stopped");
    Ok(())
}
