//! What a store keeps of an instance, and of a service that has lost its last one.
//!
//! The state that an instance is in follows from its record alone ([`Record::state`]), so that every
//! replica, and a replica after its restart, comes to the same one.
//!
//! Deliberately absent: the lease's deadline, which changes with every beat and costs no revision; the
//! store keeps it beside the record.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use waypost_proto::{
    instance::{Endpoint, InstanceSpec},
    load::Share,
    name::{InstanceKey, ServiceKey},
    route::{Route, RouteMatch},
    time,
    v1::{self, InstanceState},
};

/// When a beat was last accepted. Shared by all versions of one epoch's record: a beat costs no revision.
#[derive(Clone, Debug)]
pub struct Renewed(Arc<AtomicU64>);

impl Renewed {
    /// Renewed at `now`.
    pub fn at(now: SystemTime) -> Self {
        Self(Arc::new(AtomicU64::new(micros(now))))
    }

    /// Notes a beat.
    pub fn set(&self, now: SystemTime) {
        self.0.store(micros(now), Ordering::Relaxed);
    }

    /// When the last beat was accepted.
    pub fn get(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// Microseconds since 1970.
pub(crate) fn micros(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// The least key that an instance of a service can have, for ranges.
pub(crate) fn first_key(service: &ServiceKey) -> InstanceKey {
    InstanceKey::new(service.clone(), "!").expect("\"!\" is the least of all ids")
}

/// What an instance's own check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it passes.
    pub healthy: bool,
    /// Why, in words.
    pub reason: String,
}

/// An operator's word on an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// UP or DOWN.
    pub state: InstanceState,
    /// When it ends by itself.
    pub expires_at: SystemTime,
    /// Why, in the operator's words.
    pub reason: String,
}

/// That an instance is busy, by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// How much of its share it gets.
    pub share: Share,
    /// How busy it is, in words.
    pub reason: Arc<str>,
}

/// How much of its share an instance gets that beats while proxies see it fail: enough to see whether it still does.
const FAILING: Share = Share::percent(10);

/// A route that an instance claims for its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The route's id.
    pub route: Arc<str>,
    /// What it matches.
    pub matches: RouteMatch,
    /// When the service first claimed it. Inherited from instance to instance, so that a service keeps its
    /// place in the order of claims when all of its instances are replaced.
    pub claimed_at: SystemTime,
}

impl Claim {
    /// What a specification claims, dated by `claimed_at`. The prefix comes first.
    pub fn all(spec: &InstanceSpec, claimed_at: impl Fn(&str) -> SystemTime) -> Vec<Self> {
        let prefix = spec
            .prefix
            .iter()
            .map(|path| RouteMatch::Prefix { path: path.clone(), strip: spec.strip_prefix });
        let templates = spec.endpoints.iter().cloned().map(RouteMatch::Template);
        let claim = |matches: RouteMatch| {
            let route = Route::new(spec.key.service().clone(), matches, Vec::new());
            Self { claimed_at: claimed_at(&route.id), route: route.id, matches: route.matches }
        };
        prefix.chain(templates).map(claim).collect()
    }
}

/// What is stored of one instance.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was declared.
    pub spec: Arc<InstanceSpec>,
    /// The epoch of its lease.
    pub epoch: u64,
    /// How long its lease lives without a beat.
    pub ttl: Duration,
    /// Who registered it, as the client called itself.
    pub client: Arc<str>,
    /// When this epoch was registered.
    pub registered_at: SystemTime,
    /// When the last beat was accepted.
    pub renewed: Renewed,
    /// When the first instance of its service was registered; inherited like [`Claim::claimed_at`].
    pub service_since: SystemTime,
    /// The routes that it claims.
    pub claims: Arc<[Claim]>,
    /// What its own check last said, if it said anything.
    pub health: Option<Health>,
    /// Why it drains, if it does.
    pub draining: Option<Arc<str>>,
    /// An operator's word, if one is in force.
    pub overridden: Option<Override>,
    /// Why its lease is held although it lapsed, if it is.
    pub suspect: Option<Arc<str>>,
    /// That it is busy, if it is.
    pub busy: Option<Busy>,
    /// That it beats while proxies see it fail, if so; in words.
    pub failing: Option<Arc<str>>,
    /// The catalog that it was found in, where nobody registered it here; it has no lease then.
    pub found_in: Option<Arc<str>>,
    /// The revision that last changed it; the store fills it in.
    pub revision: u64,
}

impl Record {
    /// Its name.
    pub fn key(&self) -> &InstanceKey {
        &self.spec.key
    }

    /// Whether its own check passes; before the first report, whether it starts healthy.
    pub fn healthy(&self) -> bool {
        self.health.as_ref().map_or(!self.spec.start_unhealthy, |health| health.healthy)
    }

    /// The state that it is in. Draining is stronger than an operator's override, which is stronger than
    /// its own health, which is stronger than a lease that lapsed among many.
    pub fn state(&self) -> InstanceState {
        match &self.overridden {
            _ if self.draining.is_some() => InstanceState::Draining,
            Some(word) => word.state,
            None if !self.healthy() => InstanceState::Down,
            None if self.suspect.is_some() => InstanceState::Suspect,
            None => InstanceState::Up,
        }
    }

    /// Why it is in that state, in words.
    pub fn reason(&self) -> String {
        let given = |what: &str, why: &str| {
            if why.is_empty() { what.to_owned() } else { format!("{what}: {why}") }
        };
        match (&self.draining, &self.overridden, &self.health, &self.suspect) {
            (Some(why), ..) => given("draining", why),
            (_, Some(word), ..) => given("an operator's override", &word.reason),
            (_, _, Some(health), _) if !health.healthy => given("its own check fails", &health.reason),
            (_, _, None, _) if self.spec.start_unhealthy => {
                "it starts out of rotation until a heartbeat reports it healthy".to_owned()
            }
            (.., Some(why)) => why.to_string(),
            _ if self.share() < Share::FULL => self.share_in_words(),
            (_, _, Some(health), _) => given("its own check passes", &health.reason),
            _ => "its lease is alive".to_owned(),
        }
    }

    /// How much of the share that its weight gives it it gets.
    pub fn share(&self) -> Share {
        let failing = self.failing.as_ref().map(|_| FAILING);
        let busy = self.busy.as_ref().map(|busy| busy.share);
        failing.into_iter().chain(busy).min().unwrap_or_default()
    }

    /// How much of its share it gets, and why.
    pub fn share_in_words(&self) -> String {
        match self.failing.as_ref().or(self.busy.as_ref().map(|busy| &busy.reason)) {
            None => "it gets all of its share".to_owned(),
            Some(why) => format!("it gets {} of its share: {why}", self.share()),
        }
    }

    /// What proxies get to know of it.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { share: self.share(), ..Endpoint::of(&self.spec, self.state(), self.epoch) }
    }

    /// What everyone else gets to know of it.
    pub fn to_wire(&self) -> v1::Instance {
        v1::Instance {
            key: Some(self.key().to_wire()),
            spec: Some(self.spec.to_wire()),
            state: self.state().into(),
            reason: self.reason(),
            epoch: self.epoch,
            ttl: Some(time::wire_duration(self.ttl)),
            registered_at: Some(time::timestamp(self.registered_at)),
            renewed_at: Some(time::timestamp(self.renewed.get())),
            client: self.client.to_string(),
            revision: self.revision,
            r#override: self.overridden.as_ref().map(|word| v1::Override {
                state: word.state.into(),
                expires_at: Some(time::timestamp(word.expires_at)),
                reason: word.reason.clone(),
            }),
            // Not of the registry: the replica that answers adds it.
            sightings: None,
            share_percent: self.share().as_percent().into(),
        }
    }
}

/// A service that has lost its last instance and is kept for a while, so that its routes answer that no
/// instance is there, and its claims keep their dates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmptyService {
    /// Its name.
    pub key: ServiceKey,
    /// When its first instance was registered.
    pub since: SystemTime,
    /// When its last instance left.
    pub emptied_at: SystemTime,
    /// What its last instance claimed.
    pub claims: Arc<[Claim]>,
    /// The revision that emptied it; the store fills it in.
    pub revision: u64,
}

/// What happened to an instance, and why; part of the commit that it describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: v1::EventKind,
    /// To which instance.
    pub instance: InstanceKey,
    /// Its address.
    pub address: Arc<str>,
    /// Why, in words.
    pub reason: String,
    /// Who caused it.
    pub actor: Arc<str>,
    /// The epoch of the instance's lease.
    pub epoch: u64,
}

/// An event with its place in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEvent {
    /// The revision that it made.
    pub revision: u64,
    /// When it was committed.
    pub at: SystemTime,
    /// What happened.
    pub event: Event,
}

impl PastEvent {
    /// The wire form.
    pub fn to_wire(&self) -> v1::Event {
        v1::Event {
            revision: self.revision,
            time: Some(time::timestamp(self.at)),
            kind: self.event.kind.into(),
            instance: Some(self.event.instance.to_wire()),
            address: self.event.address.to_string(),
            reason: self.event.reason.clone(),
            actor: self.event.actor.to_string(),
            epoch: self.event.epoch,
        }
    }
}
