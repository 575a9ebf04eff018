//! One or more control planes, of which one is used until it fails.
//!
//! The first is picked at random, so that clients spread; after a failure the next one in the list takes
//! over. A connection is made when it is first needed, and thrown away when a call on it got no answer in
//! time, because a frozen control plane keeps its connections open.
//!
//! Deliberately absent: TLS (the contract between parts is cleartext for now) and name resolution of a
//! control plane's replicas; list them instead.

use std::{
    error::Error as _,
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use waypost_proto::error::Violation;

use crate::{
    backoff::Backoff,
    error::{Attempt, Error},
};

/// Larger answers than gRPC's usual 4 MiB: a list of 100,000 instances is about 20 MB.
pub(crate) const MAX_ANSWER: usize = 512 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_PORT: u16 = 7400;
const RULE: &str = "must be HOST:PORT or http://HOST:PORT, for example \"http://127.0.0.1:7400\"";

#[derive(Debug)]
pub(crate) struct ControlPlanes {
    planes: Vec<ControlPlane>,
    current: AtomicUsize,
    /// How long a call may take that does not wait for anything.
    pub(crate) call_timeout: Duration,
}

#[derive(Debug)]
struct ControlPlane {
    url: String,
    endpoint: Endpoint,
    channel: Mutex<Option<Channel>>,
}

/// A control plane to use now.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) index: usize,
    pub(crate) channel: Channel,
}

impl ControlPlanes {
    /// Reads the addresses; an element may itself be a list separated by commas.
    pub(crate) fn new(addresses: &[String], call_timeout: Duration, seed: u64) -> Result<Self, Error> {
        let mut planes = Vec::new();
        for address in addresses.iter().flat_map(|list| list.split(',')).map(str::trim) {
            let url = normalized(address)?;
            if planes.iter().any(|plane: &ControlPlane| plane.url == url) {
                continue;
            }
            let endpoint = Endpoint::from_shared(url.clone())
                .map_err(|_| Violation::new("control_plane", address, RULE))?
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .keep_alive_while_idle(true);
            planes.push(ControlPlane { url, endpoint, channel: Mutex::new(None) });
        }
        let first = fastrand::Rng::with_seed(seed).usize(..planes.len().max(1));
        if planes.is_empty() {
            return Err(Violation::new("control_plane", "", RULE).into());
        }
        Ok(Self { planes, current: AtomicUsize::new(first), call_timeout })
    }

    /// The one in use. Must be called within a tokio runtime.
    pub(crate) fn pick(&self) -> Picked {
        let index = self.current.load(Ordering::Relaxed) % self.planes.len();
        let plane = &self.planes[index];
        let channel = plane.channel.lock().get_or_insert_with(|| plane.endpoint.connect_lazy()).clone();
        Picked { index, channel }
    }

    /// Moves on to the next one, unless another caller has done so already.
    pub(crate) fn move_on(&self, failed: usize) {
        let next = (failed + 1) % self.planes.len();
        let _ = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Moves on, and connects anew if this one is ever used again.
    pub(crate) fn give_up_on(&self, failed: usize) {
        *self.planes[failed].channel.lock() = None;
        self.move_on(failed);
    }

    /// The address of a control plane.
    pub(crate) fn url(&self, index: usize) -> &str {
        &self.planes[index].url
    }

    /// Calls one control plane after the other, until one answers. A list of one is tried twice, since the
    /// first failure may only mean that the connection had been closed.
    pub(crate) async fn call<T, F, Answer>(&self, timeout: Duration, call: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Answer,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1), fastrand::u64(..));
        let mut attempts = Vec::new();
        let most = self.planes.len().max(2);
        loop {
            let picked = self.pick();
            let index = picked.index;
            match tokio::time::timeout(timeout, call(picked.channel)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => match no_answer(&status) {
                    None => return Err(Error::Answer((&status).into())),
                    Some(reason) => {
                        self.move_on(index);
                        attempts.push(Attempt { address: self.url(index).to_owned(), reason });
                    }
                },
                Err(_) => {
                    self.give_up_on(index);
                    let reason = format!("no answer within {timeout:?}");
                    attempts.push(Attempt { address: self.url(index).to_owned(), reason });
                    // Whoever does not answer in time will not do so the second time.
                    if self.planes.len() == 1 {
                        return Err(Error::Unreachable { attempts });
                    }
                }
            }
            if attempts.len() >= most {
                return Err(Error::Unreachable { attempts });
            }
            tokio::time::sleep(backoff.after_failure(timeout)).await;
        }
    }
}

/// Why a status is no answer of a control plane, if it is none. An answer carries details; a status that
/// was made on this side, after the connection failed, has a source.
pub(crate) fn no_answer(status: &Status) -> Option<String> {
    if !status.details().is_empty() {
        return None;
    }
    if status.code() == Code::Unimplemented {
        return Some("something answers, but not as a control plane; is this its gRPC port?".to_owned());
    }
    let mut source = status.source();
    if source.is_none() && !matches!(status.code(), Code::Unavailable | Code::Cancelled) {
        return None;
    }
    let mut reason = status.message().to_owned();
    while let Some(error) = source {
        reason = error.to_string();
        source = error.source();
    }
    Some(reason)
}

/// `http://host:port`, with the scheme and the port filled in.
fn normalized(address: &str) -> Result<String, Violation> {
    let refuse = |rule: &str| Violation::new("control_plane", address, rule);
    let rest = match address.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => {
            return Err(refuse("must be http://HOST:PORT; TLS to a control plane is not available"));
        }
        Some(_) => return Err(refuse(RULE)),
        None => address,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let has_port = rest
        .rsplit_once(':')
        .is_some_and(|(host, port)| !port.is_empty() && !host.ends_with(':') && !port.ends_with(']'));
    let complete = if has_port { rest.to_owned() } else { format!("{rest}:{DEFAULT_PORT}") };
    complete.parse::<waypost_proto::address::Address>().map_err(|_| refuse(RULE))?;
    Ok(format!("http://{complete}"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_cannot_be_an_address_is_refused_with_the_rule() {
        for given in ["", "http://", "https://a:1", "ftp://a:1", "a:b", "a:1/path", "a b", "a:99999", "::1"] {
            let violation = normalized(given).expect_err(given);
            assert_eq!((violation.field.as_str(), violation.value.as_str()), ("control_plane", given));
        }
        assert!(ControlPlanes::new(&[], Duration::from_secs(1), 0).is_err());
    }

    #[test]
    fn lists_may_be_joined_by_commas_and_every_address_counts_once() {
        let given = ["a:1,b:2".to_owned(), "http://a:1".to_owned()];
        let planes = ControlPlanes::new(&given, Duration::from_secs(1), 7).expect("good addresses");
        assert_eq!(planes.planes.len(), 2);
    }

    #[test]
    fn clients_spread_over_the_list() {
        let given = ["a:1,b:2,c:3".to_owned()];
        let firsts: std::collections::BTreeSet<usize> = (0..64)
            .map(|seed| ControlPlanes::new(&given, Duration::from_secs(1), seed).expect("good addresses"))
            .map(|planes| planes.current.load(Ordering::Relaxed))
            .collect();
        assert_eq!(firsts.len(), 3);
    }

    #[test]
    fn two_callers_that_saw_one_failure_move_on_once() {
        let planes =
            ControlPlanes::new(&["a:1,b:2,c:3".to_owned()], Duration::from_secs(1), 0).expect("good");
        planes.current.store(0, Ordering::Relaxed);
        planes.move_on(0);
        planes.move_on(0);
        assert_eq!(planes.current.load(Ordering::Relaxed), 1);
    }
}
