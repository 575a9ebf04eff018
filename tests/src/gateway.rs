//! A scene for declared routing: a control plane, one proxy, and services that say what reached them.
//!
//! A case declares resources with [`Scene::apply`], which returns once the proxy serves by them, asks with
//! [`Scene::get`] or [`Scene::send`], and looks at what came back. [`Scene::clear`] takes everything back, so that one
//! scene serves many cases, one after the other.
//!
//! Deliberately absent: certificates, which cases make themselves.

pub mod ask;
pub mod connection;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use serde_json::Value;
use waypost_proto::{
    instance::Protocol,
    time::wire_duration,
    v1::{ApplyRequest, ApplyResponse, DeleteResourcesRequest, Document, ListResourcesRequest, ResourceKey},
};
use waypost_sdk::Registration;

pub use self::{
    ask::Ask,
    connection::{Connection, Tls},
};
use crate::{
    cluster::Cluster,
    http::Answer,
    service::{RegisteredService, SampleService},
    wait::{eventually, holds},
};

/// How long the proxy may take until it serves by what was declared.
const PATIENCE: Duration = Duration::from_secs(10);

/// The services of every scene: name, namespace and what they speak. Each has one instance, named as the service.
const SERVICES: [(&str, &str, Protocol); 6] = [
    ("one", "default", Protocol::Http1),
    ("two", "default", Protocol::Http1),
    ("three", "default", Protocol::Http1),
    ("h2c", "default", Protocol::Http2),
    ("calls", "default", Protocol::Grpc),
    ("far", "other", Protocol::Http1),
];

/// A control plane in memory, a proxy, and registered services.
pub struct Scene {
    /// The programs.
    pub cluster: Cluster,
    services: Vec<RegisteredService>,
}

impl Scene {
    /// Starts all of it.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts all of it, the proxy with these arguments more.
    pub async fn start_with(proxy: &[&str]) -> Self {
        let cluster = Cluster::builder().proxy(proxy).start().await;
        let client = cluster.client();
        let mut services = Vec::new();
        for (service, namespace, protocol) in SERVICES {
            let more =
                |registration: Registration| registration.namespace(namespace).protocol(protocol).ttl(TTL);
            services.push(RegisteredService::start_with(&client, service, service, more).await);
        }
        cluster.converged().await;
        Self { cluster, services }
    }

    /// One of the scene's services.
    ///
    /// # Panics
    /// There is none of this name.
    pub fn service(&self, name: &str) -> &SampleService {
        let found = self.services.iter().find(|it| it.service.instance == name);
        &found.unwrap_or_else(|| panic!("no service {name}")).service
    }

    /// Registers another service, for as long as what is returned lives, and waits until the proxy knows it.
    pub async fn register(
        &self,
        service: &str,
        instance: &str,
        more: impl FnOnce(Registration) -> Registration,
    ) -> RegisteredService {
        let client = self.cluster.client();
        let registered = RegisteredService::start_with(&client, service, instance, more).await;
        self.cluster.converged().await;
        registered
    }

    /// Declares what a YAML text says and waits until the proxy serves by it.
    ///
    /// # Panics
    /// It is refused, or the proxy does not apply it in time.
    pub async fn apply(&self, yaml: &str) -> ApplyResponse {
        let answer = self.cluster.api().resources().apply(request(yaml)).await;
        let answer = answer.unwrap_or_else(|status| panic!("refused: {}\n{yaml}", status.message()));
        let answer = answer.into_inner();
        assert!(answer.waiting_for.is_empty(), "not applied within {PATIENCE:?}: {answer:?}");
        answer
    }

    /// Declares what must be refused, and gives why it was.
    ///
    /// # Panics
    /// It is accepted.
    pub async fn refused(&self, yaml: &str) -> String {
        let answer = self.cluster.api().resources().apply(request(yaml)).await;
        match answer {
            Ok(answer) => panic!("accepted: {:?}\n{yaml}", answer.into_inner()),
            Err(status) => status.message().to_owned(),
        }
    }

    /// Removes a resource and waits until the proxy serves without it.
    ///
    /// # Panics
    /// It cannot be removed, or the proxy does not follow in time.
    pub async fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.delete_all(vec![key(kind, namespace, name)]).await;
    }

    /// Tries to remove a resource that is needed, and gives why that was refused.
    ///
    /// # Panics
    /// It is removed.
    pub async fn keeps(&self, kind: &str, namespace: &str, name: &str) -> String {
        let request = DeleteResourcesRequest {
            keys: vec![key(kind, namespace, name)],
            ..DeleteResourcesRequest::default()
        };
        match self.cluster.api().resources().delete_resources(request).await {
            Ok(answer) => panic!("removed: {:?}", answer.into_inner()),
            Err(status) => status.message().to_owned(),
        }
    }

    /// Removes all resources, so that the scene is as it was at its start.
    ///
    /// # Panics
    /// As [`Self::delete`].
    pub async fn clear(&self) {
        let listed = self.cluster.api().resources().list_resources(ListResourcesRequest::default()).await;
        let listed = listed.expect("resources can be listed").into_inner().resources;
        let keys: Vec<ResourceKey> = listed.into_iter().filter_map(|resource| resource.key).collect();
        if !keys.is_empty() {
            self.delete_all(keys).await;
        }
    }

    async fn delete_all(&self, keys: Vec<ResourceKey>) {
        let request = DeleteResourcesRequest {
            keys,
            wait: Some(wire_duration(PATIENCE)),
            ..DeleteResourcesRequest::default()
        };
        let answer = self.cluster.api().resources().delete_resources(request).await;
        let answer = answer.unwrap_or_else(|status| panic!("not removed: {}", status.message())).into_inner();
        assert!(answer.waiting_for.is_empty(), "not removed within {PATIENCE:?}: {answer:?}");
    }

    /// Sends a GET to the proxy's own port.
    pub async fn get(&self, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(&Ask::get(host, path).headers(headers)).await
    }

    /// Who answers a GET: the instance's name, or the status and reason where no instance did.
    pub async fn who(&self, host: &str, path: &str) -> String {
        self.send(&Ask::get(host, path)).await.who()
    }

    /// Sends a request over a connection of its own.
    ///
    /// # Panics
    /// There is no answer.
    pub async fn send(&self, ask: &Ask) -> Answer {
        self.connect(ask).await.send(ask).await.unwrap_or_else(|error| panic!("{ask:?}: {error}"))
    }

    /// Opens a connection for requests like this one.
    ///
    /// # Panics
    /// It cannot be opened.
    pub async fn connect(&self, ask: &Ask) -> Connection {
        let address = self.address(ask.port);
        // A port that a Gateway asks for is bound beside the table that asks for it.
        eventually("the connection opens", PATIENCE, async || Connection::open(address, ask).await).await
    }

    /// Where the proxy listens: its own port, or another one of the same address.
    pub fn address(&self, port: Option<u16>) -> SocketAddr {
        let own = self.cluster.traffic();
        SocketAddr::new(own.ip(), port.unwrap_or(own.port()))
    }

    /// The proxy's own port.
    pub fn own_port(&self) -> u16 {
        self.cluster.traffic().port()
    }

    /// What the proxy answers at its admin port.
    pub async fn admin(&self, path: &str) -> Answer {
        crate::http::get(self.cluster.proxies[0].admin, path).await
    }

    /// The status of a resource, as JSON.
    ///
    /// # Panics
    /// It is not there.
    pub async fn status(&self, kind: &str, namespace: &str, name: &str) -> Value {
        let request =
            ListResourcesRequest { kind: kind.into(), namespace: namespace.into(), name: name.into() };
        let listed = self.cluster.api().resources().list_resources(request).await;
        let listed = listed.expect("resources can be listed").into_inner().resources;
        let [resource] = &*listed else { panic!("{kind} {namespace}/{name}: {listed:?}") };
        serde_json::from_str(&resource.status).expect("a status is JSON")
    }

    /// Waits until a condition of a resource holds or not, for this reason. `at` leads to the list of conditions, for
    /// example `/parents/0`.
    pub async fn condition(&self, resource: (&str, &str, &str), at: &str, wanted: (&str, &str, &str)) {
        let (kind, namespace, name) = resource;
        let (condition, status, reason) = wanted;
        eventually(&format!("{kind} {name} is {condition}={status} {reason}"), PATIENCE, async || {
            let all = self.status(kind, namespace, name).await;
            let conditions = all.pointer(at).and_then(|part| part["conditions"].as_array());
            let found = conditions.into_iter().flatten().find(|one| one["type"] == condition);
            let fits = found.is_some_and(|one| one["status"] == status && one["reason"] == reason);
            holds(fits, || format!("{all:#}"))
        })
        .await;
    }
}

/// Leases outlast the longest pause of a machine under load.
const TTL: Duration = Duration::from_secs(60);

fn request(yaml: &str) -> ApplyRequest {
    let document = Document { source: "case.yaml".to_owned(), text: yaml.to_owned() };
    ApplyRequest { documents: vec![document], wait: Some(wire_duration(PATIENCE)), ..ApplyRequest::default() }
}

fn key(kind: &str, namespace: &str, name: &str) -> ResourceKey {
    ResourceKey { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
}

/// A port for a Gateway's listener, that nobody in this process was given before and nobody listens on.
///
/// Not the system's choice, as elsewhere: between its choice and the proxy's bind, an outgoing connection of another
/// test could take it. These lie below the ports that systems choose.
///
/// # Panics
/// There is none.
pub fn listener_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    // Two processes at the same time begin far apart.
    let begin = u16::try_from(std::process::id() % 97).expect("below 97") * 101;
    let tries = (0..COUNT).map(|_| FIRST + NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(begin) % COUNT);
    let is_free = |port: &u16| TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), *port)).is_ok();
    tries.into_iter().find(is_free).expect("a free port")
}

/// An HTTPRoute in the default namespace; `spec` is YAML that begins in the first column.
pub fn http_route(name: &str, spec: &str) -> String {
    resource("HTTPRoute", "default", name, spec)
}

/// A GRPCRoute in the default namespace.
pub fn grpc_route(name: &str, spec: &str) -> String {
    resource("GRPCRoute", "default", name, spec)
}

/// A Gateway in the default namespace.
pub fn gateway(name: &str, listeners: &str) -> String {
    resource("Gateway", "default", name, &format!("gatewayClassName: waypost\nlisteners:\n{listeners}"))
}

/// A resource of the Gateway API, as a document of its own.
pub fn resource(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    let version = match kind {
        "ReferenceGrant" => "gateway.networking.k8s.io/v1beta1",
        "BackendTLSPolicy" => "gateway.networking.k8s.io/v1",
        "BackendTrafficPolicy" | "ExternalService" => "waypost.dev/v1",
        _ => "gateway.networking.k8s.io/v1",
    };
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}"
    )
}

impl Answer {
    /// The instance that answered; where none did, the status and the proxy's reason.
    pub fn who(&self) -> String {
        match self.header(crate::service::INSTANCE_HEADER) {
            "" => format!("{} {}", self.status.as_u16(), self.header("x-waypost-reason")),
            instance => instance.to_owned(),
        }
    }

    /// The values of a header as it reached the service; empty where it did not.
    pub fn arrived(&self, name: &str) -> Vec<String> {
        let json = self.json();
        let values = json["headers"][name].as_array().cloned().unwrap_or_default();
        values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }

    /// The path and query as they reached the service.
    pub fn path(&self) -> String {
        self.json()["path"].as_str().unwrap_or_default().to_owned()
    }

    /// The host as it reached the service.
    pub fn host(&self) -> String {
        let json = self.json();
        let authority = json["authority"].as_str().map(str::to_owned);
        authority.unwrap_or_else(|| self.arrived("host").concat())
    }
}
