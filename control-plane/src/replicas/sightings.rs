//! What the proxies of all control planes that share the store see of instances.
//!
//! Each control plane knows what its own proxies say; the others are asked when somebody wants to know. One that does not
//! answer within a second is left out: then there is less to be seen than there is, never more.

use std::sync::Arc;

use futures_util::future;
use waypost_proto::{name::InstanceKey, time::wire_duration, v1};

use super::{Replicas, peer::Peer, together::glance};
use crate::{
    hub::{LATELY, add_sightings},
    registry::InQuestion,
};

/// Of how many instances another control plane is asked at once.
pub const MOST_AT_ONCE: usize = 5_000;

impl Replicas {
    /// Adds to instances what proxies see of them.
    pub async fn add_sightings(&self, instances: &mut [v1::Instance]) {
        let mut places = Vec::new();
        let mut asked = Vec::new();
        for (place, instance) in instances.iter().enumerate() {
            if let Ok(key) = InstanceKey::from_wire(instance.key.as_ref()) {
                places.push(place);
                asked.push(InQuestion { key, epoch: instance.epoch, within: LATELY });
            }
        }
        let own = self.hub.sightings(&asked);
        for (place, seen) in places.into_iter().zip(self.with_those_of_others(&asked, own).await) {
            instances[place].sightings = (seen.proxies > 0).then_some(seen);
        }
    }

    /// Adds what the proxies of other control planes see to what our own do.
    pub(super) async fn with_those_of_others(
        &self,
        asked: &[InQuestion],
        mut sums: Vec<v1::Sightings>,
    ) -> Vec<v1::Sightings> {
        let peers = self.peers();
        if peers.is_empty() || asked.is_empty() {
            return sums;
        }
        for (asked, sums) in asked.chunks(MOST_AT_ONCE).zip(sums.chunks_mut(MOST_AT_ONCE)) {
            for seen in future::join_all(peers.iter().map(|peer| seen_there(peer, asked))).await {
                sums.iter_mut().zip(seen).for_each(|(sum, seen)| add_sightings(sum, seen));
            }
        }
        sums
    }
}

async fn seen_there(peer: &Arc<Peer>, asked: &[InQuestion]) -> Vec<v1::Sightings> {
    let instances = asked.iter().map(|one| v1::SightedInstance {
        key: Some(one.key.to_wire()),
        epoch: one.epoch,
        within: Some(wire_duration(one.within)),
    });
    let request = v1::GetReplicaSightingsRequest { instances: instances.collect() };
    let answered = glance(peer, |mut client| async move { client.get_sightings(request).await }).await;
    match answered {
        Ok(answer) => answer.sightings,
        Err(reason) => {
            tracing::debug!(replica = peer.id(), reason, "what its proxies see is left out");
            Vec::new()
        }
    }
}
