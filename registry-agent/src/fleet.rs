//! `waypost-agent --config`: services that run by themselves, as a file lists them.
//!
//! SIGHUP reads the file again: services are added, removed (drained) and changed. A file with a mistake
//! changes nothing, nor does one without a list of services: who writes it may not have come that far. SIGTERM
//! and SIGINT drain all services at once; a second one ends the agent without waiting.

use std::{collections::BTreeMap, path::PathBuf};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use waypost_sdk::{Client, contract::name::InstanceKey};

use crate::{
    admin::Roster,
    config::ServiceConfig,
    file::AgentFile,
    member::{Departure, Member},
    metrics::Metrics,
    signals::{Signals, asks_to_end},
};

/// The services of a file.
pub struct Fleet {
    path: PathBuf,
    file: AgentFile,
    client: Client,
    roster: Roster,
    metrics: Metrics,
    members: BTreeMap<InstanceKey, (ServiceConfig, Member)>,
}

impl Fleet {
    /// Starts to check the file's services.
    pub async fn start(
        path: PathBuf,
        file: AgentFile,
        client: Client,
        roster: Roster,
        metrics: Metrics,
    ) -> Self {
        let services = file.services.clone().unwrap_or_default();
        let mut fleet = Self { path, file, client, roster, metrics, members: BTreeMap::new() };
        fleet.take(services).await;
        fleet
    }

    /// Cares for the services until it is asked to end and they are drained. Returns the exit code.
    pub async fn run(mut self, mut signals: Signals) -> u8 {
        loop {
            match signals.next().await {
                Signal::SIGHUP => self.reload().await,
                signal if asks_to_end(signal) => {
                    tracing::info!(%signal, services = self.members.len(), "draining all services");
                    break;
                }
                _ => {}
            }
        }
        let leaving = self.members.values().map(|(_, member)| member.leave(Departure::Drain));
        let drained = join_all(leaving);
        tokio::pin!(drained);
        loop {
            tokio::select! {
                _ = &mut drained => return 0,
                signal = signals.next() => if asks_to_end(signal) {
                    tracing::warn!(%signal, "asked again: ends without waiting");
                    return u8::try_from(128 + signal as i32).unwrap_or(u8::MAX);
                }
            }
        }
    }

    async fn reload(&mut self) {
        match AgentFile::read(&self.path) {
            Err(error) => tracing::error!(%error, "the file has a mistake, nothing is changed"),
            Ok(file) => {
                if !file.agrees_with(&self.file) {
                    tracing::warn!("a change of anything but services takes a restart of the agent");
                }
                match file.services {
                    Some(services) => self.take(services).await,
                    None => tracing::error!(
                        file = %self.path.display(),
                        "the file has no list of services, nothing is changed; `services: []` says that there are none"
                    ),
                }
            }
        }
    }

    /// Makes the members those of this list.
    async fn take(&mut self, services: Vec<ServiceConfig>) {
        let (mut added, mut changed) = (0, 0);
        let mut before = std::mem::take(&mut self.members);
        for config in services {
            let key = config.spec.key.clone();
            let member = match before.remove(&key) {
                Some((known, member)) => {
                    if known != config {
                        changed += 1;
                        member.reconfigure(config.clone());
                    }
                    member
                }
                None => {
                    added += 1;
                    let member = Member::start(config.clone(), self.client.clone(), self.metrics.clone());
                    self.roster.add(key.to_string(), member.status()).await;
                    member
                }
            };
            self.members.insert(key, (config, member));
        }
        tracing::info!(
            services = self.members.len(),
            added,
            changed,
            removed = before.len(),
            "took the file"
        );
        for (key, (_, member)) in before {
            let roster = self.roster.clone();
            tokio::spawn(async move {
                member.leave(Departure::Drain).await;
                roster.remove(&key.to_string()).await;
            });
        }
    }
}
