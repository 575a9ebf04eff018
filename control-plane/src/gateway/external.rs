//! External services: addresses that nobody registers, as a service with instances.
//!
//! Their instances have no lease; they are there as long as they are declared. An instance's id is its address and its
//! epoch is always the same, so that whatever else changes leaves the connections to it alone.

use std::sync::Arc;

use waypost_proto::{
    error::Violation,
    instance::Endpoint,
    load::Share,
    name::{InstanceKey, ServiceKey},
    resource::{
        Kind, ResourceKey,
        policy::{ExternalProtocol, ExternalService},
    },
    v1::{InstanceState, Protocol},
};

use super::{
    Made,
    condition::{ACCEPTED, Condition},
    outcome::Body,
    set::Declared,
};

/// The epoch of all of them.
const EPOCH: u64 = 1;

/// The resource that a service of this name is declared by.
pub(super) fn key_of(service: &ServiceKey) -> Option<ResourceKey> {
    ResourceKey::new(Kind::ExternalService, service.namespace(), service.name()).ok()
}

/// Compiles an external service.
pub(super) fn made(declared: &Declared, spec: &ExternalService) -> Made {
    let mut made = Made { entries: Vec::new(), external: None, body: None };
    let endpoints = ServiceKey::new(declared.key().namespace(), declared.key().name()).and_then(|service| {
        let endpoints: Result<Vec<Endpoint>, _> =
            spec.addresses.iter().map(|address| endpoint(&service, address, spec)).collect();
        endpoints.map(|endpoints| (service, endpoints))
    });
    let accepted = match endpoints {
        Ok((service, mut endpoints)) => {
            endpoints.sort_by(|left, right| left.key.cmp(&right.key));
            endpoints.dedup_by(|left, right| left.key == right.key);
            made.external = Some((service, Arc::from(endpoints)));
            Condition::holds(ACCEPTED, ACCEPTED)
        }
        // The documents' check leaves none of these.
        Err(violation) => Condition::fails(ACCEPTED, "Invalid", violation.to_string()),
    };
    made.body = Some(Body::External(accepted));
    made
}

fn endpoint(service: &ServiceKey, address: &str, spec: &ExternalService) -> Result<Endpoint, Violation> {
    Ok(Endpoint {
        share: Share::FULL,
        key: InstanceKey::new(service.clone(), address)?,
        address: address.parse()?,
        version: Arc::from(""),
        zone: Arc::from(""),
        weight: 1,
        protocol: match spec.protocol {
            ExternalProtocol::Http1 => Protocol::Http1,
            ExternalProtocol::Http2 => Protocol::Http2,
            ExternalProtocol::Grpc => Protocol::Grpc,
        },
        state: InstanceState::Up,
        tags: Vec::new(),
        epoch: EPOCH,
    })
}
