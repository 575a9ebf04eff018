//! Checks of fields that have no type of their own: waiting times, and words for the event history.

use std::{net::SocketAddr, time::Duration};

use pbjson_types::Duration as WireDuration;
use waypost_proto::{
    error::{Error, Violation},
    name::InstanceKey,
    time, v1,
};

use crate::registry::reserved;

const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
const LONGEST_DEADLINE: Duration = Duration::from_secs(3600);
const DEFAULT_OVERRIDE: Duration = Duration::from_secs(3600);
const SHORTEST_OVERRIDE: Duration = Duration::from_secs(1);
const LONGEST_OVERRIDE: Duration = Duration::from_secs(7 * 24 * 3600);
const LONGEST_NAME: usize = 255;
const LONGEST_REASON: usize = 1_024;

/// Collects what is wrong with a request, so that a caller learns of all of it at once.
#[derive(Default)]
pub(crate) struct Checks {
    violations: Vec<Violation>,
}

impl Checks {
    /// The value of a check, or `None` with its violation kept.
    pub(crate) fn take<T>(&mut self, result: Result<T, Violation>) -> Option<T> {
        result.map_err(|violation| self.violations.push(violation)).ok()
    }

    /// The same for a check that may find several things.
    pub(crate) fn take_all<T>(&mut self, parent: &str, result: Result<T, Error>) -> Option<T> {
        let keep = |error: Error| {
            self.violations.extend(error.violations.into_iter().map(|violation| violation.under(parent)));
        };
        result.map_err(keep).ok()
    }

    /// An instance's name in the field `key`; one that callers may change.
    pub(crate) fn key(&mut self, wire: Option<&v1::InstanceKey>) -> Option<InstanceKey> {
        let key = InstanceKey::from_wire(wire).and_then(|key| reserved::check(&key).map(|()| key));
        self.take(key.map_err(|violation| violation.under("key")))
    }

    /// How long to wait: at most 1 h, 30 s where nothing is said.
    pub(crate) fn deadline(&mut self, field: &str, wire: Option<&WireDuration>) -> Option<Duration> {
        let range = (Duration::ZERO, LONGEST_DEADLINE);
        self.duration(field, wire, DEFAULT_DEADLINE, range, "must be from 0 s to 1 h")
    }

    /// How long an override holds: 1 s to 7 days, 1 h where nothing is said.
    pub(crate) fn override_ttl(&mut self, wire: Option<&WireDuration>) -> Option<Duration> {
        let range = (SHORTEST_OVERRIDE, LONGEST_OVERRIDE);
        self.duration("ttl", wire, DEFAULT_OVERRIDE, range, "must be from 1 s to 7 days")
    }

    /// Why something is done, for the event history.
    pub(crate) fn reason(&mut self, text: &str) {
        self.text("reason", text, LONGEST_REASON);
    }

    /// Who asks, for the event history: what it calls itself, or its address.
    pub(crate) fn client(&mut self, text: &str, peer: Option<SocketAddr>) -> String {
        self.actor("client", text, peer)
    }

    /// The same in another field.
    pub(crate) fn actor(&mut self, field: &str, text: &str, peer: Option<SocketAddr>) -> String {
        self.text(field, text, LONGEST_NAME);
        if !text.is_empty() {
            return text.to_owned();
        }
        peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string())
    }

    /// A text of at most so many bytes, on one line.
    pub(crate) fn text(&mut self, field: &str, text: &str, most: usize) {
        if text.len() > most || text.chars().any(char::is_control) {
            let shown: String = text.chars().take(32).collect();
            let rule = format!("must be at most {most} bytes without control characters");
            self.violations.push(Violation::new(field, shown, rule));
        }
    }

    /// Fails if anything was wrong.
    pub(crate) fn done(self) -> Result<(), Error> {
        if self.violations.is_empty() { Ok(()) } else { Err(Error::invalid(self.violations)) }
    }

    /// `value` where nothing was wrong. A value is absent only where something was.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, Error> {
        self.done()?;
        value.ok_or_else(|| Violation::new("request", "", "must be complete").into())
    }

    fn duration(
        &mut self,
        field: &str,
        wire: Option<&WireDuration>,
        default: Duration,
        (least, most): (Duration, Duration),
        rule: &str,
    ) -> Option<Duration> {
        let Some(wire) = wire else { return Some(default) };
        let duration = time::duration(wire).filter(|duration| (least..=most).contains(duration));
        self.take(duration.ok_or_else(|| Violation::new(field, shown(wire), rule)))
    }
}

fn shown(wire: &WireDuration) -> String {
    if wire.nanos == 0 {
        return format!("{}s", wire.seconds);
    }
    let sign = if wire.seconds < 0 || wire.nanos < 0 { "-" } else { "" };
    format!("{sign}{}.{:09}s", wire.seconds.unsigned_abs(), wire.nanos.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_field_is_named_with_its_value_and_rule() {
        let mut checks = Checks::default();
        checks.key(None);
        checks.deadline("deadline", Some(&WireDuration { seconds: 3600, nanos: 1 }));
        checks.override_ttl(Some(&WireDuration { seconds: 0, nanos: -1 }));
        checks.reason("two\nlines");
        checks.client(&"x".repeat(256), None);
        let violations = checks.done().expect_err("nothing fits").violations;
        let named: Vec<(&str, &str)> =
            violations.iter().map(|violation| (violation.field.as_str(), violation.value.as_str())).collect();
        let client = "x".repeat(32);
        let expected = [
            ("key.service", ""),
            ("deadline", "3600.000000001s"),
            ("ttl", "-0.000000001s"),
            ("reason", "two\nlines"),
            ("client", &client),
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn what_is_not_given_is_filled_in() {
        let mut checks = Checks::default();
        assert_eq!(checks.deadline("deadline", None), Some(Duration::from_secs(30)));
        assert_eq!(checks.deadline("deadline", Some(&WireDuration::default())), Some(Duration::ZERO));
        assert_eq!(checks.override_ttl(None), Some(Duration::from_secs(3600)));
        assert_eq!(checks.client("", Some(([127, 0, 0, 1], 7).into())), "127.0.0.1:7");
        assert_eq!(checks.finish(Some(1)), Ok(1));
    }
}
