//! The client of the control plane that every command uses, and how its failures become exit codes.
//!
//! Deliberately absent: retries and fail-over; the SDK has them.

use waypost_proto::{error::ErrorCode, v1};
use waypost_sdk::{Client, Error};

use crate::{
    args::{Global, value::Reference},
    failure::{Exit, Failure},
    output::text,
};

const START_ONE: &str = "start one with: waypost dev; or name one that runs with --control-plane or \
                         WAYPOST_CONTROL_PLANE (its gRPC port, 7400 unless told otherwise)";

/// A client of the control planes that the command line names. Nothing is connected yet.
///
/// # Errors
/// An address breaks its rule.
pub(crate) fn client(global: &Global) -> Result<Client, Failure> {
    let builder = Client::builder().control_planes(&global.control_plane).call_timeout(global.timeout);
    builder.client_name(client_name()).build().map_err(|error| match error {
        Error::Answer(answer) if !answer.violations.is_empty() => {
            let wrong = answer.violations.iter().map(|violation| {
                format!("invalid value '{}' for '--control-plane': {}", violation.value, violation.rule)
            });
            Failure::new(Exit::Usage, wrong.collect::<Vec<_>>().join("; "))
        }
        other => other.into(),
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Answer(answer) => Self::of_error(&answer),
            Error::Unreachable { attempts } => {
                let mut tried: Vec<String> = attempts.iter().map(ToString::to_string).collect();
                tried.dedup();
                Self::new(Exit::Unreachable, format!("no control plane answers: {}", tried.join("; ")))
                    .way_out(START_ONE)
            }
            other => match other.code() {
                ErrorCode::Unavailable => Self::new(Exit::Unreachable, other.to_string()).way_out(START_ONE),
                _ => Self::new(Exit::Failed, other.to_string()),
            },
        }
    }
}

/// The namespace and the name of a service, which may be given as one word: `shop/users`.
pub(crate) fn service(global: &Global, name: &str) -> v1::ServiceKey {
    let (namespace, name) = name.split_once('/').unwrap_or((namespace(global), name));
    v1::ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// The namespace that was asked for; empty where none was.
pub(crate) fn namespace(global: &Global) -> &str {
    global.namespace.as_deref().unwrap_or_default()
}

/// The instance that is meant. Where only its service is named, that must have exactly one.
///
/// # Errors
/// There is none, or more than one.
pub(crate) async fn instance(
    client: &Client,
    global: &Global,
    reference: &Reference,
) -> Result<v1::InstanceKey, Failure> {
    let namespace = reference.namespace.as_deref().unwrap_or(namespace(global)).to_owned();
    let service = reference.service.clone();
    if let Some(id) = reference.id.clone() {
        return Ok(v1::InstanceKey { namespace, service, id });
    }
    let filter = v1::ListInstancesRequest { namespace, service, ..Default::default() };
    let found = client.instances(filter).await?.instances;
    let keys: Vec<v1::InstanceKey> = found.into_iter().filter_map(|instance| instance.key).collect();
    match &keys[..] {
        [only] => Ok(only.clone()),
        [] => Err(Failure::new(Exit::NotFound, format!("service {reference} has no instance"))
            .way_out("see what there is with: waypost services")),
        several => Err(ambiguous(reference, several)),
    }
}

fn ambiguous(reference: &Reference, several: &[v1::InstanceKey]) -> Failure {
    const SHOWN: usize = 10;
    let names = several.iter().take(SHOWN).map(|key| text::instance(Some(key)));
    let mut listed = names.collect::<Vec<_>>().join(", ");
    if several.len() > SHOWN {
        listed.push_str(", ...");
    }
    let message = format!("{reference} has {} instances, and one must be named: {listed}", several.len());
    Failure::new(Exit::Usage, message).way_out(format!("see them with: waypost instances {reference}"))
}

/// Who asks, for the event history: `waypost/ada@host`, as far as the environment says.
fn client_name() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "someone".to_owned());
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    match host {
        Some(host) => format!("waypost/{user}@{host}"),
        None => format!("waypost/{user}"),
    }
}
