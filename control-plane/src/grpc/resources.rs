//! `waypost.v1.Resources`: what people declare.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use pbjson_types::Duration as WireDuration;
use tonic::{Request, Response, Status};
use waypost_proto::{
    error::{Error, Violation},
    resource::ResourceKey,
    v1::{self, resources_server},
};

use super::checks::Checks;
use crate::{
    resources::{self, Change, Selection},
    server::Plane,
};

/// The most resources that one call deletes.
const MOST_KEYS: usize = 10_000;

/// The service.
pub(super) struct Resources(pub(super) Arc<Plane>);

#[tonic::async_trait]
impl resources_server::Resources for Resources {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let peer = request.remote_addr();
        let v1::ApplyRequest { documents, dry_run, actor, wait, preview } = request.into_inner();
        let change = Change { preview, ..change(dry_run, &actor, wait.as_ref(), peer)? };
        Ok(Response::new(resources::apply(&self.0, &documents, change).await?))
    }

    async fn list_resources(
        &self,
        request: Request<v1::ListResourcesRequest>,
    ) -> Result<Response<v1::ListResourcesResponse>, Status> {
        let selection = Selection::from_wire(request.into_inner()).map_err(Error::from)?;
        Ok(Response::new(resources::list(&self.0, &selection).await))
    }

    async fn delete_resources(
        &self,
        request: Request<v1::DeleteResourcesRequest>,
    ) -> Result<Response<v1::DeleteResourcesResponse>, Status> {
        let peer = request.remote_addr();
        let v1::DeleteResourcesRequest { keys, dry_run, actor, wait } = request.into_inner();
        let change = change(dry_run, &actor, wait.as_ref(), peer)?;
        if keys.len() > MOST_KEYS {
            let rule = format!("must be at most {MOST_KEYS}; send the rest in another call");
            return Err(Error::from(Violation::new("keys", format!("{} entries", keys.len()), rule)).into());
        }
        let mut checks = Checks::default();
        let checked = keys.iter().enumerate().filter_map(|(at, wire)| {
            let key = ResourceKey::from_wire(Some(wire));
            checks.take(key.map_err(|violation| violation.under(&format!("keys[{at}]"))))
        });
        let keys: BTreeSet<ResourceKey> = checked.collect();
        checks.done()?;
        Ok(Response::new(resources::delete(&self.0, keys, change).await?))
    }

    async fn get_history(
        &self,
        request: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<v1::GetHistoryResponse>, Status> {
        let key = key(request.get_ref().key.as_ref())?;
        Ok(Response::new(resources::history(&self.0.registry.view(), &key)?))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let peer = request.remote_addr();
        let v1::RollbackRequest { key: wire, generation, dry_run, actor, wait } = request.into_inner();
        let change = change(dry_run, &actor, wait.as_ref(), peer)?;
        Ok(Response::new(resources::rollback(&self.0, &key(wire.as_ref())?, generation, change).await?))
    }
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
