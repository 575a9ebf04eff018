//! Declared resources: documents come in as they lie in files, answers are the contract's messages.
//!
//! Deliberately absent: several bodies in one request. A text may have several documents.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{
        ConnectInfo, Path, State,
        rejection::{BytesRejection, PathRejection},
    },
};
use waypost_proto::{
    error::{Error, Violation},
    resource::{Kind, ResourceKey},
    time::wire_duration,
    v1,
};

use super::{body::Message, problem::Refusal, query::Parameters};
use crate::{
    calls::{self, checks::Checks},
    resources::{self, Change, Selection},
    server::Plane,
};

/// What documents in a body are called in messages.
const SOURCE: &str = "body";

type Answer<T> = Result<Json<T>, Refusal>;
type Peer = ConnectInfo<SocketAddr>;
type Named = Result<Path<(String, String, String)>, PathRejection>;

/// `GET /v1/resources`
pub(super) async fn all(
    State(plane): State<Arc<Plane>>,
    query: Parameters,
) -> Answer<v1::ListResourcesResponse> {
    listed(&plane, query.text("kind"), &query).await
}

/// `GET /v1/resources/{kind}`
pub(super) async fn of_kind(
    State(plane): State<Arc<Plane>>,
    kind: Result<Path<String>, PathRejection>,
    query: Parameters,
) -> Answer<v1::ListResourcesResponse> {
    let Path(kind) = kind.map_err(|rejection| not_text(&rejection))?;
    listed(&plane, kind, &query).await
}

/// `GET /v1/resources/{kind}/{namespace}/{name}`
pub(super) async fn one(State(plane): State<Arc<Plane>>, named: Named) -> Answer<v1::Resource> {
    Ok(Json(resources::get(&plane, &key(named)?).await?))
}

/// `PUT /v1/resources`, `POST /v1/resources`
pub(super) async fn apply(
    State(plane): State<Arc<Plane>>,
    ConnectInfo(peer): Peer,
    query: Parameters,
    body: Result<Bytes, BytesRejection>,
) -> Answer<v1::ApplyResponse> {
    let change = Change { preview: query.flag("preview")?, ..change(&query, peer)? };
    let text = text(body)?;
    let document = v1::Document { source: SOURCE.to_owned(), text };
    Ok(Json(resources::apply(&plane, &[document], change).await?))
}

/// `DELETE /v1/resources/{kind}/{namespace}/{name}`
pub(super) async fn delete(
    State(plane): State<Arc<Plane>>,
    ConnectInfo(peer): Peer,
    named: Named,
    query: Parameters,
) -> Answer<v1::DeleteResourcesResponse> {
    let change = change(&query, peer)?;
    Ok(Json(resources::delete(&plane, BTreeSet::from([key(named)?]), change).await?))
}

/// `POST /v1/resources/delete`
pub(super) async fn delete_all(
    State(plane): State<Arc<Plane>>,
    ConnectInfo(peer): Peer,
    Message(request): Message<v1::DeleteResourcesRequest>,
) -> Answer<v1::DeleteResourcesResponse> {
    Ok(Json(calls::delete_resources(&plane, request, Some(peer)).await?))
}

/// `GET /v1/resources/{kind}/{namespace}/{name}/history`
pub(super) async fn history(State(plane): State<Arc<Plane>>, named: Named) -> Answer<v1::GetHistoryResponse> {
    Ok(Json(resources::history(&plane.registry.view(), &key(named)?)?))
}

/// `POST /v1/resources/{kind}/{namespace}/{name}/rollback`
pub(super) async fn rollback(
    State(plane): State<Arc<Plane>>,
    ConnectInfo(peer): Peer,
    named: Named,
    query: Parameters,
) -> Answer<v1::ApplyResponse> {
    let change = change(&query, peer)?;
    let generation = query.number("generation")?;
    Ok(Json(resources::rollback(&plane, &key(named)?, generation, change).await?))
}

async fn listed(plane: &Plane, kind: String, query: &Parameters) -> Answer<v1::ListResourcesResponse> {
    let (namespace, name) = (query.text("namespace"), query.text("name"));
    let selection = Selection::from_wire(v1::ListResourcesRequest { kind, namespace, name })?;
    Ok(Json(resources::list(plane, &selection).await))
}

fn key(named: Named) -> Result<ResourceKey, Refusal> {
    let Path((kind, namespace, name)) = named.map_err(|rejection| not_text(&rejection))?;
    Ok(ResourceKey::new(kind.parse::<Kind>()?, &namespace, &name)?)
}

fn change(query: &Parameters, peer: SocketAddr) -> Result<Change, Refusal> {
    let mut checks = Checks::default();
    let dry_run = checks.take(query.flag("dry_run")).unwrap_or_default();
    let wait = checks.take(query.duration("wait")).flatten();
    let wait = wait.and_then(|wait| checks.deadline("wait", Some(&wire_duration(wait))));
    let actor = checks.actor("actor", &query.text("actor"), Some(peer));
    checks.done()?;
    Ok(Change { dry_run, actor, wait, preview: false })
}

fn text(body: Result<Bytes, BytesRejection>) -> Result<String, Refusal> {
    let body = body.map_err(|rejection| Refusal::unreadable(rejection.status(), rejection.body_text()))?;
    String::from_utf8(body.to_vec()).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let rule = format!("must be YAML or JSON in UTF-8; it is not from byte {valid} on");
        Error::from(Violation::new(SOURCE, "", rule)).into()
    })
}

fn not_text(rejection: &PathRejection) -> Violation {
    Violation::new("path", rejection.body_text(), "must be percent-encoded UTF-8")
}
