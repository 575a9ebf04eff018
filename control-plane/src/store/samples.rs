//! Records, times and a clock for tests.

use std::{
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use parking_lot::Mutex;
use waypost_proto::{
    instance::InstanceSpec,
    v1::{self, EventKind},
};

use super::{Claim, EmptyService, Event, Now, Record, Renewed};

pub(crate) const TTL: Duration = Duration::from_secs(10);

/// A clock that a test moves.
pub(crate) struct ManualClock(Mutex<Now>);

impl ManualClock {
    pub(crate) fn new() -> Arc<Self> {
        let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Arc::new(Self(Mutex::new(Now { monotonic: Instant::now(), wall })))
    }

    pub(crate) fn now(&self) -> Now {
        *self.0.lock()
    }

    pub(crate) fn pass(&self, length: Duration) -> Now {
        let mut now = self.0.lock();
        *now = later(*now, length);
        *now
    }
}

pub(crate) fn later(now: Now, length: Duration) -> Now {
    Now { monotonic: now.monotonic + length, wall: now.wall + length }
}

/// An instance as `SERVICE/ID` declares it, with nothing special about it.
pub(crate) fn wire(key: &str) -> v1::InstanceSpec {
    let (service, id) = key.split_once('/').expect("SERVICE/ID");
    v1::InstanceSpec {
        service: service.to_owned(),
        id: id.to_owned(),
        address: "127.0.0.1:9001".to_owned(),
        ..Default::default()
    }
}

pub(crate) fn spec(key: &str) -> InstanceSpec {
    InstanceSpec::from_wire(&wire(key)).expect("a good spec")
}

pub(crate) fn record(key: &str, epoch: u64, now: Now) -> Record {
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
        revision: 0,
    }
}

pub(crate) fn event(record: &Record, kind: EventKind) -> Event {
    Event {
        kind,
        instance: record.key().clone(),
        address: record.spec.address.as_str().into(),
        reason: "test".to_owned(),
        actor: "test".into(),
        epoch: record.epoch,
    }
}

pub(crate) fn emptied(record: &Record, now: Now) -> EmptyService {
    EmptyService {
        key: record.key().service().clone(),
        since: record.service_since,
        emptied_at: now.wall,
        claims: record.claims.clone(),
        revision: 0,
    }
}
