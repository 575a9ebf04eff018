//! The write side: paths, parameters and bodies become a request of the contract, and its answer becomes JSON.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, Path, State, rejection::PathRejection},
    http::StatusCode,
};
use waypost_proto::{
    error::{Error, Violation},
    time::wire_duration,
    v1,
};

use super::{body::Message, problem::Refusal, query::Parameters};
use crate::{
    calls::{self, checks::Checks},
    server::Plane,
};

type Answer<T> = Result<Json<T>, Refusal>;
type Peer = ConnectInfo<SocketAddr>;
type Named = Result<Path<(String, String, String)>, PathRejection>;

/// `POST /v1/instances`
pub(super) async fn register(
    State(plane): State<Arc<Plane>>,
    ConnectInfo(peer): Peer,
    Message(request): Message<v1::RegisterRequest>,
) -> Result<(StatusCode, Json<v1::RegisterResponse>), Refusal> {
    Ok((StatusCode::CREATED, Json(calls::register(&plane, request, Some(peer)).await?)))
}

/// `POST /v1/heartbeats`
pub(super) async fn heartbeat(
    State(plane): State<Arc<Plane>>,
    Message(request): Message<v1::HeartbeatRequest>,
) -> Answer<v1::HeartbeatResponse> {
    let mut answer = calls::heartbeat(&plane, request).await?;
    answer.going_away = plane.is_closing();
    Ok(Json(answer))
}

/// `DELETE /v1/instances/{namespace}/{service}/{instance}`
pub(super) async fn deregister(
    State(plane): State<Arc<Plane>>,
    ConnectInfo(peer): Peer,
    named: Named,
    query: Parameters,
) -> Answer<v1::DeregisterResponse> {
    let mut checks = Checks::default();
    let epoch = checks.take(query.number("epoch")).unwrap_or_default();
    let drain = checks.take(query.flag("drain")).unwrap_or_default();
    let drain_deadline = checks.take(query.duration("drain_deadline")).flatten().map(wire_duration);
    checks.done()?;
    let request = v1::DeregisterRequest {
        key: Some(key(named)?),
        epoch,
        drain,
        drain_deadline,
        reason: query.text("reason"),
        client: query.text("client"),
    };
    Ok(Json(calls::deregister(&plane, request, Some(peer)).await?))
}

/// `POST /v1/instances/{namespace}/{service}/{instance}/drain`
pub(super) async fn drain(
    State(plane): State<Arc<Plane>>,
    ConnectInfo(peer): Peer,
    named: Named,
    Message(mut request): Message<v1::DrainRequest>,
) -> Answer<v1::DrainResponse> {
    name(&mut request.key, named)?;
    Ok(Json(calls::drain(&plane, request, Some(peer)).await?))
}

/// `POST /v1/instances/{namespace}/{service}/{instance}/override`
pub(super) async fn set_override(
    State(plane): State<Arc<Plane>>,
    ConnectInfo(peer): Peer,
    named: Named,
    Message(mut request): Message<v1::OverrideRequest>,
) -> Answer<v1::OverrideResponse> {
    name(&mut request.key, named)?;
    Ok(Json(calls::set_override(&plane, request, Some(peer)).await?))
}

/// `GET /v1/applied`
pub(super) async fn wait_applied(
    State(plane): State<Arc<Plane>>,
    query: Parameters,
) -> Answer<v1::WaitAppliedResponse> {
    let deadline = query.duration("deadline")?.map(wire_duration);
    let request = v1::WaitAppliedRequest { revision: query.number("revision")?, deadline };
    Ok(Json(calls::wait_applied(&plane, request).await?))
}

/// The instance that a path names, where the body names none.
fn name(body: &mut Option<v1::InstanceKey>, named: Named) -> Result<(), Refusal> {
    if body.is_some() {
        return Err(Violation::new("key", "", "must not be given: the path names the instance").into());
    }
    *body = Some(key(named)?);
    Ok(())
}

fn key(named: Named) -> Result<v1::InstanceKey, Error> {
    let Path((namespace, service, id)) = named.map_err(|rejection| {
        Violation::new("path", rejection.body_text(), "must be percent-encoded UTF-8")
    })?;
    Ok(v1::InstanceKey { namespace, service, id })
}
