//! `waypost deregister`, `drain`, `override` and `wait`: what changes the registry or waits for proxies.

use std::time::SystemTime;

use waypost_proto::{
    time::wire_duration,
    v1::{DeregisterRequest, DrainOutcome, DrainRequest, InstanceState, OverrideRequest, WaitAppliedRequest},
};

use super::instances::override_text;
use crate::{
    api,
    args::{DeregisterArgs, DrainArgs, Global, OverrideAction, OverrideArgs, WaitArgs},
    failure::{Exit, Failure},
    output::{Output, text},
};

/// Removes an instance.
///
/// # Errors
/// There is no such instance, or it was removed with requests in flight at the deadline.
pub(super) async fn deregister(
    global: &Global,
    output: &Output,
    args: DeregisterArgs,
) -> Result<(), Failure> {
    let client = api::client(global)?;
    let key = api::instance(&client, global, &args.instance).await?;
    let name = text::instance(Some(&key));
    let request = DeregisterRequest {
        key: Some(key),
        epoch: 0,
        drain: args.drain,
        drain_deadline: args.drain.then(|| wire_duration(args.deadline)),
        reason: args.reason,
        client: String::new(),
    };
    let answer = client.deregister(request).await?;
    if output.format.is_table() {
        output.line(format!(
            "{name} is removed, at revision {}{}",
            answer.revision,
            drained(answer.drain.as_ref())
        ))?;
    } else {
        output.document(&answer)?;
    }
    incomplete(&name, answer.drain.as_ref())
}

/// Takes an instance out of rotation, or puts it back.
///
/// # Errors
/// There is no such instance, or requests were in flight at the deadline.
pub(super) async fn drain(global: &Global, output: &Output, args: DrainArgs) -> Result<(), Failure> {
    let client = api::client(global)?;
    let key = api::instance(&client, global, &args.instance).await?;
    let name = text::instance(Some(&key));
    let request = DrainRequest {
        key: Some(key),
        cancel: args.cancel,
        wait: args.wait,
        deadline: args.wait.then(|| wire_duration(args.deadline)),
        reason: args.reason,
        client: String::new(),
    };
    let answer = client.drain(request).await?;
    if output.format.is_table() {
        output.line(match (args.cancel, args.wait) {
            (true, _) => format!("{name} takes traffic again, as of revision {}", answer.revision),
            (false, false) => format!(
                "{name} drains, as of revision {}; wait for the end with: waypost drain {name} --wait",
                answer.revision
            ),
            (false, true) => {
                format!("{name} drains, as of revision {}{}", answer.revision, drained(answer.drain.as_ref()))
            }
        })?;
    } else {
        output.document(&answer)?;
    }
    incomplete(&name, answer.drain.as_ref())
}

/// Forces an instance up or down for a time.
///
/// # Errors
/// There is no such instance.
pub(super) async fn override_state(
    global: &Global,
    output: &Output,
    args: OverrideArgs,
) -> Result<(), Failure> {
    let client = api::client(global)?;
    let key = api::instance(&client, global, &args.instance).await?;
    let name = text::instance(Some(&key));
    let state = match args.action {
        OverrideAction::Up => InstanceState::Up,
        OverrideAction::Down => InstanceState::Down,
        OverrideAction::Clear => InstanceState::Unspecified,
    };
    let request = OverrideRequest {
        key: Some(key),
        state: state.into(),
        ttl: (state != InstanceState::Unspecified).then(|| wire_duration(args.ttl)),
        reason: args.reason,
        client: String::new(),
    };
    let answer = client.override_state(request).await?;
    if !output.format.is_table() {
        return output.document(&answer);
    }
    let instance = answer.instance.unwrap_or_default();
    let now = SystemTime::now();
    let forced = match &instance.r#override {
        Some(forced) => format!("is forced {}", override_text(forced, now)),
        None => "is no longer forced".to_owned(),
    };
    output.line(format!(
        "{name} {forced}; its state is {}, as of revision {}",
        text::state_name(instance.state()),
        answer.revision
    ))
}

/// Waits until every live proxy has applied a revision.
///
/// # Errors
/// The deadline passes first; the proxies that lag are named.
pub(super) async fn wait(global: &Global, output: &Output, args: WaitArgs) -> Result<(), Failure> {
    let client = api::client(global)?;
    let request = WaitAppliedRequest {
        revision: args.revision.unwrap_or_default(),
        deadline: Some(wire_duration(args.deadline)),
    };
    let answer = client.wait_applied(request).await?;
    if !output.format.is_table() {
        return output.document(&answer);
    }
    let proxies = usize::try_from(answer.proxies).unwrap_or(usize::MAX);
    output.line(match proxies {
        0 => format!("revision {}: no proxy is connected, so there is none to wait for", answer.revision),
        1 => format!("revision {} is applied by the one live proxy", answer.revision),
        _ => format!("revision {} is applied by all {proxies} live proxies", answer.revision),
    })
}

fn drained(outcome: Option<&DrainOutcome>) -> String {
    match outcome {
        Some(outcome) if outcome.complete => {
            format!("; nothing is in flight to it, after {}", text::short_wire(outcome.took.as_ref()))
        }
        _ => String::new(),
    }
}

/// A drain that the deadline cut short.
fn incomplete(name: &str, outcome: Option<&DrainOutcome>) -> Result<(), Failure> {
    let Some(outcome) = outcome.filter(|outcome| !outcome.complete) else { return Ok(()) };
    let in_flight = usize::try_from(outcome.in_flight).unwrap_or(usize::MAX);
    let mut message =
        format!("the deadline passed with {} in flight to {name}", text::count(in_flight, "request"));
    if !outcome.waiting_for.is_empty() {
        message.push_str(&format!("; not done: {}", outcome.waiting_for.join(", ")));
    }
    Err(Failure::new(Exit::DeadlinePassed, message)
        .way_out("see what the proxies do with: waypost proxies -o wide"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_that_is_cut_short_fails_and_names_who_was_not_done() {
        let mut outcome =
            DrainOutcome { complete: false, in_flight: 2, waiting_for: vec!["proxy-1".into()], took: None };
        let failure = incomplete("users/a", Some(&outcome)).expect_err("not complete");
        assert_eq!(failure.exit, Exit::DeadlinePassed);
        assert_eq!(
            failure.message,
            "the deadline passed with 2 requests in flight to users/a; not done: proxy-1"
        );
        outcome.complete = true;
        assert_eq!(incomplete("users/a", Some(&outcome)), Ok(()));
        assert_eq!(incomplete("users/a", None), Ok(()));
    }
}
