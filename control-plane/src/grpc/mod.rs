//! The gRPC surface: one file for each service of the contract, health and reflection.
//!
//! What a call does is in `calls`; here is what gRPC says of it. Every failure leaves as an
//! [`Error`](waypost_proto::error::Error) turned into a status, nothing else does.
//!
//! Deliberately absent: TLS and tokens.

mod discovery;
mod observe;
mod operations;
mod registry;
mod replicas;
mod resources;
mod snapshots;

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use waypost_proto::v1::{
    discovery_server::DiscoveryServer, encoded::snapshots_server::SnapshotsServer,
    operations_server::OperationsServer, registry_server::RegistryServer, replicas_server::ReplicasServer,
    resources_server::ResourcesServer,
};

use self::{
    discovery::Discovery, observe::ObserveLayer, operations::Operations, registry::Registry,
    replicas::Replicas, resources::Resources, snapshots::Snapshots,
};
use crate::server::Plane;

/// The services whose health is reported; the empty name stands for all.
pub const SERVICES: [&str; 7] = [
    "",
    "waypost.v1.Registry",
    "waypost.v1.Discovery",
    "waypost.v1.Snapshots",
    "waypost.v1.Operations",
    "waypost.v1.Replicas",
    "waypost.v1.Resources",
];
/// Those that cannot do their work while the store is away; the others go on from what is known.
pub const NEED_THE_STORE: [&str; 3] = ["", "waypost.v1.Registry", "waypost.v1.Resources"];

/// Room for 10,000 beats with the longest names, and for many documents.
const LARGEST_REQUEST: usize = 16 * 1024 * 1024;
/// A connection that is silent for this long is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long it has to answer.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves gRPC on a listener until the control plane stops.
pub async fn serve(plane: Arc<Plane>, listener: TcpListener, health: HealthReporter) {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .http2_adaptive_window(Some(true))
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .layer(ObserveLayer::new(plane.metrics.clone()))
        .add_routes(routes(&plane, health));
    let served = server.serve_with_incoming_shutdown(incoming, async move { plane.closing().await }).await;
    if let Err(error) = served {
        tracing::error!(%error, "gRPC is served no more");
    }
}

fn routes(plane: &Arc<Plane>, health: HealthReporter) -> Routes {
    let health = HealthServer::new(HealthService::from_health_reporter(health));
    let mut routes = Routes::new(health)
        .add_service(RegistryServer::new(Registry(plane.clone())).max_decoding_message_size(LARGEST_REQUEST))
        .add_service(
            ResourcesServer::new(Resources(plane.clone())).max_decoding_message_size(LARGEST_REQUEST),
        )
        .add_service(DiscoveryServer::new(Discovery(plane.clone())))
        .add_service(SnapshotsServer::new(Snapshots(plane.clone())))
        .add_service(OperationsServer::new(Operations(plane.clone())))
        .add_service(ReplicasServer::new(Replicas(plane.clone())));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(waypost_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Clients in the field ask for one version of reflection or the other.
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes = routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "there is no reflection"),
    }
    routes
}
