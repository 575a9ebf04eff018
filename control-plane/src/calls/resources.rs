//! What is declared: documents applied, listed, deleted, rolled back.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use pbjson_types::Duration as WireDuration;
use waypost_proto::{
    error::{Error, Violation},
    resource::ResourceKey,
    v1,
};

use super::checks::Checks;
use crate::{
    resources::{self, Change, Selection},
    server::Plane,
};

/// The most resources that one call deletes.
const MOST_KEYS: usize = 10_000;

/// Declares what documents say.
pub(crate) async fn apply(
    plane: &Arc<Plane>,
    request: v1::ApplyRequest,
    peer: Option<SocketAddr>,
) -> Result<v1::ApplyResponse, Error> {
    let v1::ApplyRequest { documents, dry_run, actor, wait, preview } = request;
    let change = Change { preview, ..change(dry_run, &actor, wait.as_ref(), peer)? };
    resources::apply(plane, &documents, change).await
}

/// What is declared, as far as it is selected.
pub(crate) async fn list_resources(
    plane: &Plane,
    request: v1::ListResourcesRequest,
) -> Result<v1::ListResourcesResponse, Error> {
    Ok(resources::list(plane, &Selection::from_wire(request)?).await)
}

/// Deletes all of these or none.
pub(crate) async fn delete_resources(
    plane: &Arc<Plane>,
    request: v1::DeleteResourcesRequest,
    peer: Option<SocketAddr>,
) -> Result<v1::DeleteResourcesResponse, Error> {
    let v1::DeleteResourcesRequest { keys, dry_run, actor, wait } = request;
    let change = change(dry_run, &actor, wait.as_ref(), peer)?;
    if keys.len() > MOST_KEYS {
        let rule = format!("must be at most {MOST_KEYS}; send the rest in another call");
        return Err(Violation::new("keys", format!("{} entries", keys.len()), rule).into());
    }
    let mut checks = Checks::default();
    let checked = keys.iter().enumerate().filter_map(|(at, wire)| {
        let key = ResourceKey::from_wire(Some(wire));
        checks.take(key.map_err(|violation| violation.under(&format!("keys[{at}]"))))
    });
    let keys: BTreeSet<ResourceKey> = checked.collect();
    checks.done()?;
    resources::delete(plane, keys, change).await
}

/// A resource's generations.
pub(crate) fn get_history(
    plane: &Plane,
    request: &v1::GetHistoryRequest,
) -> Result<v1::GetHistoryResponse, Error> {
    resources::history(&plane.registry.view(), &key(request.key.as_ref())?)
}

/// Declares a resource as it was.
pub(crate) async fn rollback(
    plane: &Arc<Plane>,
    request: v1::RollbackRequest,
    peer: Option<SocketAddr>,
) -> Result<v1::ApplyResponse, Error> {
    let v1::RollbackRequest { key: wire, generation, dry_run, actor, wait } = request;
    let change = change(dry_run, &actor, wait.as_ref(), peer)?;
    resources::rollback(plane, &key(wire.as_ref())?, generation, change).await
}

fn key(wire: Option<&v1::ResourceKey>) -> Result<ResourceKey, Error> {
    ResourceKey::from_wire(wire).map_err(|violation| violation.under("key").into())
}

fn change(
    dry_run: bool,
    actor: &str,
    wait: Option<&WireDuration>,
    peer: Option<SocketAddr>,
) -> Result<Change, Error> {
    let mut checks = Checks::default();
    let actor = checks.actor("actor", actor, peer);
    let wait = wait.and_then(|wait| checks.deadline("wait", Some(wait)));
    checks.done()?;
    Ok(Change { dry_run, actor, wait, preview: false })
}
