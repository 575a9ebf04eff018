//! Our own place among the control planes: an instance of a reserved service, with a lease that we renew.
//!
//! Deliberately absent: who the others are (see `peers` in the module above).

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use waypost_proto::{
    error::{Error, ErrorCode},
    instance::InstanceSpec,
    name::InstanceKey,
    v1::{self, BeatOutcome},
};

use super::{Me, Replicas};
use crate::registry::{Beat, reserved};

/// How many times a lease is renewed before it would lapse.
const BEATS_PER_LEASE: u32 = 3;
/// How we call ourselves in the event history.
const CLIENT: &str = "control-plane";

impl Replicas {
    /// Registers this control plane and keeps it registered, and keeps track of the others, until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let Some(me) = self.me.clone() else { return };
        let pace = me.options.ttl / BEATS_PER_LEASE;
        let mut changes = self.registry.watch_instances();
        let mut next = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(next) => {
                    next = tokio::time::Instant::now() + pace;
                    tokio::select! {
                        renewed = self.renew(&me) => if let Err(error) = renewed {
                            tracing::warn!(%error, "other control planes may not know of this one, trying again");
                        },
                        () = shutdown.cancelled() => return,
                    }
                }
                changed = changes.recv() => {
                    use tokio::sync::broadcast::error::RecvError;
                    match changed {
                        Ok(change) if change.keys.iter().all(|key| !reserved::is_reserved(key.service())) => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => drop(self.peers()),
                        // The store has begun a new history, in which nobody is registered.
                        Err(RecvError::Closed) => {
                            changes = self.registry.watch_instances();
                            next = tokio::time::Instant::now();
                        }
                    }
                }
            }
        }
    }

    /// Takes this control plane off the list, so that nobody waits for it. The lease does it otherwise.
    pub async fn leave(&self, deadline: Duration) {
        let Some(me) = &self.me else { return };
        let mut registered = self.registered.lock().await;
        let Some(epoch) = registered.take() else { return };
        let key = key(me);
        let leave = self.registry.deregister(&key, epoch, "it stops", CLIENT);
        match tokio::time::timeout(deadline, leave).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.code == ErrorCode::NotFound => {}
            Ok(Err(error)) => tracing::info!(%error, "the others learn of our leave by our lease"),
            Err(_) => tracing::info!(?deadline, "the others learn of our leave by our lease"),
        }
    }

    /// Renews our lease, or registers where there is none.
    async fn renew(&self, me: &Me) -> Result<(), Error> {
        let mut registered = self.registered.lock().await;
        if let Some(epoch) = *registered {
            let beat = Beat { key: key(me), epoch, health: None, load: None };
            let outcome = self.registry.heartbeat(vec![beat]).await?.first().map(|result| result.outcome);
            match outcome {
                Some(BeatOutcome::Renewed) => return Ok(()),
                Some(BeatOutcome::Stale) => {
                    tracing::error!(
                        id = me.options.id,
                        "another control plane has the same id; give each its own with --replica-id"
                    );
                }
                _ => tracing::info!("our lease is gone, registering again"),
            }
            *registered = None;
        }
        let granted = self.registry.register(spec(me)?, me.options.ttl, CLIENT).await?;
        *registered = Some(granted.epoch);
        Ok(())
    }
}

fn key(me: &Me) -> InstanceKey {
    InstanceKey::new(reserved::control_planes(), &me.options.id).expect("the id was checked with the options")
}

fn spec(me: &Me) -> Result<InstanceSpec, Error> {
    let service = reserved::control_planes().to_wire();
    InstanceSpec::from_wire(&v1::InstanceSpec {
        namespace: service.namespace,
        service: service.name,
        id: me.options.id.clone(),
        address: me.address.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: v1::Protocol::Grpc.into(),
        prefix: Some(String::new()),
        ..Default::default()
    })
}
