//! What proxies would get by a change that is not made.
//!
//! Deliberately absent: certificates. They hold private keys, which leave the control plane on the way to proxies only;
//! who takes a request does not depend on them.

use std::sync::Arc;

use waypost_proto::{
    error::{Error, ErrorCode},
    instance::Endpoint,
    name::{InstanceKey, ServiceKey},
    snapshot::Change,
    v1::{DeclaredEntry, Preview, Removals, declared_entry::Kind},
};

use crate::{
    registry::View,
    store::{Declare, Resource},
};

/// What declaring comes to for proxies.
///
/// # Errors
/// The control plane is about to stop.
pub(super) async fn of(view: Arc<View>, declares: Vec<Declare>) -> Result<Preview, Error> {
    // All that is declared is compiled, which others need not wait for.
    let compiling = tokio::task::spawn_blocking(move || {
        let resources: Vec<Arc<Resource>> =
            declares.into_iter().map(|declare| Arc::new(declare.resource)).collect();
        to_wire(view.head(), view.preview(&resources))
    });
    compiling.await.map_err(|_| Error::new(ErrorCode::Unavailable, "the control plane is about to stop"))
}

fn to_wire(revision: u64, change: Change) -> Preview {
    let is_certificate = |entry: &DeclaredEntry| matches!(entry.kind, Some(Kind::Certificate(_)));
    let (withheld, declared): (Vec<_>, Vec<_>) = change.declared.into_iter().partition(is_certificate);
    let removals = Removals {
        services: change.removed_services.iter().map(ServiceKey::to_wire).collect(),
        instances: change.removed_instances.iter().map(InstanceKey::to_wire).collect(),
        routes: change.removed_routes.iter().map(ToString::to_string).collect(),
        declared: change.removed_declared.iter().map(ToString::to_string).collect(),
    };
    Preview {
        revision,
        declared,
        services: change.services.iter().map(ServiceKey::to_wire).collect(),
        instances: change.instances.iter().map(Endpoint::to_wire).collect(),
        removals: Some(removals),
        withheld: withheld.into_iter().map(|entry| entry.id).collect(),
    }
}
