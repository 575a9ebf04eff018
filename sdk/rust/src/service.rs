//! A server as a service: registered once it can answer, kept registered, drained before it stops.
//!
//! ```text
//! serve ──▶ its health passes ──▶ register ──▶ beats, load, health ──▶ SIGTERM ──▶ drain ──▶ stop ──▶ end
//! ```
//!
//! Its page is `SERVICE.md`. [`Service`] says what is registered and how; [`run`] carries it out around any server, and `crate::axum` around an
//! axum router. Deliberately absent: sleeps around the drain, which its barrier makes needless; and routes found by
//! looking into a router, which no router of tower's world allows.

mod address;
mod checks;
mod run;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

pub use self::run::{ServeError, Stopped};
use crate::{client::Client, error::Error, in_flight::InFlight, registration::Registration};
use waypost_proto::{error::Violation, load::Load};

/// How long the drain may take. With [`run::FINISH`] it fits into the 30 s that Kubernetes gives a process by default.
const DRAIN_DEADLINE: Duration = Duration::from_secs(25);
const MAX_DRAIN_DEADLINE: Duration = Duration::from_secs(3600);

/// A service that this process is an instance of: what is registered, and how it is kept so.
///
/// What the code leaves open is taken from the environment: `WAYPOST_CONTROL_PLANE`, `WAYPOST_ADDRESS`,
/// `WAYPOST_NAMESPACE`, `WAYPOST_INSTANCE_ID` and `WAYPOST_ZONE`.
#[derive(Clone, Debug)]
pub struct Service {
    registration: Registration,
    control_planes: Vec<String>,
    health: Option<String>,
    drain_deadline: Duration,
    in_flight: Option<InFlight>,
    load: Option<LoadSource>,
}

/// What says how busy the program is.
#[derive(Clone)]
struct LoadSource(Arc<dyn Fn() -> Load + Send + Sync>);

impl fmt::Debug for LoadSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LoadSource")
    }
}

impl Service {
    /// An instance of the service with this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            registration: Registration::new(name, ""),
            control_planes: Vec::new(),
            health: None,
            drain_deadline: DRAIN_DEADLINE,
            in_flight: None,
            load: None,
        }
    }

    /// The version of the software, for example `1.4.2`.
    #[must_use]
    pub fn version(self, version: impl Into<String>) -> Self {
        self.registration(|it| it.version(version))
    }

    /// What the service is for, in a sentence.
    #[must_use]
    pub fn description(self, description: impl Into<String>) -> Self {
        self.registration(|it| it.description(description))
    }

    /// More labels for selection.
    #[must_use]
    pub fn tags(self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.registration(|it| it.tags(tags))
    }

    /// The failure domain, for example `eu-west-1a`; `WAYPOST_ZONE` unless given.
    #[must_use]
    pub fn zone(self, zone: impl Into<String>) -> Self {
        self.registration(|it| it.zone(zone))
    }

    /// The share of traffic relative to the other instances: 0 (none) to 65535; 1 unless given.
    #[must_use]
    pub fn weight(self, weight: u32) -> Self {
        self.registration(|it| it.weight(weight))
    }

    /// The path prefix that routes to the service: `/<service>` unless given, none if empty.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        self.registration(|it| it.prefix(prefix))
    }

    /// Whether the prefix is removed before a request is forwarded; it is unless given.
    #[must_use]
    pub fn strip_prefix(self, strip: bool) -> Self {
        self.registration(|it| it.strip_prefix(strip))
    }

    /// Endpoints that are reachable without the prefix, as `METHOD /path/{parameter}`; none unless given.
    #[must_use]
    pub fn endpoints(self, endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.registration(|it| it.endpoints(endpoints))
    }

    /// Anything else that can be registered: `.registration(|it| it.metadata("team", "shop").ttl(ttl))`.
    #[must_use]
    pub fn registration(mut self, change: impl FnOnce(Registration) -> Registration) -> Self {
        self.registration = change(self.registration);
        self
    }

    /// Where proxies reach this process, as `host:port`; `WAYPOST_ADDRESS` unless given. Without either it is the
    /// address that the listener is bound to; for one that is bound to all (`0.0.0.0`), it is this machine's address
    /// on the way to the control plane.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.registration.spec_mut().address = address.into();
        self
    }

    /// A path that says whether the program can answer: a GET (over HTTP/1.1, to its own port) must be answered with
    /// 2xx or 3xx, as for the agent's checks. Until it has been once, nothing is registered; after three failures in
    /// a row, a second apart, the instance is out of rotation until it passes again. Without a path, what listens is
    /// well.
    #[must_use]
    pub fn health(mut self, path: impl Into<String>) -> Self {
        self.health = Some(path.into());
        self
    }

    /// One more control plane, or several, separated by commas; `WAYPOST_CONTROL_PLANE` unless given, and without
    /// that `http://127.0.0.1:7400`.
    #[must_use]
    pub fn control_plane(mut self, address: impl Into<String>) -> Self {
        self.control_planes.push(address.into());
        self
    }

    /// How long the drain may take, up to 1 h; 25 s unless given, so that it ends before Kubernetes kills the process.
    #[must_use]
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.drain_deadline = deadline;
        self
    }

    /// Reports the requests that this counts with each heartbeat. `crate::axum` counts by itself.
    #[must_use]
    pub fn in_flight(mut self, in_flight: InFlight) -> Self {
        self.in_flight = Some(in_flight);
        self
    }

    /// Asked once a second how busy the program is, beside the requests that are counted.
    #[must_use]
    pub fn load(mut self, load: impl Fn() -> Load + Send + Sync + 'static) -> Self {
        self.load = Some(LoadSource(Arc::new(load)));
        self
    }

    /// The counter of requests, made if there is none yet.
    #[cfg(feature = "axum")]
    pub(crate) fn counter(&mut self) -> InFlight {
        self.in_flight.get_or_insert_default().clone()
    }

    /// How busy the program is now, as far as that is known.
    fn busy(&self) -> Option<Load> {
        let load = self.load.as_ref().map(|source| source.0());
        let counted = self.in_flight.as_ref().map(InFlight::count);
        if load.is_none() && counted.is_none() {
            return None;
        }
        let load = load.unwrap_or_default();
        Some(Load { in_flight: load.in_flight.or(counted), ..load })
    }

    /// Fills in what the code has left open. An empty variable says nothing.
    fn fill_in(&mut self, environment: impl Fn(&str) -> Option<String>) {
        let read = |name: &str| environment(name).filter(|value| !value.is_empty());
        let spec = self.registration.spec_mut();
        let open = [
            (&mut spec.address, "WAYPOST_ADDRESS"),
            (&mut spec.namespace, "WAYPOST_NAMESPACE"),
            (&mut spec.id, "WAYPOST_INSTANCE_ID"),
            (&mut spec.zone, "WAYPOST_ZONE"),
        ];
        for (value, name) in open {
            if value.is_empty() {
                *value = read(name).unwrap_or_default();
            }
        }
        if self.control_planes.is_empty() {
            self.control_planes.extend(read("WAYPOST_CONTROL_PLANE"));
        }
    }

    /// Checks all that can be checked before anything runs, for a listener at `local`.
    fn check(&self, local: SocketAddr) -> Result<Client, Error> {
        let mut registration = self.registration.clone();
        if registration.spec().address.is_empty() {
            // The port is what can be wrong with it by now.
            registration.spec_mut().address = SocketAddr::from(([127, 0, 0, 1], local.port())).to_string();
        }
        registration.check()?;
        if let Some(path) = &self.health
            && !(path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok())
        {
            return Err(Violation::new("health", path, "must be a path such as \"/healthz\"").into());
        }
        if self.drain_deadline > MAX_DRAIN_DEADLINE {
            let given = format!("{:?}", self.drain_deadline);
            return Err(Violation::new("drain_deadline", given, "must be at most 1 h").into());
        }
        Client::builder().control_planes(&self.control_planes).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 9001);

    fn environment(name: &str) -> Option<String> {
        let value = match name {
            "WAYPOST_ADDRESS" => "10.0.0.7:80",
            "WAYPOST_ZONE" => "eu-1",
            "WAYPOST_CONTROL_PLANE" => "http://a:1,http://b:2",
            "WAYPOST_INSTANCE_ID" => "",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn the_environment_says_what_the_code_leaves_open() {
        let mut service = Service::new("users").zone("eu-2");
        service.fill_in(environment);
        let spec = service.registration.spec();
        assert_eq!(
            (spec.address.as_str(), spec.zone.as_str(), spec.id.as_str()),
            ("10.0.0.7:80", "eu-2", "")
        );
        assert_eq!(service.control_planes, ["http://a:1,http://b:2"]);
        let mut service = Service::new("users").address("h:1").control_plane("c:1");
        service.fill_in(environment);
        assert_eq!(service.registration.spec().address, "h:1");
        assert_eq!(service.control_planes, ["c:1"]);
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_runs() {
        Service::new("users").check(LOCAL).expect("a good service");
        let bad = [
            (Service::new("a b"), "service"),
            (Service::new("users").address("users"), "address"),
            (Service::new("users").address("0.0.0.0:80"), "address"),
            (Service::new("users").prefix("users"), "prefix"),
            (Service::new("users").endpoints(["users"]), "endpoints"),
            (Service::new("users").weight(70_000), "weight"),
            (Service::new("users").health("healthz"), "health"),
            (Service::new("users").health("/a b"), "health"),
            (Service::new("users").control_plane("ftp://a"), "control_plane"),
            (Service::new("users").drain_deadline(Duration::from_secs(3601)), "drain_deadline"),
        ];
        for (service, field) in bad {
            let error = service.check(LOCAL).expect_err(field).to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn the_load_is_the_programs_own_with_the_requests_that_are_counted() {
        assert_eq!(Service::new("users").busy(), None);
        let counted = Service::new("users").in_flight(InFlight::new());
        assert_eq!(counted.busy(), Some(Load { in_flight: Some(0), ..Load::default() }));
        let both = counted.load(|| Load { cpu: Some(0.5), ..Load::default() });
        assert_eq!(both.busy(), Some(Load { cpu: Some(0.5), in_flight: Some(0), ..Load::default() }));
        let own = both.load(|| Load { in_flight: Some(7), ..Load::default() });
        assert_eq!(own.busy().and_then(|load| load.in_flight), Some(7));
    }
}
