//! A service's configuration, checked: what is registered, how it is checked, how long it may drain.

use std::time::Duration;

use waypost_sdk::{
    Registration,
    contract::{
        address::Address,
        error::{Error as ContractError, Violation},
        instance::{InstanceSpec, Protocol},
        v1,
    },
    health::Thresholds,
};

use crate::{
    options::{ServiceOptions, Span},
    probe::Probe,
};

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
const MAX_DEADLINE: Duration = Duration::from_secs(3600);

/// One service, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    /// What is registered.
    pub registration: Registration,
    /// The same, as the contract has it.
    pub spec: InstanceSpec,
    /// How it is checked.
    pub probe: Probe,
    /// How often it is checked, in time from the start of one check to the start of the next.
    pub check_interval: Duration,
    /// How long a check may take.
    pub check_timeout: Duration,
    /// How many results in a row count.
    pub thresholds: Thresholds,
    /// How long to wait for requests in flight when it leaves.
    pub drain_deadline: Duration,
}

impl ServiceConfig {
    /// Checks a service's options.
    ///
    /// # Errors
    /// Names every option that breaks a rule, with its value and the rule.
    pub fn check(options: &ServiceOptions) -> Result<Self, ContractError> {
        let mut violations = Vec::new();
        let wire = wire(options, &mut violations);
        let mut registration = Registration::from_spec(wire);
        if let Some(Span(ttl)) = options.ttl {
            registration = registration.ttl(ttl);
        }
        let spec = match registration.check() {
            Ok(spec) => Some(spec),
            Err(waypost_sdk::Error::Answer(error)) => {
                // What is derived from a missing address is not reported twice.
                let named = violations.iter().map(|violation| violation.field.clone()).collect::<Vec<_>>();
                violations.extend(error.violations.into_iter().filter(|new| !named.contains(&new.field)));
                None
            }
            Err(error) => {
                violations.push(Violation::new("service", &options.service, error.to_string()));
                None
            }
        };
        let probe = options.health.as_deref().unwrap_or("tcp");
        let probe = spec.as_ref().map(|spec| Probe::new(probe, &checked_at(options, &spec.address)));
        let probe = probe.and_then(|probe| probe.map_err(|violation| violations.push(violation)).ok());
        let check_interval = span("check-interval", options.check_interval, CHECK_INTERVAL, &mut violations);
        let check_timeout = span("check-timeout", options.check_timeout, CHECK_TIMEOUT, &mut violations);
        let drain_deadline = options.drain_deadline.map_or(DRAIN_DEADLINE, |span| span.0);
        if drain_deadline > MAX_DEADLINE {
            violations.push(Violation::new("drain-deadline", Span(drain_deadline), "must be at most 1h"));
        }
        let thresholds = Thresholds {
            healthy_after: count("healthy-after", options.healthy_after, 1, &mut violations),
            unhealthy_after: count("unhealthy-after", options.unhealthy_after, 3, &mut violations),
        };
        match (spec, probe) {
            (Some(spec), Some(probe)) if violations.is_empty() => Ok(Self {
                registration,
                spec,
                probe,
                check_interval,
                check_timeout,
                thresholds,
                drain_deadline,
            }),
            _ => Err(ContractError::invalid(violations)),
        }
    }
}

fn wire(options: &ServiceOptions, violations: &mut Vec<Violation>) -> v1::InstanceSpec {
    let address = match (&options.address, options.port) {
        (Some(address), _) => address.clone(),
        (None, Some(port)) => format!("127.0.0.1:{port}"),
        (None, None) => {
            let rule = "must be given, or port, so that proxies know where to connect";
            violations.push(Violation::new("address", "", rule));
            String::new()
        }
    };
    if options.port == Some(0) {
        violations.push(Violation::new("port", 0, "must be from 1 to 65535"));
    }
    v1::InstanceSpec {
        namespace: options.namespace.clone().unwrap_or_default(),
        service: options.service.clone(),
        id: options.id.clone().unwrap_or_default(),
        address,
        version: options.version.clone().unwrap_or_default(),
        tags: options.tag.clone(),
        zone: options.zone.clone().unwrap_or_default(),
        weight: options.weight,
        protocol: protocol(options.protocol.as_deref(), violations).into(),
        prefix: options.prefix.clone(),
        strip_prefix: options.strip_prefix,
        endpoints: options.endpoint.clone(),
        metadata: options.metadata.iter().cloned().collect(),
        description: options.description.clone().unwrap_or_default(),
        start_unhealthy: false,
    }
}

fn protocol(text: Option<&str>, violations: &mut Vec<Violation>) -> Protocol {
    match text.map(str::to_ascii_lowercase).as_deref() {
        None => Protocol::Unspecified,
        Some("http1") => Protocol::Http1,
        Some("http2") => Protocol::Http2,
        Some("grpc") => Protocol::Grpc,
        Some(other) => {
            violations.push(Violation::new("protocol", other, "must be http1, http2 or grpc"));
            Protocol::Unspecified
        }
    }
}

/// Where a check without an address of its own goes: to the port on this machine, if it is known, because
/// proxies may reach the service by another way than the agent beside it.
fn checked_at(options: &ServiceOptions, address: &Address) -> String {
    options.port.map_or_else(|| address.to_string(), |port| format!("127.0.0.1:{port}"))
}

fn span(field: &str, given: Option<Span>, default: Duration, violations: &mut Vec<Violation>) -> Duration {
    let span = given.map_or(default, |span| span.0);
    if span < Duration::from_millis(10) || span > MAX_DEADLINE {
        violations.push(Violation::new(field, Span(span), "must be from 10ms to 1h"));
    }
    span
}

fn count(field: &str, given: Option<u32>, default: u32, violations: &mut Vec<Violation>) -> u32 {
    let count = given.unwrap_or(default);
    if !(1..=1000).contains(&count) {
        violations.push(Violation::new(field, count, "must be from 1 to 1000"));
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> ServiceOptions {
        ServiceOptions { service: "users".into(), port: Some(9001), ..Default::default() }
    }

    #[test]
    fn a_name_and_a_port_are_enough() {
        let config = ServiceConfig::check(&users()).expect("good options");
        assert_eq!(config.spec.address.as_str(), "127.0.0.1:9001");
        assert_eq!(config.probe, Probe::Tcp("127.0.0.1:9001".into()));
        assert_eq!(config.thresholds, Thresholds { healthy_after: 1, unhealthy_after: 3 });
    }

    #[test]
    fn checks_go_to_the_local_port_and_proxies_to_the_address() {
        let options = ServiceOptions {
            address: Some("10.0.0.7:80".into()),
            health: Some("http:/health".into()),
            ..users()
        };
        let config = ServiceConfig::check(&options).expect("good options");
        assert_eq!(config.spec.address.as_str(), "10.0.0.7:80");
        assert_eq!(config.probe.to_string(), "GET http://127.0.0.1:9001/health");
    }

    #[test]
    fn every_bad_option_is_named_at_once() {
        let options = ServiceOptions {
            service: "a b".into(),
            protocol: Some("smtp".into()),
            weight: Some(70_000),
            check_interval: Some(Span(Duration::ZERO)),
            unhealthy_after: Some(0),
            drain_deadline: Some(Span(Duration::from_secs(4000))),
            ..Default::default()
        };
        let error = ServiceConfig::check(&options).expect_err("nothing fits");
        let mut fields: Vec<&str> = error.violations.iter().map(|violation| &*violation.field).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                "address",
                "check-interval",
                "drain-deadline",
                "protocol",
                "service",
                "unhealthy-after",
                "weight"
            ]
        );
        let options = ServiceOptions { health: Some("ping".into()), ..users() };
        assert_eq!(ServiceConfig::check(&options).expect_err("no such check").violations[0].field, "health");
    }
}
