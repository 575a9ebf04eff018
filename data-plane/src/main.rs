//! The proxy's program: options, start, signal, drain.

use std::process::ExitCode;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use waypost_proxy::{
    config::{Args, Config},
    proxy::Proxy,
};
use waypost_sdk::launch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    let args: Args = launch::parse();
    launch::logging(&args.launch);
    let raised = raise_open_files();
    // The serving threads have runtimes of their own; this one is for all else.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the control thread's runtime cannot be made")?;
    runtime.block_on(run(args.into(), raised))
}

async fn run(config: Config, raised: nix::Result<()>) -> anyhow::Result<ExitCode> {
    let deadline = config.drain_deadline;
    let proxy = Proxy::start(config).context("the proxy cannot start")?;
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let signal = launch::shutdown().await.context("signals cannot be listened for")?;
    tracing::info!(signal, deadline_s = deadline.as_secs(), "shutting down, a second signal ends at once");
    let report = tokio::select! {
        report = proxy.shutdown() => report,
        again = launch::shutdown_again() => {
            tracing::warn!(signal = again.unwrap_or("none"), "ending at once");
            return Ok(ExitCode::FAILURE);
        }
    };
    if report.is_clean() {
        tracing::info!("nothing was cut");
    } else {
        let (requests, upgrades) = (report.cut_requests, report.cut_upgrades);
        tracing::warn!(requests, upgrades, failed_workers = report.failed_workers, "cut at the deadline");
    }
    Ok(ExitCode::SUCCESS)
}

/// Each connection is an open file, and the usual soft limit of 1,024 is for programs that use `select`.
fn raise_open_files() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}
