//! `waypost.v1.Operations`: how operators see and steer what runs.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use waypost_proto::{
    error::Violation,
    v1::{self, InstanceState, operations_server},
};

use super::{checks::Checks, registry::begin_drain};
use crate::server::Plane;

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
        let request = request.into_inner();
        let mut checks = Checks::default();
        let key = checks.key(request.key.as_ref());
        let deadline = checks.deadline("deadline", request.deadline.as_ref());
        checks.reason(&request.reason);
        let actor = checks.client(&request.client, peer);
        if request.cancel && request.wait {
            let rule = "must not be set together with cancel: there is nothing to wait for";
            checks.take::<()>(Err(Violation::new("wait", true, rule)));
        }
        let (key, deadline) = checks.finish(key.zip(deadline))?;
        if request.cancel {
            let revision = self.0.registry.set_draining(&key, 0, false, &request.reason, &actor).await?;
            return Ok(Response::new(v1::DrainResponse { revision, drain: None }));
        }
        let (barrier, _) = begin_drain(&self.0, &key, 0, &request.reason, &actor).await?;
        let mut drain = None;
        if request.wait {
            drain = tokio::select! {
                outcome = self.0.replicas.wait_drained(&barrier, deadline) => Some(outcome),
                () = self.0.closing() => return Err(self.0.going_away().into()),
            };
        }
        Ok(Response::new(v1::DrainResponse { revision: barrier.revision, drain }))
    }

    async fn r#override(
        &self,
        request: Request<v1::OverrideRequest>,
    ) -> Result<Response<v1::OverrideResponse>, Status> {
        let peer = request.remote_addr();
        let request = request.into_inner();
        let mut checks = Checks::default();
        let key = checks.key(request.key.as_ref());
        let ttl = checks.override_ttl(request.ttl.as_ref());
        checks.reason(&request.reason);
        let actor = checks.client(&request.client, peer);
        let state = checks.take(match InstanceState::try_from(request.state) {
            Ok(InstanceState::Unspecified) => Ok(None),
            Ok(state @ (InstanceState::Up | InstanceState::Down)) => Ok(Some(state)),
            Ok(other) => Err(not_a_word(other.as_str_name())),
            Err(_) => Err(not_a_word(&request.state.to_string())),
        });
        let (key, (ttl, state)) = checks.finish(key.zip(ttl.zip(state)))?;
        let word = state.map(|state| (state, ttl, request.reason));
        let (instance, revision) = self.0.registry.set_override(&key, word, &actor).await?;
        Ok(Response::new(v1::OverrideResponse { instance: Some(instance), revision }))
    }

    async fn wait_applied(
        &self,
        request: Request<v1::WaitAppliedRequest>,
    ) -> Result<Response<v1::WaitAppliedResponse>, Status> {
        let request = request.into_inner();
        let mut checks = Checks::default();
        let deadline = checks.deadline("deadline", request.deadline.as_ref());
        let view = self.0.registry.view();
        let newest = view.revision();
        if request.revision > newest {
            let rule = format!("must be at most the newest revision, which is {newest}; 0 stands for it");
            checks.take::<()>(Err(Violation::new("revision", request.revision, rule)));
        }
        let deadline = checks.finish(deadline)?;
        let revision = if request.revision == 0 { newest } else { request.revision };
        let everywhere = tokio::select! {
            everywhere = self.0.replicas.wait_applied(revision, deadline) => everywhere?,
            () = self.0.closing() => return Err(self.0.going_away().into()),
        };
        Ok(Response::new(v1::WaitAppliedResponse {
            revision,
            watermark: everywhere.watermark.max(revision),
            proxies: u32::try_from(everywhere.proxies).unwrap_or(u32::MAX),
        }))
    }
}

fn not_a_word(value: &str) -> Violation {
    Violation::new("state", value, "must be UP or DOWN, or unspecified to end the override")
}
