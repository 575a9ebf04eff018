//! Hostnames: which of those that are declared fit a request's host, most specific first.
//!
//! An exact name beats `*.` and a domain, which takes any number of labels in its place; of two such the longer
//! one wins; a name that was left out takes all that is left (Gateway API, `HTTPRouteSpec.hostnames`).

use std::sync::Arc;

use crate::table::text_map::{Text, TextMap};

/// The longest host that can match anything: more than DNS allows for (RFC 1035, section 2.3.4).
const LONGEST: usize = 255;

/// A hostname as it is declared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hostname {
    /// This one.
    Exact(Arc<str>),
    /// Any that ends with a dot and this.
    Below(Arc<str>),
    /// Any.
    Any,
}

impl Hostname {
    /// Reads `a.example.com`, `*.example.com` or nothing, in any case.
    pub fn of(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix("*.") {
            _ if text.is_empty() || text == "*" => Self::Any,
            Some(domain) => Self::Below(Arc::from(domain)),
            None => Self::Exact(Arc::from(text)),
        }
    }

    /// Whether it takes a host.
    pub(super) fn takes(&self, host: &Host) -> bool {
        match self {
            Self::Exact(name) => **name == *host.as_str(),
            Self::Below(domain) => host.domains().any(|below| *below == **domain),
            Self::Any => true,
        }
    }
}

/// `a.example.com`, `*.example.com` or `*`.
impl std::fmt::Display for Hostname {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => formatter.write_str(name),
            Self::Below(domain) => write!(formatter, "*.{domain}"),
            Self::Any => formatter.write_str("*"),
        }
    }
}

/// A request's host as it is compared: lower case, without a dot at the end.
pub(super) struct Host {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Host {
    /// Takes a host without port. One that is too long to be a name matches only what takes any host.
    pub(super) fn of(text: &str) -> Self {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut bytes = [0; LONGEST];
        let length = if text.len() > LONGEST { 0 } else { text.len() };
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        bytes[..length].make_ascii_lowercase();
        Self { bytes, length }
    }

    /// The text.
    pub(super) fn as_str(&self) -> &str {
        // Lower case keeps text what it is.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }

    /// The domains that it is below of, longest first.
    fn domains(&self) -> impl Iterator<Item = &str> {
        let text = self.as_str();
        text.bytes().enumerate().filter(|(at, byte)| *byte == b'.' && *at > 0).map(|(at, _)| &text[at + 1..])
    }
}

/// Values by hostname. A clone shares all but the value for any.
#[derive(Clone, Debug)]
pub(super) struct Hosts<T> {
    exact: TextMap<T>,
    below: TextMap<T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: TextMap::default(), below: TextMap::default(), any: None }
    }
}

impl<T: Clone> Hosts<T> {
    /// The values whose hostnames take a host, most specific first.
    pub(super) fn matching<'a, 'h>(&'a self, host: &'h Host) -> impl Iterator<Item = &'a T> + use<'a, 'h, T> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(host.as_str()) };
        let domains = (!self.below.is_empty()).then(|| host.domains()).into_iter().flatten();
        exact.into_iter().chain(domains.filter_map(|domain| self.below.get(domain))).chain(&self.any)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.any.is_none()
    }

    /// The hostnames of those, in the same order.
    pub(super) fn names_matching(&self, host: &Host) -> Vec<Hostname> {
        let exact = self
            .exact
            .get_key_value(host.as_str())
            .map(|(name, _)| Hostname::Exact(Arc::from(name.as_str())));
        let below = host.domains().filter_map(|domain| self.below.get_key_value(domain));
        let below = below.map(|(domain, _)| Hostname::Below(Arc::from(domain.as_str())));
        exact.into_iter().chain(below).chain(self.any.is_some().then_some(Hostname::Any)).collect()
    }

    /// Changes the value of a hostname, which is made where there is none, and removed where `change` says so.
    pub(super) fn change(
        &mut self,
        name: &Hostname,
        make: impl FnOnce() -> T,
        change: impl FnOnce(&mut T) -> Keep,
    ) {
        match name {
            Hostname::Exact(name) => change_in(&mut self.exact, name, make, change),
            Hostname::Below(domain) => change_in(&mut self.below, domain, make, change),
            Hostname::Any => {
                if change(self.any.get_or_insert_with(make)) == Keep::No {
                    self.any = None;
                }
            }
        }
    }
}

/// Whether a value is worth to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It is.
    Yes,
    /// It is empty.
    No,
}

impl Keep {
    pub(super) fn unless(empty: bool) -> Self {
        if empty { Self::No } else { Self::Yes }
    }
}

fn change_in<T: Clone>(
    map: &mut TextMap<T>,
    name: &str,
    make: impl FnOnce() -> T,
    change: impl FnOnce(&mut T) -> Keep,
) {
    if change(map.entry(Text::from(name)).or_insert_with(make)) == Keep::No {
        map.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_beats_longer_domains_beat_shorter_ones_beat_any() {
        let mut hosts = Hosts::default();
        for name in ["", "*.example.com", "*.a.example.com", "b.a.example.com", "*.com"] {
            hosts.change(&Hostname::of(name), || name, |_| Keep::Yes);
        }
        let found = |host: &str| {
            let found = hosts.matching(&Host::of(host)).copied().collect::<Vec<_>>();
            let names: Vec<Hostname> = found.iter().map(|name| Hostname::of(name)).collect();
            assert_eq!(hosts.names_matching(&Host::of(host)), names);
            assert!(names.iter().all(|name| name.takes(&Host::of(host))), "{host}");
            found
        };
        let all = ["b.a.example.com", "*.a.example.com", "*.example.com", "*.com", ""];
        assert_eq!(found("b.a.example.com"), all);
        assert_eq!(found("B.A.Example.COM."), all, "neither case nor the root's dot matters");
        assert_eq!(found("c.b.a.example.com"), all[1..], "a wildcard takes any number of labels");
        assert_eq!(found("a.example.com"), all[2..], "and at least one");
        assert_eq!(found("example.com"), all[3..]);
        assert_eq!(found(".example.com"), all[3..], "an empty label is none");
        assert_eq!(found("xexample.org"), [""]);
        assert_eq!(found(&"a.".repeat(500)), [""]);
        assert_eq!(found(""), [""]);
    }

    #[test]
    fn what_is_empty_is_removed() {
        let mut hosts = Hosts::default();
        for name in ["a.example", "*.example", ""] {
            let name = Hostname::of(name);
            hosts.change(&name, || 0, |_| Keep::Yes);
            assert!(!hosts.is_empty());
            hosts.change(&name, || 0, |_| Keep::No);
        }
        assert!(hosts.is_empty());
    }
}
