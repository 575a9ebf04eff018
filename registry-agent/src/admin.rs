//! The agent's admin port: `/healthz`, `/readyz`, `/metrics`, `/status`.
//!
//! It is for the machine that the agent runs on; it changes nothing, and binds to loopback unless told
//! otherwise.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::future::pending;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{RwLock, watch},
};

use crate::{member::MemberStatus, metrics::Metrics};

/// The services that the agent cares for now, by name.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<RwLock<BTreeMap<String, watch::Receiver<MemberStatus>>>>);

impl Roster {
    /// One more.
    pub async fn add(&self, name: String, status: watch::Receiver<MemberStatus>) {
        self.0.write().await.insert(name, status);
    }

    /// One less.
    pub async fn remove(&self, name: &str) {
        self.0.write().await.remove(name);
    }

    async fn statuses(&self) -> Vec<MemberStatus> {
        self.0.read().await.values().map(|status| status.borrow().clone()).collect()
    }
}

/// Where the admin port listens, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// Nowhere.
    Off,
    /// Here; port 0 picks a free port.
    At(SocketAddr),
}

impl std::str::FromStr for AdminListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| format!("{text:?} must be IP:PORT or none")),
        }
    }
}

/// Binds the admin port, says where, and serves it from a task of its own.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(listen: AdminListen, roster: Roster, metrics: Metrics) -> std::io::Result<()> {
    let AdminListen::At(address) = listen else {
        tracing::info!(admin = %"none", "listening");
        return Ok(());
    };
    let listener = TcpListener::bind(address).await?;
    tracing::info!(admin = %listener.local_addr()?, "listening");
    let router = router(roster, metrics);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(pending()).await {
            tracing::error!(%error, "the admin port has failed");
        }
    });
    Ok(())
}

fn router(roster: Roster, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .with_state(roster)
        .route("/metrics", get(|| async move { rendered(&metrics) }))
}

/// 200 if every service is registered, otherwise 503 with those that are not.
async fn ready(State(roster): State<Roster>) -> Response {
    let mut missing = roster.statuses().await;
    missing.retain(|status| !status.is_registered() || status.leaving);
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "not_registered": missing }))).into_response()
}

async fn status(State(roster): State<Roster>) -> Response {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({ "version": version, "services": roster.statuses().await })).into_response()
}

fn rendered(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
}
