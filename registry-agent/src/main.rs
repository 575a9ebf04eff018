//! `waypost-agent`: registers, checks and drains services that use no SDK.

use std::process::ExitCode;

use anyhow::Context;
use waypost_agent::{
    admin::{self, Roster},
    args::{Agent, Work},
    fleet::Fleet,
    metrics::Metrics,
    signals::Signals,
    supervise::{self, RunError},
};
use waypost_sdk::{Client, contract::error::ErrorCode, launch};

fn main() -> ExitCode {
    let agent = Agent::from_process();
    launch::logging(&agent.launch);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.context("the runtime cannot be started").and_then(|runtime| {
        let code = runtime.block_on(run(agent));
        runtime.shutdown_background();
        code
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// 2 for a bad value, as for every bad flag; a shell's code where the command could not be started; else 1.
fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(RunError::Start(error)) = error.downcast_ref() {
        return error.exit_code;
    }
    let refused = error.downcast_ref::<waypost_sdk::Error>().map(waypost_sdk::Error::code);
    if refused == Some(ErrorCode::InvalidArgument) { 2 } else { 1 }
}

async fn run(agent: Agent) -> anyhow::Result<u8> {
    let mut client = Client::builder().control_planes(agent.options.control_plane);
    if let Some(name) = agent.options.client {
        client = client.client_name(name);
    }
    let client = client.build()?;
    let signals = Signals::listen().context("signals cannot be listened for")?;
    let (roster, metrics) = (Roster::default(), Metrics::new());
    let listen = agent.options.admin_listen;
    admin::serve(listen, roster.clone(), metrics.clone()).await.with_context(|| {
        format!("the admin port cannot be opened at {listen:?}; give another --admin-listen, or none")
    })?;
    match agent.work {
        Work::Run(run) => Ok(supervise::run(*run, client, roster, metrics, signals).await?),
        Work::Fleet(path, file) => {
            Ok(Fleet::start(path, file, client, roster, metrics).await.run(signals).await)
        }
    }
}
