//! `waypost.v1.Resources`: what people declare.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use waypost_proto::v1::{self, resources_server};

use crate::{calls, server::Plane};

/// The service.
pub(super) struct Resources(pub(super) Arc<Plane>);

#[tonic::async_trait]
impl resources_server::Resources for Resources {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let peer = request.remote_addr();
        Ok(Response::new(calls::apply(&self.0, request.into_inner(), peer).await?))
    }

    async fn list_resources(
        &self,
        request: Request<v1::ListResourcesRequest>,
    ) -> Result<Response<v1::ListResourcesResponse>, Status> {
        Ok(Response::new(calls::list_resources(&self.0, request.into_inner()).await?))
    }

    async fn delete_resources(
        &self,
        request: Request<v1::DeleteResourcesRequest>,
    ) -> Result<Response<v1::DeleteResourcesResponse>, Status> {
        let peer = request.remote_addr();
        Ok(Response::new(calls::delete_resources(&self.0, request.into_inner(), peer).await?))
    }

    async fn get_history(
        &self,
        request: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<v1::GetHistoryResponse>, Status> {
        Ok(Response::new(calls::get_history(&self.0, request.get_ref())?))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let peer = request.remote_addr();
        Ok(Response::new(calls::rollback(&self.0, request.into_inner(), peer).await?))
    }
}
