//! `waypost register`: stands in for a service that has no SDK, for as long as the command runs.
//!
//! What happens is said on standard output: the registration, the routes that it got and did not get, every
//! loss and return, and how the drain ended. Deliberately absent: health checks; `waypost-agent` has them.

use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use waypost_sdk::{DrainOutcome, LeaseStatus, Registered, Registration, launch};

use super::services::conflict_text;
use crate::{
    api,
    args::{Global, RegisterArgs},
    failure::{Exit, Failure},
    output::{Output, text},
};

/// Registers, stays until Ctrl-C or SIGTERM, and drains.
///
/// # Errors
/// The registration is refused, no control plane takes it, another process takes its place, or the drain does
/// not complete.
pub(super) async fn run(global: &Global, output: &Output, args: RegisterArgs) -> Result<(), Failure> {
    let client = api::client(global)?;
    let deadline = args.drain_deadline;
    let registered = client.register(registration(global, args)).await?;
    let say = Say { output, name: registered.key().to_string() };
    greet(&say, &registered)?;
    let status = registered.status();
    tokio::select! {
        ended = follow(&say, status) => ended,
        signal = launch::shutdown() => {
            leave(&say, &registered, signal?, deadline).await
        }
    }
}

/// One line for people, or one document for programs.
struct Say<'a> {
    output: &'a Output,
    name: String,
}

impl Say<'_> {
    fn event(&self, event: &str, words: &str) -> Result<(), Failure> {
        if self.output.format.is_table() {
            return self.output.line(words);
        }
        self.output.streamed(&json!({ "event": event, "instance": self.name, "text": words }))
    }
}

fn registration(global: &Global, args: RegisterArgs) -> Registration {
    let mut registration = Registration::new(args.service, args.address)
        .protocol(args.protocol.into())
        .strip_prefix(!args.no_strip_prefix)
        .endpoints(args.endpoints)
        .tags(args.tags)
        .zone(args.zone.unwrap_or_default())
        .version(args.version.unwrap_or_default())
        .description(args.description.unwrap_or_default())
        .namespace(api::namespace(global))
        .id(args.id.unwrap_or_default())
        .ttl(args.ttl)
        .register_timeout(global.timeout);
    if let Some(prefix) = args.prefix {
        registration = registration.prefix(prefix);
    }
    if let Some(weight) = args.weight {
        registration = registration.weight(weight.into());
    }
    for pair in args.metadata {
        registration = registration.metadata(pair.0, pair.1);
    }
    registration
}

fn greet(say: &Say<'_>, registered: &Registered) -> Result<(), Failure> {
    let words = format!(
        "{} is registered, at revision {} with epoch {}",
        say.name,
        registered.revision(),
        registered.epoch()
    );
    say.event("registered", &words)?;
    for conflict in registered.conflicts() {
        say.event("conflict", &format!("but {}", conflict_text(conflict)))?;
    }
    if say.output.format.is_table() {
        say.output.note("it stays registered until Ctrl-C, which drains it first");
    }
    Ok(())
}

/// Says how the lease is doing, until another process has taken it over.
async fn follow(say: &Say<'_>, mut status: watch::Receiver<LeaseStatus>) -> Result<(), Failure> {
    loop {
        if status.changed().await.is_err() {
            return Err(Failure::new(Exit::Failed, format!("the heartbeats of {} have stopped", say.name)));
        }
        let now = status.borrow_and_update().clone();
        match now {
            LeaseStatus::Active => say.event("active", &format!("{} is registered again", say.name))?,
            LeaseStatus::Reconnecting(reason) => {
                say.event(
                    "reconnecting",
                    &format!("heartbeats do not get through: {reason}; trying until they do"),
                )?;
            }
            LeaseStatus::Superseded => {
                let message = format!("another process has registered {}", say.name);
                return Err(
                    Failure::new(Exit::Failed, message).way_out("give each process an --id of its own")
                );
            }
            LeaseStatus::Left => return say.event("left", &format!("{} has left", say.name)),
        }
    }
}

async fn leave(
    say: &Say<'_>,
    registered: &Registered,
    signal: &str,
    deadline: Duration,
) -> Result<(), Failure> {
    let words = format!(
        "{signal}: draining {}, for at most {}; once more to leave at once",
        say.name,
        text::span(deadline)
    );
    say.event("draining", &words)?;
    let outcome = tokio::select! {
        outcome = registered.drain(deadline) => outcome,
        again = launch::shutdown_again() => {
            return Err(Failure::new(Exit::Failed, format!("left without waiting for the drain, by a second {}", again?)));
        }
    };
    match outcome {
        DrainOutcome::Complete { took } => say.event(
            "left",
            &format!("{} has left; nothing was in flight to it after {}", say.name, text::short(took)),
        ),
        DrainOutcome::Gone { reason, .. } => {
            say.event("left", &format!("{} was gone already: {reason}", say.name))
        }
        incomplete @ DrainOutcome::Incomplete { .. } => {
            let message = format!("the drain of {} is {incomplete}", say.name);
            Err(Failure::new(Exit::DeadlinePassed, message)
                .way_out("allow it more time with --drain-deadline"))
        }
        DrainOutcome::Failed { error, .. } => {
            let failure = Failure::from(error);
            let message = format!("{} could not be drained: {}", say.name, failure.message);
            Err(Failure::new(failure.exit, message).way_out("its lease runs out by itself"))
        }
    }
}
