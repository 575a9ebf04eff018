//! `waypost.v1.Replicas`: what other control planes over the same store ask this one. Every answer is about the
//! proxies that hang on this one alone.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use waypost_proto::{
    error::{Error, Violation},
    name::InstanceKey,
    time::{self, wire_duration},
    v1::{self, replicas_server},
};

use crate::{
    calls::checks::Checks,
    hub::{Barrier, LATELY},
    registry::InQuestion,
    replicas::MOST_AT_ONCE,
    server::Plane,
};

/// The service.
pub(super) struct Replicas(pub(super) Arc<Plane>);

#[tonic::async_trait]
impl replicas_server::Replicas for Replicas {
    async fn wait_drained(
        &self,
        request: Request<v1::WaitReplicaDrainedRequest>,
    ) -> Result<Response<v1::WaitReplicaDrainedResponse>, Status> {
        let request = request.into_inner();
        let mut checks = Checks::default();
        let key = checks.key(request.key.as_ref());
        let deadline = checks.deadline("deadline", request.deadline.as_ref());
        let (key, deadline) = checks.finish(key.zip(deadline))?;
        let plane = &self.0;
        let began = Instant::now();
        let wait = async {
            if !plane.registry.reach(request.revision, deadline).await {
                let seen = plane.registry.view().revision();
                return v1::DrainOutcome {
                    complete: false,
                    took: Some(wire_duration(began.elapsed())),
                    in_flight: 0,
                    waiting_for: vec![format!("(it has seen revision {seen} only)")],
                };
            }
            // Later revisions than our head change nothing for our proxies, so the head stands for them.
            let revision = request.revision.min(plane.registry.view().head());
            let barrier = Barrier { key, epoch: request.epoch, revision };
            plane.hub.wait_drained(&barrier, deadline.saturating_sub(began.elapsed())).await
        };
        let outcome = tokio::select! {
            outcome = wait => outcome,
            () = plane.closing() => return Err(plane.going_away().into()),
        };
        Ok(Response::new(v1::WaitReplicaDrainedResponse { outcome: Some(outcome) }))
    }

    async fn wait_applied(
        &self,
        request: Request<v1::WaitReplicaAppliedRequest>,
    ) -> Result<Response<v1::WaitReplicaAppliedResponse>, Status> {
        let request = request.into_inner();
        let mut checks = Checks::default();
        let deadline = checks.deadline("deadline", request.deadline.as_ref());
        let deadline = checks.finish(deadline)?;
        let plane = &self.0;
        let began = Instant::now();
        let wait = async {
            let reached = plane.registry.reach(request.revision, deadline).await;
            let view = plane.registry.view();
            let mut answer =
                v1::WaitReplicaAppliedResponse { revision: view.revision(), ..Default::default() };
            if !reached {
                return answer;
            }
            let revision = request.revision.min(view.head());
            match plane.hub.wait_applied(revision, deadline.saturating_sub(began.elapsed())).await {
                Ok(everywhere) => {
                    answer.complete = true;
                    answer.watermark = everywhere.watermark;
                    answer.proxies = u32::try_from(everywhere.proxies).unwrap_or(u32::MAX);
                }
                Err(behind) => {
                    answer.behind = behind.proxies.iter().map(ToString::to_string).collect();
                    answer.watermark = behind.watermark;
                    answer.proxies = u32::try_from(behind.live).unwrap_or(u32::MAX);
                    answer.revision = behind.newest;
                }
            }
            answer
        };
        tokio::select! {
            answer = wait => Ok(Response::new(answer)),
            () = plane.closing() => Err(plane.going_away().into()),
        }
    }

    async fn list_proxies(
        &self,
        _request: Request<v1::ListReplicaProxiesRequest>,
    ) -> Result<Response<v1::ListReplicaProxiesResponse>, Status> {
        Ok(Response::new(v1::ListReplicaProxiesResponse { proxies: self.0.hub.proxies() }))
    }

    async fn get_sightings(
        &self,
        request: Request<v1::GetReplicaSightingsRequest>,
    ) -> Result<Response<v1::GetReplicaSightingsResponse>, Status> {
        let instances = request.into_inner().instances;
        if instances.len() > MOST_AT_ONCE {
            let (value, rule) =
                (format!("{} entries", instances.len()), format!("must be at most {MOST_AT_ONCE}"));
            return Err(Error::from(Violation::new("instances", value, rule)).into());
        }
        let asked = instances.into_iter().map(|one| {
            let within = one.within.as_ref().map_or(Some(LATELY), time::duration).unwrap_or(LATELY);
            let key = InstanceKey::from_wire(one.key.as_ref());
            Ok(InQuestion {
                key: key.map_err(|violation| violation.under("instances.key"))?,
                epoch: one.epoch,
                within,
            })
        });
        let asked = asked.collect::<Result<Vec<_>, Violation>>().map_err(Error::from)?;
        Ok(Response::new(v1::GetReplicaSightingsResponse { sightings: self.0.hub.sightings(&asked) }))
    }

    async fn get_status(
        &self,
        _request: Request<v1::GetReplicaStatusRequest>,
    ) -> Result<Response<v1::GetReplicaStatusResponse>, Status> {
        let status = self.0.status();
        let lost = self.0.registry.lost();
        Ok(Response::new(v1::GetReplicaStatusResponse {
            id: self.0.replicas.id().to_owned(),
            revision: status.revision,
            watermark: status.watermark,
            proxies: status.proxies,
            store_lost_since: lost.as_ref().map(|lost| time::timestamp(lost.since)),
            store_lost_reason: lost.map(|lost| lost.reason).unwrap_or_default(),
        }))
    }
}
