//! Our instances as services of Consul's catalog, each with a check that lives as long as its lease.
//!
//! They are registered with the agent of the store's URL by whoever gets the beats: the check is passed with the
//! first beat and, as long as they keep coming, at most every third of the lease. Its length is the lease's and a
//! third, so that it never fails before the lease does. An instance that takes no requests is shown in maintenance
//! mode, which leaves its lease alone.
//!
//! Deliberately absent: reading the catalog.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use consulrs::api::{
    check::{common::AgentServiceCheck, requests::TtlCheckPassRequest},
    service::{
        common::AgentWeights,
        requests::{DeregisterServiceRequest, EnableMaintenanceRequest, RegisterServiceRequest},
    },
};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use waypost_proto::{name::InstanceKey, v1::InstanceState};

use super::{
    Inner,
    answers::Registered,
    api::{CallError, Reading},
    layout::{catalog_name, notes},
};
use crate::store::{Record, StoreError};

/// How many instances are shown at once.
const AT_ONCE: usize = 16;
/// How often what is shown is compared with what should be.
const COMPARE: Duration = Duration::from_secs(60);
/// How many locks keep what is done for the same instance in order.
const LOCKS: usize = 64;
/// The shortest time after which Consul forgets a service whose check fails.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// The longest value of metadata that Consul takes, bytes, and the most keys.
const LONGEST_META: usize = 512;
const MOST_META: usize = 60;

/// Why an instance is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because {
    /// It was registered here.
    Grant,
    /// It has sent a beat.
    Beat,
    /// Its record has changed.
    Change,
}

/// What the agent was told.
pub(super) struct Catalog {
    /// Who was registered here and is not shown yet.
    granted: mpsc::UnboundedSender<InstanceKey>,
    shown: Mutex<HashMap<InstanceKey, Shown>>,
    locks: Vec<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Shown {
    epoch: u64,
    digest: u64,
    /// `None`: as a process before us may have left it.
    in_maintenance: Option<bool>,
    /// When the check was last passed.
    passed: Option<Instant>,
}

impl Catalog {
    /// Nothing is shown yet. The receiver is for [`show_granted`].
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<InstanceKey>) {
        let (granted, receiver) = mpsc::unbounded_channel();
        let locks = (0..LOCKS).map(|_| tokio::sync::Mutex::default()).collect();
        (Self { granted, shown: Mutex::default(), locks }, receiver)
    }

    /// Notes that an instance was registered here.
    pub(super) fn grant(&self, key: InstanceKey) {
        // Nobody listens any more once the store is closed.
        let _ = self.granted.send(key);
    }

    /// Whether the agent knows this instance from us.
    fn shows(&self, key: &InstanceKey) -> bool {
        self.shown.lock().contains_key(key)
    }
}

/// Shows what has changed, until the store is closed.
pub(super) async fn run(
    inner: Arc<Inner>,
    mut changes: mpsc::UnboundedReceiver<InstanceKey>,
    closed: CancellationToken,
) {
    let work = async {
        let mut compare = tokio::time::interval(COMPARE);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                received = changes.recv_many(&mut batch, 1024) => if received == 0 { return },
                _ = compare.tick() => inner.compare(&mut batch).await,
            }
            let keys: HashSet<InstanceKey> = batch.drain(..).filter(|key| inner.catalog.shows(key)).collect();
            let show = async |key: InstanceKey| {
                if let Err(error) = inner.show(&key, Because::Change).await.map_err(StoreError::from) {
                    tracing::warn!(instance = %key, %error, "Consul's catalog does not show the instance as it is");
                }
            };
            stream::iter(keys).for_each_concurrent(AT_ONCE, show).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = closed.cancelled() => {}
    }
}

/// Shows what was registered here, until the store is closed: one after the other, with a rest after each that is
/// as long as it took. The agent and its servers write a registration down before they acknowledge it, and commits
/// that come meanwhile wait for that.
pub(super) async fn show_granted(
    inner: Arc<Inner>,
    mut granted: mpsc::UnboundedReceiver<InstanceKey>,
    closed: CancellationToken,
) {
    let work = async {
        while let Some(key) = granted.recv().await {
            let begun = Instant::now();
            if let Err(error) = inner.show(&key, Because::Grant).await.map_err(StoreError::from) {
                tracing::warn!(instance = %key, %error, "Consul's catalog does not show the instance before its next beat");
            }
            tokio::time::sleep(begun.elapsed()).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = closed.cancelled() => {}
    }
}

impl Inner {
    /// Makes the agent show an instance as it is by now, or not at all if it is gone.
    ///
    /// # Errors
    /// The agent cannot be reached, or refuses.
    pub(super) async fn show(&self, key: &InstanceKey, because: Because) -> Result<(), CallError> {
        let _in_order = self.catalog.locks[usize::try_from(digest_of(key)).unwrap_or(0) % LOCKS].lock().await;
        let record = {
            let state = self.state.lock();
            let kept = state.mirror.as_ref().and_then(|mirror| mirror.contents.records.get(key));
            kept.filter(|kept| kept.leased).map(|kept| kept.record.clone())
        };
        let shown = self.catalog.shown.lock().get(key).copied();
        let outcome = match record {
            None if shown.is_some() => self.hide(key).await.map(|()| None),
            None => Ok(None),
            Some(record) => self.show_record(&record, shown, because).await.map(Some),
        };
        match outcome {
            Ok(Some(shown)) => drop(self.catalog.shown.lock().insert(key.clone(), shown)),
            Ok(None) => drop(self.catalog.shown.lock().remove(key)),
            Err(error) => {
                // What the agent knows is not known any more: the next beat tells it everything.
                self.catalog.shown.lock().remove(key);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn show_record(
        &self,
        record: &Record,
        shown: Option<Shown>,
        because: Because,
    ) -> Result<Shown, CallError> {
        let asked = Instant::now();
        let registration = self.registration(record, because);
        let digest = self.digest(record);
        let known = shown.filter(|shown| shown.epoch == record.epoch && shown.digest == digest);
        let mut now =
            known.unwrap_or(Shown { epoch: record.epoch, digest, in_maintenance: None, passed: None });
        if known.is_none() {
            self.api.tell(&registration, &[]).await?;
            // Consul keeps maintenance mode over a registration that replaces another.
            now.in_maintenance = shown.and_then(|shown| shown.in_maintenance);
        }
        let recently = now.passed.is_some_and(|at| at.elapsed() < record.ttl / 3);
        if because == Because::Beat && !recently {
            let check = self.layout.check_id(record.key());
            let pass = TtlCheckPassRequest { check, ..TtlCheckPassRequest::default() };
            let begun = Instant::now();
            match self.api.tell(&pass, &[]).await {
                // The agent does not know it: it was restarted without what it knew.
                Err(CallError::Failed(..)) if known.is_some() => {
                    self.api.tell(&registration, &[]).await?;
                    self.api.tell(&pass, &[]).await?;
                    now.in_maintenance = None;
                }
                outcome => outcome?,
            }
            now.passed = Some(begun);
        }
        if (because == Because::Beat || (because == Because::Grant && known.is_none()))
            && let Some(mirror) = &mut self.state.lock().mirror
        {
            mirror.beat_is_in(record.key(), record.epoch, asked);
        }
        let rests = record.state() != InstanceState::Up && record.state() != InstanceState::Suspect;
        // What is new is hardly ever in maintenance mode: where it is, the first beat ends it.
        let likely = because == Because::Grant && !rests && now.in_maintenance.is_none();
        if now.in_maintenance != Some(rests) && !likely {
            let id = self.layout.service_id(record.key());
            let request =
                EnableMaintenanceRequest { id, enable: rests, ..EnableMaintenanceRequest::default() };
            let reason = if rests { record.reason() } else { String::new() };
            self.api.tell(&request, &[("reason", reason)]).await?;
            now.in_maintenance = Some(rests);
        }
        Ok(now)
    }

    /// Takes an instance from the agent.
    pub(super) async fn hide(&self, key: &InstanceKey) -> Result<(), CallError> {
        let id = self.layout.service_id(key);
        self.deregister(id).await
    }

    /// Takes a service from the agent; one that it does not know is no failure.
    pub(super) async fn deregister(&self, id: String) -> Result<(), CallError> {
        let request = DeregisterServiceRequest { id, ..DeregisterServiceRequest::default() };
        match self.api.tell(&request, &[]).await {
            Err(CallError::Failed(404, _)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Takes from the agent what is not registered any more, and adds to `changed` what may have to be shown anew.
    async fn compare(&self, changed: &mut Vec<InstanceKey>) {
        if !self.is_open() {
            return;
        }
        let filter = format!("ID matches \"^{}\"", self.layout.ids().replace('.', "\\."));
        let agents: HashMap<String, Registered> =
            match self.api.get("agent/services", Some(&filter), Reading::Default).await {
                Ok(answer) => answer.value,
                Err(error) => {
                    tracing::debug!(?error, "the agent's services cannot be read");
                    return;
                }
            };
        // A copy, which costs nothing: naming them all takes a while, and commits need the lock.
        let records = self.state.lock().mirror.as_ref().map(|mirror| mirror.contents.records.clone());
        let leased = records.iter().flatten().filter(|(_, kept)| kept.leased);
        let held: HashSet<String> = leased.map(|(key, _)| self.layout.service_id(key)).collect();
        for service in agents.into_values().filter(|service| !held.contains(&service.id)) {
            tracing::info!(id = service.id, "taken from Consul's agent: it is not registered any more");
            if let Err(error) = self.deregister(service.id).await {
                tracing::debug!(?error, "it stays until its check has failed for a while");
            }
        }
        changed.extend(self.catalog.shown.lock().keys().cloned());
    }

    fn registration(&self, record: &Record, because: Because) -> RegisterServiceRequest {
        let spec = &record.spec;
        let length = record.ttl + record.ttl / 3;
        let check = AgentServiceCheck {
            name: Some("Waypost lease".to_owned()),
            notes: Some(notes(record.epoch)),
            // A check that is there already stays as it is; the first beat sees to that.
            status: Some(if because == Because::Change { "critical" } else { "passing" }.to_owned()),
            ttl: Some(format!("{}ms", length.as_millis())),
            deregister_critical_service_after: Some(format!(
                "{}s",
                (length * 10).max(FORGET_AFTER).as_secs()
            )),
            ..AgentServiceCheck::default()
        };
        // A weight of 0, which takes no requests, is the lowest one here: Consul knows no other.
        let weights = AgentWeights { passing: Some(u64::from(spec.weight).max(1)), warning: Some(1) };
        let (host, port) = (spec.address.host().to_owned(), u64::from(spec.address.port()));
        RegisterServiceRequest {
            name: Some(catalog_name(record.key().service())),
            id: Some(self.layout.service_id(record.key())),
            address: Some(host.trim_start_matches('[').trim_end_matches(']').to_owned()),
            port: Some(port),
            tags: Some(spec.tags.iter().map(ToString::to_string).collect()),
            meta: Some(self.meta(record).into_iter().collect()),
            weights: Some(weights),
            check: Some(check),
            ..RegisterServiceRequest::default()
        }
    }

    /// Changes when what is registered does.
    fn digest(&self, record: &Record) -> u64 {
        let spec = &record.spec;
        digest_of(&(spec.address.as_str(), &spec.tags, spec.weight, record.ttl, self.meta(record)))
    }

    /// What others can learn of an instance: its own metadata as far as Consul takes it, and what Waypost knows.
    fn meta(&self, record: &Record) -> BTreeMap<String, String> {
        let spec = &record.spec;
        let fits = |(key, value): &(&String, &String)| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            !key.is_empty() && key.len() <= 128 && key.bytes().all(plain) && value.len() <= LONGEST_META
        };
        let own = spec.metadata.iter().filter(fits).take(MOST_META - 8);
        let mut meta: BTreeMap<String, String> =
            own.map(|(key, value)| (key.clone(), value.clone())).collect();
        let ours = [
            ("version", spec.version.to_string()),
            ("zone", spec.zone.to_string()),
            ("protocol", spec.protocol.as_str_name().to_lowercase()),
            ("waypost-prefix", self.layout.folder().trim_end_matches('/').to_owned()),
            ("waypost-namespace", record.key().service().namespace().to_owned()),
            ("waypost-id", record.key().id().to_owned()),
        ];
        meta.extend(
            ours.into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .filter(|(_, value)| !value.is_empty()),
        );
        meta
    }
}

fn digest_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
