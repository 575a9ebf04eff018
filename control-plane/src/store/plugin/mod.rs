//! A store that another program serves: any server of `waypost.v1.StorePlugin`, in any language.
//!
//! What comes from it is checked before it is believed: a program of somebody else's may be wrong.
//!
//! Deliberately absent: how the server keeps what it is given. PLUGIN.md, beside this, says what it must promise.

mod connection;

use std::{
    collections::BTreeSet,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::stream;
use tonic::{Request, Status, Streaming};
use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    time::duration,
    v1::{self, BeatOutcome},
};

use self::connection::Connection;
use super::{
    Commit, Declare, Finding, Lapsed, LeaseStatus, Loaded, Location, Mutation, Now, PastEvent, Record,
    Renewal, Resource, Store, StoreError, StoreOptions, Watch,
    codec::{Stored, commit_from_stored, mutation_to_stored},
    record::EmptyService,
};

/// A watch is silent for at most a second; one that is so for this long is dead, however short the timeout.
const SILENCE: Duration = Duration::from_secs(3);

/// A registry that a plugin keeps.
pub(super) struct Plugin {
    url: String,
    connection: Arc<Connection>,
}

impl Plugin {
    /// The store at a URL; it is connected to when it is first used.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] says what is wrong with the URL or the options.
    pub(super) fn new(location: &Location, options: &StoreOptions) -> Result<Self, StoreError> {
        let connection = Arc::new(Connection::new(location, options)?);
        Ok(Self { url: location.to_string(), connection })
    }

    /// Asks one question.
    async fn ask<A>(
        &self,
        answer: impl Future<Output = Result<tonic::Response<A>, Status>>,
    ) -> Result<A, StoreError> {
        let answer = self.connection.within(self.connection.timeout(), answer).await?;
        Ok(answer.into_inner())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        request(message, self.connection.timeout())
    }

    async fn describe(&self) -> Result<v1::DescribeStoreResponse, StoreError> {
        let mut client = self.connection.client();
        let described = self.ask(client.describe(self.request(v1::DescribeStoreRequest {}))).await?;
        self.connection.call_it(&described.name);
        Ok(described)
    }

    /// Answers a commit whose answer is lost, if it can be seen to have been made.
    async fn look_for(&self, mutation: &Mutation) -> Option<u64> {
        let loaded = self.load().await.ok()?;
        match mutation {
            Mutation::Put { record, expected, .. } => {
                let found = loaded.records.iter().find(|found| found.key() == record.key())?;
                let made = found.revision > expected.unwrap_or_default() && same(found, record);
                made.then_some(found.revision)
            }
            Mutation::Remove { expected, event, .. } => {
                let made = |past: &&Arc<PastEvent>| past.revision > *expected && past.event == *event;
                loaded.events.iter().rev().find(made).map(|past| past.revision)
            }
            Mutation::Declare(all) => {
                let made = |declare: &Declare| {
                    let found = loaded.resources.iter().find(|found| found.key == declare.resource.key)?;
                    let plain = Resource { revision: 0, ..Resource::clone(found) };
                    let made = found.revision > declare.expected.unwrap_or_default()
                        && plain == Resource { revision: 0, ..declare.resource.clone() };
                    made.then_some(found.revision)
                };
                all.iter().map(made).collect::<Option<Vec<u64>>>()?.into_iter().max()
            }
            Mutation::Forget { .. } | Mutation::Complete => None,
        }
    }

    fn key(&self, entry: &str, wire: Option<&v1::InstanceKey>) -> Result<InstanceKey, StoreError> {
        InstanceKey::from_wire(wire).map_err(|error| self.connection.malformed(entry, error.to_string()))
    }
}

fn request<T>(message: T, time: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request
}

/// Whether two records are the same, up to what the store and the beats change.
fn same(one: &Record, other: &Record) -> bool {
    let plain = |record: &Record| v1::StoredInstance { revision: 0, renewed_at: None, ..record.to_stored() };
    plain(one) == plain(other)
}

#[tonic::async_trait]
impl Store for Plugin {
    fn url(&self) -> &str {
        &self.url
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        self.describe().await?;
        let mut client = self.connection.client();
        // It takes as long as it has to: each part has the whole time.
        let mut parts = self.ask(client.load(v1::LoadStoreRequest {})).await?;
        let mut loading: Option<Loading<'_>> = None;
        while let Some(part) = self.connection.within(self.connection.timeout(), parts.message()).await? {
            match &mut loading {
                None => loading = Some(Loading::begin(&self.connection, part)?),
                Some(loading) => loading.add(part)?,
            }
        }
        loading
            .map(|loading| loading.loaded)
            .ok_or_else(|| self.connection.malformed("Load", "it answers nothing"))
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        let mut client = self.connection.client();
        let mut commits = self.ask(client.watch(v1::WatchStoreRequest { after })).await?;
        let first = self.connection.within(self.connection.timeout(), commits.message()).await?;
        if first.is_none_or(|first| first.revision != 0) {
            return Err(self.connection.malformed("Watch", "its first message is not an empty one"));
        }
        let watching = Watching { connection: self.connection.clone(), commits, after };
        Ok(Box::pin(stream::unfold(Some(watching), async |watching| {
            let mut watching = watching?;
            let next = watching.next().await;
            let rest = next.is_ok().then_some(watching);
            Some((next, rest))
        })))
    }

    async fn commit(&self, mutation: Mutation, _: Now) -> Result<u64, StoreError> {
        let time = self.connection.timeout();
        let (to_commit, to_look) = (time * 2 / 3, time / 3);
        let mut client = self.connection.client();
        let wire = v1::CommitStoreRequest { mutation: Some(mutation_to_stored(&mutation)) };
        match self.connection.within(to_commit, client.commit(request(wire, to_commit))).await {
            Ok(answer) => match answer.into_inner().revision {
                0 => Err(self.connection.malformed("Commit", "it answers revision 0")),
                revision => Ok(revision),
            },
            Err(StoreError::Unavailable(reason)) => {
                let looked = tokio::time::timeout(to_look, self.look_for(&mutation)).await;
                looked.ok().flatten().ok_or(StoreError::Unavailable(reason))
            }
            Err(error) => Err(error),
        }
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], _: Now) -> Result<Vec<Renewal>, StoreError> {
        let lease =
            |(key, epoch): &(InstanceKey, u64)| v1::StoredLease { key: Some(key.to_wire()), epoch: *epoch };
        let wire = v1::RenewStoreRequest { leases: leases.iter().map(lease).collect() };
        let mut client = self.connection.client();
        let outcomes = self.ask(client.renew(self.request(wire))).await?.outcomes;
        if outcomes.len() != leases.len() {
            let reason = format!("{} outcomes for {} leases", outcomes.len(), leases.len());
            return Err(self.connection.malformed("Renew", reason));
        }
        let outcome = |outcome: i32| match BeatOutcome::try_from(outcome) {
            Ok(BeatOutcome::Renewed) => Ok(Renewal::Renewed),
            Ok(BeatOutcome::Unknown) => Ok(Renewal::Unknown),
            Ok(BeatOutcome::Stale) => Ok(Renewal::Stale),
            _ => Err(self.connection.malformed("Renew", format!("{outcome} is no outcome"))),
        };
        outcomes.into_iter().map(outcome).collect()
    }

    async fn lapsed(&self, _: Now) -> Result<Lapsed, StoreError> {
        let mut client = self.connection.client();
        let asked = Instant::now();
        let answer = self.ask(client.lapsed(self.request(v1::LapsedStoreRequest {}))).await?;
        let lease = |lease: v1::StoredLease| {
            Ok::<_, StoreError>((self.key("Lapsed", lease.key.as_ref())?, lease.epoch))
        };
        let leases = answer.leases.into_iter().map(lease).collect::<Result<_, _>>()?;
        let next = answer.next.as_ref().and_then(duration).map(|next| asked + next);
        Ok(Lapsed { leases, next })
    }

    async fn leases(&self, service: &ServiceKey, _: Now) -> Result<Vec<LeaseStatus>, StoreError> {
        let mut client = self.connection.client();
        let wire = v1::LeasesStoreRequest { service: Some(service.to_wire()) };
        let leases = self.ask(client.leases(self.request(wire))).await?.leases;
        let status = |lease: v1::StoredLeaseStatus| {
            let key = self.key("Leases", lease.key.as_ref())?;
            let length = |wire: Option<&pbjson_types::Duration>, field: &str| {
                let missing =
                    || self.connection.malformed(&format!("Leases, {key}"), format!("{field} is missing"));
                wire.and_then(duration).ok_or_else(missing)
            };
            let ttl = length(lease.ttl.as_ref(), "ttl")?;
            let remaining = length(lease.remaining.as_ref(), "remaining")?;
            Ok(LeaseStatus { epoch: lease.epoch, ttl, remaining, key })
        };
        leases.into_iter().map(status).collect()
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        let described = self.describe().await?;
        let good = |subject: &str, detail: String| Finding {
            subject: subject.to_owned(),
            good: true,
            detail,
            remedy: String::new(),
        };
        let mut findings = vec![good("reachable", self.connection.who()), good("version", described.version)];
        findings.extend(described.findings.into_iter().map(|finding| Finding {
            subject: finding.subject,
            good: finding.good,
            detail: finding.detail,
            remedy: finding.remedy,
        }));
        Ok(findings)
    }
}

/// What has been loaded so far.
struct Loading<'a> {
    connection: &'a Connection,
    loaded: Loaded,
    /// Instances and services that were there already.
    seen: BTreeSet<String>,
}

impl<'a> Loading<'a> {
    fn begin(connection: &'a Connection, part: v1::LoadStoreResponse) -> Result<Self, StoreError> {
        if part.history.is_empty() {
            return Err(connection.malformed("Load", "its first message has no history"));
        }
        let loaded = Loaded {
            history: part.history.as_str().into(),
            revision: part.revision,
            complete: part.complete,
            records: Vec::new(),
            empty_services: Vec::new(),
            resources: Vec::new(),
            events: Vec::new(),
        };
        let mut loading = Self { connection, loaded, seen: BTreeSet::new() };
        loading.add(part)?;
        Ok(loading)
    }

    fn add(&mut self, part: v1::LoadStoreResponse) -> Result<(), StoreError> {
        let other_history = !part.history.is_empty() && *part.history != *self.loaded.history;
        if other_history || (part.revision != 0 && part.revision != self.loaded.revision) {
            return Err(self.connection.malformed("Load", "its parts stand for different revisions"));
        }
        for wire in part.instances {
            let name =
                wire.spec.as_ref().map(|spec| format!("{}/{}/{}", spec.namespace, spec.service, spec.id));
            let name = format!("Load, instance {}", name.unwrap_or_default());
            let record = Record::from_stored(wire).map_err(|error| error.at(self.connection.entry(&name)))?;
            self.check(&name, record.revision)?;
            self.loaded.records.push(Arc::new(record));
        }
        for wire in part.empty_services {
            let name = wire.key.as_ref().map(|key| format!("{}/{}", key.namespace, key.name));
            let name = format!("Load, empty service {}", name.unwrap_or_default());
            let empty =
                EmptyService::from_stored(wire).map_err(|error| error.at(self.connection.entry(&name)))?;
            self.check(&name, empty.revision)?;
            self.loaded.empty_services.push(Arc::new(empty));
        }
        for wire in part.resources {
            let name = wire.key.as_ref().map(|key| format!("{} {}/{}", key.kind, key.namespace, key.name));
            let name = format!("Load, resource {}", name.unwrap_or_default());
            let resource =
                Resource::from_stored(wire).map_err(|error| error.at(self.connection.entry(&name)))?;
            self.check(&name, resource.revision)?;
            self.loaded.resources.push(Arc::new(resource));
        }
        for wire in part.events {
            let name = format!("Load, event of revision {}", wire.revision);
            let past =
                PastEvent::from_stored(wire).map_err(|error| error.at(self.connection.entry(&name)))?;
            self.loaded.events.push(Arc::new(past));
        }
        Ok(())
    }

    fn check(&mut self, entry: &str, revision: u64) -> Result<(), StoreError> {
        if revision == 0 || revision > self.loaded.revision {
            let reason = format!("its revision is {revision}, and that of all {}", self.loaded.revision);
            return Err(self.connection.malformed(entry, reason));
        }
        if !self.seen.insert(entry.to_owned()) {
            return Err(self.connection.malformed(entry, "it is there twice"));
        }
        Ok(())
    }
}

/// A watch that is open.
struct Watching {
    connection: Arc<Connection>,
    commits: Streaming<v1::StoredCommit>,
    after: u64,
}

impl Watching {
    /// The next commit; messages without one only show that the stream lives.
    async fn next(&mut self) -> Result<Arc<Commit>, StoreError> {
        let patience = self.connection.timeout().max(SILENCE);
        loop {
            let message = self.connection.within(patience, self.commits.message()).await?;
            let ended = || StoreError::Unavailable(format!("{} has ended the watch", self.connection.who()));
            let wire = message.ok_or_else(ended)?;
            if wire.revision == 0 {
                continue;
            }
            let entry = format!("Watch, revision {}", wire.revision);
            if wire.revision <= self.after {
                let reason = format!("it comes after revision {}", self.after);
                return Err(self.connection.malformed(&entry, reason));
            }
            self.after = wire.revision;
            let commit = commit_from_stored(wire, Instant::now());
            return commit
                .map(Arc::new)
                .map_err(|error| self.connection.malformed(&entry, error.to_string()));
        }
    }
}
