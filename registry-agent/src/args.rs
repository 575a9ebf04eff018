//! The agent's command line.
//!
//! The agent's file holds a list of services beside the agent's own options, so it is read here and not by
//! `waypost_sdk::launch`; the order is the same: flags, environment, file, defaults. The file's values
//! become the defaults of the flags, so that one place checks both.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use waypost_sdk::launch::LaunchArgs;

use crate::{
    admin::AdminListen,
    config::ServiceConfig,
    file::AgentFile,
    options::{ServiceOptions, Span},
    supervise::Run,
};

const CONFIG_HELP: &str = "Read the agent's own options (the keys are the long flags) and a list of services from a YAML or JSON file";

/// Registers, checks and drains services that use no SDK.
///
/// `run` starts a command and cares for it; `--config FILE` cares for services that run already.
#[derive(Parser, Debug)]
#[command(
    name = "waypost-agent",
    version,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = false
)]
struct Cli {
    #[command(flatten)]
    launch: LaunchArgs,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(subcommand)]
    command: Option<Subcommands>,
}

/// The agent's own options.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// A control plane; may be repeated, or a list separated by commas [default: http://127.0.0.1:7400]
    #[arg(long, env = "WAYPOST_CONTROL_PLANE", value_delimiter = ',', value_name = "URL", global = true)]
    pub control_plane: Vec<String>,
    /// What the agent calls itself in the event history [default: waypost-agent and its process id]
    #[arg(long, env = "WAYPOST_CLIENT", value_name = "NAME", global = true)]
    pub client: Option<String>,
    /// Where the admin port listens; port 0 picks a free one, none switches it off
    #[arg(
        long,
        env = "WAYPOST_ADMIN_LISTEN",
        value_name = "ADDR",
        default_value = waypost_sdk::contract::DEFAULT_AGENT_ADMIN_LISTEN,
        global = true
    )]
    pub admin_listen: AdminListen,
}

#[derive(Subcommand, Debug)]
enum Subcommands {
    /// Start a command, register it when its check first passes, drain it before it is told to stop
    Run(Box<RunArgs>),
}

#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    service: ServiceOptions,
    /// How long the command may take to end after it was told to, before it is killed
    #[arg(long, env = "WAYPOST_STOP_DEADLINE", value_name = "DURATION", default_value = "10s")]
    stop_deadline: Span,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What the agent is to do, checked.
#[derive(Debug)]
pub struct Agent {
    /// How it starts.
    pub launch: LaunchArgs,
    /// Its own options.
    pub options: AgentArgs,
    /// Its work.
    pub work: Work,
}

/// The agent's work.
#[derive(Debug)]
pub enum Work {
    /// One command.
    Run(Box<Run>),
    /// The services of a file.
    Fleet(PathBuf, AgentFile),
}

impl Agent {
    /// Reads the process's arguments, its environment and its file. Where they are wrong, says so and ends
    /// the process with 2.
    pub fn from_process() -> Self {
        Self::parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads arguments (the program's name first), the environment and the file that they name.
    ///
    /// # Errors
    /// An option is unknown, missing or has a bad value, or the file cannot be read.
    pub fn parse_from(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let global = ["config", "log", "log_format"];
        let mut command = global
            .into_iter()
            .fold(Cli::command(), |command, id| command.mut_arg(id, |arg| arg.global(true)));
        command = command.mut_arg("config", |arg| arg.help(CONFIG_HELP));
        let path = config_path(&command, &arguments);
        let file = match &path {
            None => AgentFile::default(),
            Some(path) => AgentFile::read(path)
                .map_err(|error| command.error(ErrorKind::InvalidValue, error.to_string()))?,
        };
        let mut command = with_defaults(command, &file);
        let matches = command.try_get_matches_from_mut(arguments)?;
        let cli = Cli::from_arg_matches(&matches)?;
        let lists_services = file.services.as_ref().is_some_and(|services| !services.is_empty());
        let work = match (cli.command, path) {
            (Some(Subcommands::Run(_)), _) if lists_services => {
                let text = "'run' takes its one service from flags, and the file lists services; leave one of them out";
                return Err(command.error(ErrorKind::ArgumentConflict, text));
            }
            (Some(Subcommands::Run(run)), _) => Work::Run(Box::new(
                checked(*run).map_err(|error| command.error(ErrorKind::InvalidValue, error.to_string()))?,
            )),
            (None, Some(path)) if lists_services => Work::Fleet(path, file),
            (None, Some(path)) => {
                let text = format!("{}: 'services' is missing or empty", path.display());
                return Err(command.error(ErrorKind::InvalidValue, text));
            }
            (None, None) => {
                let text = "nothing to do: give 'run ... -- COMMAND' to start a command, or '--config FILE' for services \
                            that run already";
                return Err(command.error(ErrorKind::MissingSubcommand, text));
            }
        };
        Ok(Self { launch: cli.launch, options: cli.agent, work })
    }
}

fn checked(run: RunArgs) -> Result<Run, waypost_sdk::contract::error::Error> {
    let config = ServiceConfig::check(&run.service)?;
    let RunArgs { service, stop_deadline: Span(stop_deadline), command } = run;
    Ok(Run { config, port: service.port, command, stop_deadline })
}

fn config_path(command: &clap::Command, arguments: &[OsString]) -> Option<PathBuf> {
    let matches = command.clone().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    matches.try_get_one::<PathBuf>("config").ok().flatten().cloned()
}

/// The file's values as the defaults of the flags.
fn with_defaults(command: clap::Command, file: &AgentFile) -> clap::Command {
    let one = |value: &Option<String>| value.iter().cloned().collect();
    let values: [(&str, Vec<String>); 5] = [
        ("control_plane", file.control_plane.clone()),
        ("client", one(&file.client)),
        ("admin_listen", one(&file.admin_listen)),
        ("log", one(&file.log)),
        ("log_format", one(&file.log_format)),
    ];
    let given = values.into_iter().filter(|(_, values)| !values.is_empty());
    given.fold(command, |command, (id, values)| command.mut_arg(id, |arg| arg.default_values(values)))
}

#[cfg(test)]
mod tests;
