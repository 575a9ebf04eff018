//! What a program says about itself when it registers.

use std::time::Duration;

use waypost_proto::{
    error::{Error as ContractError, Violation},
    instance::{InstanceSpec, Protocol, ttl_from_wire},
    time::wire_duration,
    v1,
};

use crate::error::Error;

/// One instance, to be registered with [`crate::Client::register`]. Only the service and the address are
/// required.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    spec: v1::InstanceSpec,
    ttl: Option<Duration>,
    timeout: Option<Duration>,
}

impl Registration {
    /// An instance of `service` at `address` (`host:port`, as proxies reach it).
    pub fn new(service: impl Into<String>, address: impl Into<String>) -> Self {
        let spec =
            v1::InstanceSpec { service: service.into(), address: address.into(), ..Default::default() };
        Self::from_spec(spec)
    }

    /// An instance as the contract has it.
    pub fn from_spec(spec: v1::InstanceSpec) -> Self {
        Self { spec, ttl: None, timeout: None }
    }

    /// The instance as the contract has it.
    pub fn spec(&self) -> &v1::InstanceSpec {
        &self.spec
    }

    pub(crate) fn spec_mut(&mut self) -> &mut v1::InstanceSpec {
        &mut self.spec
    }

    /// The namespace; `default` unless given.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.spec.namespace = namespace.into();
        self
    }

    /// The instance's id, unique within the service; the address unless given.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.spec.id = id.into();
        self
    }

    /// The version of the software, for example `1.4.2`.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.spec.version = version.into();
        self
    }

    /// One more label for selection.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.spec.tags.push(tag.into());
        self
    }

    /// More labels for selection.
    #[must_use]
    pub fn tags(mut self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spec.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// The failure domain, for example `eu-west-1a`.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.spec.zone = zone.into();
        self
    }

    /// The share of traffic relative to the other instances: 0 (none) to 65535; 1 unless given.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.spec.weight = Some(weight);
        self
    }

    /// What the instance speaks; HTTP/1.1 unless given.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.spec.protocol = protocol.into();
        self
    }

    /// The path prefix that routes to the service: `/<service>` unless given, none if empty.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.spec.prefix = Some(prefix.into());
        self
    }

    /// Whether the prefix is removed before a request is forwarded; it is unless given.
    #[must_use]
    pub fn strip_prefix(mut self, strip: bool) -> Self {
        self.spec.strip_prefix = Some(strip);
        self
    }

    /// One more endpoint that the service answers, as `METHOD /path/{parameter}`.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.spec.endpoints.push(endpoint.into());
        self
    }

    /// More endpoints that the service answers.
    #[must_use]
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spec.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// Free metadata for people and programs.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.metadata.insert(name.into(), value.into());
        self
    }

    /// What the service is for, in a sentence.
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.spec.description = description.into();
        self
    }

    /// Starts out of rotation, until [`crate::Registered::set_health`] says that it is healthy.
    #[must_use]
    pub fn start_unhealthy(mut self) -> Self {
        self.spec.start_unhealthy = true;
        self
    }

    /// How long the lease lives without a heartbeat, 1 s to 1 h; 10 s unless given. Heartbeats are sent
    /// every third of it.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// How long [`crate::Client::register`] waits for a control plane that is not there yet; the client's
    /// own (30 s) unless given.
    #[must_use]
    pub fn register_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Checks every field by the rules of the contract, as [`crate::Client::register`] does before it
    /// calls a control plane.
    ///
    /// # Errors
    /// Names every field that breaks a rule, with its value and the rule.
    pub fn check(&self) -> Result<InstanceSpec, Error> {
        let ttl = ttl_from_wire(self.ttl.map(wire_duration).as_ref());
        match (InstanceSpec::from_wire(&self.spec), ttl) {
            (Ok(spec), Ok(_)) => Ok(spec),
            (Ok(_), Err(violation)) => Err(violation.into()),
            (Err(error), ttl) => {
                let violations: Vec<Violation> = error.violations.into_iter().chain(ttl.err()).collect();
                Err(ContractError::invalid(violations).into())
            }
        }
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    pub(crate) fn to_request(&self, client: &str) -> v1::RegisterRequest {
        v1::RegisterRequest {
            instance: Some(self.spec.clone()),
            ttl: self.ttl.map(wire_duration),
            client: client.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_field_is_named_before_anything_is_sent() {
        let error =
            Registration::new("a b", "nowhere").weight(70_000).ttl(Duration::ZERO).check().expect_err("bad");
        let Error::Answer(error) = error else { panic!("an answer") };
        let fields: Vec<&str> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["service", "address", "weight", "ttl"]);
    }
}
