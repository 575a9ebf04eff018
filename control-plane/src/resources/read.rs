//! Questions about declared resources, answered from a view and from what the proxies report.
//!
//! Deliberately absent: paging; an answer is as long as what it is asked for.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use waypost_proto::{
    address::Address,
    error::{Error, ErrorCode, Violation},
    name::ServiceKey,
    resource::{Kind, ResourceKey},
    time,
    v1::{Generation, GetHistoryResponse, ListResourcesRequest, ListResourcesResponse, Proxy, Resource},
};

use super::{missing, redact};
use crate::{
    gateway::status::{Fleet, Reader, not_understood},
    registry::{Held, View},
    server::Plane,
};

/// Which resources are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// `None`: of every kind.
    pub kind: Option<Kind>,
    /// Empty: in every namespace.
    pub namespace: String,
    /// Empty: of every name.
    pub name: String,
}

impl Selection {
    /// Checks a request.
    ///
    /// # Errors
    /// There is no such kind.
    pub fn from_wire(request: ListResourcesRequest) -> Result<Self, Violation> {
        let ListResourcesRequest { kind, namespace, name } = request;
        let kind = if kind.is_empty() { None } else { Some(Kind::from_str(&kind)?) };
        Ok(Self { kind, namespace, name })
    }

    fn has(&self, key: &ResourceKey) -> bool {
        self.kind.is_none_or(|kind| kind == key.kind())
            && (self.namespace.is_empty() || self.namespace == key.namespace())
            && (self.name.is_empty() || self.name == key.name())
    }
}

/// The resources that are selected, with their statuses.
pub async fn list(plane: &Plane, selection: &Selection) -> ListResourcesResponse {
    let (view, fleet) = shown(plane).await;
    let wanted = |held: &&Held| !held.resource.is_deleted() && selection.has(&held.resource.key);
    let is_registered = |service: &ServiceKey| view.is_registered(service);
    let reader = Reader::new(view.gateway(), fleet, &is_registered);
    let resources = view.resources().filter(wanted).map(|held| to_wire(held, &reader)).collect();
    ListResourcesResponse { resources, revision: view.revision() }
}

/// One resource, with its status.
///
/// # Errors
/// There is none of this name.
pub async fn get(plane: &Plane, key: &ResourceKey) -> Result<Resource, Error> {
    let (view, fleet) = shown(plane).await;
    let held = view.resource(key).filter(|held| !held.resource.is_deleted());
    let held = held.ok_or_else(|| Error::new(ErrorCode::NotFound, missing(key)))?;
    let is_registered = |service: &ServiceKey| view.is_registered(service);
    Ok(to_wire(held, &Reader::new(view.gateway(), fleet, &is_registered)))
}

/// The generations of a resource that are remembered, newest first.
///
/// # Errors
/// There never was one of this name.
pub fn history(view: &View, key: &ResourceKey) -> Result<GetHistoryResponse, Error> {
    let held = view.resource(key).ok_or_else(|| Error::new(ErrorCode::NotFound, missing(key)))?;
    let mut generations: Vec<Generation> =
        held.resource.generations().map(|generation| generation.to_wire()).collect();
    let mut manifests: Vec<(u64, String)> = generations
        .iter_mut()
        .map(|generation| (generation.generation, std::mem::take(&mut generation.manifest)))
        .collect();
    redact::history(key, &mut manifests);
    for (generation, (_, manifest)) in generations.iter_mut().zip(manifests) {
        generation.manifest = manifest;
    }
    Ok(GetHistoryResponse { generations })
}

/// What there is, and how far the proxies of all control planes are: what these are asked afterwards has come at least
/// as far as the view.
async fn shown(plane: &Plane) -> (Arc<View>, Fleet) {
    let view = plane.registry.view();
    let status = plane.replicas.status(plane.status()).await;
    let proxies = plane.replicas.list_proxies().await.proxies;
    let connected = proxies.iter().filter(|proxy| proxy.connected);
    let addresses: BTreeSet<String> = connected.filter_map(host).collect();
    // Revisions after the head change nothing for proxies, so whoever serves by the head serves by all of them.
    let reached = status.watermark >= view.head();
    let watermark = if reached { status.watermark.max(view.revision()) } else { status.watermark };
    (view, Fleet { watermark, proxies: status.proxies, addresses })
}

/// Where a proxy is reached. One that binds all of its addresses does not know which: then it is where its stream comes
/// from.
fn host(proxy: &Proxy) -> Option<String> {
    let is_any = |ip: IpAddr| ip.to_canonical().is_unspecified();
    let bound = proxy.listen_address.parse::<SocketAddr>();
    if bound.is_ok_and(|bound| is_any(bound.ip())) {
        return proxy.peer_address.parse().ok().filter(|peer| !is_any(*peer)).map(|peer| peer.to_string());
    }
    let address = proxy.listen_address.parse::<Address>().ok()?;
    Some(address.host().to_owned())
}

fn to_wire(held: &Held, reader: &Reader<'_>) -> Resource {
    let resource = &held.resource;
    let status = match &held.declared {
        Ok(_) => reader.status(&resource.key),
        Err(reason) => Some(not_understood(resource.generation, resource.applied_at, reason)),
    };
    Resource {
        key: Some(resource.key.to_wire()),
        manifest: redact::manifest(&resource.key, &resource.manifest),
        generation: resource.generation,
        created_at: Some(time::timestamp(resource.created_at)),
        applied_at: Some(time::timestamp(resource.applied_at)),
        actor: resource.actor.to_string(),
        revision: resource.revision,
        status: status.map(|status| status.to_string()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_binds_all_addresses_is_where_its_stream_comes_from() {
        for (bound, peer, wanted) in [
            ("127.0.0.1:80", "10.0.0.7", Some("127.0.0.1")),
            ("edge.example:80", "10.0.0.7", Some("edge.example")),
            ("0.0.0.0:80", "10.0.0.7", Some("10.0.0.7")),
            ("[::]:80", "2001:db8::7", Some("2001:db8::7")),
            ("[::ffff:0.0.0.0]:80", "10.0.0.7", Some("10.0.0.7")),
            ("[::]:80", "", None),
            ("0.0.0.0:80", "0.0.0.0", None),
            ("", "10.0.0.7", None),
        ] {
            let (listen_address, peer_address) = (bound.to_owned(), peer.to_owned());
            let proxy = Proxy { listen_address, peer_address, ..Proxy::default() };
            assert_eq!(host(&proxy).as_deref(), wanted, "{bound} {peer}");
        }
    }
}
