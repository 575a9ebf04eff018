//! Services that others have registered in Consul become instances here: found, followed, and given up when they go.
//!
//! Every process compares what Consul's catalog has with what the registry holds, and commits the difference. A
//! commit succeeds once only, so that it does not matter how many do so.
//!
//! Deliberately absent: what a Waypost has registered, under any prefix; Consul itself; proxies and gateways of its
//! mesh; and what has no port.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use consulrs::api::catalog::requests::ListServicesRequest;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use waypost_proto::{
    instance::InstanceSpec,
    name::{InstanceKey, ServiceKey},
    v1::{self, EventKind},
};

use super::{
    Inner,
    answers::{Check, ServiceHealth},
    api::Reading,
    layout::OURS,
    vitals::{CONSUL, Others},
};
use crate::store::{
    Claim, EmptyService, Event, Health, LeaseChange, Mutation, Now, Record, Renewed, StoreError, micros,
};

/// Where instances were found, as their records say.
const FOUND_IN: &str = "consul";
/// How often everything is compared, whether something seems to have changed or not.
const COMPARE: Duration = Duration::from_secs(30);
/// How long changes are gathered before they are looked at.
const GATHER: Duration = Duration::from_millis(100);
/// The same, where nothing says that it is of interest.
const GATHER_MORE: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How many services are read at once.
const AT_ONCE: usize = 8;
/// How long instances that were found say that their lease is: they have none, their checks decide.
const NO_LEASE: Duration = Duration::from_secs(30);

/// What discovery remembers from one look to the next.
#[derive(Default)]
struct Memory {
    /// What the checks said when a service was read.
    read: Others,
    /// The services of which all instances are ours.
    ours: BTreeSet<String>,
    /// What was said already of services that cannot be taken over.
    told: Mutex<HashSet<String>>,
}

/// A service as the registry holds it.
struct Held {
    records: Vec<Arc<Record>>,
    empty: Option<Arc<EmptyService>>,
}

/// Compares until the store is closed.
pub(super) async fn run(inner: Arc<Inner>, closed: CancellationToken) {
    tokio::select! {
        () = look(&inner) => {}
        () = closed.cancelled() => {}
    }
}

async fn look(inner: &Inner) {
    let mut others = inner.others.subscribe();
    let mut compare = tokio::time::interval(COMPARE);
    let mut memory = Memory::default();
    let mut index = 0;
    let mut names = BTreeSet::new();
    loop {
        let request = ListServicesRequest::default();
        let listed = tokio::select! {
            listed = inner.api.list(&request, None, Reading::After(index)) => Some(listed),
            _ = others.changed() => None,
            _ = compare.tick() => {
                memory.read.clear();
                None
            }
        };
        match listed {
            Some(Ok(answer)) => {
                index = if answer.index < index { 0 } else { answer.index.max(1) };
                let listed: BTreeSet<String> =
                    answer.value.into_keys().filter(|name| name != CONSUL).collect();
                if listed == names {
                    // An instance has changed, one of ours more often than not.
                    tokio::time::sleep(GATHER_MORE).await;
                    memory.read.retain(|name, _| memory.ours.contains(name));
                }
                names = listed;
            }
            Some(Err(error)) => {
                tracing::debug!(?error, "Consul's services cannot be listed, trying again");
                index = 0;
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            // Nothing is known of what exists before the first list.
            None if index == 0 => continue,
            None => tokio::time::sleep(GATHER).await,
        }
        let seen = others.borrow_and_update().clone();
        if let Err(error) = inner.compare_services(&names, seen, &mut memory).await {
            tracing::debug!(%error, "what Consul has found could not be taken over, trying again");
            tokio::time::sleep(ASK_AGAIN).await;
            index = 0;
        }
    }
}

impl Inner {
    /// Takes over what others have registered.
    async fn compare_services(
        &self,
        names: &BTreeSet<String>,
        seen: Others,
        memory: &mut Memory,
    ) -> Result<(), StoreError> {
        if !self.is_open() {
            self.catch_up().await?;
        }
        let changed = |name: &&String| memory.read.get(*name) != Some(seen.get(*name).unwrap_or(&0));
        let mut changed: BTreeSet<String> = names.iter().filter(changed).cloned().collect();
        // What another process has found since the services were listed is not gone: it is asked for by its name.
        changed.extend(self.found_services().difference(names).cloned());
        let read = stream::iter(changed.clone().into_iter().map(async |name| {
            // Before the catalog is read: whoever changes a record after that knows more than this process.
            let held = self.held(&name);
            let services: Vec<ServiceHealth> =
                self.api.get(format!("health/service/{name}"), None, Reading::Consistent).await?.value;
            Ok::<_, StoreError>((held, services))
        }));
        let read: Vec<Result<_, StoreError>> = read.buffered(AT_ONCE).collect().await;
        for (name, read) in changed.iter().zip(read) {
            let (held, services) = read?;
            let holds_found =
                held.as_ref().is_some_and(|held| held.records.iter().any(|record| is_found(record)));
            if services.is_empty() && holds_found {
                self.must_see_nodes().await?;
            }
            if services.iter().all(|found| found.service.id.starts_with(OURS)) {
                memory.ours.insert(name.clone());
            } else {
                memory.ours.remove(name);
            }
            let wanted = self.wanted(name, &services, memory);
            if let Some(held) = held {
                self.take_over(held, wanted).await?;
            }
            memory.read.insert(name.clone(), seen.get(name).copied().unwrap_or(0));
        }
        memory.read.retain(|name, _| names.contains(name));
        memory.ours.retain(|name| names.contains(name));
        Ok(())
    }

    /// The names of the services of which instances were found.
    fn found_services(&self) -> BTreeSet<String> {
        let state = self.state.lock();
        let records = state.mirror.iter().flat_map(|mirror| mirror.contents.records.values());
        let found = records.filter(|kept| is_found(&kept.record));
        found.map(|kept| kept.record.key().service().name().to_owned()).collect()
    }

    /// What the instances of a service are to be here.
    fn wanted(
        &self,
        name: &str,
        services: &[ServiceHealth],
        memory: &Memory,
    ) -> BTreeMap<InstanceKey, (InstanceSpec, Health)> {
        let theirs = |found: &&ServiceHealth| {
            let service = &found.service;
            !service.id.starts_with(OURS) && service.kind.is_empty() && service.port != 0
        };
        let mut wanted = BTreeMap::new();
        for found in services.iter().filter(theirs) {
            match InstanceSpec::from_wire(&declared(name, found)) {
                Ok(spec) => drop(wanted.insert(spec.key.clone(), (spec, health(found)))),
                Err(error) => {
                    let id = format!("{}/{}", found.node.node, found.service.id);
                    if memory.told.lock().insert(id.clone()) {
                        tracing::warn!(name, id, %error, "a service of Consul's catalog cannot be routed to");
                    }
                }
            }
        }
        wanted
    }

    /// What is held of a service; none: it cannot be held, or nothing is known yet.
    fn held(&self, name: &str) -> Option<Held> {
        let service = ServiceKey::new("", name).ok()?;
        let state = self.state.lock();
        let contents = &state.mirror.as_ref()?.contents;
        let records = contents.of(&service).map(|kept| kept.record.clone()).collect();
        Some(Held { records, empty: contents.empty.get(&service).cloned() })
    }

    /// Makes the instances that were found of a service those that are wanted.
    async fn take_over(
        &self,
        held: Held,
        mut wanted: BTreeMap<InstanceKey, (InstanceSpec, Health)>,
    ) -> Result<(), StoreError> {
        let now = Now::read();
        let mut mutations = Vec::new();
        for record in &held.records {
            let wanted = wanted.remove(record.key());
            if is_found(record) {
                mutations.extend(match wanted {
                    Some((spec, health)) => updated(record, spec, health),
                    None => Some(removed(record, now)),
                });
            }
        }
        mutations.extend(wanted.into_values().map(|(spec, health)| found(spec, health, &held, now)));
        for mutation in mutations {
            match self.jobs.mutate(mutation, now, self.api.timeout()).await {
                // Another process was first.
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_found(record: &Record) -> bool {
    record.found_in.as_deref() == Some(FOUND_IN)
}

/// What an instance would have declared, had it registered here.
fn declared(name: &str, found: &ServiceHealth) -> v1::InstanceSpec {
    let service = &found.service;
    let host = if service.address.is_empty() { &found.node.address } else { &service.address };
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let meta = service.meta.clone().unwrap_or_default();
    let of_meta = |key: &str| meta.get(key).cloned().unwrap_or_default();
    let protocol = match of_meta("protocol").as_str() {
        "http2" | "h2c" => v1::Protocol::Http2,
        "grpc" => v1::Protocol::Grpc,
        _ => v1::Protocol::Unspecified,
    };
    v1::InstanceSpec {
        service: name.to_owned(),
        id: id(&found.node.node, &service.id),
        address: format!("{host}:{}", service.port),
        version: of_meta("version"),
        zone: of_meta("zone"),
        protocol: protocol.into(),
        tags: service.tags.clone().unwrap_or_default(),
        weight: service.weights.as_ref().map(|weights| weights.passing.min(u32::from(u16::MAX))),
        metadata: meta.into_iter().collect(),
        ..v1::InstanceSpec::default()
    }
}

/// An id that keeps to our rules: service ids are unique on their node only.
fn id(node: &str, service_id: &str) -> String {
    let fit =
        |character: char| if character.is_ascii_graphic() && character != '/' { character } else { '_' };
    format!("{node}:{service_id}").chars().map(fit).take(255).collect()
}

/// What the checks of an instance and of its node come to: as in Consul, a warning is no failure.
fn health(found: &ServiceHealth) -> Health {
    let failing = |check: &&Check| check.status != "passing" && check.status != "warning";
    match found.checks.iter().find(failing) {
        Some(check) => Health { healthy: false, reason: format!("{}: {}", check.name, check.output.trim()) },
        None => Health { healthy: true, reason: "its checks in Consul pass".to_owned() },
    }
}

fn found(spec: InstanceSpec, health: Health, held: &Held, now: Now) -> Mutation {
    let Held { records, empty } = held;
    let empty = empty.as_ref();
    let claims = records.iter().map(|record| &*record.claims).chain(empty.map(|empty| &*empty.claims));
    let dates: BTreeMap<Arc<str>, _> =
        claims.flatten().map(|claim| (claim.route.clone(), claim.claimed_at)).collect();
    let since = records.first().map(|record| record.service_since).or(empty.map(|empty| empty.since));
    let record = Record {
        claims: Claim::all(&spec, |route| dates.get(route).copied().unwrap_or(now.wall)).into(),
        epoch: micros(now.wall),
        ttl: NO_LEASE,
        client: FOUND_IN.into(),
        registered_at: now.wall,
        renewed: Renewed::at(now.wall),
        service_since: since.unwrap_or(now.wall),
        health: Some(health),
        draining: None,
        overridden: None,
        suspect: None,
        busy: None,
        failing: None,
        found_in: Some(FOUND_IN.into()),
        revision: 0,
        spec: Arc::new(spec),
    };
    let event = event(&record, EventKind::Registered, "found in Consul's catalog".to_owned());
    Mutation::Put { record, expected: None, lease: LeaseChange::Keep, event: Some(event) }
}

fn updated(before: &Record, spec: InstanceSpec, health: Health) -> Option<Mutation> {
    let turned = before.healthy() != health.healthy;
    // What a passing check says changes with each of its runs and is of no interest.
    let says_more = !health.healthy && before.health.as_ref() != Some(&health);
    let changed = *before.spec != spec;
    if !turned && !says_more && !changed {
        return None;
    }
    let dates = |route: &str| {
        let claim = before.claims.iter().find(|claim| &*claim.route == route);
        claim.map_or(before.registered_at, |claim| claim.claimed_at)
    };
    let mut after = before.clone();
    if changed {
        after.claims = Claim::all(&spec, dates).into();
        after.spec = Arc::new(spec);
    }
    let (kind, reason) = if turned || says_more {
        (EventKind::Health, health.reason.clone())
    } else {
        (EventKind::Updated, "changed in Consul's catalog".to_owned())
    };
    after.health = Some(health);
    let event = (turned || changed).then(|| event(&after, kind, reason));
    Some(Mutation::Put { record: after, expected: Some(before.revision), lease: LeaseChange::Keep, event })
}

fn removed(record: &Record, now: Now) -> Mutation {
    Mutation::Remove {
        key: record.key().clone(),
        expected: record.revision,
        lapsed: false,
        emptied: EmptyService {
            key: record.key().service().clone(),
            since: record.service_since,
            emptied_at: now.wall,
            claims: record.claims.clone(),
            revision: 0,
        },
        event: event(record, EventKind::Deregistered, "gone from Consul's catalog".to_owned()),
    }
}

fn event(record: &Record, kind: EventKind, reason: String) -> Event {
    Event {
        kind,
        instance: record.key().clone(),
        address: Arc::from(record.spec.address.as_str()),
        reason,
        actor: FOUND_IN.into(),
        epoch: record.epoch,
    }
}
