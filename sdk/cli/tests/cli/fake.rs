//! A control plane with known answers.
//!
//! It holds one service or several instances as a test wants them, and refuses what the real one refuses,
//! with the contract's own errors.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::declared::Declared;
use futures_util::{Stream, stream};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use waypost_proto::{
    error::{Error, ErrorCode, Violation},
    time::{timestamp, wire_duration},
    v1::{
        self,
        discovery_server::{Discovery, DiscoveryServer},
        operations_server::{Operations, OperationsServer},
        registry_server::{Registry, RegistryServer},
        resources_server::ResourcesServer,
    },
};

/// What it knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The ids of the instances of `users`.
    pub(crate) users: Vec<&'static str>,
    /// Whether drains complete.
    pub(crate) drains: bool,
    /// What is declared.
    pub(crate) declared: Declared,
    /// The admin ports of its proxies.
    pub(crate) admins: Vec<String>,
}

impl Known {
    fn instance(&self, id: &str) -> v1::Instance {
        v1::Instance {
            key: Some(v1::InstanceKey {
                namespace: "default".into(),
                service: "users".into(),
                id: id.into(),
            }),
            spec: Some(v1::InstanceSpec {
                service: "users".into(),
                address: "10.0.0.7:9001".into(),
                version: "2".into(),
                ..Default::default()
            }),
            state: v1::InstanceState::Up.into(),
            registered_at: Some(half_an_hour_ago()),
            ..Default::default()
        }
    }

    fn instances(&self) -> Vec<v1::Instance> {
        self.users.iter().map(|id| self.instance(id)).collect()
    }

    fn service(&self) -> v1::Service {
        v1::Service {
            key: Some(v1::ServiceKey { namespace: "default".into(), name: "users".into() }),
            up: u32::try_from(self.users.len()).expect("few"),
            versions: vec!["2".into()],
            since: Some(half_an_hour_ago()),
            ..Default::default()
        }
    }

    fn drained(&self) -> v1::DrainOutcome {
        v1::DrainOutcome {
            complete: self.drains,
            took: Some(wire_duration(Duration::from_millis(12))),
            in_flight: if self.drains { 0 } else { 3 },
            waiting_for: if self.drains { Vec::new() } else { vec!["proxy-1".into()] },
        }
    }

    fn find(&self, key: Option<v1::InstanceKey>) -> Result<v1::Instance, Status> {
        let key = key.unwrap_or_default();
        let known = key.service == "users" && self.users.contains(&key.id.as_str());
        known.then(|| self.instance(&key.id)).ok_or_else(|| {
            Error::new(ErrorCode::NotFound, format!("there is no instance {}/{}", key.service, key.id)).into()
        })
    }

    /// Serves it on a free port for as long as the test runs.
    pub(crate) async fn serve(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let known = Arc::new(self);
        let server = Server::builder()
            .add_service(DiscoveryServer::from_arc(known.clone()))
            .add_service(OperationsServer::from_arc(known.clone()))
            .add_service(ResourcesServer::new(known.declared.clone()))
            .add_service(RegistryServer::from_arc(known));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }
}

fn half_an_hour_ago() -> pbjson_types::Timestamp {
    timestamp(SystemTime::now() - Duration::from_secs(1_830))
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

#[tonic::async_trait]
impl Discovery for Known {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn list_services(&self, _: Request<v1::ListServicesRequest>) -> Answer<v1::ListServicesResponse> {
        let services = if self.users.is_empty() { Vec::new() } else { vec![self.service()] };
        answer(v1::ListServicesResponse { services, revision: 7 })
    }

    async fn get_service(&self, request: Request<v1::GetServiceRequest>) -> Answer<v1::GetServiceResponse> {
        let name = request.into_inner().key.unwrap_or_default().name;
        if name != "users" {
            let message = format!("there is no service {name}; the nearest name is users");
            return Err(Error::new(ErrorCode::NotFound, message).into());
        }
        answer(v1::GetServiceResponse {
            service: Some(self.service()),
            instances: self.instances(),
            revision: 7,
        })
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Answer<v1::ListInstancesResponse> {
        let filter = request.into_inner();
        if filter.version.len() > 128 {
            return Err(
                Error::from(Violation::new("version", "1...", "must be at most 128 characters")).into()
            );
        }
        let asked =
            matches!(filter.service.as_str(), "" | "users") && matches!(filter.version.as_str(), "" | "2");
        let instances = if asked { self.instances() } else { Vec::new() };
        answer(v1::ListInstancesResponse { instances, revision: 7 })
    }

    async fn list_routes(&self, _: Request<v1::ListRoutesRequest>) -> Answer<v1::ListRoutesResponse> {
        answer(v1::ListRoutesResponse { revision: 7, ..Default::default() })
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let first =
            v1::WatchResponse { initial: true, changed: self.instances(), removed: Vec::new(), revision: 7 };
        let key = v1::InstanceKey { namespace: "default".into(), service: "users".into(), id: "gone".into() };
        let second = v1::WatchResponse { removed: vec![key], revision: 8, ..Default::default() };
        let steps = stream::iter([Ok(first), Ok(second)]);
        answer(Box::pin(futures_util::StreamExt::chain(steps, stream::pending())))
    }

    async fn resolve(&self, _: Request<v1::ResolveRequest>) -> Answer<v1::ResolveResponse> {
        answer(v1::ResolveResponse::default())
    }

    async fn list_events(&self, _: Request<v1::ListEventsRequest>) -> Answer<v1::ListEventsResponse> {
        answer(v1::ListEventsResponse::default())
    }
}

#[tonic::async_trait]
impl Operations for Known {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        answer(v1::GetStatusResponse { version: "0.0.0".into(), settled: true, ..Default::default() })
    }

    async fn list_proxies(&self, _: Request<v1::ListProxiesRequest>) -> Answer<v1::ListProxiesResponse> {
        let proxy = |admin: &String| v1::Proxy {
            id: "proxy-1".into(),
            connected: true,
            admin_address: admin.clone(),
            ..Default::default()
        };
        let proxies = self.admins.iter().map(proxy).collect();
        answer(v1::ListProxiesResponse { proxies, ..Default::default() })
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Answer<v1::DrainResponse> {
        let request = request.into_inner();
        self.find(request.key)?;
        answer(v1::DrainResponse { revision: 8, drain: request.wait.then(|| self.drained()) })
    }

    async fn r#override(&self, request: Request<v1::OverrideRequest>) -> Answer<v1::OverrideResponse> {
        let request = request.into_inner();
        let mut instance = self.find(request.key.clone())?;
        if request.state != 0 {
            instance.state = request.state;
            let ttl = request.ttl.as_ref().and_then(waypost_proto::time::duration).unwrap_or_default();
            instance.r#override = Some(v1::Override {
                state: request.state,
                expires_at: Some(timestamp(SystemTime::now() + ttl + Duration::from_secs(30))),
                reason: request.reason,
            });
        }
        answer(v1::OverrideResponse { instance: Some(instance), revision: 8 })
    }

    async fn wait_applied(
        &self,
        request: Request<v1::WaitAppliedRequest>,
    ) -> Answer<v1::WaitAppliedResponse> {
        let revision = request.into_inner().revision;
        if revision > 7 {
            let message = format!("revision {revision} is not applied by proxy-1 after 30s");
            return Err(Error::new(ErrorCode::DeadlineExceeded, message).into());
        }
        answer(v1::WaitAppliedResponse { revision: 7, watermark: 7, proxies: 2 })
    }
}

#[tonic::async_trait]
impl Registry for Known {
    type HeartbeatStream = Pin<Box<dyn Stream<Item = Result<v1::HeartbeatResponse, Status>> + Send>>;

    async fn register(&self, _: Request<v1::RegisterRequest>) -> Answer<v1::RegisterResponse> {
        Err(Error::new(ErrorCode::ResourceExhausted, "no more instances are taken").into())
    }

    async fn heartbeat(&self, _: Request<Streaming<v1::HeartbeatRequest>>) -> Answer<Self::HeartbeatStream> {
        answer(Box::pin(stream::pending()))
    }

    async fn deregister(&self, request: Request<v1::DeregisterRequest>) -> Answer<v1::DeregisterResponse> {
        let request = request.into_inner();
        self.find(request.key)?;
        answer(v1::DeregisterResponse { revision: 8, drain: request.drain.then(|| self.drained()) })
    }
}
