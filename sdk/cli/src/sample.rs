//! `waypost sample`: the services of `waypost dev --demo`, as an example of what any service does.
//!
//!     listen ──▶ register ──▶ serve ──▶ SIGTERM ──▶ drain (proxies stop sending) ──▶ finish ──▶ end
//!
//! `greeter` answers JSON at once; `clock` streams the time in a few chunks. Deliberately absent: sleeps
//! around the drain; the barrier makes them needless.

use std::{
    convert::Infallible,
    io,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waypost_sdk::{Client, Registration, launch};

use crate::{
    api,
    args::{Global, SampleArgs, SampleService},
    failure::{Exit, Failure},
};

/// How many chunks `clock` sends, and how long apart.
pub(crate) const TICKS: u32 = 3;
const TICK: Duration = Duration::from_millis(20);
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);
const FINISH_DEADLINE: Duration = Duration::from_secs(5);
const REGISTER_TIMEOUT: Duration = Duration::from_secs(15);

type Body = BoxBody<Bytes, Infallible>;

/// What an instance answers with.
#[derive(Debug)]
struct Identity {
    service: SampleService,
    instance: String,
    version: String,
}

/// Serves until SIGTERM, and drains.
///
/// # Errors
/// No port can be had, or the registration is refused.
pub(crate) async fn run(global: &Global, args: SampleArgs) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| no_port(&error))?;
    let address = listener.local_addr().map_err(|error| no_port(&error))?;
    let registration = Registration::new(args.service.name(), address.to_string())
        .namespace(api::namespace(global))
        .id(&args.id)
        .version(&args.version)
        .ttl(args.ttl)
        .description(description(args.service))
        .register_timeout(REGISTER_TIMEOUT);
    let registration = match args.service {
        SampleService::Greeter => registration.endpoint("GET /hello/{name}"),
        SampleService::Clock => registration,
    };
    let identity = Identity { service: args.service, instance: args.id.clone(), version: args.version };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, Arc::new(identity), stop.clone()));

    let client =
        Client::builder().control_planes(&global.control_plane).client_name(format!("sample/{}", args.id));
    let registered = client.build()?.register(registration).await?;
    // Said only now, so that whoever waits for it finds the instance registered.
    tracing::info!(traffic = %address, instance = %args.id, "listening");
    let signal = launch::shutdown().await?;
    tracing::info!(signal, "draining");
    let outcome = registered.drain(DRAIN_DEADLINE).await;
    tracing::info!(%outcome, "drained");
    stop.cancel();
    serving.await.map_err(|error| Failure::new(Exit::Failed, format!("{} has failed: {error}", args.id)))
}

fn no_port(error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("no port of {} can be listened on: {error}", Ipv4Addr::LOCALHOST))
}

fn description(service: SampleService) -> &'static str {
    match service {
        SampleService::Greeter => "Says who answered, a sample",
        SampleService::Clock => "Streams the time, a sample",
    }
}

async fn serve(listener: TcpListener, identity: Arc<Identity>, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file handles: others have to be closed first.
            tokio::time::sleep(TICK).await;
            continue;
        };
        let identity = identity.clone();
        let service = service_fn(move |request| {
            let answer = answer(&identity, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection failed");
            }
        });
    }
    if tokio::time::timeout(FINISH_DEADLINE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still in flight at the end");
    }
}

fn answer(identity: &Identity, request: &Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    tracing::debug!(path, "request");
    match identity.service {
        SampleService::Greeter => {
            let body = json!({
                "service": identity.service.name(),
                "instance": identity.instance,
                "version": identity.version,
                "path": path,
            });
            respond("application/json", Full::new(line(&body)).boxed())
        }
        SampleService::Clock => respond("application/x-ndjson", ticks(identity)),
    }
}

fn respond(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn ticks(identity: &Identity) -> Body {
    let (instance, version) = (identity.instance.clone(), identity.version.clone());
    let chunks = stream::unfold((1, instance, version), |(tick, instance, version)| async move {
        if tick > TICKS {
            return None;
        }
        if tick > 1 {
            tokio::time::sleep(TICK).await;
        }
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let body = json!({
            "service": SampleService::Clock.name(),
            "instance": instance,
            "version": version,
            "tick": tick,
            "time": time,
        });
        Some((Ok(Frame::data(line(&body))), (tick + 1, instance, version)))
    });
    StreamBody::new(chunks).boxed()
}

fn line(value: &serde_json::Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}
