//! Which control plane to connect to, and when to try again.
//!
//! The first one is drawn by lot, so that proxies spread; after a failure the next one in the list has its
//! turn, after a wait that grows (see [`Backoff`]).

use std::time::Duration;

use fastrand::Rng;
use waypost_proto::{address::Address, error::Violation};

use super::backoff::Backoff;

const DEFAULT_PORT: &str = "7400";
const RULE: &str = "must be http://HOST:PORT or HOST:PORT, for example \"http://127.0.0.1:7400\"";

/// The control planes, and where in their list the proxy is.
#[derive(Debug)]
pub struct Planes {
    urls: Vec<String>,
    at: usize,
    backoff: Backoff,
}

impl Planes {
    /// Reads addresses; each may be a list separated by commas.
    ///
    /// # Errors
    /// There is none, or one is malformed.
    pub fn new(addresses: &[String], mut seed: Rng) -> Result<Self, Violation> {
        let mut urls = Vec::new();
        for address in addresses.iter().flat_map(|list| list.split(',')).map(str::trim) {
            let url = normalized(address)?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if urls.is_empty() {
            return Err(Violation::new("control-plane", "", RULE));
        }
        let at = seed.usize(..urls.len());
        Ok(Self { urls, at, backoff: Backoff::new(seed) })
    }

    /// The one whose turn it is.
    pub fn current(&self) -> &str {
        &self.urls[self.at]
    }

    /// The one whose turn it is has failed: the next one's turn comes.
    pub fn move_on(&mut self) {
        self.at = (self.at + 1) % self.urls.len();
    }

    /// How long to wait before the next attempt.
    pub fn wait(&mut self) -> Duration {
        self.backoff.wait()
    }

    /// A stream has held for a while: the next wait is a first one.
    pub fn succeeded(&mut self) {
        self.backoff.succeeded();
    }
}

/// Reads a control plane's address as `http://host:port`, with scheme and port filled in.
///
/// # Errors
/// It is malformed; the violation says the rule.
pub fn normalized(address: &str) -> Result<String, Violation> {
    let refuse = |rule: &str| Violation::new("control-plane", address, rule);
    let rest = match address.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err(refuse("must begin with http://: streams are cleartext")),
        Some(_) => return Err(refuse(RULE)),
        None => address,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let complete: Result<Address, Violation> = rest.parse();
    match complete.or_else(|_| format!("{rest}:{DEFAULT_PORT}").parse()) {
        Ok(address) => Ok(format!("http://{address}")),
        Err(_) => Err(refuse(RULE)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn planes(addresses: &[&str], seed: u64) -> Result<Planes, Violation> {
        let addresses: Vec<String> = addresses.iter().map(|text| (*text).to_owned()).collect();
        Planes::new(&addresses, Rng::with_seed(seed))
    }

    #[test]
    fn scheme_and_port_may_be_left_out() {
        for (given, url) in [
            ("127.0.0.1:7400", "http://127.0.0.1:7400"),
            ("http://[::1]:1/", "http://[::1]:1"),
            ("http://[::1]", "http://[::1]:7400"),
            ("control.internal", "http://control.internal:7400"),
        ] {
            assert_eq!(normalized(given).as_deref(), Ok(url));
        }
    }

    #[test]
    fn what_cannot_be_an_address_is_refused_with_value_and_rule() {
        for given in ["", "http://", "https://a:1", "ftp://a:1", "a:b", "a:1/path", "a b", "a:99999", "::1"] {
            let violation = planes(&[given], 0).expect_err(given);
            assert_eq!((violation.field.as_str(), violation.value.as_str()), ("control-plane", given));
        }
        planes(&[], 0).expect_err("there must be one");
    }

    #[test]
    fn every_one_has_its_turn_and_proxies_spread() {
        let mut firsts = BTreeSet::new();
        for seed in 0..64 {
            let mut planes = planes(&["a:1,b:2", "http://c:3", "a:1"], seed).expect("good addresses");
            firsts.insert(planes.current().to_owned());
            let turns: BTreeSet<String> = (0..3)
                .map(|_| {
                    planes.move_on();
                    planes.current().to_owned()
                })
                .collect();
            assert_eq!(turns.len(), 3);
        }
        assert_eq!(firsts.len(), 3);
    }

    #[test]
    fn waits_double_with_jitter_up_to_five_seconds() {
        let mut planes = planes(&["a:1"], 7).expect("a good address");
        for bound in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000] {
            let (wait, bound) = (planes.wait(), Duration::from_millis(bound));
            assert!(wait >= bound / 2 && wait <= bound, "{wait:?} for a bound of {bound:?}");
        }
        planes.succeeded();
        assert!(planes.wait() <= Duration::from_millis(50));
    }
}
