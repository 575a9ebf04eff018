//! Watches over HTTP: one JSON object on each line, as long as the client reads.
//!
//! An empty line says that there is nothing to say, so that both ends notice when the other is gone. The body ends with
//! the control plane, or where the watch cannot go on; whoever watches asks again then, and gets everything anew.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use waypost_proto::{
    error::{Error, ErrorCode},
    v1,
};

use super::{problem::Refusal, query::Parameters};
use crate::{calls::Watcher, server::Plane};

/// How often something is said.
const PACE: Duration = Duration::from_secs(10);

/// `GET /v1/watch`
pub(super) async fn watch(State(plane): State<Arc<Plane>>, query: Parameters) -> Result<Response, Refusal> {
    let request = v1::WatchRequest { namespace: query.text("namespace"), service: query.text("service") };
    let watcher = Watcher::begin(&plane, request)?;
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = match tokio::time::timeout(PACE, watcher.next()).await {
            Ok(step) => step.and_then(|step| line(&step)),
            Err(_) => Ok(Bytes::from_static(b"\n")),
        };
        match line {
            Ok(line) => Some((Ok::<_, Error>(line), watcher)),
            Err(error) => {
                tracing::debug!(%error, "a watch ends");
                None
            }
        }
    });
    let fields = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((fields, Body::from_stream(lines)).into_response())
}

fn line(step: &v1::WatchResponse) -> Result<Bytes, Error> {
    let mut line = serde_json::to_vec(step).map_err(|error| {
        Error::new(ErrorCode::Internal, format!("a step cannot be written: {error}; this is a defect"))
    })?;
    line.push(b'\n');
    Ok(line.into())
}
