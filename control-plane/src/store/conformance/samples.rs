//! Records, times and a clock for tests of stores.

use std::{
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use parking_lot::Mutex;
use waypost_proto::{
    instance::InstanceSpec,
    resource::{Kind, ResourceKey},
    v1::{self, EventKind},
};

use crate::store::{Claim, Declare, EmptyService, Event, Now, Record, Renewed, Resource};

pub(crate) const TTL: Duration = Duration::from_secs(10);

/// A clock that a test moves.
pub struct ManualClock(Mutex<Now>);

impl ManualClock {
    /// A clock that stands at some time in 2027.
    pub fn new() -> Arc<Self> {
        let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Arc::new(Self(Mutex::new(Now { monotonic: Instant::now(), wall })))
    }

    /// What it says.
    pub fn now(&self) -> Now {
        *self.0.lock()
    }

    /// Lets time pass; answers what it says then.
    pub fn pass(&self, length: Duration) -> Now {
        let mut now = self.0.lock();
        *now = later(*now, length);
        *now
    }
}

pub(crate) fn later(now: Now, length: Duration) -> Now {
    Now { monotonic: now.monotonic + length, wall: now.wall + length }
}

/// An instance as `SERVICE/ID` or `NAMESPACE/SERVICE/ID` declares it, with nothing special about it.
pub(crate) fn wire(key: &str) -> v1::InstanceSpec {
    let (service, id) = key.rsplit_once('/').expect("SERVICE/ID");
    let (namespace, service) = service.split_once('/').unwrap_or(("", service));
    v1::InstanceSpec {
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        id: id.to_owned(),
        address: "127.0.0.1:9001".to_owned(),
        ..Default::default()
    }
}

/// A route of this number, to be created, or to replace the one of a revision.
pub fn declare(number: u8, expected: Option<u64>) -> Declare {
    let key = ResourceKey::new(Kind::HttpRoute, "other", &format!("route-{number}")).expect("a good name");
    let manifest = format!(r#"{{"of":{number},"after":{}}}"#, expected.unwrap_or_default());
    let at = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Declare { resource: Resource::first(key, manifest.into(), "ada", at), expected }
}

pub(crate) fn spec(key: &str) -> InstanceSpec {
    InstanceSpec::from_wire(&wire(key)).expect("a good spec")
}

/// An instance's record, with nothing special about it.
pub fn record(key: &str, epoch: u64, now: Now) -> Record {
    let spec = spec(key);
    Record {
        claims: Claim::all(&spec, |_| now.wall).into(),
        spec: Arc::new(spec),
        epoch,
        ttl: TTL,
        client: "test".into(),
        registered_at: now.wall,
        renewed: Renewed::at(now.wall),
        service_since: now.wall,
        health: None,
        draining: None,
        overridden: None,
        suspect: None,
        busy: None,
        failing: None,
        found_in: None,
        revision: 0,
    }
}

/// Something that happened to an instance.
pub fn event(record: &Record, kind: EventKind) -> Event {
    Event {
        kind,
        instance: record.key().clone(),
        address: record.spec.address.as_str().into(),
        reason: "test".to_owned(),
        actor: "test".into(),
        epoch: record.epoch,
    }
}

/// The service that an instance leaves behind.
pub fn emptied(record: &Record, now: Now) -> EmptyService {
    EmptyService {
        key: record.key().service().clone(),
        since: record.service_since,
        emptied_at: now.wall,
        claims: record.claims.clone(),
        revision: 0,
    }
}
