//! Tapper's registry, as its clients know it: `tyler-ag-tapper` on PyPI registers, beats and leaves here as it does at
//! its own. See `TAPPER.md`.
//!
//! What a client has sent is an instance like every other, named by its URL, so that those of one name stand side by
//! side. A beat names an instance and no epoch, so only instances that came this way are renewed or removed this way.
//!
//! Deliberately absent: calls to the services. A registration is all that is known of them.

mod registration;
mod remembered;
pub(super) mod schema;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{ConnectInfo, Path, State, rejection::PathRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use waypost_proto::{
    error::{Error, ErrorCode, Violation},
    name::{InstanceKey, ServiceKey},
    time::wire_duration,
    v1::{self, BeatOutcome, EventKind},
};

use self::registration::{Registration, Service};
pub(super) use self::remembered::Remembered;
use super::{body::Message, problem::Refusal};
use crate::{calls, server::Plane};

/// The lease. Clients do not say how often they beat: every 30 s unless they are told otherwise, so this is three beats.
const LEASE: Duration = Duration::from_secs(90);
/// How long an instance that leaves may drain; clients wait for 10 s.
const DRAIN: Duration = Duration::from_secs(5);
/// What these clients are called in the event history.
const CLIENT: &str = "tapper";

type Known = Extension<Arc<Remembered>>;
type Named = Result<Path<String>, PathRejection>;

/// Who beats.
#[derive(Debug, Deserialize)]
pub(super) struct Beat {
    instance_url: String,
}

/// Who leaves.
#[derive(Debug, Deserialize)]
pub(super) struct Leave {
    name: String,
    instance_url: String,
}

/// What a change is answered with.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
}

/// `POST /register`
pub(super) async fn register(
    State(plane): State<Arc<Plane>>,
    Extension(known): Known,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    registration: Result<Message<Registration>, Refusal>,
) -> Result<(StatusCode, Json<Done>), Refusal> {
    let Message(registration) = registration.map_err(refused)?;
    let name = registration.service.name.clone();
    let spec = registration.to_spec().map_err(refused)?;
    grant(&plane, &known, spec, peer).await.map_err(|error| refused(in_tappers_words(error)))?;
    Ok((StatusCode::CREATED, Json(Done { status: "registered", service: Some(name) })))
}

/// `POST /unregister`
pub(super) async fn unregister(
    State(plane): State<Arc<Plane>>,
    Extension(known): Known,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    leave: Result<Message<Leave>, Refusal>,
) -> Result<Json<Done>, Refusal> {
    let Message(leave) = leave.map_err(refused)?;
    let key = key(&leave.name, &leave.instance_url).map_err(refused)?;
    known.forget(&key);
    // Whoever is not there has left, and who came another way leaves another way.
    if ours(&plane, &key).is_some() {
        let request = v1::DeregisterRequest {
            key: Some(key.to_wire()),
            drain: true,
            drain_deadline: Some(wire_duration(DRAIN)),
            client: CLIENT.to_owned(),
            ..Default::default()
        };
        match calls::deregister(&plane, request, Some(peer)).await {
            Err(error) if error.code != ErrorCode::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(Json(Done { status: "unregistered", service: Some(leave.name) }))
}

/// `POST /heartbeat/{name}`
pub(super) async fn heartbeat(
    State(plane): State<Arc<Plane>>,
    Extension(known): Known,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    name: Named,
    beat: Result<Message<Beat>, Refusal>,
) -> Result<Json<Done>, Refusal> {
    let Message(beat) = beat.map_err(refused)?;
    let name = text(name)?;
    let key = key(&name, &beat.instance_url).map_err(refused)?;
    if !renewed(&plane, &known, &key).await? {
        // Its clients never register again, so one whose lease ran out is put back as it was.
        let back = known.get(&key).filter(|_| has_expired(&plane, &key));
        let Some(spec) = back else { return Err(unknown(&name, &beat.instance_url).into()) };
        tracing::info!(instance = %key, "its lease ran out, and it beats again: registered as it was");
        grant(&plane, &known, spec, peer).await?;
    }
    Ok(Json(Done { status: "ok", service: None }))
}

/// `GET /services`
pub(super) async fn services(State(plane): State<Arc<Plane>>) -> Result<Json<Vec<Service>>, Refusal> {
    Ok(Json(registration::services(instances(&plane, "")?)))
}

/// `GET /services/{name}`
pub(super) async fn service(State(plane): State<Arc<Plane>>, name: Named) -> Result<Json<Service>, Refusal> {
    let name = text(name)?;
    let found = registration::services(instances(&plane, &name).map_err(refused)?).pop();
    let missing = || Error::new(ErrorCode::NotFound, format!("Service not found: {name}"));
    Ok(Json(found.ok_or_else(missing)?))
}

/// `GET /health`
pub(super) async fn health(State(plane): State<Arc<Plane>>) -> Result<Json<Value>, Refusal> {
    super::ready(State(plane)).await?;
    Ok(Json(json!({ "status": "healthy" })))
}

async fn grant(
    plane: &Plane,
    known: &Remembered,
    spec: v1::InstanceSpec,
    peer: SocketAddr,
) -> Result<(), Error> {
    let request = v1::RegisterRequest {
        instance: Some(spec.clone()),
        ttl: Some(wire_duration(LEASE)),
        client: CLIENT.to_owned(),
    };
    let granted = calls::register(plane, request, Some(peer)).await?;
    known.keep(&InstanceKey::from_wire(granted.key.as_ref())?, spec);
    Ok(())
}

/// Whether the lease lives for its full length again.
async fn renewed(plane: &Plane, known: &Remembered, key: &InstanceKey) -> Result<bool, Error> {
    let Some(instance) = ours(plane, key) else { return Ok(false) };
    let beat = v1::Beat { key: instance.key, epoch: instance.epoch, ..Default::default() };
    let answer = calls::heartbeat(plane, v1::HeartbeatRequest { beats: vec![beat] }).await?;
    let renewed = answer.results.iter().all(|result| result.outcome() == BeatOutcome::Renewed);
    if let Some(spec) = instance.spec.filter(|_| renewed) {
        known.keep(key, spec);
    }
    Ok(renewed)
}

/// An instance that came this way.
fn ours(plane: &Plane, key: &InstanceKey) -> Option<v1::Instance> {
    plane.registry.view().instance(key).filter(registration::is_tappers)
}

/// Whether the last thing that happened to an instance is that its lease ran out: one that has left stays gone.
fn has_expired(plane: &Plane, key: &InstanceKey) -> bool {
    let request = v1::ListEventsRequest {
        namespace: key.service().namespace().to_owned(),
        service: key.service().name().to_owned(),
        instance: key.id().to_owned(),
        limit: 1,
        ..Default::default()
    };
    let events = plane.registry.view().list_events(&request).map(|answer| answer.events).unwrap_or_default();
    events.first().is_some_and(|event| event.kind() == EventKind::Expired)
}

fn instances(plane: &Plane, service: &str) -> Result<Vec<v1::Instance>, Error> {
    let namespace = waypost_proto::name::DEFAULT_NAMESPACE.to_owned();
    let request = v1::ListInstancesRequest { namespace, service: service.to_owned(), ..Default::default() };
    Ok(plane.registry.view().list_instances(&request)?.instances)
}

fn key(name: &str, url: &str) -> Result<InstanceKey, Error> {
    let address = registration::address(url).map_err(|rule| Violation::new("instance_url", url, rule))?;
    let service =
        ServiceKey::new("", name).map_err(|violation| Violation { field: "name".to_owned(), ..violation })?;
    Ok(InstanceKey::new(service, &address)?)
}

fn text(name: Named) -> Result<String, Refusal> {
    let Path(name) = name.map_err(|rejection| {
        Violation::new("name", rejection.body_text(), "must be percent-encoded UTF-8")
    })?;
    Ok(name)
}

fn unknown(name: &str, url: &str) -> Error {
    let message = format!(
        "there is no instance {url} of service {name}, and how it was registered is not known here: start it again, so \
         that it registers; with --data-dir or a shared store the control plane remembers over a restart of its own"
    );
    Error::new(ErrorCode::NotFound, message)
}

/// The same fields as Tapper calls them.
fn in_tappers_words(mut error: Error) -> Error {
    if error.code != ErrorCode::InvalidArgument {
        return error;
    }
    for violation in &mut error.violations {
        let (ours, more) = violation.field.split_once('.').unwrap_or(("", &violation.field));
        let theirs = match (ours, more) {
            ("instance", "service") => "service.name",
            ("instance", "endpoints") => "service.routes",
            ("instance", "address" | "id") => "instance.url",
            ("instance", field) => &format!("service.{field}"),
            _ => continue,
        };
        violation.field = theirs.to_owned();
    }
    Error::invalid(error.violations)
}

/// Bad input is 422 in Tapper, and 400 everywhere else here.
fn refused(refusal: impl Into<Refusal>) -> Refusal {
    refusal.into().unprocessable()
}
