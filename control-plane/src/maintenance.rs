//! `waypost-control-plane store check|copy`, which `waypost store` calls: looks at a store, or moves to another.
//!
//! Deliberately absent: the server. Neither command listens anywhere, and control planes may run meanwhile.

use std::{io::Write, process::ExitCode};

use clap::Subcommand;

use crate::{
    config::{Args, store_url},
    store::{self, Finding, Location, StoreError, StoreOptions, copy},
};

/// What can be done besides running.
#[derive(Subcommand, Clone, Debug)]
pub enum Maintenance {
    /// Look at a store, or move the registry to another one
    #[command(subcommand)]
    Store(StoreCommand),
}

/// What can be done with stores.
#[derive(Subcommand, Clone, Debug)]
pub enum StoreCommand {
    /// Say whether a store can be reached, which version it is, and which permissions are missing
    Check {
        /// The store
        #[arg(value_name = "URL", value_parser = store_url)]
        url: String,
    },
    /// Copy all instances of one store into another, and verify that they are there
    Copy {
        /// The store to read
        #[arg(long, value_name = "URL", value_parser = store_url)]
        from: String,
        /// The store to write
        #[arg(long, value_name = "URL", value_parser = store_url)]
        to: String,
        /// Only say what would be copied
        #[arg(long)]
        dry_run: bool,
    },
}

/// Does what was asked for, and says on `out` how it went.
///
/// # Errors
/// The store cannot be opened or used.
pub async fn run(maintenance: &Maintenance, args: &Args, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let options = args.store_options()?;
    let Maintenance::Store(command) = maintenance;
    match command {
        StoreCommand::Check { url } => check(url, &options, out).await,
        StoreCommand::Copy { from, to, dry_run } => {
            let [source, target] = [from, to].map(|url| store::open(url, &options));
            let (source, target) = (source.await?, target.await?);
            let copied = copy::copy(&*source, &*target, *dry_run).await?;
            let verb = if *dry_run { "would be copied" } else { "copied and verified" };
            writeln!(
                out,
                "{} instances and resources {verb}, {} were there already; {} others in the target are left alone",
                copied.written, copied.same, copied.foreign
            )?;
            if copied.skipped_services > 0 {
                let skipped = copied.skipped_services;
                writeln!(
                    out,
                    "{skipped} services without instances are not copied, nor is the history of events"
                )?;
            }
            if !dry_run {
                writeln!(out, "now start the control planes with --store {}", target.url())?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn check(url: &str, options: &StoreOptions, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let store = store::open(url, options).await?;
    let findings = match store.examine().await {
        Ok(findings) => findings,
        Err(error) => vec![unreachable(url, &error)],
    };
    writeln!(out, "{}", store.url())?;
    for finding in &findings {
        let mark = if finding.good { "ok " } else { "BAD" };
        writeln!(out, "  {mark} {}: {}", finding.subject, finding.detail)?;
        if !finding.remedy.is_empty() {
            writeln!(out, "      {}", finding.remedy)?;
        }
    }
    let good = findings.iter().all(|finding| finding.good);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn unreachable(url: &str, error: &StoreError) -> Finding {
    let place = Location::parse(url).map_or_else(|_| String::new(), |location| location.to_string());
    Finding {
        subject: "reachable".to_owned(),
        good: false,
        detail: error.to_string(),
        remedy: format!(
            "see that the server runs, that {place} is its address, and that no firewall is between"
        ),
    }
}

#[cfg(test)]
mod tests {
    use waypost_sdk::launch::parse_from;

    use super::*;

    async fn say(arguments: &[&str]) -> String {
        let args: Args =
            parse_from(["waypost-control-plane"].iter().chain(arguments)).expect("good arguments");
        let mut out = Vec::new();
        let ended = run(args.maintenance.as_ref().expect("a command"), &args, &mut out).await;
        ended.expect("it runs");
        String::from_utf8(out).expect("text")
    }

    #[tokio::test]
    async fn a_check_says_what_it_found() {
        let said = say(&["store", "check", "memory://"]).await;
        assert!(said.contains("ok  reachable: this process's memory"), "{said}");
    }

    #[tokio::test]
    async fn a_copy_says_what_it_did() {
        let said = say(&["store", "copy", "--from", "memory://", "--to", "memory://", "--dry-run"]).await;
        assert!(said.contains("0 instances and resources would be copied, 0 were there already"), "{said}");
    }
}
