//! The default store: this process's memory, and behind it, with a data directory, a file that outlives it.
//!
//! Without a directory it begins empty, with a history of its own, and so does not know what was registered before
//! ([`Loaded::complete`]): SDKs and agents register again by themselves. With one, a commit is acknowledged, and seen
//! by anybody, only once it is on disk (see `journal`).
//!
//! Deliberately absent: other replicas. The directory belongs to one process.

mod contents;
mod file;
mod journal;
mod read;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use waypost_proto::name::{InstanceKey, ServiceKey};

use self::{
    contents::{Contents, LeaseEffect},
    file::{Directory, Kept},
    journal::Journal,
};
use super::{
    Commit, Finding, Lapsed, LeaseStatus, Loaded, Location, Mutation, Now, PastEvent, Renewal, Store,
    StoreError, StoreOptions, Watch,
    leases::{Leases, Standing},
};

/// Opens the memory store, with what its directory holds if it has one.
pub(super) async fn open(location: &Location, options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    location.nothing_else(&[])?;
    let Some(directory) = options.data_dir.clone() else {
        return Ok(Arc::new(Memory::remembering(options.remembered)));
    };
    let options = options.clone();
    let opened = tokio::task::spawn_blocking(move || Memory::open(&directory, &options, Now::read())).await;
    let memory = opened.map_err(|error| StoreError::Refused(format!("reading it has failed: {error}")))??;
    Ok(Arc::new(memory))
}

/// A registry kept in memory, and on disk if it has a directory.
pub struct Memory {
    shared: Arc<Shared>,
    journal: Option<Journal>,
}

/// What the store shares with the thread that writes.
struct Shared {
    history: Arc<str>,
    limits: Limits,
    inner: Mutex<Inner>,
    /// Moves when nothing is staged any more.
    unstaged: watch::Sender<()>,
}

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
struct Limits {
    commits: usize,
    /// Those that are older than the commits; `None`: none of these.
    events: Option<usize>,
}

#[derive(Default)]
struct Inner {
    contents: Contents,
    leases: Leases,
    log: VecDeque<Arc<Commit>>,
    /// The events of commits that have left the log.
    past: VecDeque<Arc<PastEvent>>,
    watchers: Vec<mpsc::UnboundedSender<Result<Arc<Commit>, StoreError>>>,
    /// How leases will stand once what is being written is on disk.
    staged: BTreeMap<InstanceKey, Standing>,
    /// Why nothing can be written, if that is so.
    trouble: Option<String>,
}

impl Memory {
    /// An empty store under a new history, for as long as the process lives.
    pub fn new() -> Self {
        Self::remembering(StoreOptions::default().remembered)
    }

    /// An empty store whose watches can go back this many commits.
    pub(super) fn remembering(commits: usize) -> Self {
        let limits = Limits { commits, events: None };
        let history = Arc::from(uuid::Uuid::new_v4().to_string());
        Self { shared: Shared::new(history, limits, Inner::default()), journal: None }
    }

    /// An empty store that takes itself for another one.
    #[cfg(test)]
    pub(crate) fn of_history(history: &str) -> Self {
        let limits = Limits { commits: StoreOptions::default().remembered, events: None };
        Self { shared: Shared::new(Arc::from(history), limits, Inner::default()), journal: None }
    }

    /// What a directory holds. Every lease has its full length from `now` on. It blocks for as long as reading takes.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where another process has the directory or it cannot be used,
    /// [`StoreError::Malformed`] where what is in it cannot be read; it is left as it is then.
    pub fn open(directory: &std::path::Path, options: &StoreOptions, now: Now) -> Result<Self, StoreError> {
        let limits = Limits { commits: options.remembered, events: Some(options.events) };
        let directory = Directory::open(directory)?;
        let found = directory.read(now)?;
        let is_new = found.is_none();
        let kept = found.unwrap_or_else(Kept::new).within(limits);
        // Written anew, the file is as small as it can be, and whole whatever the last process died of.
        let (ledger, trouble) = match directory.write_anew(&kept, limits) {
            Ok(ledger) => (Some(ledger), None),
            Err(reason) if is_new => return Err(StoreError::Refused(reason)),
            Err(reason) => {
                tracing::error!(reason, "nothing can be committed");
                (None, Some(reason))
            }
        };
        let history = kept.history.clone();
        let shared = Shared::new(history, limits, Inner { trouble, ..Inner::of(kept, now) });
        let journal = Journal::start(shared.clone(), directory, ledger, options.timeout);
        let journal =
            journal.map_err(|error| StoreError::Refused(format!("no thread can start: {error}")))?;
        Ok(Self { shared, journal: Some(journal) })
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[tonic::async_trait]
impl Store for Memory {
    fn url(&self) -> &str {
        "memory://"
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        let inner = self.shared.inner.lock();
        Ok(Loaded {
            history: self.shared.history.clone(),
            revision: inner.contents.revision,
            complete: inner.contents.complete,
            records: inner.contents.records.values().cloned().collect(),
            empty_services: inner.contents.empty_services.values().cloned().collect(),
            resources: inner.contents.resources.values().cloned().collect(),
            events: inner.past.iter().cloned().chain(inner.log.iter().filter_map(past_event)).collect(),
        })
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        let mut inner = self.shared.inner.lock();
        let oldest = inner.contents.revision - inner.log.len() as u64;
        // Who asks for what is still to come has followed another history.
        if after < oldest || after > inner.contents.revision {
            return Err(StoreError::Compacted { oldest });
        }
        // A watcher that falls behind costs memory, never the others' time. There is one, and it keeps up.
        let (sender, receiver) = mpsc::unbounded_channel();
        for commit in inner.log.iter().filter(|commit| commit.revision > after) {
            sender.send(Ok(commit.clone())).expect("the receiver is still here");
        }
        inner.watchers.push(sender);
        let next = |mut receiver: mpsc::UnboundedReceiver<_>| async move {
            receiver.recv().await.map(|commit| (commit, receiver))
        };
        Ok(Box::pin(stream::unfold(receiver, next)))
    }

    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        if let Some(journal) = &self.journal {
            return journal.commit(mutation, now).await;
        }
        let mut inner = self.shared.inner.lock();
        let Inner { contents, leases, .. } = &mut *inner;
        let made = contents.make(mutation, |key| leases.standing(key, now.monotonic))?;
        let revision = contents.revision;
        let commit = Commit { revision, at: now, written: made.written, event: made.event };
        inner.publish(Arc::new(commit), made.lease, self.shared.limits);
        Ok(revision)
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], now: Now) -> Result<Vec<Renewal>, StoreError> {
        let mut unstaged = self.shared.unstaged.subscribe();
        loop {
            {
                let mut inner = self.shared.inner.lock();
                // A beat for a lease that is being removed or held as lapsed waits for what becomes of it.
                if inner.staged.is_empty() || !leases.iter().any(|(key, _)| inner.staged.contains_key(key)) {
                    let renew =
                        |(key, epoch): &(InstanceKey, u64)| inner.leases.renew(key, *epoch, now.monotonic);
                    return Ok(leases.iter().map(renew).collect());
                }
                unstaged.mark_unchanged();
            }
            let timeout = self.journal.as_ref().map(Journal::timeout).unwrap_or_default();
            let waited = tokio::time::timeout(timeout, unstaged.changed()).await;
            if waited.is_err() {
                return Err(StoreError::Unavailable(format!("the disk has not answered in {timeout:?}")));
            }
        }
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        Ok(self.shared.inner.lock().leases.lapsed(now.monotonic))
    }

    async fn leases(&self, service: &ServiceKey, now: Now) -> Result<Vec<LeaseStatus>, StoreError> {
        Ok(self.shared.inner.lock().leases.of(service, now.monotonic))
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        let found = |subject: &str, good, detail: String, remedy: &str| Finding {
            subject: subject.to_owned(),
            good,
            detail,
            remedy: remedy.to_owned(),
        };
        let Some(journal) = &self.journal else {
            let detail = "this process's memory: it is gone with the process; --data-dir keeps it".to_owned();
            return Ok(vec![found("reachable", true, detail, "")]);
        };
        let reachable = format!("this process's memory, written to {}", journal.path().display());
        let writable = match &self.shared.inner.lock().trouble {
            None => found("writable", true, "every commit so far is on disk".to_owned(), ""),
            Some(reason) => found(
                "writable",
                false,
                reason.clone(),
                "free space on the disk or repair it; the control plane goes on by itself",
            ),
        };
        Ok(vec![found("reachable", true, reachable, ""), writable])
    }
}

impl Shared {
    fn new(history: Arc<str>, limits: Limits, inner: Inner) -> Arc<Self> {
        Arc::new(Self { history, limits, inner: Mutex::new(inner), unstaged: watch::Sender::new(()) })
    }
}

impl Inner {
    fn of(kept: Kept, now: Now) -> Self {
        let mut leases = Leases::default();
        for (key, epoch, ttl) in &kept.leases {
            leases.grant(key, *epoch, *ttl, now.monotonic);
        }
        Self { contents: kept.contents, leases, log: kept.log, past: kept.past, ..Self::default() }
    }

    /// How a lease stands, after what is staged.
    fn standing(&self, key: &InstanceKey, now: Now) -> Standing {
        self.staged.get(key).copied().unwrap_or_else(|| self.leases.standing(key, now.monotonic))
    }

    /// Shows a commit that the contents have already.
    fn publish(&mut self, commit: Arc<Commit>, lease: Option<LeaseEffect>, limits: Limits) {
        let now = commit.at.monotonic;
        match lease {
            Some(LeaseEffect::Grant { key, epoch, ttl }) => self.leases.grant(&key, epoch, ttl, now),
            Some(LeaseEffect::Hold { key, length }) => {
                self.leases.hold(&key, length, now);
            }
            Some(LeaseEffect::Revoke { key }) => self.leases.revoke(&key),
            None => {}
        }
        self.watchers.retain(|watcher| watcher.send(Ok(commit.clone())).is_ok());
        self.log.push_back(commit);
        trim(&mut self.log, &mut self.past, limits);
    }
}

/// Lets the log forget what is beyond its limit, and keeps the events of that within theirs.
fn trim(log: &mut VecDeque<Arc<Commit>>, past: &mut VecDeque<Arc<PastEvent>>, limits: Limits) {
    while log.len() > limits.commits {
        let commit = log.pop_front();
        if limits.events.is_some() {
            past.extend(commit.as_ref().and_then(past_event));
        }
    }
    let beyond_log = limits.events.unwrap_or_default().saturating_sub(limits.commits);
    past.drain(..past.len().saturating_sub(beyond_log));
}

fn past_event(commit: &Arc<Commit>) -> Option<Arc<PastEvent>> {
    let event = commit.event.clone()?;
    Some(Arc::new(PastEvent { revision: commit.revision, at: commit.at.wall, event }))
}

#[cfg(test)]
mod tests {
    use super::{
        super::conformance::{self, Fixture, ManualClock, Time},
        *,
    };

    fn fixture() -> Fixture {
        Fixture::new(Arc::new(Memory::new()), Time::Manual(ManualClock::new()))
    }

    #[tokio::test]
    async fn the_memory_store_does_what_every_store_does() {
        for case in conformance::CASES {
            conformance::run(case, &fixture()).await;
        }
    }

    #[tokio::test]
    async fn the_memory_store_is_a_plain_map() {
        for seed in 0..50 {
            conformance::model::compare(&fixture(), seed, 60).await;
        }
    }

    #[tokio::test]
    async fn a_watch_from_a_forgotten_revision_is_told_so() {
        let now = ManualClock::new().now();
        let store = Memory::remembering(2);
        for _ in 0..5 {
            store.commit(Mutation::Complete, now).await.expect("it commits");
        }
        assert_eq!(store.watch(2).await.err(), Some(StoreError::Compacted { oldest: 3 }));
        assert!(store.watch(3).await.is_ok() && store.watch(5).await.is_ok());
    }
}
