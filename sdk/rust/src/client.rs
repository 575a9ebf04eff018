//! The client: connects lazily, registers, reads, steers.
//!
//! Answers are the contract's own messages, because they carry the revision that they stand for and have
//! a JSON form. Calls move on to the next control plane when one does not answer; see
//! [`crate::Error`] for what a caller gets when none does.

mod resources;

use std::{future::Future, sync::Arc, time::Duration};

use tonic::{Response, Status, transport::Channel};
use waypost_proto::{
    name::ServiceKey,
    time,
    v1::{
        self, discovery_client::DiscoveryClient, operations_client::OperationsClient,
        registry_client::RegistryClient,
    },
};

use crate::{
    backoff::Backoff,
    control_planes::{ControlPlanes, MAX_ANSWER},
    error::Error,
    keeper::{Grant, Keeper},
    registered::Registered,
    registration::Registration,
    resolver::ResolverBuilder,
    watch::{self, WatchStream},
};

/// What a drain waits for where no deadline is given, as the contract has it.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
const REGISTER_TIMEOUT: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one or more control planes. A clone shares the connection and the heartbeat stream.
#[derive(Clone, Debug)]
pub struct Client {
    planes: Arc<ControlPlanes>,
    keeper: Arc<Keeper>,
    name: Arc<str>,
    register_timeout: Duration,
}

/// Says how a [`Client`] is to behave.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    control_planes: Vec<String>,
    name: Option<String>,
    call_timeout: Duration,
    register_timeout: Duration,
}

impl ClientBuilder {
    /// One more control plane, as `host:port` or `http://host:port`, or several, separated by commas. Where
    /// none is given, it is `http://127.0.0.1:7400`.
    #[must_use]
    pub fn control_plane(mut self, address: impl Into<String>) -> Self {
        self.control_planes.push(address.into());
        self
    }

    /// More control planes.
    #[must_use]
    pub fn control_planes(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.control_planes.extend(addresses.into_iter().map(Into::into));
        self
    }

    /// What the client calls itself in the event history; the program's name and process id unless given.
    #[must_use]
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long one control plane may take to answer a call that waits for nothing; 5 s unless given.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long [`Client::register`] waits for a control plane that is not there yet; 30 s unless given.
    #[must_use]
    pub fn register_timeout(mut self, timeout: Duration) -> Self {
        self.register_timeout = timeout;
        self
    }

    /// The client. Nothing is connected yet.
    ///
    /// # Errors
    /// An address breaks its rule.
    pub fn build(mut self) -> Result<Client, Error> {
        if self.control_planes.is_empty() {
            self.control_planes.push(waypost_proto::DEFAULT_GRPC_LISTEN.to_owned());
        }
        let planes = ControlPlanes::new(&self.control_planes, self.call_timeout, fastrand::u64(..))?;
        let planes = Arc::new(planes);
        let name: Arc<str> = Arc::from(self.name.unwrap_or_else(program_name));
        let keeper = Arc::new(Keeper::new(planes.clone(), name.clone()));
        Ok(Client { planes, keeper, name, register_timeout: self.register_timeout })
    }
}

impl Client {
    /// Says how the client is to behave.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            control_planes: Vec::new(),
            name: None,
            call_timeout: CALL_TIMEOUT,
            register_timeout: REGISTER_TIMEOUT,
        }
    }

    /// A client of these control planes, with defaults for everything else. Nothing is connected yet.
    ///
    /// # Errors
    /// An address breaks its rule.
    pub fn connect(control_planes: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, Error> {
        Self::builder().control_planes(control_planes).build()
    }

    /// What the client calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The contract's own client for the registry, on the connection that is in use now. Must be called
    /// within a tokio runtime.
    pub fn registry(&self) -> RegistryClient<Channel> {
        registry(self.planes.pick().channel)
    }

    /// The contract's own client for discovery, on the connection that is in use now. Must be called
    /// within a tokio runtime.
    pub fn discovery(&self) -> DiscoveryClient<Channel> {
        discovery(self.planes.pick().channel)
    }

    /// The contract's own client for operations, on the connection that is in use now. Must be called
    /// within a tokio runtime.
    pub fn operations(&self) -> OperationsClient<Channel> {
        operations(self.planes.pick().channel)
    }

    /// Registers an instance and keeps it registered, from a task of its own, until the returned handle is
    /// drained or dropped. Where no control plane is there yet, it waits for one.
    ///
    /// # Errors
    /// A field breaks a rule (at once), or no control plane took the registration in time.
    pub async fn register(&self, registration: Registration) -> Result<Registered, Error> {
        registration.check()?;
        let request = registration.to_request(&self.name);
        let patience = registration.timeout().unwrap_or(self.register_timeout);
        let until = tokio::time::Instant::now() + patience;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), fastrand::u64(..));
        let response = loop {
            let error = match self.send_register(&request).await {
                Ok(response) => break response,
                Err(error) => error,
            };
            let wait = backoff.after_failure(Duration::MAX);
            if !error.is_retryable() || tokio::time::Instant::now() + wait >= until {
                return Err(error);
            }
            tracing::debug!(%error, ?wait, "registration failed, trying again");
            tokio::time::sleep(wait).await;
        };
        Registered::new(self.keeper.clone(), Grant::from_response(&response)?, request, response)
    }

    async fn send_register(&self, request: &v1::RegisterRequest) -> Result<v1::RegisterResponse, Error> {
        self.planes
            .call(self.planes.call_timeout, |channel| {
                let request = request.clone();
                async move { registry(channel).register(request).await }
            })
            .await
    }

    /// All services, sorted by name; those of one namespace, unless it is empty.
    ///
    /// # Errors
    /// No control plane answers.
    pub async fn services(&self, namespace: &str) -> Result<v1::ListServicesResponse, Error> {
        let request = v1::ListServicesRequest { namespace: namespace.to_owned() };
        self.discover(request, |mut client, request| async move { client.list_services(request).await }).await
    }

    /// One service with its instances.
    ///
    /// # Errors
    /// There is no such service, or no control plane answers.
    pub async fn service(&self, key: &ServiceKey) -> Result<v1::GetServiceResponse, Error> {
        let request = v1::GetServiceRequest { key: Some(key.to_wire()) };
        self.discover(request, |mut client, request| async move { client.get_service(request).await }).await
    }

    /// The instances that match, sorted by name.
    ///
    /// # Errors
    /// The filter breaks a rule, or no control plane answers.
    pub async fn instances(
        &self,
        filter: v1::ListInstancesRequest,
    ) -> Result<v1::ListInstancesResponse, Error> {
        self.discover(filter, |mut client, request| async move { client.list_instances(request).await }).await
    }

    /// All routes with their claims and conflicts; those to one namespace, unless it is empty.
    ///
    /// # Errors
    /// No control plane answers.
    pub async fn routes(&self, namespace: &str) -> Result<v1::ListRoutesResponse, Error> {
        let request = v1::ListRoutesRequest { namespace: namespace.to_owned() };
        self.discover(request, |mut client, request| async move { client.list_routes(request).await }).await
    }

    /// The event history: who registered or left, when and why.
    ///
    /// # Errors
    /// The filter breaks a rule, or no control plane answers.
    pub async fn events(&self, filter: v1::ListEventsRequest) -> Result<v1::ListEventsResponse, Error> {
        self.discover(filter, |mut client, request| async move { client.list_events(request).await }).await
    }

    /// The instances of a service that take traffic now. For many calls use [`Client::resolver`], which
    /// asks once and is told of changes.
    ///
    /// # Errors
    /// There is no such service, none of its instances matches or takes traffic, or no control plane answers.
    pub async fn resolve(&self, request: v1::ResolveRequest) -> Result<v1::ResolveResponse, Error> {
        self.discover(request, |mut client, request| async move { client.resolve(request).await }).await
    }

    /// Instances that match, then each change to them, for as long as the stream is read. It subscribes
    /// again by itself. Must be polled within a tokio runtime.
    pub fn watch(&self, filter: v1::WatchRequest) -> WatchStream {
        watch::stream(self.planes.clone(), filter)
    }

    /// A client-side balancer over the live instances of a service.
    pub fn resolver(&self, service: &ServiceKey) -> ResolverBuilder {
        ResolverBuilder::new(self.clone(), service.clone())
    }

    /// The control plane at a glance.
    ///
    /// # Errors
    /// No control plane answers.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, Error> {
        let request = v1::GetStatusRequest {};
        self.operate(None, request, |mut client, request| async move { client.get_status(request).await })
            .await
    }

    /// All proxies that are connected, and those that left lately.
    ///
    /// # Errors
    /// No control plane answers.
    pub async fn proxies(&self) -> Result<v1::ListProxiesResponse, Error> {
        let request = v1::ListProxiesRequest {};
        self.operate(None, request, |mut client, request| async move { client.list_proxies(request).await })
            .await
    }

    /// Removes an instance, after draining it if asked. This is for operators; a program that has
    /// registered uses [`Registered::drain`]. An empty `client` becomes this client's name.
    ///
    /// # Errors
    /// There is no such instance, its epoch is an older one, or no control plane answers.
    pub async fn deregister(
        &self,
        mut request: v1::DeregisterRequest,
    ) -> Result<v1::DeregisterResponse, Error> {
        self.sign(&mut request.client);
        let waits = request.drain.then(|| deadline(request.drain_deadline.as_ref()));
        let timeout = self.timeout(waits);
        self.planes
            .call(timeout, |channel| {
                let request = request.clone();
                async move { registry(channel).deregister(request).await }
            })
            .await
    }

    /// Takes an instance out of rotation without removing it, or puts it back. With `wait` the answer comes
    /// when nothing is in flight to it. An empty `client` becomes this client's name.
    ///
    /// # Errors
    /// There is no such instance, or no control plane answers.
    pub async fn drain(&self, mut request: v1::DrainRequest) -> Result<v1::DrainResponse, Error> {
        self.sign(&mut request.client);
        let waits = request.wait.then(|| deadline(request.deadline.as_ref()));
        self.operate(waits, request, |mut client, request| async move { client.drain(request).await }).await
    }

    /// Overrides an instance's state for a time, or ends an override. An empty `client` becomes this
    /// client's name.
    ///
    /// # Errors
    /// There is no such instance, a field breaks a rule, or no control plane answers.
    pub async fn override_state(
        &self,
        mut request: v1::OverrideRequest,
    ) -> Result<v1::OverrideResponse, Error> {
        self.sign(&mut request.client);
        self.operate(None, request, |mut client, request| async move { client.r#override(request).await })
            .await
    }

    /// Returns when every live proxy has applied a revision (0 means the newest).
    ///
    /// # Errors
    /// The deadline passed (the message names the proxies that lag), or no control plane answers.
    pub async fn wait_applied(
        &self,
        request: v1::WaitAppliedRequest,
    ) -> Result<v1::WaitAppliedResponse, Error> {
        let waits = Some(deadline(request.deadline.as_ref()));
        self.operate(waits, request, |mut client, request| async move { client.wait_applied(request).await })
            .await
    }

    async fn discover<Request, T, Answer>(
        &self,
        request: Request,
        call: impl Fn(DiscoveryClient<Channel>, Request) -> Answer,
    ) -> Result<T, Error>
    where
        Request: Clone,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let timeout = self.planes.call_timeout;
        // That no instance takes traffic is an answer, and the same everywhere.
        self.planes.ask(timeout, |channel| call(discovery(channel), request.clone())).await
    }

    async fn operate<Request, T, Answer>(
        &self,
        waits: Option<Duration>,
        request: Request,
        call: impl Fn(OperationsClient<Channel>, Request) -> Answer,
    ) -> Result<T, Error>
    where
        Request: Clone,
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let timeout = self.timeout(waits);
        self.planes.call(timeout, |channel| call(operations(channel), request.clone())).await
    }

    fn sign(&self, client: &mut String) {
        if client.is_empty() {
            *client = self.name.to_string();
        }
    }

    /// What the call itself may take, on top of what it waits for.
    fn timeout(&self, waits: Option<Duration>) -> Duration {
        self.planes.call_timeout.saturating_add(waits.unwrap_or_default())
    }
}

pub(crate) fn registry(channel: Channel) -> RegistryClient<Channel> {
    RegistryClient::new(channel).max_decoding_message_size(MAX_ANSWER)
}

pub(crate) fn discovery(channel: Channel) -> DiscoveryClient<Channel> {
    DiscoveryClient::new(channel).max_decoding_message_size(MAX_ANSWER)
}

fn operations(channel: Channel) -> OperationsClient<Channel> {
    OperationsClient::new(channel).max_decoding_message_size(MAX_ANSWER)
}

/// How long a call waits by its own words. What is malformed or over the limit is refused by the other side.
fn deadline(wire: Option<&pbjson_types::Duration>) -> Duration {
    wire.map_or(Some(DEFAULT_DEADLINE), time::duration).unwrap_or_default().min(Duration::from_secs(3600))
}

fn program_name() -> String {
    let program = std::env::current_exe().ok();
    let name =
        program.as_deref().and_then(|path| path.file_stem()).map(|name| name.to_string_lossy().into_owned());
    format!("{}/pid-{}", name.as_deref().unwrap_or("waypost-sdk"), std::process::id())
}
