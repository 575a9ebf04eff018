//! The generated service traits over the test's registry.

use std::{collections::BTreeMap, pin::Pin};

use futures_util::{Stream, StreamExt};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use waypost_proto::{
    error::{Error, ErrorCode},
    instance::{Endpoint, InstanceSpec, ttl_from_wire},
    name::{InstanceKey, ServiceKey},
    time::{duration, wire_duration},
    v1::{
        self, BeatOutcome, InstanceState, discovery_server::Discovery, operations_server::Operations,
        registry_server::Registry as RegistryApi,
    },
};

use super::{Held, Registry};

type Answer<T> = Result<Response<T>, Status>;
type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn refuse(code: ErrorCode, message: &str) -> Status {
    Error::new(code, message).into()
}

fn unused<T>() -> Answer<T> {
    Err(refuse(ErrorCode::Internal, "the fake control plane does not do this"))
}

impl Held {
    fn state(&self) -> InstanceState {
        let healthy = self.health.as_ref().map_or(!self.spec.start_unhealthy, |health| health.healthy);
        match (self.draining, healthy) {
            (true, _) => InstanceState::Draining,
            (_, true) => InstanceState::Up,
            (_, false) => InstanceState::Down,
        }
    }

    fn instance(&self, key: &InstanceKey) -> v1::Instance {
        v1::Instance {
            key: Some(key.to_wire()),
            spec: Some(self.spec.clone()),
            state: self.state().into(),
            epoch: self.epoch,
            ttl: Some(wire_duration(self.ttl)),
            ..Default::default()
        }
    }
}

impl Registry {
    async fn thaw(&self) {
        let mut changes = self.changes.subscribe();
        while self.state.lock().frozen {
            changes.changed().await.expect("the sender is in `self`");
        }
    }

    fn beat(&self, beat: v1::Beat) -> v1::BeatResult {
        self.with(|state| {
            let key = InstanceKey::from_wire(beat.key.as_ref()).expect("a good key");
            let outcome = match state.instances.get_mut(&key) {
                None => BeatOutcome::Unknown,
                Some(held) if held.epoch != beat.epoch => BeatOutcome::Stale,
                Some(held) => {
                    held.health = beat.health.clone().or(held.health.take());
                    held.load = beat.load;
                    BeatOutcome::Renewed
                }
            };
            let result = v1::BeatResult { key: beat.key.clone(), epoch: beat.epoch, outcome: outcome.into() };
            state.beats.push(beat);
            result
        })
    }

    fn matching(&self, service: &ServiceKey) -> BTreeMap<InstanceKey, Held> {
        let state = self.state.lock();
        let of_service = state.instances.iter().filter(|(key, _)| key.service() == service);
        of_service.map(|(key, held)| (key.clone(), held.clone())).collect()
    }
}

#[tonic::async_trait]
impl RegistryApi for Registry {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Answer<v1::RegisterResponse> {
        let request = request.into_inner();
        self.thaw().await;
        self.with(|state| {
            state.registrations.push(request.clone());
            if !state.refusals.is_empty() {
                return Err(state.refusals.remove(0));
            }
            let spec = InstanceSpec::from_wire(&request.instance.unwrap_or_default())?;
            let ttl = ttl_from_wire(request.ttl.as_ref()).map_err(Error::from)?;
            state.epoch += 1;
            let held = Held {
                epoch: state.epoch,
                ttl,
                spec: spec.to_wire(),
                health: None,
                load: None,
                draining: false,
            };
            state.instances.insert(spec.key.clone(), held);
            Ok(Response::new(v1::RegisterResponse {
                key: Some(spec.key.to_wire()),
                epoch: state.epoch,
                ttl: Some(wire_duration(ttl)),
                heartbeat_interval: Some(wire_duration(ttl / 3)),
                revision: state.epoch,
                conflicts: Vec::new(),
            }))
        })
    }

    type HeartbeatStream = Items<v1::HeartbeatResponse>;

    async fn heartbeat(
        &self,
        request: Request<Streaming<v1::HeartbeatRequest>>,
    ) -> Answer<Self::HeartbeatStream> {
        self.with(|state| state.streams += 1);
        let registry = self.clone();
        let answers = request.into_inner().then(move |request| {
            let registry = registry.clone();
            async move {
                registry.thaw().await;
                if let Some(status) = registry.with(|state| state.store_away.clone()) {
                    return Err(status);
                }
                let results = request?.beats.into_iter().map(|beat| registry.beat(beat)).collect();
                let going_away = registry.with(|state| std::mem::take(&mut state.going_away));
                Ok(v1::HeartbeatResponse { results, going_away })
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn deregister(&self, request: Request<v1::DeregisterRequest>) -> Answer<v1::DeregisterResponse> {
        let request = request.into_inner();
        let key = InstanceKey::from_wire(request.key.as_ref()).map_err(Error::from)?;
        self.with(|state| {
            state.deregistrations.push(request.clone());
            match state.instances.get_mut(&key) {
                None => Err(refuse(ErrorCode::NotFound, "there is no such instance")),
                Some(held) if request.epoch != 0 && held.epoch != request.epoch => {
                    Err(refuse(ErrorCode::StaleEpoch, "a newer registration has taken its place"))
                }
                Some(held) => {
                    held.draining = request.drain;
                    Ok(())
                }
            }
        })?;
        let deadline = request.drain_deadline.as_ref().and_then(duration).unwrap_or_default();
        let mut changes = self.changes.subscribe();
        let released = async {
            while request.drain && self.state.lock().hold_drains {
                changes.changed().await.expect("the sender is in `self`");
            }
        };
        let complete = timeout(deadline, released).await.is_ok() || !request.drain;
        self.with(|state| state.instances.remove(&key));
        let waiting_for = if complete { Vec::new() } else { vec!["proxy-1".to_owned()] };
        let in_flight = u64::from(!complete);
        let drain = v1::DrainOutcome { complete, took: None, in_flight, waiting_for };
        Ok(Response::new(v1::DeregisterResponse { revision: 0, drain: request.drain.then_some(drain) }))
    }
}

#[tonic::async_trait]
impl Discovery for Registry {
    async fn list_services(&self, _: Request<v1::ListServicesRequest>) -> Answer<v1::ListServicesResponse> {
        unused()
    }

    async fn get_service(&self, request: Request<v1::GetServiceRequest>) -> Answer<v1::GetServiceResponse> {
        let key = ServiceKey::from_wire(request.get_ref().key.as_ref()).map_err(Error::from)?;
        let instances: Vec<_> = self.matching(&key).iter().map(|(key, held)| held.instance(key)).collect();
        if instances.is_empty() {
            return Err(refuse(ErrorCode::NotFound, "there is no such service; the nearest name is users"));
        }
        let service = v1::Service { key: Some(key.to_wire()), ..Default::default() };
        Ok(Response::new(v1::GetServiceResponse { service: Some(service), instances, revision: 1 }))
    }

    async fn list_instances(
        &self,
        _: Request<v1::ListInstancesRequest>,
    ) -> Answer<v1::ListInstancesResponse> {
        let state = self.state.lock();
        let instances = state.instances.iter().map(|(key, held)| held.instance(key)).collect();
        Ok(Response::new(v1::ListInstancesResponse { instances, revision: state.epoch }))
    }

    async fn list_routes(&self, _: Request<v1::ListRoutesRequest>) -> Answer<v1::ListRoutesResponse> {
        unused()
    }

    type WatchStream = Items<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let filter = request.into_inner();
        let service = ServiceKey::new(&filter.namespace, &filter.service).map_err(Error::from)?;
        let (sender, receiver) = mpsc::channel(16);
        let registry = self.clone();
        tokio::spawn(async move {
            let mut changes = registry.changes.subscribe();
            let mut shown = BTreeMap::new();
            let mut initial = true;
            loop {
                let now = registry.matching(&service);
                let changed = now.iter().filter(|(key, held)| shown.get(*key) != Some(*held));
                let changed: Vec<_> = changed.map(|(key, held)| held.instance(key)).collect();
                let removed = shown.keys().filter(|key| !now.contains_key(*key));
                let removed: Vec<_> = removed.map(InstanceKey::to_wire).collect();
                if initial || !changed.is_empty() || !removed.is_empty() {
                    let step = v1::WatchResponse { initial, changed, removed, revision: 1 };
                    if sender.send(Ok(step)).await.is_err() {
                        return;
                    }
                }
                (shown, initial) = (now, false);
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Answer<v1::ResolveResponse> {
        let key = ServiceKey::from_wire(request.get_ref().key.as_ref()).map_err(Error::from)?;
        let matching = self.matching(&key);
        let entry = |held: &Held| {
            let spec = InstanceSpec::from_wire(&held.spec).expect("it was checked");
            Endpoint::of(&spec, held.state(), held.epoch)
        };
        let taking = matching.values().map(entry).filter(Endpoint::takes_traffic);
        let instances: Vec<_> = taking.map(|endpoint| endpoint.to_wire()).collect();
        if instances.is_empty() {
            return Err(refuse(ErrorCode::Unavailable, "none of its instances takes traffic"));
        }
        Ok(Response::new(v1::ResolveResponse { instances, revision: 1 }))
    }

    async fn list_events(&self, _: Request<v1::ListEventsRequest>) -> Answer<v1::ListEventsResponse> {
        unused()
    }
}

#[tonic::async_trait]
impl Operations for Registry {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        let settled = self.state.lock().settled;
        Ok(Response::new(v1::GetStatusResponse { settled, ..Default::default() }))
    }

    async fn list_proxies(&self, _: Request<v1::ListProxiesRequest>) -> Answer<v1::ListProxiesResponse> {
        unused()
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Answer<v1::DrainResponse> {
        unused()
    }

    async fn r#override(&self, _: Request<v1::OverrideRequest>) -> Answer<v1::OverrideResponse> {
        unused()
    }

    async fn wait_applied(&self, _: Request<v1::WaitAppliedRequest>) -> Answer<v1::WaitAppliedResponse> {
        unused()
    }
}
