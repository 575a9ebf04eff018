//! Tries after the first that never come: what may have been done is done again only where the method is idempotent
//! (RFC 9110, section 9.2.2; `data-plane/src/forward/retry.rs`).

use super::{
    problem::Problem,
    route::{Route, Rules, field},
};
use crate::resource::{
    Finding,
    route::{HttpRule, Method},
};

/// The rules of a route that ask to try again what is never tried again.
pub(super) fn rules<'a>(route: &Route<'a>, found: &mut Vec<Problem<'a>>) {
    let Rules::Http(rules) = route.rules else { return };
    for (index, rule) in rules.iter().enumerate() {
        let (Some(again), Some(methods)) = (&rule.retry, unrepeatable(rule)) else { continue };
        if again.attempts == Some(0) {
            continue;
        }
        let late = rule.timeouts.as_ref().and_then(|limits| limits.backend_request.as_ref());
        let at = field(index).key("retry");
        let (at, reason) = if !again.codes.is_empty() {
            let reason = format!("have no effect: answers to {methods} are not followed by another try");
            (at.key("codes"), reason)
        } else if late.is_some() {
            (at, format!("does not follow what exceeds backendRequest: {methods} is not sent again then"))
        } else {
            continue;
        };
        let reason = format!("{reason}, as it may have been done and is not idempotent");
        let how =
            "retry goes with GET, HEAD, OPTIONS, PUT and DELETE; failures to connect are always tried again";
        found.push(Problem::own(route.key(), Finding::warning(at, reason).suggest(how)));
    }
}

/// The methods that a rule takes, where none of them may be repeated.
fn unrepeatable(rule: &HttpRule) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for wanted in &rule.matches {
        match wanted.method? {
            method @ (Method::Post | Method::Patch | Method::Connect) => names.push(method.name()),
            _ => return None,
        }
    }
    names.sort_unstable();
    names.dedup();
    Some(names.join(" or "))
}
