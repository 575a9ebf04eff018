//! The options of the program, checked: flags, `WAYPOST_*`, a file, defaults.

use std::{fs, io, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use waypost_proto::{DEFAULT_GRPC_LISTEN, DEFAULT_HTTP_LISTEN, address::Address, name::InstanceKey};
use waypost_sdk::launch::LaunchArgs;

use crate::{
    hub::HubOptions,
    maintenance::Maintenance,
    registry, replicas, server,
    store::{Kind, Location, StoreOptions},
};

/// Waypost's control plane: keeps the registry and pushes routes and instances to the proxies.
#[derive(Parser, Clone, Debug)]
#[command(name = "waypost-control-plane", version, about)]
pub struct Args {
    /// Where to listen for gRPC: SDKs, agents, proxies, the CLI; port 0 picks a free one
    #[arg(long, env = "WAYPOST_GRPC_LISTEN", default_value = DEFAULT_GRPC_LISTEN, value_name = "IP:PORT", value_parser = address)]
    pub grpc_listen: SocketAddr,
    /// Where to listen for HTTP: the API as JSON, health, metrics; port 0 picks a free one
    #[arg(long, env = "WAYPOST_HTTP_LISTEN", default_value = DEFAULT_HTTP_LISTEN, value_name = "IP:PORT", value_parser = address)]
    pub http_listen: SocketAddr,
    /// Where the registry is kept: memory://, redis://HOST:PORT, etcd://HOST:PORT, consul://HOST:PORT, plugin://HOST:PORT
    #[arg(long, env = "WAYPOST_STORE", default_value = "memory://", value_name = "URL", value_parser = store_url, hide_env_values = true)]
    pub store: String,
    /// The directory in which the memory store writes down what it holds, so that a restart finds it
    #[arg(long, global = true, env = "WAYPOST_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How long one operation of the store may take
    #[arg(long, global = true, env = "WAYPOST_STORE_TIMEOUT", default_value = "5s", value_name = "TIME", value_parser = time)]
    pub store_timeout: Duration,
    /// The certificate authorities that sign the store's certificate (PEM); the machine's unless given
    #[arg(long, global = true, env = "WAYPOST_STORE_CA", value_name = "FILE", value_parser = file)]
    pub store_ca: Option<PathBuf>,
    /// The certificate that is shown to the store (PEM)
    #[arg(long, global = true, env = "WAYPOST_STORE_CERT", value_name = "FILE", value_parser = file, requires = "store_key")]
    pub store_cert: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, global = true, env = "WAYPOST_STORE_KEY", value_name = "FILE", value_parser = file, requires = "store_cert")]
    pub store_key: Option<PathBuf>,
    /// A file with the store's password or token, which command lines should not show
    #[arg(long, global = true, env = "WAYPOST_STORE_PASSWORD_FILE", value_name = "FILE", value_parser = file)]
    pub store_password_file: Option<PathBuf>,
    /// Where other control planes over the same store reach this one's gRPC; where it listens unless given
    #[arg(long, env = "WAYPOST_ADVERTISE", value_name = "HOST:PORT", value_parser = advertised)]
    pub advertise: Option<Address>,
    /// This control plane's name among those over the same store; another one each start unless given
    #[arg(long, env = "WAYPOST_REPLICA_ID", value_name = "NAME", value_parser = replica_id)]
    pub replica_id: Option<String>,
    /// After a start with nothing known: for how long registrations from before may still be missing
    #[arg(long, env = "WAYPOST_SETTLE", default_value = "10s", value_name = "TIME", value_parser = time)]
    pub settle: Duration,
    /// For how long a service without instances is kept, with its claims on routes
    #[arg(long, env = "WAYPOST_SERVICE_RETENTION", default_value = "10m", value_name = "TIME", value_parser = time)]
    pub service_retention: Duration,
    /// How many events are kept: who came or left, when and why
    #[arg(long, env = "WAYPOST_EVENT_HISTORY", default_value_t = 10_000, value_name = "COUNT", value_parser = count())]
    pub event_history: u32,
    /// For how long the instances of a mass expiry stay in rotation as suspect
    #[arg(long, env = "WAYPOST_SUSPECT_HOLD", default_value = "5m", value_name = "TIME", value_parser = time)]
    pub suspect_hold: Duration,
    /// How many recent revisions a proxy can resume from without getting everything again
    #[arg(long, env = "WAYPOST_SNAPSHOT_HISTORY", default_value_t = 10_000, value_name = "COUNT", value_parser = count())]
    pub snapshot_history: u32,
    /// For how long a drain waits for a proxy whose connection has ended
    #[arg(long, env = "WAYPOST_DRAIN_GRACE", default_value = "5s", value_name = "TIME", value_parser = time)]
    pub drain_grace: Duration,
    /// How long to take leave after SIGTERM or SIGINT
    #[arg(long, env = "WAYPOST_SHUTDOWN_DEADLINE", default_value = "2s", value_name = "TIME", value_parser = time)]
    pub shutdown_deadline: Duration,
    /// What every program has
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// What to do instead of running
    #[command(subcommand)]
    pub maintenance: Option<Maintenance>,
}

impl Args {
    /// What the server is built from.
    pub fn options(&self) -> server::Options {
        server::Options {
            registry: registry::Options {
                settle: self.settle,
                retention: self.service_retention,
                history_limit: self.event_history as usize,
                suspect_hold: self.suspect_hold,
                store_limit: self.store_timeout,
                ..registry::Options::default()
            },
            hub: HubOptions {
                ring: self.snapshot_history as usize,
                drain_grace: self.drain_grace,
                ..HubOptions::default()
            },
            replicas: self.is_shared().then(|| {
                let defaults = replicas::Options::default();
                replicas::Options {
                    id: self.replica_id.clone().unwrap_or(defaults.id),
                    advertise: self.advertise.clone(),
                    drain_grace: self.drain_grace,
                    ..defaults
                }
            }),
        }
    }

    /// Whether other control planes can use the same store.
    fn is_shared(&self) -> bool {
        Location::parse(&self.store).is_ok_and(|location| location.kind != Kind::Memory)
    }

    /// What the store is opened with.
    ///
    /// # Errors
    /// The password's file cannot be read.
    pub fn store_options(&self) -> io::Result<StoreOptions> {
        let password = self.store_password_file.as_ref().map(fs::read_to_string).transpose()?;
        Ok(StoreOptions {
            data_dir: self.data_dir.clone(),
            timeout: self.store_timeout,
            events: self.event_history as usize,
            ca_file: self.store_ca.clone(),
            identity: self.store_cert.clone().zip(self.store_key.clone()),
            password: password.map(|text| text.trim_end().to_owned()),
            ..StoreOptions::default()
        })
    }

    /// The addresses that others than this machine can reach, where nobody has to say who they are.
    pub fn open_to_others(&self) -> Vec<SocketAddr> {
        let listens = [self.grpc_listen, self.http_listen].into_iter();
        listens.filter(|listen| !listen.ip().to_canonical().is_loopback()).collect()
    }
}

fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1_000_000)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be IP:PORT, for example 127.0.0.1:7400 or [::]:7400".to_owned())
}

fn advertised(text: &str) -> Result<Address, String> {
    text.parse().map_err(|violation: waypost_proto::error::Violation| violation.rule)
}

fn replica_id(text: &str) -> Result<String, String> {
    let checked = InstanceKey::new(registry::reserved::control_planes(), text);
    checked.map(|_| text.to_owned()).map_err(|violation| violation.rule)
}

pub(crate) fn store_url(text: &str) -> Result<String, String> {
    Location::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn file(text: &str) -> Result<PathBuf, String> {
    match fs::metadata(text) {
        Ok(found) if found.is_file() => Ok(PathBuf::from(text)),
        Ok(_) => Err("must be a file, and is something else".to_owned()),
        Err(error) => Err(format!("must be a file that can be read: {error}")),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(30 * 24 * 3600);
    let parsed = humantime::parse_duration(text).ok().filter(|time| *time <= most);
    parsed.ok_or_else(|| "must be a time with a unit from 0s to 30days, for example 10s or 1m30s".to_owned())
}

#[cfg(test)]
mod tests {
    use waypost_sdk::launch::parse_from;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Args, clap::Error> {
        parse_from(["waypost-control-plane"].iter().chain(flags))
    }

    #[test]
    fn the_defaults_stay_on_this_machine() {
        let args = parse(&[]).expect("nothing is required");
        assert_eq!(args.open_to_others(), []);
        assert_eq!(args.settle, Duration::from_secs(10));
    }

    #[test]
    fn a_bad_value_names_the_flag_the_value_and_the_rule() {
        for (flag, value, rule) in [
            ("--grpc-listen", "nowhere", "must be IP:PORT"),
            ("--http-listen", "127.0.0.1", "must be IP:PORT"),
            ("--settle", "10", "must be a time with a unit"),
            ("--drain-grace", "31days", "from 0s to 30days"),
            ("--event-history", "0", "is not in 1..=1000000"),
            ("--snapshot-history", "x", "invalid digit"),
            ("--store", "cassandra://somewhere", "there are memory://, redis://"),
            ("--store", "redis://:70000", "a host must be"),
            ("--store-timeout", "5", "must be a time with a unit"),
            ("--store-ca", "/nowhere", "must be a file that can be read"),
            ("--store-password-file", "/", "must be a file, and is something else"),
            ("--advertise", "0.0.0.0:7400", "for listening only"),
            ("--replica-id", "a b", "must be"),
        ] {
            let error = parse(&[flag, value]).expect_err(flag).to_string();
            assert!(error.contains(flag) && error.contains(value) && error.contains(rule), "{error}");
        }
    }

    #[test]
    fn only_over_a_store_that_can_be_shared_there_are_others() {
        assert!(parse(&[]).expect("nothing is required").options().replicas.is_none());
        let flags =
            ["--store", "redis://127.0.0.1", "--replica-id", "one", "--advertise", "cp-1.internal:7400"];
        let replicas = parse(&flags).expect("good flags").options().replicas.expect("it takes part");
        assert_eq!(replicas.id, "one");
        assert_eq!(replicas.advertise.expect("an address").as_str(), "cp-1.internal:7400");
    }

    #[test]
    fn listening_beyond_this_machine_is_noticed() {
        let args = parse(&["--grpc-listen", "0.0.0.0:0", "--http-listen", "[::ffff:127.0.0.1]:0"]);
        let open = args.expect("good addresses").open_to_others();
        assert_eq!(open, ["0.0.0.0:0".parse().expect("an address")]);
    }
}
