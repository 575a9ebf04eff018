//! The HTTP surface: all that programs and people ask of a control plane over gRPC, as JSON; health and metrics.
//!
//! Bodies are the contract's messages in proto3's JSON mapping with the field names of the `.proto` files;
//! errors are problem details (RFC 9457). What a call does is in `calls`; here is what HTTP says of it.
//!
//! Deliberately absent: what proxies, other control planes and stores say to this one, which needs gRPC's streams.

mod body;
mod origin;
mod problem;
mod query;
mod read;
mod resources;
mod watch;
mod write;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
    serve::ListenerExt,
};
use serde_json::json;
use tokio::net::TcpListener;
use waypost_proto::error::{Error, ErrorCode};

use self::problem::Refusal;
use crate::server::Plane;

/// Room for many documents.
const LARGEST_BODY: usize = 16 * 1024 * 1024;

/// Serves HTTP on a listener until the control plane stops.
pub async fn serve(plane: Arc<Plane>, listener: TcpListener) {
    let listener = listener.tap_io(|stream| {
        // Without it answers are a little later, no worse.
        let _ = stream.set_nodelay(true);
    });
    let closing = plane.clone();
    let service = router(plane).into_make_service_with_connect_info::<SocketAddr>();
    let served =
        axum::serve(listener, service).with_graceful_shutdown(async move { closing.closing().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "HTTP is served no more");
    }
}

fn router(plane: Arc<Plane>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/services", get(read::services))
        .route("/v1/services/{name}", get(read::service))
        .route("/v1/instances", get(read::instances).post(write::register))
        .route("/v1/instances/{namespace}/{service}/{instance}", delete(write::deregister))
        .route("/v1/instances/{namespace}/{service}/{instance}/drain", post(write::drain))
        .route("/v1/instances/{namespace}/{service}/{instance}/override", post(write::set_override))
        .route("/v1/heartbeats", post(write::heartbeat))
        .route("/v1/resolve", get(read::resolve))
        .route("/v1/watch", get(watch::watch))
        .route("/v1/applied", get(write::wait_applied))
        .route("/v1/routes", get(read::routes))
        .route("/v1/events", get(read::events))
        .route("/v1/proxies", get(read::proxies))
        .route("/v1/status", get(read::status))
        .route("/v1/resources", get(resources::all).put(resources::apply).post(resources::apply))
        .route("/v1/resources/delete", post(resources::delete_all))
        .route("/v1/resources/{kind}", get(resources::of_kind))
        .route("/v1/resources/{kind}/{namespace}/{name}", get(resources::one).delete(resources::delete))
        .route("/v1/resources/{kind}/{namespace}/{name}/history", get(resources::history))
        .route("/v1/resources/{kind}/{namespace}/{name}/rollback", post(resources::rollback))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn(origin::protect))
        .layer(middleware::from_fn_with_state(plane.clone(), observe))
        .with_state(plane)
}

async fn index() -> Response {
    let body = json!({
        "program": "waypost-control-plane",
        "version": env!("CARGO_PKG_VERSION"),
        "paths": {
            "/healthz": "200 while the process runs",
            "/readyz": "200 while it takes requests and has its store; 503 says since when it has not, and why",
            "/metrics": "metrics in Prometheus' text format",
            "/v1/services": "services; namespace",
            "/v1/services/{name}": "one service with its instances; namespace",
            "/v1/instances": "instances; namespace, service, version, tag (repeatable), state. POST registers one",
            "/v1/instances/{namespace}/{service}/{instance}": "DELETE removes it; epoch, drain, drain_deadline, reason, client",
            "/v1/instances/{namespace}/{service}/{instance}/drain": "POST takes it out of rotation, or puts it back",
            "/v1/instances/{namespace}/{service}/{instance}/override": "POST overrides its state for a time",
            "/v1/heartbeats": "POST renews leases",
            "/v1/resolve": "the instances of a service that take traffic; service, namespace, version, tag (repeatable), zone",
            "/v1/watch": "instances, then each change, a line of JSON each; service, namespace",
            "/v1/applied": "waits until every live proxy has applied a revision; revision, deadline",
            "/v1/routes": "routes with claims and conflicts; namespace",
            "/v1/events": "who came or left, when and why; namespace, service, instance, after_revision, since, limit",
            "/v1/proxies": "proxies and what each serves by",
            "/v1/status": "the control plane at a glance",
            "/v1/resources": "declared resources; kind, namespace, name. PUT declares what the body says, YAML or JSON; dryRun, preview, wait, actor",
            "/v1/resources/delete": "POST removes several, all or none",
            "/v1/resources/{kind}": "those of a kind; namespace, name",
            "/v1/resources/{kind}/{namespace}/{name}": "one resource with its status. DELETE removes it; dryRun, wait, actor",
            "/v1/resources/{kind}/{namespace}/{name}/history": "its generations",
            "/v1/resources/{kind}/{namespace}/{name}/rollback": "POST declares it as it was; generation, dryRun, wait, actor",
        },
    });
    Json(body).into_response()
}

/// Whether to be preferred over others: a control plane without its store still serves what it knows, and its
/// streams stay open, but it can take no registration and no beat.
async fn ready(State(plane): State<Arc<Plane>>) -> Result<&'static str, Refusal> {
    if plane.is_closing() {
        return Err(plane.going_away().into());
    }
    let Some(lost) = plane.registry.lost() else { return Ok("ok\n") };
    let since = humantime::format_rfc3339_seconds(lost.since);
    let message = format!(
        "the store is away since {since}: {}; registrations and beats fail, what is known is still served",
        lost.reason
    );
    Err(Error::new(ErrorCode::Unavailable, message).into())
}

async fn metrics(State(plane): State<Arc<Plane>>) -> Result<Response, Refusal> {
    plane.metrics.observe(&plane.status(), &plane.registry.view());
    let text = plane.metrics.render().map_err(|error| {
        Error::new(ErrorCode::Internal, format!("the metrics cannot be written: {error}; this is a defect"))
    })?;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((StatusCode::OK, kind, text).into_response())
}

/// Measures a request; of an unknown path only that there was one.
async fn observe(State(plane): State<Arc<Plane>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let answer = next.run(request).await;
    let route = route.as_ref().map_or("_OTHER", MatchedPath::as_str);
    let method = match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
        _ => "_OTHER",
    };
    plane.metrics.answered(method, route, answer.status().as_str(), began.elapsed());
    answer
}
