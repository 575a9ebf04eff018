//! Consul: the registry in its key-value store, and every instance in its catalog.
//!
//! The keys below the prefix are the truth. One of them, the head, has the revision and the newest commits, and is
//! compared and replaced by each transaction: so commits have one order, and a watch is one blocking query. The
//! catalog shows the instances to Consul's own users, and its checks say whose leases live. CONSUL.md, beside this
//! folder, says what all of this promises.
//!
//! ```text
//! commit ─▶ commit.rs ─▶ contents.rs (plan) ─▶ api.rs ─▶ transport.rs ─▶ Consul
//! renew  ─▶ vitals.rs ─▶ catalog.rs (checks) ─┘
//! Consul ─▶ sync.rs (head), vitals.rs (checks), discover.rs (services of others) ─▶ mirror.rs ─▶ watch, lapsed
//! ```
//!
//! Deliberately absent: Consul's sessions and locks. Nothing here has a leader.

mod answers;
mod api;
mod catalog;
mod commit;
mod contents;
mod discover;
mod examine;
mod layout;
mod mirror;
mod sync;
mod transport;
mod vitals;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use waypost_proto::name::{InstanceKey, ServiceKey};

use self::{
    api::Api, catalog::Catalog, commit::Jobs, layout::Layout, mirror::Mirror, transport::Transport,
    vitals::Others,
};
use super::{
    Finding, Lapsed, LeaseChange, LeaseStatus, Loaded, Location, Mutation, Now, PastEvent, Renewal, Store,
    StoreError, StoreOptions, Watch,
};

/// The prefix where the URL names none.
const PREFIX: &str = "waypost";
/// The longest wait of a blocking query; shorter where the timeout is.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// What the URL can say behind the question mark.
const PARAMETERS: [&str; 3] = ["dc", "namespace", "discover"];

/// A registry kept in Consul.
pub(super) struct Consul {
    inner: Arc<Inner>,
    /// Ends the tasks with the store.
    _tasks: DropGuard,
}

/// What the tasks share.
struct Inner {
    url: String,
    datacenter: Option<String>,
    discovers: bool,
    options: StoreOptions,
    layout: Layout,
    api: Api,
    state: Mutex<State>,
    catalog: Catalog,
    jobs: Jobs,
    changes: mpsc::UnboundedSender<InstanceKey>,
    others: watch::Sender<Others>,
    /// Consul does not answer right now, so that no beat can come through.
    stands_still: AtomicBool,
    /// What is known of the checks is what they are right now: Consul would tell.
    sees_checks: AtomicBool,
}

/// What this process knows of what Consul holds.
#[derive(Default)]
struct State {
    /// `None` before it was read for the first time.
    mirror: Option<Mirror>,
    /// Consul holds another history by now, which must be loaded.
    other: bool,
}

/// How this process has come to know the newest head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaughtUp {
    /// By all commits in between.
    Seamless,
    /// Without some of them.
    Anew,
}

impl State {
    /// Begins with a new mirror; what is still true of the old one is taken over.
    fn replace(&mut self, mut mirror: Mirror) {
        if let Some(before) = self.mirror.take() {
            mirror.take_over(before, std::time::Instant::now());
        }
        self.mirror = Some(mirror);
    }
}

impl Consul {
    /// Opens the store at a location. Consul need not be reachable yet.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] says what is wrong with the URL or the options.
    pub(super) fn open(mut location: Location, options: &StoreOptions) -> Result<Self, StoreError> {
        let shown = location.to_string();
        let unknown = |reason: &str| StoreError::Unknown { url: shown.clone(), reason: reason.to_owned() };
        let [datacenter, namespace, discover] = PARAMETERS.map(|name| location.take(name));
        location.nothing_else(&PARAMETERS)?;
        let [(host, port)] = location.hosts.as_slice() else {
            return Err(unknown("name one agent: it speaks for the whole of Consul"));
        };
        let discovers = match discover.as_deref() {
            None | Some("true") => true,
            Some("false") => false,
            Some(_) => return Err(unknown("discover must be true or false")),
        };
        let prefix = if location.path.is_empty() { PREFIX } else { &location.path };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if !prefix.bytes().all(plain) || prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(unknown(
                "the prefix must be of letters, digits, '-', '_', '.', with single '/' between",
            ));
        }
        let password = options.password.as_deref().filter(|_| location.password.is_empty());
        let token = password.unwrap_or(&location.password);
        let transport =
            Transport::new(host, *port, location.tls, token, options).map_err(|reason| unknown(&reason))?;
        let named = [("dc", datacenter.clone()), ("ns", namespace)];
        let always = named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let wait = options.timeout.min(LONGEST_WAIT);
        let api = Api::new(transport, always, wait, options.timeout);
        let layout = Layout::new(prefix);
        let settings = Settings { url: shown, datacenter, discovers, options: options.clone(), layout, api };
        Ok(Self::start(settings))
    }

    fn start(settings: Settings) -> Self {
        let Settings { url, datacenter, discovers, options, layout, api } = settings;
        let (jobs, queue) = Jobs::new();
        let (changes, changed) = mpsc::unbounded_channel();
        let (catalog, granted) = Catalog::new();
        let inner = Arc::new(Inner {
            url,
            datacenter,
            discovers,
            options,
            layout,
            api,
            state: Mutex::default(),
            catalog,
            jobs,
            changes,
            others: watch::Sender::new(Others::new()),
            stands_still: AtomicBool::new(false),
            sees_checks: AtomicBool::new(false),
        });
        let closed = CancellationToken::new();
        tokio::spawn(commit::run(inner.clone(), queue, closed.clone()));
        tokio::spawn(sync::run(inner.clone(), closed.clone()));
        tokio::spawn(catalog::run(inner.clone(), changed, closed.clone()));
        tokio::spawn(catalog::show_granted(inner.clone(), granted, closed.clone()));
        tokio::spawn(vitals::run(inner.clone(), closed.clone()));
        tokio::spawn(vitals::feel_pulse(inner.clone(), closed.clone()));
        if discovers {
            tokio::spawn(discover::run(inner.clone(), closed.clone()));
        }
        Self { inner, _tasks: closed.drop_guard() }
    }
}

/// What a location and options come to.
struct Settings {
    url: String,
    datacenter: Option<String>,
    discovers: bool,
    options: StoreOptions,
    layout: Layout,
    api: Api,
}

#[tonic::async_trait]
impl Store for Consul {
    fn url(&self) -> &str {
        &self.inner.url
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        let reading = self.inner.load_all().await?;
        let past = |step: &contents::Step| {
            let (revision, at) = (step.commit.revision, step.commit.at.wall);
            step.commit.event.clone().map(|event| Arc::new(PastEvent { revision, at, event }))
        };
        let mut events: Vec<Arc<PastEvent>> = reading.log.iter().filter_map(past).collect();
        events.drain(..events.len().saturating_sub(self.inner.options.events));
        Ok(Loaded {
            history: Arc::from(reading.head.history),
            revision: reading.contents.revision,
            complete: reading.contents.complete,
            records: reading.contents.records.values().map(|kept| kept.record.clone()).collect(),
            empty_services: reading.contents.empty.values().cloned().collect(),
            resources: reading.contents.resources.values().cloned().collect(),
            events,
        })
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        let caught_up = self.inner.catch_up().await;
        let mut state = self.inner.state.lock();
        if state.other {
            return Err(StoreError::Compacted { oldest: 0 });
        }
        caught_up?;
        let mirror = state.mirror.as_mut().expect("it was read just now");
        let receiver = mirror.watch(after)?;
        let next = |mut receiver: mpsc::UnboundedReceiver<mirror::Watched>| async move {
            receiver.recv().await.map(|commit| (commit, receiver))
        };
        Ok(Box::pin(stream::unfold(receiver, next)))
    }

    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        let granted = match &mutation {
            Mutation::Put { record, lease: LeaseChange::Grant, .. } => Some(record.key().clone()),
            _ => None,
        };
        let revision = self.inner.jobs.mutate(mutation, now, self.inner.options.timeout).await?;
        if let Some(key) = granted {
            self.inner.catalog.grant(key);
        }
        Ok(revision)
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], _: Now) -> Result<Vec<Renewal>, StoreError> {
        self.inner.beats(leases).await
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        if !self.inner.is_open() {
            self.inner.catch_up().await?;
        }
        if self.inner.stands_still.load(Ordering::Acquire) {
            return Ok(Lapsed::default());
        }
        let mut state = self.inner.state.lock();
        Ok(state.mirror.as_mut().map(|mirror| mirror.lapsed(now.monotonic)).unwrap_or_default())
    }

    async fn leases(&self, service: &ServiceKey, now: Now) -> Result<Vec<LeaseStatus>, StoreError> {
        if !self.inner.is_open() {
            self.inner.catch_up().await?;
        }
        let state = self.inner.state.lock();
        Ok(state.mirror.as_ref().map(|mirror| mirror.leases(service, now.monotonic)).unwrap_or_default())
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.inner.findings().await
    }
}
