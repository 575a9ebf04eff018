//! `waypost.v1.Operations`: how operators see and steer what runs.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use waypost_proto::v1::{self, operations_server};

use crate::{calls, server::Plane};

/// The service.
pub(super) struct Operations(pub(super) Arc<Plane>);

#[tonic::async_trait]
impl operations_server::Operations for Operations {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(self.0.replicas.status(self.0.status()).await))
    }

    async fn list_proxies(
        &self,
        _request: Request<v1::ListProxiesRequest>,
    ) -> Result<Response<v1::ListProxiesResponse>, Status> {
        Ok(Response::new(self.0.replicas.list_proxies().await))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let peer = request.remote_addr();
        Ok(Response::new(calls::drain(&self.0, request.into_inner(), peer).await?))
    }

    async fn r#override(
        &self,
        request: Request<v1::OverrideRequest>,
    ) -> Result<Response<v1::OverrideResponse>, Status> {
        let peer = request.remote_addr();
        Ok(Response::new(calls::set_override(&self.0, request.into_inner(), peer).await?))
    }

    async fn wait_applied(
        &self,
        request: Request<v1::WaitAppliedRequest>,
    ) -> Result<Response<v1::WaitAppliedResponse>, Status> {
        Ok(Response::new(calls::wait_applied(&self.0, request.into_inner()).await?))
    }
}
