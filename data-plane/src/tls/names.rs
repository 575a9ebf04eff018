//! Values by DNS name: exact names, wildcards, and what takes any name.
//!
//! A listener's `*.example.com` takes any number of labels in the place of the asterisk (Gateway API, `Hostname`); a
//! certificate's takes one (RFC 9525, section 6.3).

use std::collections::HashMap;

/// How many labels an asterisk stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asterisk {
    /// One.
    OneLabel,
    /// One or more.
    AnyLabels,
}

/// Values by name.
#[derive(Clone, Debug)]
pub(crate) struct Names<T> {
    asterisk: Asterisk,
    exact: HashMap<Box<str>, T>,
    /// By what follows the asterisk and its dot.
    below: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Names<T> {
    /// No names yet.
    pub(crate) fn new(asterisk: Asterisk) -> Self {
        Self { asterisk, exact: HashMap::new(), below: HashMap::new(), any: None }
    }

    /// The value of `a.example.com`, `*.example.com` or, for any name, nothing; `make` makes it where it is not there.
    pub(crate) fn entry(&mut self, name: &str, make: impl FnOnce() -> T) -> &mut T {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix("*.") {
            _ if name.is_empty() || name == "*" => self.any.get_or_insert_with(make),
            Some(domain) => self.below.entry(domain.into()).or_insert_with(make),
            None => self.exact.entry(name.into()).or_insert_with(make),
        }
    }

    /// The value of the most specific name that takes this one, which is in lower case and without a dot at its end:
    /// the name itself, then the longest wildcard, then what takes any.
    pub(crate) fn find(&self, name: &str) -> Option<&T> {
        self.exact.get(name).or_else(|| self.wildcard(name)).or(self.any.as_ref())
    }

    fn wildcard(&self, name: &str) -> Option<&T> {
        if self.below.is_empty() {
            return None;
        }
        let mut dots = name.bytes().enumerate().filter(|(at, byte)| *byte == b'.' && *at > 0);
        match self.asterisk {
            Asterisk::OneLabel => dots.next().and_then(|(at, _)| self.below.get(&name[at + 1..])),
            Asterisk::AnyLabels => dots.find_map(|(at, _)| self.below.get(&name[at + 1..])),
        }
    }
}

/// A host as it is compared: without a port, in lower case, without the dot of the root.
pub(crate) fn canonical(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(asterisk: Asterisk, all: &[&'static str]) -> Names<&'static str> {
        let mut names = Names::new(asterisk);
        for name in all {
            *names.entry(name, || "") = name;
        }
        names
    }

    #[test]
    fn the_most_specific_name_wins() {
        let all = ["a.example.com", "*.example.com", "*.b.example.com", ""];
        let names = names(Asterisk::AnyLabels, &all);
        for (host, found) in [
            ("a.example.com", "a.example.com"),
            ("x.example.com", "*.example.com"),
            ("x.y.example.com", "*.example.com"),
            ("x.b.example.com", "*.b.example.com"),
            ("b.example.com", "*.example.com"),
            ("example.com", ""),
            ("", ""),
        ] {
            assert_eq!(names.find(host), Some(&found), "{host}");
        }
    }

    #[test]
    fn a_certificates_asterisk_is_one_label() {
        let names = names(Asterisk::OneLabel, &["*.example.com"]);
        assert!(names.find("a.example.com").is_some());
        assert_eq!(names.find("a.b.example.com"), None);
        assert_eq!(names.find("example.com"), None);
        assert_eq!(names.find(".example.com"), None);
    }

    #[test]
    fn a_host_is_compared_without_port_case_and_the_roots_dot() {
        for (host, name) in
            [("A.Example:80", "a.example"), ("a.example.", "a.example"), ("[::1]:8", "[::1]"), ("", "")]
        {
            assert_eq!(canonical(host), name);
        }
    }
}
