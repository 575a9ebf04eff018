//! What to say when a name is not there: the nearest one that is.

use waypost_proto::{
    error::{Error, ErrorCode},
    name::{InstanceKey, ServiceKey},
};

use super::view::View;

/// How many names are compared at most, so that a wrong name costs no more in a large registry.
const COMPARED: usize = 10_000;
/// Below this similarity a suggestion would only confuse.
const SIMILAR: f64 = 0.7;

pub(super) fn service(view: &View, key: &ServiceKey) -> Error {
    let names = view.services.keys().map(ToString::to_string);
    let hint = nearest(&key.to_string(), names)
        .map_or_else(|| "`waypost services` lists those there are".to_owned(), |near| did_you_mean(&near));
    Error::new(ErrorCode::NotFound, format!("there is no service {key}: {hint}"))
}

pub(super) fn instance(view: &View, key: &InstanceKey) -> Error {
    if !view.services.contains_key(key.service()) {
        return service(view, key.service());
    }
    let names = view.records_of(key.service()).map(|record| record.key().to_string());
    let hint = nearest(&key.to_string(), names).map_or_else(
        || format!("`waypost instances {}` lists those there are", key.service()),
        |near| did_you_mean(&near),
    );
    Error::new(ErrorCode::NotFound, format!("there is no instance {key}: {hint}"))
}

/// No instance of a service is of the version and has the tags that are wanted.
pub(super) fn kind(key: &ServiceKey) -> Error {
    let message = format!(
        "no instance of service {key} has the version and the tags that are asked for: `waypost instances {key}` lists those \
         there are"
    );
    Error::new(ErrorCode::NotFound, message)
}

fn did_you_mean(near: &str) -> String {
    format!("did you mean {near}?")
}

fn nearest(wanted: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let scored = names.take(COMPARED).map(|name| (strsim::jaro_winkler(wanted, &name), name));
    let best = scored.max_by(|(left, _), (right, _)| left.total_cmp(right));
    best.filter(|(score, _)| *score >= SIMILAR).map(|(_, name)| name)
}

/// An instance that was there a moment ago.
pub(super) fn gone_again(key: &InstanceKey) -> Error {
    Error::new(
        ErrorCode::FailedPrecondition,
        format!(
            "instance {key} was removed by somebody else right after the change: look before trying again"
        ),
    )
}
