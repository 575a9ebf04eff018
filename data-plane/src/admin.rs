//! The admin port: is it alive, is it ready, what does it count, what does it serve by.
//!
//! | path | answer |
//! | --- | --- |
//! | `/healthz` | 200 while the process runs |
//! | `/readyz` | 200 with a table, else 503 and why |
//! | `/metrics` | Prometheus' text format |
//! | `/table` | the table as it is applied, as JSON; `?service=NAME` or `NAMESPACE/NAME` for one service |
//! | `/explain` | why a request would go where it goes, as JSON: `?url=http://HOST/PATH`, `&method=`, `&header=NAME:VALUE`, `&port=`; by an older table: `&revision=`; with `POST`, as if a preview were applied |
//! | `/listeners` | the ports that listeners ask for, and what is wrong with them, as JSON |
//! | `/status` | the subscription and the older revisions that `/explain` knows, as JSON |
//!
//! Deliberately absent: anything that changes the proxy. It is steered through the control plane.

mod explain;
mod views;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::{
        Method, StatusCode, Uri,
        header::{ALLOW, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use waypost_proto::{
    error::{Error, ErrorCode},
    name::ServiceKey,
};

use self::{
    explain::LARGEST_PREVIEW,
    views::{ListenersBody, StatusBody, TableBody},
};
use crate::{
    answer::Answer, health::Census, metrics::Metrics, serve::Listening, subscription::Status,
    table::SharedTable,
};

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The proxy's id.
    pub proxy_id: Arc<str>,
    /// What is served by.
    pub table: SharedTable,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The subscription.
    pub status: Arc<Status>,
    /// The ports that the table asks for.
    pub listening: Listening,
    /// Cancelled when the proxy begins to shut down: it is not ready any more.
    pub shutting_down: CancellationToken,
}

/// Binds the admin port. Port 0 picks a free one.
///
/// # Errors
/// The address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Admin {
    /// Answers until `stop`.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        axum::serve(listener, self.router()).with_graceful_shutdown(stop.cancelled_owned()).await
    }

    fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/table", get(table))
            .route(
                "/explain",
                get(explain::get).post(explain::post).layer(DefaultBodyLimit::max(LARGEST_PREVIEW)),
            )
            .route("/status", get(status))
            .route("/listeners", get(listeners))
            .fallback(async |uri: Uri| {
                let known = "/healthz, /readyz, /metrics, /table, /explain, /listeners and /status";
                problem(&Error::new(
                    ErrorCode::NotFound,
                    format!("there is no {}; there are {known}", uri.path()),
                ))
            })
            .method_not_allowed_fallback(async |method: Method, uri: Uri| {
                let detail = format!("{method} does nothing at {}; GET reads it", uri.path());
                let allow = if uri.path() == "/explain" { "GET, HEAD, POST" } else { "GET, HEAD" };
                let manner = [(ALLOW, allow), (CONTENT_TYPE, "application/problem+json")];
                let body = Answer::method_not_allowed(detail, &[]).body();
                (StatusCode::METHOD_NOT_ALLOWED, manner, body)
            })
            .with_state(self)
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    if admin.shutting_down.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response();
    }
    match admin.table.load() {
        Some(_) => "ready\n".into_response(),
        None => {
            let error = admin.status.view().last_error.map(|(_, error)| format!(" ({error})"));
            let text = format!("no table yet: waiting for a control plane{}\n", error.unwrap_or_default());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    // Many services take a while to look at.
    let text = tokio::task::spawn_blocking(move || measured(&admin)).await;
    match text {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(_) => problem(&Error::new(ErrorCode::Internal, "the metrics cannot be shown")),
    }
}

fn measured(admin: &Admin) -> String {
    let Some(table) = admin.table.load() else { return admin.metrics.render() };
    let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let control = &admin.metrics.control;
    control.revision.set(i64::try_from(table.position().revision).unwrap_or(i64::MAX));
    control.services.set(gauge(table.services().count()));
    control.instances.set(gauge(table.services().map(|service| service.members().len()).sum()));
    control.routes.set(gauge(table.routes().count()));
    let census = Census::of(&table);
    control.endpoints_ejected.set(gauge(census.ejected));
    control.endpoints_ill.set(gauge(census.ill));
    control.services_panicking.set(gauge(census.panicking));
    control.breakers_open.set(gauge(census.breakers_open));
    admin.metrics.render_with(&table)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableQuery {
    service: Option<String>,
}

async fn table(
    State(admin): State<Admin>,
    query: Result<Query<TableQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(error) => {
            let message = format!("{error}; the one parameter is service=NAME or service=NAMESPACE/NAME");
            return problem(&Error::new(ErrorCode::InvalidArgument, message));
        }
    };
    let wanted = match query.service.as_deref().map(str::parse::<ServiceKey>).transpose() {
        Ok(wanted) => wanted,
        Err(violation) => return problem(&violation.into()),
    };
    let Some(table) = admin.table.load() else {
        return problem(&Error::new(ErrorCode::Unavailable, "there is no table yet; /readyz says why"));
    };
    if let Some(key) = wanted.as_ref().filter(|key| table.service(key).is_none()) {
        let message = format!("there is no service {key} in the table; /table lists all");
        return problem(&Error::new(ErrorCode::NotFound, message));
    }
    // A large table takes a while to write down.
    let written = tokio::task::spawn_blocking(move || {
        let body = TableBody::of(&table, wanted.as_ref());
        ([(CONTENT_TYPE, "application/json")], serde_json::to_vec(&body).unwrap_or_default()).into_response()
    });
    written.await.unwrap_or_else(|_| problem(&Error::new(ErrorCode::Internal, "the table cannot be shown")))
}

async fn status(State(admin): State<Admin>) -> Json<StatusBody> {
    let settled = admin.table.load().map(|table| table.settled());
    let load = admin.metrics.load();
    Json(StatusBody::of(&admin.proxy_id, &admin.status.view(), settled, admin.table.kept(), load))
}

async fn listeners(State(admin): State<Admin>) -> Json<ListenersBody> {
    let table = admin.table.load();
    Json(ListenersBody::of(&admin.listening, table.as_ref().map(|table| table.edge())))
}

fn problem(error: &Error) -> Response {
    let problem = error.problem();
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    (error.code.http(), [(CONTENT_TYPE, "application/problem+json")], body).into_response()
}

#[cfg(test)]
mod tests;
