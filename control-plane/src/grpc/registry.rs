//! `waypost.v1.Registry`: how instances come, stay and go.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};
use waypost_proto::v1::{self, registry_server};

use crate::{calls, server::Plane};

/// The service.
pub(super) struct Registry(pub(super) Arc<Plane>);

#[tonic::async_trait]
impl registry_server::Registry for Registry {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let peer = request.remote_addr();
        Ok(Response::new(calls::register(&self.0, request.into_inner(), peer).await?))
    }

    type HeartbeatStream = Pin<Box<dyn Stream<Item = Result<v1::HeartbeatResponse, Status>> + Send>>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let plane = self.0.clone();
        // The next request is read when the answer to the last one is taken: no queue.
        let answers = stream::unfold(Some(request.into_inner()), move |inbound| {
            let plane = plane.clone();
            async move {
                let mut inbound = inbound?;
                let request = tokio::select! {
                    biased;
                    () = plane.closing() => {
                        let farewell = v1::HeartbeatResponse { results: Vec::new(), going_away: true };
                        return Some((Ok(farewell), None));
                    }
                    request = inbound.message() => request,
                };
                let answer = match request {
                    Ok(Some(request)) => calls::heartbeat(&plane, request).await.map_err(Status::from),
                    // The client is done, or gone.
                    Ok(None) | Err(_) => return None,
                };
                let inbound = answer.is_ok().then_some(inbound);
                Some((answer, inbound))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let peer = request.remote_addr();
        Ok(Response::new(calls::deregister(&self.0, request.into_inner(), peer).await?))
    }
}
