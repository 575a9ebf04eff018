//! Everything that `waypost dev` runs: started in order, steered by the tour, ended in order.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{
    http,
    log::Log,
    plan::{Plan, SampleUnit},
    ports,
    process::{Addresses, Launch},
    record::Record,
    unit::{Spec, State, Unit},
};
use crate::{
    failure::{Exit, Failure},
    locate,
    output::{Output, text},
};

const READY_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Where a proxy listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProxyAddresses {
    /// For traffic.
    pub(crate) traffic: SocketAddr,
    /// Its admin port.
    pub(crate) admin: SocketAddr,
}

struct ControlPlane {
    unit: Unit,
    grpc: SocketAddr,
    http: SocketAddr,
}

/// Everything that runs.
pub(crate) struct Stack {
    plan: Plan,
    log: Log,
    record: Record,
    control_plane_program: PathBuf,
    proxy_program: PathBuf,
    own_program: PathBuf,
    control_plane: Option<ControlPlane>,
    proxies: Vec<(Unit, ProxyAddresses)>,
    services: Vec<Unit>,
}

impl Stack {
    /// Checks that the programs are there and the ports are free.
    ///
    /// # Errors
    /// Names the program that is missing or the address that is taken.
    pub(super) fn new(plan: Plan, output: &Output, record: Record) -> Result<Self, Failure> {
        let checked = || {
            let programs = (locate::program("waypost-control-plane")?, locate::program("waypost-proxy")?);
            ports::check(&plan.fixed())?;
            Ok((programs, locate::this_program()?))
        };
        let ((control_plane_program, proxy_program), own_program) =
            checked().inspect_err(|_: &Failure| record.remove())?;
        let log = Log::new(output, plan.show_logs);
        Ok(Self {
            plan,
            log,
            record,
            control_plane_program,
            proxy_program,
            own_program,
            control_plane: None,
            proxies: Vec::new(),
            services: Vec::new(),
        })
    }

    /// Starts everything, and waits until it is ready.
    ///
    /// # Errors
    /// Something does not start; its last words are in the message.
    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        self.start_control_plane().await?;
        for number in 1..=self.plan.proxies.len() {
            self.start_proxy(number).await?;
        }
        let services = self.plan.services.clone();
        self.start_services(&services).await
    }

    async fn start_control_plane(&mut self) -> Result<(), Failure> {
        let unit = self.unit(
            "control-plane",
            self.control_plane_program.clone(),
            self.plan.control_plane_args(),
            vec![("--grpc-listen", "grpc", self.plan.grpc), ("--http-listen", "http", self.plan.http)],
        );
        let plane = ControlPlane { unit, grpc: self.plan.grpc, http: self.plan.http };
        let plane = self.control_plane.insert(plane);
        let bound = plane.unit.running().await?;
        (plane.grpc, plane.http) = (named(&plane.unit, &bound, "grpc")?, named(&plane.unit, &bound, "http")?);
        self.control_plane_ready().await
    }

    async fn start_proxy(&mut self, number: usize) -> Result<(), Failure> {
        let (traffic, admin) = self.plan.proxies[number - 1];
        let unit = self.unit(
            &format!("proxy-{number}"),
            self.proxy_program.clone(),
            self.plan.proxy_args(number, self.grpc()),
            vec![("--listen", "traffic", traffic), ("--admin-listen", "admin", admin)],
        );
        self.proxies.push((unit, ProxyAddresses { traffic, admin }));
        let (unit, addresses) = &mut self.proxies[number - 1];
        let bound = unit.running().await?;
        (addresses.traffic, addresses.admin) =
            (named(unit, &bound, "traffic")?, named(unit, &bound, "admin")?);
        ready(unit, addresses.admin).await
    }

    /// Starts instances of sample services, and waits until they are registered.
    ///
    /// # Errors
    /// One does not start.
    pub(crate) async fn start_services(&mut self, samples: &[SampleUnit]) -> Result<(), Failure> {
        let first = self.services.len();
        for sample in samples {
            let args = self.plan.sample_args(sample, self.grpc());
            let unit = self.unit(&sample.id, self.own_program.clone(), args, Vec::new());
            self.services.push(unit);
        }
        let started = join_all(self.services[first..].iter().map(Unit::running)).await;
        started.into_iter().try_for_each(|result| result.map(drop))
    }

    fn unit(
        &self,
        name: &str,
        program: PathBuf,
        args: Vec<std::ffi::OsString>,
        listens: Vec<(&'static str, &'static str, SocketAddr)>,
    ) -> Unit {
        let launch = Launch { name: name.to_owned(), program, args };
        Unit::start(Spec { launch, listens }, &self.log, &self.record)
    }

    /// Where the control plane listens for gRPC.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.control_plane.as_ref().map_or(self.plan.grpc, |plane| plane.grpc)
    }

    /// Where the control plane's HTTP API is.
    pub(crate) fn http(&self) -> SocketAddr {
        self.control_plane.as_ref().map_or(self.plan.http, |plane| plane.http)
    }

    /// Where the proxies listen.
    pub(crate) fn proxies(&self) -> Vec<ProxyAddresses> {
        self.proxies.iter().map(|(_, addresses)| *addresses).collect()
    }

    /// Ends one instance (SIGTERM), and waits until it has drained and ended.
    pub(crate) async fn stop_service(&self, id: &str) {
        for unit in self.services.iter().filter(|unit| unit.name() == id) {
            unit.order_stop();
            unit.stopped().await;
        }
    }

    /// Kills one instance (SIGKILL). It is not started again.
    pub(crate) async fn kill_service(&self, id: &str) {
        for unit in self.services.iter().filter(|unit| unit.name() == id) {
            unit.order_kill();
            unit.stopped().await;
        }
    }

    /// Ends the control plane (SIGTERM).
    pub(crate) async fn stop_control_plane(&self) {
        if let Some(plane) = &self.control_plane {
            plane.unit.order_stop();
            plane.unit.stopped().await;
        }
    }

    /// Starts the control plane again, on the ports that it had.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn restart_control_plane(&self) -> Result<(), Failure> {
        let Some(plane) = &self.control_plane else { return Ok(()) };
        plane.unit.start_again().await;
        self.control_plane_ready().await
    }

    async fn control_plane_ready(&self) -> Result<(), Failure> {
        let Some(plane) = &self.control_plane else { return Ok(()) };
        ready(&plane.unit, plane.http).await
    }

    /// Shows what the programs said last, where it was not shown as they said it.
    pub(crate) fn show_last_words(&self) {
        const SHOWN: usize = 8;
        self.log.show_tails(SHOWN);
    }

    /// Ends everything: services, then proxies, then the control plane.
    pub(super) async fn stop(&self) {
        end(self.services.iter()).await;
        end(self.proxies.iter().map(|(unit, _)| unit)).await;
        end(self.control_plane.iter().map(|plane| &plane.unit)).await;
        self.record.remove();
    }

    /// Ends everything at once.
    pub(super) async fn kill(&self) {
        let proxies = self.proxies.iter().map(|(unit, _)| unit);
        let units: Vec<&Unit> =
            proxies.chain(&self.services).chain(self.control_plane.iter().map(|plane| &plane.unit)).collect();
        units.iter().for_each(|unit| unit.order_kill());
        join_all(units.iter().map(|unit| unit.stopped())).await;
        self.record.remove();
    }
}

async fn end(units: impl Iterator<Item = &Unit>) {
    let units: Vec<&Unit> = units.filter(|unit| unit.state() != State::Stopped).collect();
    units.iter().for_each(|unit| unit.order_stop());
    join_all(units.iter().map(|unit| unit.stopped())).await;
}

fn named(unit: &Unit, addresses: &Addresses, name: &str) -> Result<SocketAddr, Failure> {
    addresses.get(name).copied().ok_or_else(|| {
        let message =
            format!("{} does not say where its {name} port is; is it of this version?", unit.name());
        Failure::new(Exit::Failed, message).way_out("build all programs with: cargo build --workspace --bins")
    })
}

/// Waits until a program says that it is ready.
async fn ready(unit: &Unit, address: SocketAddr) -> Result<(), Failure> {
    let until = Instant::now() + READY_LIMIT;
    loop {
        unit.running().await?;
        let last = match http::get(address, "/readyz").await {
            Ok(answer) if answer.status.is_success() => return Ok(()),
            Ok(answer) => {
                format!("it answers {}: {}", answer.status, String::from_utf8_lossy(&answer.body).trim())
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= until {
            let message = format!(
                "{} is not ready within {}; http://{address}/readyz: {last}",
                unit.name(),
                text::span(READY_LIMIT)
            );
            return Err(Failure::new(Exit::Failed, message));
        }
        tokio::time::sleep(POLL).await;
    }
}
