//! A control plane on free ports of loopback, and a proxy that is nothing but its side of the stream.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;
use waypost_control_plane::{
    replicas,
    server::{self, Listeners, Options, Server},
    store,
};
use waypost_proto::{
    snapshot::Snapshot,
    v1::{
        self, discovery_client::DiscoveryClient, operations_client::OperationsClient,
        registry_client::RegistryClient, resources_client::ResourcesClient,
        snapshots_client::SnapshotsClient, subscribe_request, subscribe_response,
    },
};

/// Longer than anything takes, shorter than patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A control plane that runs.
pub(crate) struct Plane {
    pub(crate) server: Server,
    pub(crate) channel: Channel,
}

impl Plane {
    /// One that does not settle while a test runs, and waits for no proxy that is not there.
    pub(crate) async fn start() -> Self {
        let mut options = Options::default();
        options.registry.settle = Duration::from_secs(3600);
        options.hub.drain_grace = Duration::ZERO;
        Self::start_with(options).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        Self::start_over(Arc::new(store::Memory::new()), options).await
    }

    /// One of several over the same store, called `id`.
    pub(crate) async fn replica(store: &Arc<store::Memory>, id: &str) -> Self {
        Self::replica_with(store, id, Duration::from_millis(300)).await
    }

    /// The same, waiting so long for who has left.
    pub(crate) async fn replica_with(store: &Arc<store::Memory>, id: &str, drain_grace: Duration) -> Self {
        let mut options = Options::default();
        options.registry.settle = Duration::ZERO;
        options.hub.drain_grace = drain_grace;
        options.replicas = Some(replicas::Options {
            id: id.to_owned(),
            ttl: Duration::from_secs(10),
            drain_grace,
            ..Default::default()
        });
        Self::start_over(store.clone(), options).await
    }

    pub(crate) async fn start_over(store: Arc<dyn store::Store>, options: Options) -> Self {
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let listeners = Listeners::bind(loopback, loopback).await.expect("ports are free");
        let server = server::start(options, listeners, store).await.expect("it starts");
        let endpoint = Channel::from_shared(format!("http://{}", server.grpc)).expect("a URL");
        let channel = endpoint.connect().await.expect("it listens");
        Self { server, channel }
    }

    pub(crate) fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel.clone())
    }

    pub(crate) fn discovery(&self) -> DiscoveryClient<Channel> {
        DiscoveryClient::new(self.channel.clone())
    }

    pub(crate) fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone())
    }

    pub(crate) fn resources(&self) -> ResourcesClient<Channel> {
        ResourcesClient::new(self.channel.clone())
    }

    /// Declares what a text says.
    pub(crate) async fn apply(&self, text: &str) -> Result<v1::ApplyResponse, Status> {
        let document = v1::Document { source: "test.yaml".into(), text: text.into() };
        let request =
            v1::ApplyRequest { documents: vec![document], actor: "ada".into(), ..Default::default() };
        self.resources().apply(request).await.map(tonic::Response::into_inner)
    }

    /// Registers `service` at a port of loopback.
    pub(crate) async fn register(&self, service: &str, port: u16) -> v1::RegisterResponse {
        let request = v1::RegisterRequest {
            instance: Some(spec(service, port)),
            client: "test".into(),
            ..Default::default()
        };
        self.registry().register(request).await.expect("a good registration").into_inner()
    }

    pub(crate) async fn status(&self) -> v1::GetStatusResponse {
        self.operations().get_status(v1::GetStatusRequest {}).await.expect("it answers").into_inner()
    }

    pub(crate) async fn proxies(&self) -> Vec<v1::Proxy> {
        let request = v1::ListProxiesRequest {};
        self.operations().list_proxies(request).await.expect("it answers").into_inner().proxies
    }

    /// What GET answers: status, content type and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String, String) {
        self.http("GET", path).await
    }

    pub(crate) async fn http(&self, method: &str, path: &str) -> (u16, String, String) {
        self.send(method, path, "", "").await
    }

    /// The same with more header fields, each with its line's end, and a body.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        fields: &str,
        body: &str,
    ) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.server.http).await.expect("it listens");
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{length}{fields}\r\n");
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let header = |line: &str| line.strip_prefix("content-type: ").map(str::to_owned);
        (status, head.lines().find_map(header).unwrap_or_default(), body.to_owned())
    }
}

pub(crate) fn spec(service: &str, port: u16) -> v1::InstanceSpec {
    v1::InstanceSpec { service: service.into(), address: format!("127.0.0.1:{port}"), ..Default::default() }
}

pub(crate) fn service(name: &str) -> Option<v1::ServiceKey> {
    Some(v1::ServiceKey { namespace: String::new(), name: name.into() })
}

/// The fields that a status calls wrong, in order.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status.get_details_bad_request().expect("fields are named");
    details.field_violations.into_iter().map(|violation| violation.field).collect()
}

/// A proxy's side of a stream.
pub(crate) struct Proxy {
    pub(crate) requests: mpsc::Sender<v1::SubscribeRequest>,
    pub(crate) messages: Streaming<v1::SubscribeResponse>,
    pub(crate) held: Option<Snapshot>,
    pub(crate) chunks: usize,
    pub(crate) deltas: usize,
    /// Whether it may say what it sees of instances.
    pub(crate) may_tell: bool,
    parts: Vec<v1::SnapshotChunk>,
}

impl Proxy {
    pub(crate) async fn connect(plane: &Plane, id: &str, held: Option<Snapshot>) -> Self {
        let hello = v1::Hello {
            proxy_id: id.into(),
            position: held.as_ref().map(Snapshot::position),
            ..Default::default()
        };
        let mut proxy = Self::open(plane, subscribe_request::Kind::Hello(hello)).await;
        proxy.held = held;
        proxy
    }

    /// Opens a stream with any first message.
    pub(crate) async fn open(plane: &Plane, first: subscribe_request::Kind) -> Self {
        let (requests, sent) = mpsc::channel(8);
        let first = v1::SubscribeRequest { kind: Some(first) };
        requests.send(first).await.expect("there is room");
        let mut client = SnapshotsClient::new(plane.channel.clone());
        let answer = client.subscribe(ReceiverStream::new(sent)).await.expect("it answers");
        let may_tell = answer.metadata().contains_key("waypost-observed");
        let messages = answer.into_inner();
        Self { requests, messages, held: None, chunks: 0, deltas: 0, may_tell, parts: Vec::new() }
    }

    pub(crate) async fn say(&self, kind: subscribe_request::Kind) {
        self.requests.send(v1::SubscribeRequest { kind: Some(kind) }).await.expect("the stream is open");
    }

    /// The next message, applied; what ended the stream otherwise.
    pub(crate) async fn next(&mut self) -> Result<(), Option<Status>> {
        let message = tokio::time::timeout(PATIENCE, self.messages.message()).await.expect("something comes");
        match message.map_err(Some)?.ok_or(None)?.kind.expect("a kind") {
            subscribe_response::Kind::Delta(delta) => {
                let held = self.held.as_ref().expect("a delta comes to those who hold something");
                self.held = Some(held.apply(&delta).expect("it fits").0);
                self.deltas += 1;
            }
            subscribe_response::Kind::Chunk(chunk) => {
                self.chunks += 1;
                let last = chunk.last;
                self.parts.push(chunk);
                if last {
                    self.held = Some(Snapshot::from_chunks(&self.parts).expect("they fit"));
                    self.parts.clear();
                }
            }
        }
        Ok(())
    }

    /// Reads until a revision is held, and says so.
    pub(crate) async fn reach(&mut self, revision: u64) {
        while self.held.as_ref().is_none_or(|held| held.revision() < revision) {
            self.next().await.expect("the stream goes on");
        }
        self.applied(Vec::new()).await;
    }

    pub(crate) async fn applied(&self, draining: Vec<v1::InFlight>) {
        let position = self.held.as_ref().map(Snapshot::position);
        self.say(subscribe_request::Kind::Applied(v1::Applied { position, draining })).await;
    }

    /// What ends the stream, whatever comes before.
    pub(crate) async fn end(&mut self) -> Option<Status> {
        loop {
            if let Err(end) = self.next().await {
                return end;
            }
        }
    }
}

/// Waits until something holds, by looking again and again.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} does not come about"));
}
