//! The control plane's gRPC API, called without the SDK, so that a test can also say what no SDK would.

use std::{net::SocketAddr, time::Duration};

use tonic::{Status, transport::Channel};
use waypost_proto::{
    time::wire_duration,
    v1::{
        ApplyRequest, ApplyResponse, Beat, BeatOutcome, BeatResult, DeregisterRequest, DeregisterResponse,
        Document, Event, GetStatusRequest, GetStatusResponse, HealthReport, HeartbeatRequest, Instance,
        InstanceKey, InstanceSpec, ListEventsRequest, ListInstancesRequest, ListProxiesRequest, Proxy,
        RegisterRequest, RegisterResponse, discovery_client::DiscoveryClient,
        operations_client::OperationsClient, registry_client::RegistryClient,
        resources_client::ResourcesClient, snapshots_client::SnapshotsClient,
    },
};

/// Clients of one control plane. A clone shares the connection.
#[derive(Clone, Debug)]
pub struct Api {
    channel: Channel,
}

impl Api {
    /// Connects when first used, and again after the control plane has come back.
    ///
    /// # Panics
    /// Never: a socket address makes a URI.
    pub fn new(grpc: SocketAddr) -> Self {
        let endpoint = Channel::from_shared(format!("http://{grpc}")).expect("an address makes a URI");
        Self { channel: endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy() }
    }

    /// The Registry service.
    pub fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel.clone())
    }

    /// The Discovery service.
    pub fn discovery(&self) -> DiscoveryClient<Channel> {
        DiscoveryClient::new(self.channel.clone())
    }

    /// The Operations service.
    pub fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone())
    }

    /// The Snapshots service.
    pub fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    /// The Resources service.
    pub fn resources(&self) -> ResourcesClient<Channel> {
        ResourcesClient::new(self.channel.clone())
    }

    /// Declares what a YAML text says.
    ///
    /// # Errors
    /// The control plane's.
    pub async fn apply(&self, yaml: &str) -> Result<ApplyResponse, Status> {
        let document = Document { source: "test.yaml".to_owned(), text: yaml.to_owned() };
        let request = ApplyRequest { documents: vec![document], ..Default::default() };
        Ok(self.resources().apply(request).await?.into_inner())
    }

    /// Registers an instance, with no heartbeats after it.
    ///
    /// # Errors
    /// The control plane's.
    pub async fn register(&self, spec: &InstanceSpec, ttl: Duration) -> Result<RegisterResponse, Status> {
        let request = RegisterRequest {
            instance: Some(spec.clone()),
            ttl: Some(wire_duration(ttl)),
            client: "test".into(),
        };
        Ok(self.registry().register(request).await?.into_inner())
    }

    /// Sends beats over a stream of their own and gives the results.
    ///
    /// # Errors
    /// The control plane's.
    pub async fn beats(&self, beats: Vec<Beat>) -> Result<Vec<BeatResult>, Status> {
        let mut answers =
            self.registry().heartbeat(tokio_stream::once(HeartbeatRequest { beats })).await?.into_inner();
        let answer = answers.message().await?;
        Ok(answer.map(|answer| answer.results).unwrap_or_default())
    }

    /// Beats once for a healthy instance and gives the outcome.
    ///
    /// # Errors
    /// The control plane's.
    pub async fn beat(&self, key: &InstanceKey, epoch: u64) -> Result<BeatOutcome, Status> {
        let health = Some(HealthReport { healthy: true, reason: String::new() });
        let results = self.beats(vec![Beat { key: Some(key.clone()), epoch, health, load: None }]).await?;
        Ok(results.first().map_or(BeatOutcome::Unspecified, BeatResult::outcome))
    }

    /// Removes an instance; drains it first, where a deadline is given.
    ///
    /// # Errors
    /// The control plane's.
    pub async fn deregister(
        &self,
        key: &InstanceKey,
        epoch: u64,
        drain: Option<Duration>,
    ) -> Result<DeregisterResponse, Status> {
        let request = DeregisterRequest {
            key: Some(key.clone()),
            epoch,
            drain: drain.is_some(),
            drain_deadline: drain.map(wire_duration),
            reason: "a test asked".into(),
            client: "test".into(),
        };
        Ok(self.registry().deregister(request).await?.into_inner())
    }

    /// The control plane at a glance.
    ///
    /// # Errors
    /// The control plane's.
    pub async fn status(&self) -> Result<GetStatusResponse, Status> {
        Ok(self.operations().get_status(GetStatusRequest {}).await?.into_inner())
    }

    /// The proxies that the control plane knows.
    ///
    /// # Errors
    /// The control plane's.
    pub async fn proxies(&self) -> Result<Vec<Proxy>, Status> {
        Ok(self.operations().list_proxies(ListProxiesRequest {}).await?.into_inner().proxies)
    }

    /// The instances of a service in the default namespace.
    ///
    /// # Errors
    /// The control plane's.
    pub async fn instances(&self, service: &str) -> Result<Vec<Instance>, Status> {
        let request = ListInstancesRequest { service: service.into(), ..Default::default() };
        Ok(self.discovery().list_instances(request).await?.into_inner().instances)
    }

    /// The newest events of a service in the default namespace, oldest first.
    ///
    /// # Errors
    /// The control plane's.
    pub async fn events(&self, service: &str) -> Result<Vec<Event>, Status> {
        let request = ListEventsRequest { service: service.into(), limit: 10_000, ..Default::default() };
        Ok(self.discovery().list_events(request).await?.into_inner().events)
    }
}

/// What a minimal registration declares.
pub fn spec(service: &str, address: &(impl ToString + ?Sized)) -> InstanceSpec {
    InstanceSpec { service: service.into(), address: address.to_string(), ..Default::default() }
}
