//! Records as they are written down: the `Stored…` messages of the contract, in protobuf.
//!
//! Stores that keep bytes keep these. A replica of an older version skips fields that it does not know.
//!
//! Deliberately absent: where the bytes go.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use prost::Message;
use waypost_proto::{
    error::Error,
    instance::InstanceSpec,
    load::Share,
    name::{InstanceKey, ServiceKey},
    resource::ResourceKey,
    route::Route,
    time::{duration, system_time, timestamp, wire_duration},
    v1::{self, EventKind, InstanceState, stored_commit, stored_mutation, stored_put},
};

use super::{
    Busy, Claim, Commit, EmptyService, Event, Health, LeaseChange, Mutation, Now, Override, PastEvent,
    PastGeneration, Record, Renewed, Resource, StoreError, Written,
};

/// Why something that was read means nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(String);

impl From<Error> for Malformed {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

impl From<waypost_proto::error::Violation> for Malformed {
    fn from(violation: waypost_proto::error::Violation) -> Self {
        Self(violation.to_string())
    }
}

impl From<prost::DecodeError> for Malformed {
    fn from(error: prost::DecodeError) -> Self {
        Self(error.to_string())
    }
}

impl Malformed {
    /// The error of a store in which `entry` cannot be read.
    pub(crate) fn at(self, entry: impl Into<String>) -> StoreError {
        StoreError::Malformed { entry: entry.into(), reason: self.0 }
    }
}

fn missing(field: &'static str) -> Malformed {
    Malformed(format!("{field} is missing"))
}

/// Something that is written down as a message of the contract.
pub(crate) trait Stored: Sized {
    /// The message.
    type Wire: Message + Default;

    /// The message that stands for it.
    fn to_stored(&self) -> Self::Wire;

    /// What a message stands for.
    fn from_stored(wire: Self::Wire) -> Result<Self, Malformed>;

    /// The message's bytes.
    fn encode(&self) -> Vec<u8> {
        self.to_stored().encode_to_vec()
    }

    /// What a message's bytes stand for.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::from_stored(Self::Wire::decode(bytes)?)
    }
}

impl Stored for Record {
    type Wire = v1::StoredInstance;

    fn to_stored(&self) -> v1::StoredInstance {
        let dated = |claim: &Claim| (claim.route.to_string(), timestamp(claim.claimed_at));
        v1::StoredInstance {
            spec: Some(self.spec.to_wire()),
            epoch: self.epoch,
            ttl: Some(wire_duration(self.ttl)),
            client: self.client.to_string(),
            registered_at: Some(timestamp(self.registered_at)),
            renewed_at: Some(timestamp(self.renewed.get())),
            service_since: Some(timestamp(self.service_since)),
            claimed_at: self.claims.iter().map(dated).collect(),
            health: self
                .health
                .as_ref()
                .map(|health| v1::HealthReport { healthy: health.healthy, reason: health.reason.clone() }),
            draining: self.draining.as_ref().map(ToString::to_string),
            r#override: self.overridden.as_ref().map(|word| v1::Override {
                state: word.state.into(),
                expires_at: Some(timestamp(word.expires_at)),
                reason: word.reason.clone(),
            }),
            suspect: self.suspect.as_ref().map(ToString::to_string),
            revision: self.revision,
            found_in: self.found_in.as_deref().unwrap_or_default().to_owned(),
            busy: self.busy.as_ref().map(|busy| v1::StoredBusy {
                share_percent: busy.share.as_percent().into(),
                reason: busy.reason.to_string(),
            }),
            failing: self.failing.as_ref().map(ToString::to_string),
        }
    }

    fn from_stored(wire: v1::StoredInstance) -> Result<Self, Malformed> {
        let spec = InstanceSpec::from_wire(&wire.spec.ok_or_else(|| missing("spec"))?)?;
        let registered_at = moment(wire.registered_at.as_ref(), "registered_at")?;
        let claimed_at = |route: &str| wire.claimed_at.get(route).map_or(registered_at, system_time);
        let overridden = |word: v1::Override| {
            let state = InstanceState::try_from(word.state).ok();
            let state = state.filter(|state| matches!(state, InstanceState::Up | InstanceState::Down));
            Ok::<_, Malformed>(Override {
                state: state.ok_or_else(|| Malformed("override.state is neither UP nor DOWN".to_owned()))?,
                expires_at: moment(word.expires_at.as_ref(), "override.expires_at")?,
                reason: word.reason,
            })
        };
        let busy = |wire: v1::StoredBusy| {
            Share::from_wire(Some(wire.share_percent))
                .map(|share| Busy { share, reason: Arc::from(wire.reason) })
        };
        Ok(Self {
            claims: Claim::all(&spec, claimed_at).into(),
            epoch: wire.epoch,
            ttl: length(wire.ttl.as_ref(), "ttl")?,
            client: wire.client.into(),
            registered_at,
            renewed: Renewed::at(wire.renewed_at.as_ref().map_or(registered_at, system_time)),
            service_since: wire.service_since.as_ref().map_or(registered_at, system_time),
            health: wire.health.map(|health| Health { healthy: health.healthy, reason: health.reason }),
            draining: wire.draining.map(Arc::from),
            overridden: wire.r#override.map(overridden).transpose()?,
            suspect: wire.suspect.map(Arc::from),
            busy: wire.busy.map(busy).transpose()?,
            failing: wire.failing.map(Arc::from),
            found_in: Some(wire.found_in).filter(|catalog| !catalog.is_empty()).map(Arc::from),
            revision: wire.revision,
            spec: Arc::new(spec),
        })
    }
}

impl Stored for EmptyService {
    type Wire = v1::StoredEmptyService;

    fn to_stored(&self) -> v1::StoredEmptyService {
        let claim = |claim: &Claim| v1::StoredClaim {
            route: Some(Route::new(self.key.clone(), claim.matches.clone(), Vec::new()).to_wire()),
            claimed_at: Some(timestamp(claim.claimed_at)),
        };
        v1::StoredEmptyService {
            key: Some(self.key.to_wire()),
            since: Some(timestamp(self.since)),
            emptied_at: Some(timestamp(self.emptied_at)),
            claims: self.claims.iter().map(claim).collect(),
            revision: self.revision,
        }
    }

    fn from_stored(wire: v1::StoredEmptyService) -> Result<Self, Malformed> {
        let claim = |claim: v1::StoredClaim| {
            let route = Route::from_wire(&claim.route.ok_or_else(|| missing("claims.route"))?)?;
            let claimed_at = moment(claim.claimed_at.as_ref(), "claims.claimed_at")?;
            Ok::<_, Malformed>(Claim { route: route.id, matches: route.matches, claimed_at })
        };
        Ok(Self {
            key: ServiceKey::from_wire(wire.key.as_ref())?,
            since: moment(wire.since.as_ref(), "since")?,
            emptied_at: moment(wire.emptied_at.as_ref(), "emptied_at")?,
            claims: wire.claims.into_iter().map(claim).collect::<Result<_, _>>()?,
            revision: wire.revision,
        })
    }
}

impl Stored for Resource {
    type Wire = v1::StoredResource;

    fn to_stored(&self) -> v1::StoredResource {
        v1::StoredResource {
            key: Some(self.key.to_wire()),
            manifest: self.manifest.to_string(),
            generation: self.generation,
            created_at: Some(timestamp(self.created_at)),
            applied_at: Some(timestamp(self.applied_at)),
            actor: self.actor.to_string(),
            past: self.past.iter().map(PastGeneration::to_wire).collect(),
            revision: self.revision,
        }
    }

    fn from_stored(wire: v1::StoredResource) -> Result<Self, Malformed> {
        let past = |past: v1::Generation| {
            Ok::<_, Malformed>(PastGeneration {
                generation: past.generation,
                manifest: past.manifest.into(),
                applied_at: moment(past.applied_at.as_ref(), "past.applied_at")?,
                actor: past.actor.into(),
                revision: past.revision,
            })
        };
        Ok(Self {
            key: ResourceKey::from_wire(wire.key.as_ref())?,
            manifest: wire.manifest.into(),
            generation: wire.generation,
            created_at: moment(wire.created_at.as_ref(), "created_at")?,
            applied_at: moment(wire.applied_at.as_ref(), "applied_at")?,
            actor: wire.actor.into(),
            past: wire.past.into_iter().map(past).collect::<Result<_, _>>()?,
            revision: wire.revision,
        })
    }
}

/// Resources that one commit changes, as bytes.
#[cfg(feature = "redis")]
pub(crate) fn declaration_to_bytes<'a>(resources: impl Iterator<Item = &'a Resource>) -> Vec<u8> {
    v1::StoredDeclaration { resources: resources.map(Stored::to_stored).collect() }.encode_to_vec()
}

/// Reads what [`declaration_to_bytes`] wrote.
#[cfg(feature = "redis")]
pub(crate) fn declaration_from_bytes(bytes: &[u8]) -> Result<Vec<Resource>, Malformed> {
    let declared = v1::StoredDeclaration::decode(bytes)?;
    declared.resources.into_iter().map(Resource::from_stored).collect()
}

impl Stored for PastEvent {
    type Wire = v1::Event;

    fn to_stored(&self) -> v1::Event {
        self.to_wire()
    }

    fn from_stored(wire: v1::Event) -> Result<Self, Malformed> {
        Ok(Self {
            revision: wire.revision,
            at: moment(wire.time.as_ref(), "time")?,
            event: event_from_stored(wire)?,
        })
    }
}

/// An event that has no place in the history yet.
fn event_to_stored(event: &Event) -> v1::Event {
    let (revision, at) = (0, UNIX_EPOCH);
    v1::Event { time: None, ..PastEvent { revision, at, event: event.clone() }.to_wire() }
}

fn event_from_stored(wire: v1::Event) -> Result<Event, Malformed> {
    Ok(Event {
        // A kind of a newer version is an update of some kind.
        kind: EventKind::try_from(wire.kind).unwrap_or(EventKind::Updated),
        instance: InstanceKey::from_wire(wire.instance.as_ref())?,
        address: wire.address.into(),
        reason: wire.reason,
        actor: wire.actor.into(),
        epoch: wire.epoch,
    })
}

/// A commit as it is written down.
pub(crate) fn commit_to_stored(commit: &Commit) -> v1::StoredCommit {
    let (revision, at) = (commit.revision, commit.at.wall);
    let event = commit.event.clone().map(|event| PastEvent { revision, at, event }.to_wire());
    let written = match &commit.written {
        Written::Put(record) => stored_commit::Written::Put(record.to_stored()),
        Written::Removed { key, emptied } => stored_commit::Written::Removed(v1::StoredRemoval {
            key: Some(key.to_wire()),
            emptied: emptied.as_ref().map(|emptied| emptied.to_stored()),
        }),
        Written::Forgotten(service) => stored_commit::Written::Forgotten(service.to_wire()),
        Written::Completed => stored_commit::Written::Completed(v1::StoredCompletion {}),
        Written::Declared(resources) => stored_commit::Written::Declared(v1::StoredDeclaration {
            resources: resources.iter().map(|resource| resource.to_stored()).collect(),
        }),
    };
    let at = Some(timestamp(commit.at.wall));
    v1::StoredCommit { revision: commit.revision, at, written: Some(written), event }
}

/// A commit that was read; `learned` is when this process learned of it.
pub(crate) fn commit_from_stored(wire: v1::StoredCommit, learned: Instant) -> Result<Commit, Malformed> {
    let written = match wire.written.ok_or_else(|| missing("written"))? {
        stored_commit::Written::Put(record) => Written::Put(Arc::new(Record::from_stored(record)?)),
        stored_commit::Written::Removed(removal) => Written::Removed {
            key: InstanceKey::from_wire(removal.key.as_ref())?,
            emptied: removal.emptied.map(EmptyService::from_stored).transpose()?.map(Arc::new),
        },
        stored_commit::Written::Forgotten(service) => {
            Written::Forgotten(ServiceKey::from_wire(Some(&service))?)
        }
        stored_commit::Written::Completed(_) => Written::Completed,
        stored_commit::Written::Declared(declared) => {
            let resources = declared.resources.into_iter();
            let resources = resources.map(|resource| Resource::from_stored(resource).map(Arc::new));
            Written::Declared(resources.collect::<Result<_, _>>()?)
        }
    };
    Ok(Commit {
        revision: wire.revision,
        at: Now { monotonic: learned, wall: moment(wire.at.as_ref(), "at")? },
        written,
        event: wire.event.map(event_from_stored).transpose()?,
    })
}

/// A mutation, for a store that another program serves.
pub(crate) fn mutation_to_stored(mutation: &Mutation) -> v1::StoredMutation {
    let nothing = v1::StoredCompletion {};
    let change = match mutation {
        Mutation::Put { record, expected, lease, event } => stored_mutation::Change::Put(v1::StoredPut {
            instance: Some(record.to_stored()),
            expected: *expected,
            lease: Some(match lease {
                LeaseChange::Grant => stored_put::Lease::Grant(nothing),
                LeaseChange::Keep => stored_put::Lease::Keep(nothing),
                LeaseChange::Hold(length) => stored_put::Lease::Hold(wire_duration(*length)),
            }),
            event: event.as_ref().map(event_to_stored),
        }),
        Mutation::Remove { key, expected, lapsed, emptied, event } => {
            stored_mutation::Change::Remove(v1::StoredRemove {
                key: Some(key.to_wire()),
                expected: *expected,
                lapsed: *lapsed,
                emptied: Some(emptied.to_stored()),
                event: Some(event_to_stored(event)),
            })
        }
        Mutation::Forget { service, expected } => stored_mutation::Change::Forget(v1::StoredForget {
            service: Some(service.to_wire()),
            expected: *expected,
        }),
        Mutation::Complete => stored_mutation::Change::Complete(nothing),
        Mutation::Declare(all) => stored_mutation::Change::Declare(v1::StoredDeclare {
            resources: all
                .iter()
                .map(|declare| v1::StoredDeclared {
                    resource: Some(declare.resource.to_stored()),
                    expected: declare.expected,
                })
                .collect(),
        }),
    };
    v1::StoredMutation { change: Some(change) }
}

fn moment(wire: Option<&pbjson_types::Timestamp>, field: &'static str) -> Result<SystemTime, Malformed> {
    wire.map(system_time).ok_or_else(|| missing(field))
}

fn length(wire: Option<&pbjson_types::Duration>, field: &'static str) -> Result<Duration, Malformed> {
    wire.and_then(duration).ok_or_else(|| missing(field))
}

#[cfg(test)]
mod tests {
    use super::{
        super::conformance::{ManualClock, emptied, event, record, wire},
        *,
    };

    fn full(now: Now) -> Record {
        let mut declared = wire("shop/users/a");
        declared.endpoints = vec!["GET /users/{id}".to_owned(), "/files/{rest:path}".to_owned()];
        declared.metadata.insert("team".to_owned(), "blue".to_owned());
        let spec = InstanceSpec::from_wire(&declared).expect("a good spec");
        Record {
            claims: Claim::all(&spec, |route| now.wall - Duration::from_secs(route.len() as u64)).into(),
            spec: Arc::new(spec),
            health: Some(Health { healthy: false, reason: "500".to_owned() }),
            draining: Some("leaves".into()),
            overridden: Some(Override {
                state: InstanceState::Down,
                expires_at: now.wall,
                reason: "rest".to_owned(),
            }),
            suspect: Some("silent".into()),
            busy: Some(Busy { share: Share::percent(25), reason: "processors at 103 %".into() }),
            failing: Some("57 failures".into()),
            found_in: Some("consul".into()),
            revision: 7,
            ..record("users/a", 3, now)
        }
    }

    #[test]
    fn what_is_written_down_reads_back() {
        let now = ManualClock::new().now();
        for written in [full(now), record("users/a", 1, now)] {
            let read = Record::decode(&written.encode()).expect("it reads back");
            assert_eq!(format!("{read:?}"), format!("{written:?}"));
            let empty = EmptyService { revision: 9, ..emptied(&written, now) };
            assert_eq!(EmptyService::decode(&empty.encode()).expect("it reads back"), empty);
        }
        let written = full(now);
        let event = Some(event(&written, EventKind::Expired));
        let emptied = Some(Arc::new(emptied(&written, now)));
        for change in [
            Written::Removed { key: written.key().clone(), emptied },
            Written::Forgotten(written.key().service().clone()),
            Written::Completed,
            Written::Put(Arc::new(written)),
        ] {
            let commit = Commit { revision: 12, at: now, written: change, event: event.clone() };
            let read = commit_from_stored(commit_to_stored(&commit), now.monotonic).expect("it reads back");
            assert_eq!(format!("{read:?}"), format!("{commit:?}"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let now = ManualClock::new().now();
        let wire = full(now).to_stored();
        let spoil = |spoil: fn(&mut v1::StoredInstance)| {
            let mut wire = wire.clone();
            spoil(&mut wire);
            Record::from_stored(wire).expect_err("it is malformed").at("users/a").to_string()
        };
        for (error, word) in [
            (spoil(|wire| wire.spec = None), "spec"),
            (spoil(|wire| wire.ttl = None), "ttl"),
            (spoil(|wire| wire.spec.as_mut().expect("it is there").address.clear()), "address"),
            (spoil(|wire| wire.r#override.as_mut().expect("it is there").state = 77), "override.state"),
        ] {
            assert!(error.contains("users/a") && error.contains(word), "{error}");
        }
        assert!(Record::decode(b"\xff\xff").is_err());
    }
}
