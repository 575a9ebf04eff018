//! A control plane whose store is away for a while: it says so, goes on with what it knows, and comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use waypost_control_plane::{
    server::Options,
    store::{Finding, Lapsed, LeaseStatus, Loaded, Memory, Mutation, Now, Renewal, Store, StoreError, Watch},
};
use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    v1,
};

use crate::harness::{Plane, Proxy, eventually, spec};

/// A store at the end of a cable.
#[derive(Default)]
struct Cable {
    store: RwLock<Arc<Memory>>,
    out: AtomicBool,
}

impl Cable {
    fn reach(&self) -> Result<Arc<Memory>, StoreError> {
        if self.out.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("the cable is out".to_owned()));
        }
        Ok(self.store.read().clone())
    }

    /// Another store stands at its end, which is empty.
    fn lose_everything(&self) {
        *self.store.write() = Arc::new(Memory::new());
    }
}

#[tonic::async_trait]
impl Store for Cable {
    fn url(&self) -> &str {
        "cable://"
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        self.reach()?.load().await
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        self.reach()?.watch(after).await
    }

    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        self.reach()?.commit(mutation, now).await
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], now: Now) -> Result<Vec<Renewal>, StoreError> {
        self.reach()?.renew(leases, now).await
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        self.reach()?.lapsed(now).await
    }

    async fn leases(&self, service: &ServiceKey, now: Now) -> Result<Vec<LeaseStatus>, StoreError> {
        self.reach()?.leases(service, now).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.reach()?.examine().await
    }
}

#[tokio::test]
async fn a_control_plane_without_its_store_says_so_and_serves_what_it_knows() {
    let store = Arc::new(Cable::default());
    let plane = Plane::start_over(store.clone(), Options::default()).await;
    let registered = plane.register("users", 9001).await;
    assert_eq!(plane.get("/readyz").await.0, 200);
    store.out.store(true, Ordering::Release);
    eventually("it is not ready", || async { plane.get("/readyz").await.0 == 503 }).await;
    let (_, kind, body) = plane.get("/readyz").await;
    assert_eq!(kind, "application/problem+json");
    assert!(body.contains("the store is away since 20") && body.contains("the cable is out"), "{body}");
    let status = plane.status().await;
    assert!(status.store_lost_since.is_some());
    assert!(status.store_lost_reason.contains("the cable is out"), "{}", status.store_lost_reason);

    let mut health = HealthClient::new(plane.channel.clone());
    let mut serving = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        health.check(request).await.expect("it is known").into_inner().status()
    };
    while serving("waypost.v1.Registry").await != ServingStatus::NotServing {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(serving("waypost.v1.Snapshots").await, ServingStatus::Serving);
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(registered.revision).await;
    let request = v1::RegisterRequest { instance: Some(spec("users", 9002)), ..Default::default() };
    let refused = plane.registry().register(request).await.expect_err("it cannot be kept");
    assert_eq!(refused.code(), Code::Unavailable);

    store.out.store(false, Ordering::Release);
    eventually("it is ready again", || async { plane.get("/readyz").await.0 == 200 }).await;
    assert_eq!(plane.status().await.store_lost_since, None);
    while serving("waypost.v1.Registry").await != ServingStatus::Serving {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let later = plane.register("users", 9002).await;
    proxy.reach(later.revision).await;
}

#[tokio::test]
async fn a_store_that_lost_its_data_is_gone_on_with_and_proxies_keep_what_they_knew() {
    let store = Arc::new(Cable::default());
    let mut options = Options::default();
    options.registry.settle = Duration::from_millis(500);
    let plane = Plane::start_over(store.clone(), options).await;
    let registered = plane.register("users", 9001).await;
    eventually("it settles", || async { plane.status().await.settled }).await;
    let mut proxy = Proxy::connect(&plane, "p", None).await;
    proxy.reach(registered.revision).await;
    let before = proxy.held.clone().expect("a snapshot");

    store.lose_everything();
    while proxy.held.as_ref().is_some_and(|held| held.history() == before.history()) {
        proxy.next().await.expect("the stream goes on");
    }
    let after = proxy.held.clone().expect("a snapshot");
    assert_eq!(
        (after.settled(), after.instances().len()),
        (false, 0),
        "what is missing is not known to be gone"
    );
    let again = plane.register("users", 9001).await;
    assert!(again.epoch > registered.epoch);
    proxy.reach(again.revision).await;
    eventually("it settles again", || async { plane.status().await.settled }).await;
    eventually("it counts as applied", || async {
        let status = plane.status().await;
        status.proxies == 1 && status.watermark >= again.revision
    })
    .await;
}
