//! `waypost.v1.Discovery`: the read side. Answers come from the registry's view of one revision.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};
use waypost_proto::v1::{self, discovery_server};

use crate::{
    calls::{self, Watcher},
    server::Plane,
};

/// The service.
pub(super) struct Discovery(pub(super) Arc<Plane>);

#[tonic::async_trait]
impl discovery_server::Discovery for Discovery {
    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        Ok(Response::new(self.0.registry.view().list_services(request.get_ref())?))
    }

    async fn get_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::GetServiceResponse>, Status> {
        Ok(Response::new(calls::get_service(&self.0, request.get_ref()).await?))
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        Ok(Response::new(calls::list_instances(&self.0, request.get_ref()).await?))
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Result<Response<v1::ListRoutesResponse>, Status> {
        Ok(Response::new(self.0.registry.view().list_routes(request.get_ref())?))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watcher = Watcher::begin(&self.0, request.into_inner())?;
        let steps = stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(step) => Some((Ok(step), Some(watcher))),
                Err(error) => Some((Err(Status::from(error)), None)),
            }
        });
        Ok(Response::new(Box::pin(steps)))
    }

    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        Ok(Response::new(self.0.registry.view().resolve(request.get_ref())?))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        Ok(Response::new(self.0.registry.view().list_events(request.get_ref())?))
    }
}
