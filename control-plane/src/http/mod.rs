//! The HTTP surface: all that programs and people ask of a control plane over gRPC, as JSON; health and metrics.
//!
//! Bodies are the contract's messages in proto3's JSON mapping with the field names of the `.proto` files;
//! errors are problem details (RFC 9457). What a call does is in `calls`; here is what HTTP says of it.
//!
//! Deliberately absent: what proxies, other control planes and stores say to this one, which needs gRPC's streams.

mod body;
mod openapi;
mod operation;
mod origin;
mod problem;
mod query;
mod read;
mod resources;
mod table;
mod tapper;
mod watch;
mod write;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use serde_json::json;
use tokio::net::TcpListener;
use waypost_proto::error::{Error, ErrorCode};

use self::{operation::Operation, problem::Refusal, table::OPERATIONS};
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
    operation::router(OPERATIONS)
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn(origin::protect))
        .layer(Extension(Arc::<tapper::Remembered>::default()))
        .layer(middleware::from_fn_with_state(plane.clone(), observe))
        .with_state(plane)
}

async fn index() -> Response {
    let described = |operation: &Operation| {
        let names: Vec<&str> = operation.query.iter().map(|parameter| parameter.name).collect();
        let query =
            if names.is_empty() { String::new() } else { format!(" Parameters: {}.", names.join(", ")) };
        format!("{} {}{query}", operation.method, operation.summary)
    };
    let mut paths: BTreeMap<&str, String> = BTreeMap::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_default();
        *path = [path.as_str(), &described(operation)].join(if path.is_empty() { "" } else { " " });
    }
    let program = json!({
        "program": "waypost-control-plane",
        "version": env!("CARGO_PKG_VERSION"),
        "documentation": "/openapi.json",
        "paths": paths,
    });
    Json(program).into_response()
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
