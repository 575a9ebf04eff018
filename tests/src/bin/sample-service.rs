//! The sample service as a process of its own, so that tests can kill it or hand it to the agent.
//!
//! With `--service` it registers through the SDK and drains on SIGTERM, as a service should. Without, it knows
//! nothing of Waypost: the agent registers such a one.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use waypost_sdk::{Client, Registration, launch};
use waypost_tests::service::{RegisteredService, SampleService};

/// How long the drain may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// A service for tests.
#[derive(Parser)]
struct Args {
    /// Register under this name.
    #[arg(long)]
    service: Option<String>,
    /// Where to register.
    #[arg(long, default_value = "http://127.0.0.1:7400")]
    control_plane: String,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// What the instance is called.
    #[arg(long, default_value = "sample")]
    instance: String,
    /// How long the lease lives, in seconds.
    #[arg(long, default_value_t = 2)]
    ttl: u64,
    /// The code that the program ends with after SIGTERM.
    #[arg(long, default_value_t = 0)]
    exit_code: u8,
    #[command(flatten)]
    launch: launch::LaunchArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args: Args = launch::parse();
    launch::logging(&args.launch);
    let service = SampleService::listen(&args.instance, &args.listen).await.context("cannot listen")?;
    tracing::info!(http = %service.address, "listening");
    let registered = match &args.service {
        None => None,
        Some(name) => {
            let client = Client::connect([&args.control_plane])?;
            let registration = Registration::new(name, service.address.to_string())
                .id(&args.instance)
                .ttl(Duration::from_secs(args.ttl));
            Some(client.register(registration).await?)
        }
    };
    tracing::info!("ready");
    let signal = launch::shutdown().await?;
    tracing::info!(signal, "ending");
    if let Some(registered) = registered {
        RegisteredService { service, registered }.retire(DRAIN_DEADLINE).await;
    }
    Ok(ExitCode::from(args.exit_code))
}
