//! One control plane's name, and the addresses behind it.
//!
//! A DNS name may stand for many control planes. It is resolved anew for each connection, and its addresses are
//! tried in an order drawn by lot, those that have failed lately last.
//!
//! Deliberately absent: TLS (the contract between parts is cleartext for now), and which name is used (see the
//! module above).

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};
use tonic::transport::{Channel, Endpoint, Error, Uri};
use waypost_proto::{address::Address, error::Violation};

const DEFAULT_PORT: u16 = 7400;
const RULE: &str = "must be HOST:PORT or http://HOST:PORT, for example \"http://127.0.0.1:7400\"";
/// How long resolving a name may take, and connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long what has failed is tried only after everything else.
pub(super) const SHUN: Duration = Duration::from_secs(30);

/// A name and what is behind it.
#[derive(Debug)]
pub(super) struct Name {
    url: String,
    address: Address,
    endpoint: Endpoint,
    behind: Mutex<Behind>,
}

#[derive(Debug, Default)]
struct Behind {
    /// How many addresses there were last.
    count: usize,
    /// Where the newest connection leads.
    current: Option<SocketAddr>,
    failed: Vec<(SocketAddr, Instant)>,
}

impl Name {
    /// Reads an address.
    pub(super) fn new(address: &str) -> Result<Self, Violation> {
        let url = normalized(address)?;
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|_| Violation::new("control_plane", address, RULE))?
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let address = url.trim_start_matches("http://").parse()?;
        Ok(Self { url, address, endpoint, behind: Mutex::default() })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The URL, and the address that was connected to last where the URL does not say it.
    pub(super) fn shown(&self) -> String {
        match self.behind.lock().current {
            Some(current) if self.address.socket_addr().is_none() => format!("{} ({current})", self.url),
            _ => self.url.clone(),
        }
    }

    /// How many control planes there may be behind it.
    pub(super) fn count(&self) -> usize {
        self.behind.lock().count.max(1)
    }

    /// Where the newest connection leads has failed.
    pub(super) fn fail_current(&self) {
        let mut behind = self.behind.lock();
        if let Some(current) = behind.current.take() {
            behind.fail(current);
        }
    }

    /// A channel that connects when it is first used. Must be called within a tokio runtime.
    pub(super) fn channel(self: &Arc<Self>) -> Channel {
        self.endpoint.connect_with_connector_lazy(connector(self))
    }

    /// A channel that is connected, `tuned` for its purpose.
    pub(super) async fn connect(self: &Arc<Self>, tuned: fn(Endpoint) -> Endpoint) -> Result<Channel, Error> {
        tuned(self.endpoint.clone()).connect_with_connector(connector(self)).await
    }

    async fn stream(&self) -> io::Result<TcpStream> {
        let addresses = match self.address.socket_addr() {
            Some(address) => vec![address],
            None => {
                let found = timeout(CONNECT_TIMEOUT, lookup_host((self.address.host(), self.address.port())));
                found.await.map_err(|_| timed_out("resolving the name"))??.collect()
            }
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let order = self.behind.lock().order(addresses);
        for address in order {
            let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(|_| Err(timed_out("connecting"))) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    self.behind.lock().current = Some(address);
                    return Ok(stream);
                }
                Err(error) => {
                    self.behind.lock().fail(address);
                    last = error;
                }
            }
        }
        Err(last)
    }
}

impl Behind {
    /// In which order to try addresses.
    fn order(&mut self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        addresses.sort_unstable();
        addresses.dedup();
        self.count = addresses.len();
        let now = Instant::now();
        self.failed.retain(|(address, at)| now < *at + SHUN && addresses.contains(address));
        fastrand::shuffle(&mut addresses);
        let failed_at = |address: &SocketAddr| {
            self.failed.iter().find(|(failed, _)| failed == address).map(|(_, at)| *at)
        };
        addresses.sort_by_key(failed_at);
        addresses
    }

    fn fail(&mut self, address: SocketAddr) {
        self.failed.retain(|(failed, _)| *failed != address);
        self.failed.push((address, Instant::now()));
    }
}

fn connector(
    name: &Arc<Name>,
) -> impl tower::Service<
    Uri,
    Response = TokioIo<TcpStream>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<TcpStream>>> + Send,
> + Send
+ 'static {
    let name = name.clone();
    tower::service_fn(move |_: Uri| {
        let name = name.clone();
        async move { name.stream().await.map(TokioIo::new) }
    })
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} took longer than {CONNECT_TIMEOUT:?}"))
}

/// Reads a control plane's address as `http://host:port`, with scheme and port filled in.
///
/// # Errors
/// It is malformed; the violation says the rule.
pub fn normalized(address: &str) -> Result<String, Violation> {
    let refuse = |rule: &str| Violation::new("control_plane", address, rule);
    let rest = match address.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", _)) => {
            return Err(refuse("must begin with http://; TLS to a control plane is not available"));
        }
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
    }

    #[test]
    fn addresses_are_tried_in_any_order_and_what_failed_lately_last() {
        let all: Vec<SocketAddr> = (1..=3).map(|host| SocketAddr::from(([10, 0, 0, host], 7400))).collect();
        let mut behind = Behind::default();
        let firsts: std::collections::BTreeSet<SocketAddr> =
            (0..100).map(|_| behind.order(all.clone())[0]).collect();
        assert_eq!((firsts.len(), behind.count), (3, 3));
        behind.fail(all[1]);
        for _ in 0..50 {
            assert_eq!(behind.order(all.clone())[2], all[1]);
        }
        // What is gone from the name is forgotten.
        assert_eq!(behind.order(vec![all[0]]), [all[0]]);
        assert!(behind.failed.is_empty());
    }

    #[tokio::test]
    async fn a_name_leads_to_whichever_of_its_addresses_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        // It may stand for [::1] as well, where nobody listens.
        let name = Name::new(&format!("localhost:{port}")).expect("a good name");
        for _ in 0..10 {
            let stream = name.stream().await.expect("one of them answers");
            assert_eq!(
                stream.peer_addr().expect("it is connected"),
                listener.local_addr().expect("an address")
            );
        }
        assert!(name.shown().ends_with(&format!("(127.0.0.1:{port})")), "{}", name.shown());
    }
}
