//! `waypost.v1.Discovery`: the read side. Answers come from the registry's view of one revision; lists of instances have
//! what proxies see of them beside it.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};
use tonic::{Request, Response, Status};
use waypost_proto::{
    error::{Error, ErrorCode},
    name::InstanceKey,
    v1::{self, discovery_server},
};

use crate::{
    registry::{InstancesChanged, inside},
    server::Plane,
};

/// Changes that come close together are sent as one step of at most so many instances.
const MOST_IN_STEP: usize = 1_000;

/// The service.
pub(super) struct Discovery(pub(super) Arc<Plane>);

#[tonic::async_trait]
impl discovery_server::Discovery for Discovery {
    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        Ok(Response::new(self.0.registry.view().list_services(request.get_ref())?))
    }

    async fn get_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::GetServiceResponse>, Status> {
        let mut answer = self.0.registry.view().get_service(request.get_ref())?;
        self.0.replicas.add_sightings(&mut answer.instances).await;
        Ok(Response::new(answer))
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        let mut answer = self.0.registry.view().list_instances(request.get_ref())?;
        self.0.replicas.add_sightings(&mut answer.instances).await;
        Ok(Response::new(answer))
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Result<Response<v1::ListRoutesResponse>, Status> {
        Ok(Response::new(self.0.registry.view().list_routes(request.get_ref())?))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let watcher = Watcher::begin(&self.0, request);
        // What is wrong with the request is said before the stream begins.
        watcher.list()?;
        let steps = stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(step) => Some((Ok(step), Some(watcher))),
                Err(error) => Some((Err(Status::from(error)), None)),
            }
        });
        Ok(Response::new(Box::pin(steps)))
    }

    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        Ok(Response::new(self.0.registry.view().resolve(request.get_ref())?))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        Ok(Response::new(self.0.registry.view().list_events(request.get_ref())?))
    }
}

/// One watch.
struct Watcher {
    plane: Arc<Plane>,
    request: v1::WatchRequest,
    changes: Receiver<Arc<InstancesChanged>>,
    /// The revision that the last complete list stood for; `None` before it is sent.
    listed: Option<u64>,
}

impl Watcher {
    fn begin(plane: &Arc<Plane>, request: v1::WatchRequest) -> Self {
        let changes = plane.registry.watch_instances();
        Self { plane: plane.clone(), request, changes, listed: None }
    }

    /// The next step; an error ends the watch.
    async fn next(&mut self) -> Result<v1::WatchResponse, Error> {
        let Some(listed) = self.listed else { return self.relist() };
        loop {
            let change = tokio::select! {
                change = self.changes.recv() => change,
                () = self.plane.closing() => return Err(self.plane.going_away()),
            };
            match change {
                Ok(change) if change.revision <= listed => {}
                Ok(change) => {
                    let (revision, mut keys) = (change.revision, change.keys.clone());
                    keys.retain(|key| self.matches(key));
                    if let Some(step) = self.gather(revision, keys)? {
                        return Ok(step);
                    }
                }
                Err(RecvError::Lagged(_)) => return self.relist(),
                Err(RecvError::Closed) => {
                    return Err(Error::new(ErrorCode::Unavailable, "the watch has ended; watch again"));
                }
            }
        }
    }

    /// A step of these and whatever else has changed by now; `None` if nothing matches.
    fn gather(
        &mut self,
        mut revision: u64,
        mut keys: Vec<InstanceKey>,
    ) -> Result<Option<v1::WatchResponse>, Error> {
        while keys.len() < MOST_IN_STEP {
            match self.changes.try_recv() {
                Ok(change) => {
                    revision = change.revision;
                    keys.extend(change.keys.iter().filter(|key| self.matches(key)).cloned());
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                Err(TryRecvError::Lagged(_)) => return self.relist().map(Some),
            }
        }
        if keys.is_empty() {
            return Ok(None);
        }
        keys.sort();
        keys.dedup();
        let view = self.plane.registry.view();
        let mut step = v1::WatchResponse { revision, ..Default::default() };
        for key in keys {
            match view.instance(&key) {
                Some(instance) => step.changed.push(instance),
                None => step.removed.push(key.to_wire()),
            }
        }
        Ok(Some(step))
    }

    fn relist(&mut self) -> Result<v1::WatchResponse, Error> {
        // Changes from here on are seen even if they come while the list is made.
        self.changes = self.changes.resubscribe();
        let list = self.list()?;
        self.listed = Some(list.revision);
        Ok(v1::WatchResponse {
            initial: true,
            changed: list.instances,
            removed: Vec::new(),
            revision: list.revision,
        })
    }

    fn list(&self) -> Result<v1::ListInstancesResponse, Error> {
        let (namespace, service) = (self.request.namespace.clone(), self.request.service.clone());
        let request = v1::ListInstancesRequest { namespace, service, ..Default::default() };
        self.plane.registry.view().list_instances(&request)
    }

    fn matches(&self, key: &InstanceKey) -> bool {
        let service = &self.request.service;
        inside(&self.request.namespace, key.service())
            && (service.is_empty() || *service == key.service().name())
    }
}
