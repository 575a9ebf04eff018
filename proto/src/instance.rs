//! What a registrant declares, and what proxies get to know of it; both checked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    address::Address,
    error::{Error, Violation},
    load::Share,
    name::{InstanceKey, ServiceKey},
    route::{EndpointTemplate, PathPrefix},
    time,
    v1::{self, InstanceState},
};

pub use crate::v1::Protocol;

/// The lease where none is given.
pub const DEFAULT_TTL: Duration = Duration::from_secs(10);
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(3600);
const MAX_LABEL: usize = 128;
const MAX_TAGS: usize = 64;
const MAX_ENDPOINTS: usize = 1024;
const MAX_METADATA: usize = 64;
const MAX_TEXT: usize = 4096;

/// What a registrant declares about one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSpec {
    /// Its name.
    pub key: InstanceKey,
    /// Where proxies connect.
    pub address: Address,
    /// The version of the software; empty means none.
    pub version: Arc<str>,
    /// Labels, sorted, each once.
    pub tags: Vec<Arc<str>>,
    /// The failure domain; empty means none.
    pub zone: Arc<str>,
    /// The share of traffic; 0 means none.
    pub weight: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// The prefix that it claims, if any.
    pub prefix: Option<PathPrefix>,
    /// Whether the prefix is removed before the request is forwarded.
    pub strip_prefix: bool,
    /// The templates that it claims, sorted, each once.
    pub endpoints: Vec<EndpointTemplate>,
    /// For people and programs; never pushed to proxies.
    pub metadata: BTreeMap<String, String>,
    /// For people; never pushed to proxies.
    pub description: String,
    /// Whether it is out of rotation until a heartbeat says otherwise.
    pub start_unhealthy: bool,
}

impl InstanceSpec {
    /// Checks the wire form and fills in what is not given.
    ///
    /// # Errors
    /// Names every field that breaks a rule, with its value and the rule.
    pub fn from_wire(wire: &v1::InstanceSpec) -> Result<Self, Error> {
        let mut check = Checker::default();
        let service = check.take(ServiceKey::new(&wire.namespace, &wire.service));
        let address: Option<Address> = check.take(wire.address.parse());
        let id = if wire.id.is_empty() { wire.address.as_str() } else { &wire.id };
        let key =
            service.zip(address.as_ref()).and_then(|(service, _)| check.take(InstanceKey::new(service, id)));
        let weight = check.take(u16::try_from(wire.weight.unwrap_or(1)).map_err(|_| {
            Violation::new("weight", wire.weight.unwrap_or_default(), "must be from 0 (no traffic) to 65535")
        }));
        let protocol = check.take(match Protocol::try_from(wire.protocol) {
            Ok(Protocol::Unspecified) => Ok(Protocol::Http1),
            Ok(protocol) => Ok(protocol),
            Err(_) => Err(Violation::new("protocol", wire.protocol, "must be HTTP1, HTTP2 or GRPC")),
        });
        let claimed = wire.prefix.clone().unwrap_or_else(|| format!("/{}", wire.service));
        let prefix = match claimed.as_str() {
            "" => Some(None),
            // A bad service name is reported as such, and not as a bad prefix too.
            _ if wire.prefix.is_none() && key.is_none() => None,
            text => check.take(text.parse()).map(Some),
        };
        check.at_most("endpoints", wire.endpoints.len(), MAX_ENDPOINTS);
        let mut endpoints: Vec<EndpointTemplate> =
            wire.endpoints.iter().take(MAX_ENDPOINTS).filter_map(|text| check.take(text.parse())).collect();
        endpoints.sort();
        endpoints.dedup();
        check.at_most("tags", wire.tags.len(), MAX_TAGS);
        let mut tags: Vec<Arc<str>> =
            wire.tags.iter().take(MAX_TAGS).filter_map(|tag| check.label("tags", tag, 1)).collect();
        tags.sort();
        tags.dedup();
        let version = check.label("version", &wire.version, 0);
        let zone = check.label("zone", &wire.zone, 0);
        check.at_most("metadata", wire.metadata.len(), MAX_METADATA);
        for (name, value) in &wire.metadata {
            check.label("metadata", name, 1);
            check.text(&format!("metadata.{name}"), value);
        }
        check.text("description", &wire.description);

        // Each `None` has left a violation behind, so all are present unless there is one.
        let parts = (|| Some((key?, address?, weight?, protocol?, prefix?, version?, zone?)))();
        let violations = check.violations;
        let Some((key, address, weight, protocol, prefix, version, zone)) =
            parts.filter(|_| violations.is_empty())
        else {
            return Err(Error::invalid(violations));
        };
        Ok(Self {
            key,
            address,
            version,
            tags,
            zone,
            weight,
            protocol,
            prefix,
            strip_prefix: wire.strip_prefix.unwrap_or(true),
            endpoints,
            metadata: wire.metadata.clone(),
            description: wire.description.clone(),
            start_unhealthy: wire.start_unhealthy,
        })
    }

    /// The wire form, with nothing left to be filled in.
    pub fn to_wire(&self) -> v1::InstanceSpec {
        let key = self.key.to_wire();
        v1::InstanceSpec {
            namespace: key.namespace,
            service: key.service,
            id: key.id,
            address: self.address.to_string(),
            version: self.version.to_string(),
            tags: strings(&self.tags),
            zone: self.zone.to_string(),
            weight: Some(self.weight.into()),
            protocol: self.protocol.into(),
            prefix: Some(self.prefix.as_ref().map(ToString::to_string).unwrap_or_default()),
            strip_prefix: Some(self.strip_prefix),
            endpoints: self.endpoints.iter().map(ToString::to_string).collect(),
            metadata: self.metadata.clone(),
            description: self.description.clone(),
            start_unhealthy: self.start_unhealthy,
        }
    }
}

/// Checks a lease's length; absent means [`DEFAULT_TTL`].
///
/// # Errors
/// It is not from 1 s to 1 h.
pub fn ttl_from_wire(wire: Option<&pbjson_types::Duration>) -> Result<Duration, Violation> {
    let Some(wire) = wire else { return Ok(DEFAULT_TTL) };
    let shown = format!("{}.{:09}s", wire.seconds, wire.nanos.abs());
    time::duration(wire)
        .filter(|ttl| (MIN_TTL..=MAX_TTL).contains(ttl))
        .ok_or_else(|| Violation::new("ttl", shown, "must be from 1 s to 1 h"))
}

/// An instance, as proxies know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name.
    pub key: InstanceKey,
    /// Where to connect.
    pub address: Address,
    /// The version, for routes that select one; empty means none.
    pub version: Arc<str>,
    /// The failure domain; empty means none.
    pub zone: Arc<str>,
    /// The share of traffic; 0 means none.
    pub weight: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether it takes traffic.
    pub state: InstanceState,
    /// Labels, sorted.
    pub tags: Vec<Arc<str>>,
    /// The epoch of its lease: another epoch is another process.
    pub epoch: u64,
    /// How much of the share that its weight gives it it gets.
    pub share: Share,
}

impl Endpoint {
    /// What proxies get to know of a registered instance.
    pub fn of(spec: &InstanceSpec, state: InstanceState, epoch: u64) -> Self {
        Self {
            share: Share::FULL,
            key: spec.key.clone(),
            address: spec.address.clone(),
            version: spec.version.clone(),
            zone: spec.zone.clone(),
            weight: spec.weight,
            protocol: spec.protocol,
            state,
            tags: spec.tags.clone(),
            epoch,
        }
    }

    /// Whether new requests may go to it.
    pub fn takes_traffic(&self) -> bool {
        self.weight > 0 && matches!(self.state, InstanceState::Up | InstanceState::Suspect)
    }

    /// The wire form.
    pub fn to_wire(&self) -> v1::InstanceEntry {
        v1::InstanceEntry {
            key: Some(self.key.to_wire()),
            address: self.address.to_string(),
            version: self.version.to_string(),
            zone: self.zone.to_string(),
            weight: self.weight.into(),
            protocol: self.protocol.into(),
            state: self.state.into(),
            tags: strings(&self.tags),
            epoch: self.epoch,
            share_percent: self.share.to_wire(),
        }
    }

    /// Checks the wire form.
    ///
    /// # Errors
    /// Names the field that breaks its rule.
    pub fn from_wire(wire: &v1::InstanceEntry) -> Result<Self, Violation> {
        let known =
            |what: i32, field: &str| Violation::new(field, what, "must be a value that is known here");
        let protocol =
            Protocol::try_from(wire.protocol).ok().filter(|protocol| *protocol != Protocol::Unspecified);
        let state =
            InstanceState::try_from(wire.state).ok().filter(|state| *state != InstanceState::Unspecified);
        Ok(Self {
            key: InstanceKey::from_wire(wire.key.as_ref())?,
            address: wire.address.parse()?,
            version: Arc::from(wire.version.as_str()),
            zone: Arc::from(wire.zone.as_str()),
            weight: u16::try_from(wire.weight)
                .map_err(|_| Violation::new("weight", wire.weight, "must be at most 65535"))?,
            protocol: protocol.ok_or_else(|| known(wire.protocol, "protocol"))?,
            state: state.ok_or_else(|| known(wire.state, "state"))?,
            tags: wire.tags.iter().map(|tag| Arc::from(tag.as_str())).collect(),
            epoch: wire.epoch,
            share: Share::from_wire(wire.share_percent)?,
        })
    }
}

fn strings(labels: &[Arc<str>]) -> Vec<String> {
    labels.iter().map(ToString::to_string).collect()
}

/// Collects violations, so that a caller learns of all of them at once.
#[derive(Default)]
struct Checker {
    violations: Vec<Violation>,
}

impl Checker {
    fn take<T>(&mut self, result: Result<T, Violation>) -> Option<T> {
        result.map_err(|violation| self.violations.push(violation)).ok()
    }

    fn at_most(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.violations.push(Violation::new(
                field,
                format!("{count} entries"),
                format!("must be at most {most}"),
            ));
        }
    }

    fn label(&mut self, field: &str, text: &str, least: usize) -> Option<Arc<str>> {
        let fits =
            (least..=MAX_LABEL).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let rule = || format!("must be {least} to {MAX_LABEL} visible ASCII characters without blanks");
        self.take(if fits { Ok(Arc::from(text)) } else { Err(Violation::new(field, text, rule())) })
    }

    fn text(&mut self, field: &str, text: &str) {
        if text.len() > MAX_TEXT {
            let shown: String = text.chars().take(32).collect();
            self.violations.push(Violation::new(
                field,
                format!("{shown}…"),
                format!("must be at most {MAX_TEXT} bytes"),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> v1::InstanceSpec {
        v1::InstanceSpec { service: "users".into(), address: "10.0.0.7:9001".into(), ..Default::default() }
    }

    #[test]
    fn what_is_not_given_is_filled_in() {
        let spec = InstanceSpec::from_wire(&minimal()).expect("a good spec");
        assert_eq!(spec.key.to_string(), "users/10.0.0.7:9001");
        assert_eq!(spec.prefix.as_ref().map(PathPrefix::as_str), Some("/users"));
        assert_eq!((spec.weight, spec.protocol, spec.strip_prefix), (1, Protocol::Http1, true));
        assert_eq!(InstanceSpec::from_wire(&spec.to_wire()), Ok(spec), "the wire form reads back");
    }

    #[test]
    fn an_empty_prefix_claims_none() {
        let wire = v1::InstanceSpec { prefix: Some(String::new()), ..minimal() };
        assert_eq!(InstanceSpec::from_wire(&wire).expect("a good spec").prefix, None);
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let wire = v1::InstanceSpec {
            service: "a b".into(),
            address: "nowhere".into(),
            weight: Some(70_000),
            protocol: 99,
            prefix: Some("users".into()),
            endpoints: vec!["GET".into()],
            tags: vec![String::new()],
            version: "a b".into(),
            zone: "a b".into(),
            description: "x".repeat(5000),
            ..minimal()
        };
        let error = InstanceSpec::from_wire(&wire).expect_err("nothing fits");
        let fields: Vec<&str> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "service",
                "address",
                "weight",
                "protocol",
                "prefix",
                "endpoints",
                "tags",
                "version",
                "zone",
                "description"
            ]
        );
    }

    #[test]
    fn a_lease_has_bounds() {
        let wire = |seconds, nanos| Some(pbjson_types::Duration { seconds, nanos });
        assert_eq!(ttl_from_wire(None), Ok(DEFAULT_TTL));
        assert_eq!(ttl_from_wire(wire(1, 0).as_ref()), Ok(Duration::from_secs(1)));
        for (seconds, nanos) in [(0, 999_999_999), (3600, 1), (-1, 0), (5, -1), (i64::MAX, 0)] {
            assert!(ttl_from_wire(wire(seconds, nanos).as_ref()).is_err());
        }
    }

    #[test]
    fn an_endpoint_survives_the_way_over_the_wire() {
        let spec = InstanceSpec::from_wire(&minimal()).expect("a good spec");
        let endpoint = Endpoint::of(&spec, InstanceState::Draining, 7);
        assert_eq!(Endpoint::from_wire(&endpoint.to_wire()), Ok(endpoint));
    }
}
