//! An axum service: registered while it answers, drained on SIGTERM or Ctrl-C.
//!
//!     cargo run -p waypost-sdk --features axum --example serve -- 127.0.0.1:9001
//!     curl http://127.0.0.1:8080/hello/you
//!     curl 'http://127.0.0.1:8080/hello/slow?ms=5000'     # in flight while it drains

use std::{error::Error, time::Duration};

use axum::{
    Router,
    extract::{Path, Query},
    routing::get,
};
use serde::Deserialize;
use tokio::net::TcpListener;
use waypost_sdk::{
    Service,
    launch::{self, LaunchArgs, LogFormat},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    launch::logging(&LaunchArgs { config: None, log: "info".to_owned(), log_format: LogFormat::Text });
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let app = Router::new()
        .route("/{name}", get(|Path(name): Path<String>| async move { format!("hello, {name}\n") }))
        .route("/slow", get(slow))
        .route("/healthz", get(|| async { "well" }));

    let listener = TcpListener::bind(&address).await?;
    tracing::info!(http = %listener.local_addr()?, "listening");
    let service = Service::new("hello").version("1.0.0").description("Says hello").health("/healthz");
    waypost_sdk::axum::serve(listener, app, service).await?;
    Ok(())
}

#[derive(Deserialize)]
struct Slow {
    ms: u64,
}

async fn slow(Query(slow): Query<Slow>) -> &'static str {
    tokio::time::sleep(Duration::from_millis(slow.ms)).await;
    "at last\n"
}
