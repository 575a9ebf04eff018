//! Where the registry is kept: one trait, one file for each store.
//!
//! A store orders all changes by one revision, lets a watch resume from any revision that it still
//! remembers, and keeps leases. It knows nothing of states, routes or guards: the registry reads records,
//! plans a [`Mutation`], and the store commits it only where the record is still the one that the plan was
//! made from. So any number of replicas can share a store.
//!
//! Deliberately absent: a clock (callers pass [`Now`]; a store with a server uses the server's time).

mod codec;
pub mod conformance;
#[cfg(feature = "consul")]
mod consul;
pub mod copy;
#[cfg(feature = "etcd")]
mod etcd;
mod leases;
mod location;
mod measured;
mod memory;
mod plugin;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod resource;

use std::{
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::Stream;
use waypost_proto::{
    error::{Error, ErrorCode},
    name::{InstanceKey, ServiceKey},
};

#[cfg(feature = "etcd")]
pub use self::etcd::Etcd;
pub(crate) use self::record::{first_key, micros};
pub use self::{
    leases::{LeaseStatus, Renewal},
    location::{Kind, Location},
    measured::Measured,
    memory::Memory,
    record::{Busy, Claim, EmptyService, Event, Health, Override, PastEvent, Record, Renewed},
    resource::{Declare, LARGEST_MANIFEST, MOST_BYTES, MOST_DECLARED, PAST, PastGeneration, Resource},
};

/// One point in time by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub monotonic: Instant,
    /// For people and other machines.
    pub wall: SystemTime,
}

impl Now {
    /// What the clocks say.
    pub fn read() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The record is not the one that the mutation was planned from. Plan again once `revision` is applied.
    #[error("{entry} has changed in the meantime, at revision {revision}")]
    Conflict {
        /// The entry.
        entry: String,
        /// The store's newest revision.
        revision: u64,
    },
    /// The watch asks for revisions that are no longer remembered. Load again and compare.
    #[error("it remembers changes since revision {oldest} only")]
    Compacted {
        /// The oldest revision that a watch can begin after.
        oldest: u64,
    },
    /// The store cannot be reached for now.
    #[error("it is unavailable for now, try again: {0}")]
    Unavailable(String),
    /// The store does not let us do what a control plane must.
    #[error("it refuses: {0}")]
    Refused(String),
    /// What the store holds cannot be read.
    #[error("{entry} cannot be read, another program may have written it: {reason}")]
    Malformed {
        /// Where it is.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such kind of store, or its URL or options are wrong.
    #[error(
        "{url:?} names no store: {reason}; there are memory://, redis://HOST:PORT, etcd://HOST:PORT, \
         consul://HOST:PORT and plugin://HOST:PORT"
    )]
    Unknown {
        /// The URL, as it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Unknown { .. } => ErrorCode::InvalidArgument,
            _ => ErrorCode::Unavailable,
        };
        Self::new(code, format!("the registry's store: {error}"))
    }
}

/// All that a store holds at one revision.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Names the life of the store's revisions; another one cannot be compared with it.
    pub history: Arc<str>,
    /// The revision that this stands for.
    pub revision: u64,
    /// Whether it is all that is registered. A store that starts empty after a loss does not know.
    pub complete: bool,
    /// Instances, in any order.
    pub records: Vec<Arc<Record>>,
    /// Services without instances, in any order.
    pub empty_services: Vec<Arc<EmptyService>>,
    /// Declared resources, in any order; also those that are deleted, for their past.
    pub resources: Vec<Arc<Resource>>,
    /// What happened lately, as far as the store remembers it; oldest first.
    pub events: Vec<Arc<PastEvent>>,
}

/// What becomes of an instance's lease when its record is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// A new lease under the record's epoch, for the record's ttl.
    Grant,
    /// The lease stays as it is. A new record without one has none, and never lapses.
    Keep,
    /// The lapsed lease lives for this long, or until a beat renews it as usual. A lease that does not
    /// lapse any more is a [`StoreError::Conflict`].
    Hold(Duration),
}

/// One change to the store; it is made in full or not at all.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Creates or replaces an instance; its service is not empty any more.
    Put {
        /// The instance; the store fills in its revision.
        record: Record,
        /// The revision of the record that it replaces; `None`: there must be none.
        expected: Option<u64>,
        /// What becomes of the lease.
        lease: LeaseChange,
        /// What happened, for the history.
        event: Option<Event>,
    },
    /// Removes an instance and its lease.
    Remove {
        /// Which.
        key: InstanceKey,
        /// The revision of its record.
        expected: u64,
        /// Only while its lease is lapsed: a beat that came in the meantime is a [`StoreError::Conflict`].
        lapsed: bool,
        /// What is kept of its service if the store finds this to be the last instance.
        emptied: EmptyService,
        /// What happened, for the history.
        event: Event,
    },
    /// Forgets a service without instances.
    Forget {
        /// Which.
        service: ServiceKey,
        /// The revision that emptied it.
        expected: u64,
    },
    /// From now on what the store holds is all that is registered.
    Complete,
    /// Creates or replaces resources, each named once; at most [`MOST_DECLARED`] and [`MOST_BYTES`] (see
    /// [`Declare::batches`]). A conflict over one of them changes none.
    Declare(Vec<Declare>),
}

/// What a commit changed.
#[derive(Clone, Debug)]
pub enum Written {
    /// An instance is new or changed.
    Put(Arc<Record>),
    /// An instance is gone.
    Removed {
        /// Which.
        key: InstanceKey,
        /// Its service, where this was the last instance.
        emptied: Option<Arc<EmptyService>>,
    },
    /// A service without instances is forgotten.
    Forgotten(ServiceKey),
    /// What the store holds is all that is registered.
    Completed,
    /// Resources are new, changed or deleted.
    Declared(Vec<Arc<Resource>>),
}

/// One revision of the store.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The revision, higher than the one before.
    pub revision: u64,
    /// When it was committed, by the clock of the store or of who committed it; the instant is when this
    /// process learned of it.
    pub at: Now,
    /// What it changed.
    pub written: Written,
    /// What happened, for the history.
    pub event: Option<Event>,
}

/// Commits in order, each once. It ends with an error.
pub type Watch = Pin<Box<dyn Stream<Item = Result<Arc<Commit>, StoreError>> + Send>>;

/// Leases that have lapsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lapsed {
    /// Candidates for expiry, and their epochs. They stay until they are removed, held or renewed.
    pub leases: Vec<(InstanceKey, u64)>,
    /// No other lease lapses before this, unless it is granted later.
    pub next: Option<Instant>,
}

/// A place where the registry is kept.
#[tonic::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Where it is, without credentials.
    fn url(&self) -> &str;

    /// All that it holds.
    async fn load(&self) -> Result<Loaded, StoreError>;

    /// The commits after a revision, including those to come.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] where some of them are no longer remembered, and where `after` is newer than
    /// all that there is: then the store has lost its data and begun a new history. A watch that finds out later
    /// that its history has ended ends with the same.
    async fn watch(&self, after: u64) -> Result<Watch, StoreError>;

    /// Commits one change and answers its revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the entry is not as expected; nothing has changed then.
    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError>;

    /// Renews leases, named by key and epoch; the answers are in the same order. It makes no revision.
    async fn renew(&self, leases: &[(InstanceKey, u64)], now: Now) -> Result<Vec<Renewal>, StoreError>;

    /// The leases that have lapsed.
    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError>;

    /// How all leases of a service stand.
    async fn leases(&self, service: &ServiceKey, now: Now) -> Result<Vec<LeaseStatus>, StoreError>;

    /// Looks whether all is there that a control plane needs: reachable, new enough, permitted. It may write and
    /// remove entries of its own under its prefix, never others.
    ///
    /// # Errors
    /// The store cannot be reached.
    async fn examine(&self) -> Result<Vec<Finding>, StoreError>;
}

/// What one look at a store has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, for example `version`.
    pub subject: String,
    /// Whether it is as it should be.
    pub good: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty if it is good.
    pub remedy: String,
}

/// What a store needs to know beyond its URL.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Where the memory store writes down what it holds; `None`: nowhere.
    pub data_dir: Option<PathBuf>,
    /// The longest time that one operation may take.
    pub timeout: Duration,
    /// How many commits a watch can go back, where that is ours to say.
    pub remembered: usize,
    /// How many events are kept, where that is ours to say.
    pub events: usize,
    /// The certificate authorities that sign the store's certificate, a PEM file; `None`: the machine's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key for TLS, PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The password or token, where the URL has none.
    pub password: Option<String>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            data_dir: None,
            timeout: Duration::from_secs(5),
            remembered: 4096,
            events: 10_000,
            ca_file: None,
            identity: None,
            password: None,
        }
    }
}

/// Opens the store that a URL names. It need not be reachable yet.
///
/// # Errors
/// [`StoreError::Unknown`] says what is wrong with the URL or the options.
pub async fn open(url: &str, options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    let location = Location::parse(url)?;
    match location.kind {
        Kind::Memory => memory::open(&location, options).await,
        #[cfg(feature = "etcd")]
        Kind::Etcd => Ok(Arc::new(Etcd::open(&location, options).await?)),
        #[cfg(feature = "consul")]
        Kind::Consul => Ok(Arc::new(consul::Consul::open(location, options)?)),
        #[cfg(feature = "redis")]
        Kind::Redis | Kind::RedisSentinel | Kind::RedisCluster => {
            Ok(Arc::new(redis::Redis::open(location, options)?))
        }
        Kind::Plugin => Ok(Arc::new(plugin::Plugin::new(&location, options)?)),
        #[cfg(not(all(feature = "redis", feature = "etcd", feature = "consul")))]
        _ => {
            let reason = "this program was built without this kind of store".to_owned();
            Err(StoreError::Unknown { url: location.to_string(), reason })
        }
    }
}
