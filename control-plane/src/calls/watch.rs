//! Watches of instances: everything that matches, then each change to it.

use std::sync::Arc;

use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};
use waypost_proto::{
    error::{Error, ErrorCode},
    name::InstanceKey,
    v1,
};

use crate::{
    registry::{InstancesChanged, inside},
    server::Plane,
};

/// Changes that come close together are sent as one step of at most so many instances.
const MOST_IN_STEP: usize = 1_000;

/// One watch.
pub(crate) struct Watcher {
    plane: Arc<Plane>,
    request: v1::WatchRequest,
    changes: Receiver<Arc<InstancesChanged>>,
    /// The revision that the last complete list stood for; `None` before it is sent.
    listed: Option<u64>,
}

impl Watcher {
    /// Begins to watch.
    ///
    /// # Errors
    /// A field of the request breaks its rule.
    pub(crate) fn begin(plane: &Arc<Plane>, request: v1::WatchRequest) -> Result<Self, Error> {
        let changes = plane.registry.watch_instances();
        let watcher = Self { plane: plane.clone(), request, changes, listed: None };
        // What is wrong with the request is said before the first step.
        watcher.list()?;
        Ok(watcher)
    }

    /// The next step; an error ends the watch. No step is lost where this is not waited for to the end.
    pub(crate) async fn next(&mut self) -> Result<v1::WatchResponse, Error> {
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
