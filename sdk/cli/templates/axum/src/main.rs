//! {{name}}: a service that registers itself with Waypost while it runs, and drains before it stops.

use anyhow::Context;
use axum::{Json, Router, extract::Path, routing::get};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use waypost_sdk::Service;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    // Port 0 takes a free one: callers find the service by its name.
    let listen = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(&listen)
        .await
        .with_context(|| format!("cannot listen at LISTEN={listen}"))?;
    tracing::info!(http = %listener.local_addr()?, "listening");

    let service = Service::new("{{name}}")
        .version(env!("CARGO_PKG_VERSION"))
        .health("/health");
    waypost_sdk::axum::serve(listener, app(), service).await?;
    Ok(())
}

fn app() -> Router {
    Router::new()
        .route("/hello/{name}", get(hello))
        .route("/health", get(|| async { "ok" }))
}

async fn hello(Path(name): Path<String>) -> Json<Value> {
    Json(json!({ "message": format!("hello, {name}") }))
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::{Request, StatusCode},
    };
    use tower::ServiceExt;

    use super::*;

    async fn get(path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = app().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn it_greets_by_name() {
        let (status, body) = get("/hello/ada").await;
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::OK, r#"{"message":"hello, ada"}"#)
        );
    }

    #[tokio::test]
    async fn it_is_healthy() {
        assert_eq!(get("/health").await.0, StatusCode::OK);
    }
}
