//! How values on the command line are read. Each refusal is the rule alone: clap names flag and value.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use waypost_proto::{
    address::Address,
    error::Violation,
    name::ServiceKey,
    route::{EndpointTemplate, PathPrefix},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// An instance, as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Given only by the three-part form.
    pub(crate) namespace: Option<String>,
    /// The service's name.
    pub(crate) service: String,
    /// Absent where only the service is named.
    pub(crate) id: Option<String>,
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.namespace.as_deref(), Some(&*self.service), self.id.as_deref()];
        formatter.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join("/"))
    }
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair(pub(crate) String, pub(crate) String);

/// Since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// So long ago.
    Ago(Duration),
    /// Then.
    At(SystemTime),
}

impl Since {
    /// The point in time, seen from `now`.
    pub(crate) fn time(self, now: SystemTime) -> SystemTime {
        match self {
            Self::Ago(span) => now.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH),
            Self::At(time) => time,
        }
    }
}

/// Reads SERVICE, SERVICE/ID or NAMESPACE/SERVICE/ID.
pub(crate) fn reference(text: &str) -> Result<Reference, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (namespace, service, id) = match parts[..] {
        [service] => (None, service, None),
        [service, id] => (None, service, Some(id)),
        [namespace, service, id] => (Some(namespace), service, Some(id)),
        _ => return Err("must be SERVICE, SERVICE/ID or NAMESPACE/SERVICE/ID".to_owned()),
    };
    ServiceKey::new(namespace.unwrap_or_default(), service).map_err(|violation| in_part(&violation))?;
    if id == Some("") {
        return Err("the part after the last '/' is the instance's id and must not be empty".to_owned());
    }
    Ok(Reference {
        namespace: namespace.map(str::to_owned),
        service: service.to_owned(),
        id: id.map(str::to_owned),
    })
}

/// Reads a namespace.
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    ServiceKey::new(text, "any").map(|_| text.to_owned()).map_err(rule)
}

/// Reads a service's name.
pub(crate) fn service(text: &str) -> Result<String, String> {
    ServiceKey::new("", text).map(|_| text.to_owned()).map_err(rule)
}

/// Reads an instance's address.
pub(crate) fn address(text: &str) -> Result<String, String> {
    text.parse::<Address>().map(|_| text.to_owned()).map_err(rule)
}

/// Reads a path prefix; empty is none.
pub(crate) fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    text.parse::<PathPrefix>().map(|_| text.to_owned()).map_err(rule)
}

/// Reads `METHOD /path/{parameter}`.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    text.parse::<EndpointTemplate>().map(|_| text.to_owned()).map_err(rule)
}

/// Reads `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(Pair(key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE with a key that is not empty".to_owned()),
    }
}

/// Reads an address to listen on.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "must be ADDRESS:PORT, such as 127.0.0.1:8080 or [::1]:8080; port 0 takes a free one".to_owned()
    })
}

/// Reads a length of time, not zero.
pub(crate) fn positive(text: &str) -> Result<Duration, String> {
    between(text, Duration::from_millis(1), 24 * HOUR, "1ms to 24h")
}

/// Reads the length of a lease.
pub(crate) fn ttl(text: &str) -> Result<Duration, String> {
    between(text, SECOND, HOUR, "1s to 1h")
}

/// Reads how long to wait.
pub(crate) fn deadline(text: &str) -> Result<Duration, String> {
    between(text, Duration::from_millis(1), HOUR, "1ms to 1h")
}

/// Reads how long an override holds.
pub(crate) fn override_ttl(text: &str) -> Result<Duration, String> {
    between(text, SECOND, 7 * 24 * HOUR, "1s to 7d")
}

/// Reads a length of time up to now, or a point in time (RFC 3339).
pub(crate) fn since(text: &str) -> Result<Since, String> {
    let span = humantime::parse_duration(text).map(Since::Ago);
    span.or_else(|_| humantime::parse_rfc3339_weak(text).map(Since::At)).map_err(|_| {
        "must be a length of time such as 10m or 2h, or a point in time such as 2026-11-03T09:00:00Z"
            .to_owned()
    })
}

fn between(text: &str, least: Duration, most: Duration, range: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).ok().filter(|span| (least..=most).contains(span));
    span.ok_or_else(|| format!("must be a length of time from {range}, with its unit, such as 10s"))
}

fn rule(violation: Violation) -> String {
    violation.rule
}

fn in_part(violation: &Violation) -> String {
    format!("the {} in it {}", violation.field, violation.rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_named_by_one_to_three_parts() {
        for text in ["users", "users/10.0.0.7:9001", "shop/users/a"] {
            assert_eq!(reference(text).map(|read| read.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "/", "users/", "/a", "a/b/c/d", "a b/c"] {
            reference(text).expect_err(text);
        }
    }

    #[test]
    fn lengths_of_time_have_a_unit_and_a_range() {
        assert_eq!(ttl("10s"), Ok(Duration::from_secs(10)));
        for text in ["10", "0s", "2h", "-1s", "", "10 parsecs"] {
            ttl(text).expect_err(text);
        }
        assert_eq!(since("10m"), Ok(Since::Ago(Duration::from_secs(600))));
        assert!(matches!(since("2026-11-03T09:00:00Z"), Ok(Since::At(_))));
        since("yesterday").expect_err("not a time");
    }
}
