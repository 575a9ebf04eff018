//! The read side: parameters become a request of the contract, and its answer becomes JSON.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use waypost_proto::{error::Violation, v1};

use super::{problem::Refusal, query::Parameters};
use crate::{calls, server::Plane};

type Answer<T> = Result<Json<T>, Refusal>;

/// `/v1/services`
pub(super) async fn services(
    State(plane): State<Arc<Plane>>,
    query: Parameters,
) -> Answer<v1::ListServicesResponse> {
    let request = v1::ListServicesRequest { namespace: query.text("namespace") };
    Ok(Json(plane.registry.view().list_services(&request)?))
}

/// `/v1/services/{name}`
pub(super) async fn service(
    State(plane): State<Arc<Plane>>,
    name: Result<Path<String>, PathRejection>,
    query: Parameters,
) -> Answer<v1::GetServiceResponse> {
    let Path(name) = name.map_err(|rejection| {
        Violation::new("name", rejection.body_text(), "must be percent-encoded UTF-8")
    })?;
    let key = v1::ServiceKey { namespace: query.text("namespace"), name };
    Ok(Json(calls::get_service(&plane, &v1::GetServiceRequest { key: Some(key) }).await?))
}

/// `/v1/instances`
pub(super) async fn instances(
    State(plane): State<Arc<Plane>>,
    query: Parameters,
) -> Answer<v1::ListInstancesResponse> {
    let request = v1::ListInstancesRequest {
        namespace: query.text("namespace"),
        service: query.text("service"),
        version: query.text("version"),
        tags: query.all("tag").collect(),
        state: state(&query.text("state"))?.into(),
    };
    Ok(Json(calls::list_instances(&plane, &request).await?))
}

/// `/v1/resolve`
pub(super) async fn resolve(
    State(plane): State<Arc<Plane>>,
    query: Parameters,
) -> Answer<v1::ResolveResponse> {
    let request = v1::ResolveRequest {
        key: Some(v1::ServiceKey { namespace: query.text("namespace"), name: query.text("service") }),
        version: query.text("version"),
        tags: query.all("tag").collect(),
        zone: query.text("zone"),
    };
    Ok(Json(plane.registry.view().resolve(&request)?))
}

/// `/v1/routes`
pub(super) async fn routes(
    State(plane): State<Arc<Plane>>,
    query: Parameters,
) -> Answer<v1::ListRoutesResponse> {
    let request = v1::ListRoutesRequest { namespace: query.text("namespace") };
    Ok(Json(plane.registry.view().list_routes(&request)?))
}

/// `/v1/events`
pub(super) async fn events(
    State(plane): State<Arc<Plane>>,
    query: Parameters,
) -> Answer<v1::ListEventsResponse> {
    let since = query.text("since");
    let request = v1::ListEventsRequest {
        namespace: query.text("namespace"),
        service: query.text("service"),
        instance: query.text("instance"),
        after_revision: query.number("after_revision")?,
        since: if since.is_empty() { None } else { Some(timestamp(since)?) },
        limit: query.number("limit")?,
    };
    Ok(Json(plane.registry.view().list_events(&request)?))
}

/// `/v1/proxies`
pub(super) async fn proxies(State(plane): State<Arc<Plane>>) -> Answer<v1::ListProxiesResponse> {
    Ok(Json(plane.replicas.list_proxies().await))
}

/// `/v1/status`
pub(super) async fn status(State(plane): State<Arc<Plane>>) -> Answer<v1::GetStatusResponse> {
    Ok(Json(plane.replicas.status(plane.status()).await))
}

fn state(text: &str) -> Result<v1::InstanceState, Violation> {
    match text.to_ascii_lowercase().as_str() {
        "" => Ok(v1::InstanceState::Unspecified),
        "up" => Ok(v1::InstanceState::Up),
        "down" => Ok(v1::InstanceState::Down),
        "draining" => Ok(v1::InstanceState::Draining),
        "suspect" => Ok(v1::InstanceState::Suspect),
        _ => Err(Violation::new("state", text, "must be up, down, draining or suspect")),
    }
}

fn timestamp(text: String) -> Result<pbjson_types::Timestamp, Violation> {
    serde_json::from_value(serde_json::Value::String(text.clone())).map_err(|_| {
        Violation::new(
            "since",
            text,
            "must be a time as RFC 3339 has it, for example \"2026-11-21T08:00:00Z\"",
        )
    })
}
