//! What can be asked for on the command line.
//!
//! A value is checked here only where the rule is the contract's own type, so that the message names the
//! flag; everything else is checked by the control plane, which names field, value and rule. Deliberately
//! absent: what the commands do.

mod choice;
pub(crate) mod init;
pub(crate) mod resource;
pub(crate) mod value;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use waypost_sdk::launch;

pub(crate) use self::choice::{OverrideAction, Speaks, State};
use self::{
    init::InitArgs,
    resource::{
        ApplyArgs, DeleteArgs, DescribeArgs, DiffArgs, ExplainArgs, GetArgs, HistoryArgs, LintArgs,
        RollbackArgs,
    },
    value::{Pair, Reference, Since},
};
use crate::output::Format;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; and for `diff`: something differs
  2  a flag or a value is wrong; nothing was changed
  3  there is no such service, instance or resource
  4  no control plane answers
  5  it did not happen in the time that was given

Examples:
  waypost dev --demo                      a control plane, a proxy and two services, until Ctrl-C
  waypost services                        what is registered
  waypost register --service users --address 127.0.0.1:9001
  waypost drain users/127.0.0.1:9001 --wait
  waypost apply -f routes.yaml --wait     declare routes, and wait until every proxy serves by them
  waypost explain GET http://shop.example/cart";

/// Waypost on the command line
#[derive(Debug, Parser)]
#[command(name = "waypost", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The control planes, repeated or separated by commas; any that answers will do
    #[arg(
        long,
        global = true,
        env = "WAYPOST_CONTROL_PLANE",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7400"
    )]
    pub(crate) control_plane: Vec<String>,
    /// How results are written
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// The namespace of what is named; lists show all namespaces unless it is given
    #[arg(short, long, global = true, env = "WAYPOST_NAMESPACE", value_name = "NAME", value_parser = value::namespace)]
    pub(crate) namespace: Option<String>,
    /// How long a control plane may take to answer
    #[arg(long, global = true, default_value = "5s", value_name = "TIME", value_parser = value::positive)]
    pub(crate) timeout: Duration,
    /// What to log to standard error: a level, or directives such as `info,waypost_sdk=debug` [default: warn, and
    /// info for what `waypost dev` starts]
    #[arg(long, global = true, env = "WAYPOST_LOG", value_name = "DIRECTIVES", value_parser = launch::directives)]
    pub(crate) log: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List services, or show one with its instances
    Services {
        /// Only this one
        name: Option<String>,
    },
    /// List instances
    ///
    /// With why each is in its state, and how many proxies pass it over and why. Whether a proxy panics or has its
    /// circuit breaker open is known to that proxy alone: `waypost explain` asks it.
    Instances(InstancesArgs),
    /// List the routes in force, and the claims that lost
    Routes,
    /// List proxies with what they have applied
    Proxies,
    /// Show who registered or left, when and why
    Events(EventsArgs),
    /// Show the control plane at a glance
    Status,
    /// Register an instance and keep it alive until Ctrl-C, then drain it
    Register(Box<RegisterArgs>),
    /// Remove an instance
    Deregister(DeregisterArgs),
    /// Take an instance out of rotation, or put it back
    Drain(DrainArgs),
    /// Force an instance up or down for a time, whatever its health says
    ///
    /// This is the registry's word. `down` takes it out of rotation everywhere. `up` puts it into rotation, and no more: a
    /// proxy that ejects it, whose own checks fail or that cannot connect to it passes it over all the same, until it
    /// finds it well. `waypost instances` shows how many do, and `waypost explain` why one does.
    Override(OverrideArgs),
    /// Show instances as they come, change and go, until Ctrl-C
    Watch {
        /// Only this service
        service: Option<String>,
    },
    /// Wait until every live proxy has applied a revision
    Wait(WaitArgs),
    /// Declare routes and other resources: all that the documents say, or nothing
    Apply(ApplyArgs),
    /// Show declared resources: as a table, or with `-o yaml` as they can be applied again
    Get(GetArgs),
    /// Show one declared resource with its status, for people
    Describe(DescribeArgs),
    /// Show what `apply` would change; exit code 1 if there is something
    Diff(DiffArgs),
    /// Remove declared resources: all that are named, or none
    Delete(DeleteArgs),
    /// Show how a declared resource was before, and who changed it when
    History(HistoryArgs),
    /// Declare a resource again as it was in an earlier generation
    Rollback(RollbackArgs),
    /// Check documents without a control plane
    Lint(LintArgs),
    /// Ask a proxy where a request would go, and why
    Explain(ExplainArgs),
    /// Run a control plane and proxies on this machine until Ctrl-C
    Dev(Box<DevArgs>),
    /// Make the project of a new service: `init service --template axum NAME`
    Init(InitArgs),
    /// Look at a registry's store (`store check URL`), or move to another (`store copy --from URL --to URL`)
    #[command(disable_help_flag = true)]
    Store {
        /// What `waypost-control-plane store` takes; `--help` lists it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
    /// Print a completion script
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// A sample service of `waypost dev --demo`
    #[command(hide = true)]
    Sample(SampleArgs),
    /// A program that ends with the process that started it
    #[command(hide = true)]
    Supervised(SupervisedArgs),
}

/// Which instances.
#[derive(Args, Debug)]
pub(crate) struct InstancesArgs {
    /// Only instances of this service
    pub(crate) service: Option<String>,
    /// Only instances of this version
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: Option<String>,
    /// Only instances with this tag; repeated, with all of them
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Only instances in this state
    #[arg(long, value_enum, value_name = "STATE")]
    pub(crate) state: Option<State>,
}

/// Which events.
#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Only events of this service
    #[arg(long, value_name = "NAME", value_parser = value::service)]
    pub(crate) service: Option<String>,
    /// Only events of this instance: SERVICE/ID, or an ID alone
    #[arg(long, value_name = "SERVICE/ID")]
    pub(crate) instance: Option<String>,
    /// Only events since then: a time span such as 10m, or a point in time such as 2026-11-03T09:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = value::since)]
    pub(crate) since: Option<Since>,
    /// The newest this many
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
    /// Go on with new events until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// A registration.
#[derive(Args, Debug)]
pub(crate) struct RegisterArgs {
    /// The service's name
    #[arg(long, env = "WAYPOST_SERVICE", value_name = "NAME", value_parser = value::service)]
    pub(crate) service: String,
    /// Where proxies connect
    #[arg(long, env = "WAYPOST_ADDRESS", value_name = "HOST:PORT", value_parser = value::address)]
    pub(crate) address: String,
    /// The instance's id, unique within the service [default: the address]
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// The path prefix that routes to the service; empty for none [default: /NAME]
    #[arg(long, value_name = "PATH", value_parser = value::prefix)]
    pub(crate) prefix: Option<String>,
    /// Forward requests with the prefix
    #[arg(long)]
    pub(crate) no_strip_prefix: bool,
    /// An endpoint that the service answers, such as 'GET /users/{id}'; may be repeated
    #[arg(long = "endpoint", value_name = "'METHOD /PATH'", value_parser = value::endpoint)]
    pub(crate) endpoints: Vec<String>,
    /// The version of the software
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: Option<String>,
    /// How long the instance stays registered without a heartbeat, 1s to 1h
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = value::ttl)]
    pub(crate) ttl: Duration,
    /// A label for selection; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// The failure domain
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// The share of traffic relative to the other instances, 0 (none) to 65535
    #[arg(long, value_name = "N")]
    pub(crate) weight: Option<u16>,
    /// What the instance speaks
    #[arg(long, value_enum, default_value_t = Speaks::Http1, value_name = "PROTOCOL")]
    pub(crate) protocol: Speaks,
    /// Free metadata; may be repeated
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = value::pair)]
    pub(crate) metadata: Vec<Pair>,
    /// What the service is for, in a sentence
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// How long to wait for requests in flight at the end
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = value::deadline)]
    pub(crate) drain_deadline: Duration,
}

/// A deregistration.
#[derive(Args, Debug)]
pub(crate) struct DeregisterArgs {
    /// Which instance; SERVICE alone where it has only one
    #[arg(value_name = "SERVICE/ID", value_parser = value::reference)]
    pub(crate) instance: Reference,
    /// Wait until no proxy sends it requests any more, and none is in flight
    #[arg(long)]
    pub(crate) drain: bool,
    /// How long to wait for that
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = value::deadline)]
    pub(crate) deadline: Duration,
    /// Why, for the event history
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
}

/// A drain.
#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// Which instance; SERVICE alone where it has only one
    #[arg(value_name = "SERVICE/ID", value_parser = value::reference)]
    pub(crate) instance: Reference,
    /// Wait until no proxy sends it requests any more, and none is in flight
    #[arg(long, conflicts_with = "cancel")]
    pub(crate) wait: bool,
    /// How long to wait for that
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = value::deadline)]
    pub(crate) deadline: Duration,
    /// Put it back into rotation
    #[arg(long)]
    pub(crate) cancel: bool,
    /// Why, for the event history
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
}

/// An override.
#[derive(Args, Debug)]
pub(crate) struct OverrideArgs {
    /// Which instance; SERVICE alone where it has only one
    #[arg(value_name = "SERVICE/ID", value_parser = value::reference)]
    pub(crate) instance: Reference,
    /// In rotation, out of rotation, or as its health says again
    #[arg(value_enum)]
    pub(crate) action: OverrideAction,
    /// How long it holds, 1s to 7d
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = value::override_ttl)]
    pub(crate) ttl: Duration,
    /// Why, for the event history
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
}

/// What to wait for.
#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    /// The revision [default: the newest]
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
    /// How long to wait
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = value::deadline)]
    pub(crate) deadline: Duration,
}

/// What runs on this machine.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    pub(crate) action: Option<DevAction>,
    /// How many proxies; the second and later take the next ports [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) proxies: Option<u16>,
    /// Where the control plane listens for gRPC [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR", value_parser = value::listen)]
    pub(crate) grpc_listen: Option<std::net::SocketAddr>,
    /// Where the control plane's HTTP API is [default: 127.0.0.1:7401]
    #[arg(long, value_name = "ADDR", value_parser = value::listen)]
    pub(crate) http_listen: Option<std::net::SocketAddr>,
    /// Where the proxy listens for traffic [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = value::listen)]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Where the proxy's admin port is [default: 127.0.0.1:7410]
    #[arg(long, value_name = "ADDR", value_parser = value::listen)]
    pub(crate) admin_listen: Option<std::net::SocketAddr>,
    /// Keep the proxies' last tables there, so that they can start without a control plane
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Run two sample services as well, in three instances each
    #[arg(long)]
    pub(crate) demo: bool,
    /// Walk through what Waypost does, with real requests on free ports, and end
    #[arg(long, requires = "demo", conflicts_with_all = ["grpc_listen", "http_listen", "listen", "admin_listen"])]
    pub(crate) tour: bool,
}

/// What else `waypost dev` does.
#[derive(Debug, Subcommand)]
pub(crate) enum DevAction {
    /// End every `waypost dev` of this user, and what one that was killed has left behind
    Down,
}

/// A sample service.
#[derive(Args, Debug)]
pub(crate) struct SampleArgs {
    /// Which one
    #[arg(long, value_enum)]
    pub(crate) service: SampleService,
    /// The version that it answers with
    #[arg(long)]
    pub(crate) version: String,
    /// The instance's id
    #[arg(long)]
    pub(crate) id: String,
    /// The lease
    #[arg(long, default_value = "10s", value_parser = value::ttl)]
    pub(crate) ttl: Duration,
}

/// A program to start.
#[derive(Args, Debug)]
pub(crate) struct SupervisedArgs {
    /// The process that starts it
    #[arg(long)]
    pub(crate) parent: u32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// The sample services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SampleService {
    /// Answers with its name, version and the path.
    Greeter,
    /// Streams the time.
    Clock,
}

impl SampleService {
    /// The service's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Greeter => "greeter",
            Self::Clock => "clock",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }
}
