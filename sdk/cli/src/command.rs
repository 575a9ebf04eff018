//! The commands that ask or tell a control plane something, in the order of `waypost --help`.
//!
//! Each makes its call, and hands the answer to [`crate::output`] as a document and as a table. The tables
//! are plain functions of the answer and of `now`. Deliberately absent: `dev`, which starts programs; see
//! [`crate::dev`]; and `init`, which asks nobody; see [`crate::init`].

mod declare;
mod events;
mod explain;
mod generations;
mod inspect;
mod instances;
mod lint;
mod operations;
mod proxies;
mod register;
mod routes;
mod services;
mod status;
mod store;
mod watch;

use clap::CommandFactory as _;

use crate::{
    args::{Cli, Command, Global},
    dev,
    failure::{Exit, Failure},
    init,
    output::Output,
    sample, supervised,
};

/// Does what the command line asks for.
///
/// # Errors
/// What could not be done, why, and with which exit code.
pub(crate) async fn run(command: Command, global: &Global, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Services { name } => services::run(global, output, name).await,
        Command::Instances(args) => instances::run(global, output, args).await,
        Command::Routes => routes::run(global, output).await,
        Command::Proxies => proxies::run(global, output).await,
        Command::Events(args) => events::run(global, output, args).await,
        Command::Status => status::run(global, output).await,
        Command::Register(args) => register::run(global, output, *args).await,
        Command::Deregister(args) => operations::deregister(global, output, args).await,
        Command::Drain(args) => operations::drain(global, output, args).await,
        Command::Override(args) => operations::override_state(global, output, args).await,
        Command::Watch { service } => watch::run(global, output, service).await,
        Command::Wait(args) => operations::wait(global, output, args).await,
        Command::Apply(args) => declare::apply(global, output, args).await,
        Command::Get(args) => inspect::get(global, output, args).await,
        Command::Describe(args) => inspect::describe(global, output, args).await,
        Command::Diff(args) => declare::diff(global, output, args).await,
        Command::Delete(args) => declare::delete(global, output, args).await,
        Command::History(args) => generations::history(global, output, args).await,
        Command::Rollback(args) => generations::rollback(global, output, args).await,
        Command::Lint(args) => lint::run(global, output, args).await,
        Command::Explain(args) => explain::run(global, output, args).await,
        Command::Dev(args) => Box::pin(dev::run(global, output, *args)).await,
        Command::Init(args) => init::run(output, args),
        Command::Store { arguments } => Err(store::exec(&arguments)),
        Command::Completions { shell } => completions(output, shell),
        Command::Sample(args) => sample::run(global, args).await,
        Command::Supervised(args) => Err(supervised::exec(&args)),
    }
}

fn completions(output: &Output, shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "waypost", &mut script);
    let script = String::from_utf8(script)
        .map_err(|_| Failure::new(Exit::Failed, format!("the {shell} completion script is not text")))?;
    output.text(&script)
}
