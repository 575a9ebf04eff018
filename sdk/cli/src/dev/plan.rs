//! What `waypost dev` is going to run, as the command line has it.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use waypost_proto::{
    DEFAULT_GRPC_LISTEN, DEFAULT_HTTP_LISTEN, DEFAULT_PROXY_ADMIN_LISTEN, DEFAULT_PROXY_LISTEN,
};

use crate::args::{DevArgs, SampleService};

const FREE_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The tour waits for a lease to run out and for a control plane to settle, so both are short.
pub(crate) const TOUR_TTL: Duration = Duration::from_secs(4);
const TOUR_SETTLE: Duration = Duration::from_secs(3);
const TOUR_PROXIES: u16 = 2;
const INSTANCES: u32 = 3;

/// What is going to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where the control plane listens for gRPC.
    pub(super) grpc: SocketAddr,
    /// Where its HTTP API is.
    pub(super) http: SocketAddr,
    /// The proxies' addresses: for traffic, and for their admin ports.
    pub(super) proxies: Vec<(SocketAddr, SocketAddr)>,
    /// Where the proxies keep their last tables.
    pub(super) data_dir: Option<PathBuf>,
    /// The sample services to begin with.
    pub(super) services: Vec<SampleUnit>,
    /// The control plane's settle time, where it is not its own default.
    pub(super) settle: Option<Duration>,
    /// What the programs log.
    pub(super) log: String,
    /// Whether their logs are shown.
    pub(super) show_logs: bool,
}

/// One instance of a sample service.
#[derive(Clone, Debug)]
pub(crate) struct SampleUnit {
    /// The service.
    pub(crate) service: SampleService,
    /// Its version.
    pub(crate) version: String,
    /// The instance's id.
    pub(crate) id: String,
    /// The lease.
    pub(crate) ttl: Duration,
}

impl SampleUnit {
    /// All instances of one version, with the lease that the tour uses.
    pub(crate) fn replicas(service: SampleService, version: &str, ttl: Duration) -> Vec<Self> {
        let unit = |number| Self {
            service,
            version: version.to_owned(),
            id: format!("{}-v{version}-{number}", service.name()),
            ttl,
        };
        (1..=INSTANCES).map(unit).collect()
    }
}

impl Plan {
    /// The plan for these arguments.
    pub(super) fn new(args: &DevArgs, log: Option<&str>) -> Self {
        let address = |given: Option<SocketAddr>, default: &str| {
            let default = default.parse().expect("the contract's defaults are addresses");
            given.unwrap_or(if args.tour { FREE_PORT } else { default })
        };
        let traffic = address(args.listen, DEFAULT_PROXY_LISTEN);
        let admin = address(args.admin_listen, DEFAULT_PROXY_ADMIN_LISTEN);
        let proxies = args.proxies.unwrap_or(if args.tour { TOUR_PROXIES } else { 1 });
        let ttl = if args.tour { TOUR_TTL } else { waypost_proto::instance::DEFAULT_TTL };
        let services = [SampleService::Greeter, SampleService::Clock];
        let services = services.into_iter().flat_map(|service| SampleUnit::replicas(service, "1", ttl));
        Self {
            grpc: address(args.grpc_listen, DEFAULT_GRPC_LISTEN),
            http: address(args.http_listen, DEFAULT_HTTP_LISTEN),
            proxies: (0..proxies).map(|number| (nth(traffic, number), nth(admin, number))).collect(),
            data_dir: args.data_dir.clone(),
            services: services.filter(|_| args.demo).collect(),
            settle: args.tour.then_some(TOUR_SETTLE),
            log: log.unwrap_or("info").to_owned(),
            show_logs: !args.tour,
        }
    }

    /// The addresses that must be free, each with the flag that changes it.
    pub(super) fn fixed(&self) -> Vec<(&'static str, SocketAddr)> {
        let own = [("--grpc-listen", self.grpc), ("--http-listen", self.http)];
        let proxies = self
            .proxies
            .iter()
            .flat_map(|(traffic, admin)| [("--listen", *traffic), ("--admin-listen", *admin)]);
        own.into_iter().chain(proxies).filter(|(_, address)| address.port() != 0).collect()
    }

    /// The control plane's arguments, beside its addresses.
    pub(super) fn control_plane_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        if let Some(settle) = self.settle {
            args.extend(["--settle".into(), humantime::format_duration(settle).to_string().into()]);
        }
        args.extend(self.log_args());
        args
    }

    /// A proxy's arguments, beside its addresses.
    pub(super) fn proxy_args(&self, number: usize, control_plane: SocketAddr) -> Vec<OsString> {
        let mut args: Vec<OsString> =
            vec!["--control-plane".into(), format!("http://{control_plane}").into()];
        args.extend(["--proxy-id".into(), format!("proxy-{number}").into()]);
        if let Some(dir) = &self.data_dir {
            args.extend(["--state-dir".into(), dir.join(format!("proxy-{number}")).into()]);
        }
        args.extend(self.log_args());
        args
    }

    /// A sample service's arguments.
    pub(super) fn sample_args(&self, sample: &SampleUnit, control_plane: SocketAddr) -> Vec<OsString> {
        let ttl = humantime::format_duration(sample.ttl).to_string();
        let control_plane = format!("http://{control_plane}");
        let flags = [
            ("--service", sample.service.name()),
            ("--version", &sample.version),
            ("--id", &sample.id),
            ("--ttl", &ttl),
            ("--control-plane", &control_plane),
            ("--log", &self.log),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]);
        std::iter::once("sample".into()).chain(flags).collect()
    }

    fn log_args(&self) -> [OsString; 4] {
        ["--log".into(), self.log.clone().into(), "--log-format".into(), "text".into()]
    }
}

/// The address of the nth proxy: the following port, unless free ones are taken.
fn nth(first: SocketAddr, number: u16) -> SocketAddr {
    match first.port() {
        0 => first,
        port => SocketAddr::new(first.ip(), port.saturating_add(number)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn plan(flags: &[&str]) -> Plan {
        let cli = Cli::try_parse_from(["waypost", "dev"].iter().chain(flags)).expect("good flags");
        let Command::Dev(args) = cli.command else { panic!("dev") };
        Plan::new(&args, None)
    }

    #[test]
    fn proxies_take_the_following_ports() {
        let plan = plan(&["--proxies", "2", "--listen", "127.0.0.1:9000"]);
        let fixed: Vec<String> =
            plan.fixed().iter().map(|(flag, address)| format!("{flag} {address}")).collect();
        assert_eq!(
            fixed,
            [
                "--grpc-listen 127.0.0.1:7400",
                "--http-listen 127.0.0.1:7401",
                "--listen 127.0.0.1:9000",
                "--admin-listen 127.0.0.1:7410",
                "--listen 127.0.0.1:9001",
                "--admin-listen 127.0.0.1:7411",
            ]
        );
        assert!(plan.services.is_empty());
    }

    #[test]
    fn the_tour_takes_free_ports_only() {
        let plan = plan(&["--demo", "--tour"]);
        assert!(plan.fixed().is_empty());
        assert_eq!((plan.proxies.len(), plan.services.len(), plan.show_logs), (2, 6, false));
    }
}
