//! A check by gRPC's health protocol (`grpc.health.v1`) on a connection of its own.

use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

pub(super) async fn check(address: &str, service: &str) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address} is not an address: {error}"))?;
    let channel = endpoint.connect().await.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        format!("{address} cannot be connected to: {cause}")
    })?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await;
    let status = answer.map_err(|status| format!("grpc.health.v1 answered {}", status.message()))?;
    match status.get_ref().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("grpc.health.v1 says {}", other.as_str_name())),
    }
}
