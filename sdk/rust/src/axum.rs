//! An axum router as a service, in one line.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use waypost_sdk::Service;
//!
//! # async fn program() -> Result<(), Box<dyn std::error::Error>> {
//! let app = Router::new().route("/hello", get(|| async { "hello" }));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:9001").await?;
//! waypost_sdk::axum::serve(listener, app, Service::new("users").version("1.2.0")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything that happens around the router is [`Service::run`]'s. Deliberately absent: the router's routes, which
//! axum does not list; say what is to be reachable without the prefix with [`Service::endpoints`].

use std::{future::Future, io, net::SocketAddr};

use ::axum::{
    Router,
    serve::{ListenerExt as _, serve as serve_router},
};
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;

use crate::{
    in_flight::InFlight,
    service::{ServeError, Service, Stopped},
};

/// Serves the router as an instance of the service until SIGTERM or Ctrl-C: it registers when it accepts, says how many
/// requests are under way, and drains before it stops. A second signal ends it without waiting any longer.
///
/// Handlers can ask for `ConnectInfo<SocketAddr>`.
///
/// # Errors
/// The registration is refused, another process takes its place, or the listener fails.
pub async fn serve(listener: TcpListener, app: Router, mut service: Service) -> Result<(), ServeError> {
    let local = listener.local_addr()?;
    let server = server(listener, app, service.counter());
    service.run(local, server).await
}

/// The same, until `stop` is ready instead of a signal.
///
/// # Errors
/// As [`serve`].
pub async fn serve_until(
    listener: TcpListener,
    app: Router,
    mut service: Service,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let local = listener.local_addr()?;
    let server = server(listener, app, service.counter());
    service.run_until(local, server, stop).await
}

fn server(
    listener: TcpListener,
    app: Router,
    in_flight: InFlight,
) -> impl FnOnce(Stopped) -> BoxFuture<'static, io::Result<()>> {
    let app = app.layer(in_flight).into_make_service_with_connect_info::<SocketAddr>();
    let listener = listener.tap_io(|stream| {
        // Only speed is lost where the system refuses.
        let _ = stream.set_nodelay(true);
    });
    |stopped| Box::pin(async move { serve_router(listener, app).with_graceful_shutdown(stopped).await })
}
