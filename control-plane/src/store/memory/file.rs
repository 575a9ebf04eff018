//! The file that outlives the process: `registry.redb` in the data directory, and `lock` beside it.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `about` | `format`, `history`, `revision`, `complete` | text, numbers in decimal |
//! | `instances` | `SERVICE/ID`, or `NAMESPACE/SERVICE/ID` outside `default` | `StoredInstance` |
//! | `leases` | the same | epoch, length in ms |
//! | `empty_services` | the service, in the same way | `StoredEmptyService` |
//! | `resources` | `KIND NAMESPACE/NAME` | `StoredResource` |
//! | `commits`, `events` | revision | `StoredCommit`, `Event`: as many as are remembered |
//!
//! A file is read as a whole, from a copy in memory, before anything is written: one that is damaged stays as it is.
//!
//! Deliberately absent: when to write (see `journal`); and how it is read back (see `read`).

use std::{
    collections::VecDeque,
    fmt::Display,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use redb::{Database, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use waypost_proto::name::InstanceKey;

use super::{
    super::{
        Commit, Now, PastEvent, Record, Resource, StoreError, Written,
        codec::{Stored, commit_to_stored},
        record::EmptyService,
    },
    Inner, Limits,
    contents::{Contents, LeaseEffect},
    journal::Entry,
    past_event,
    read::{Unreadable, read},
    trim,
};

pub(super) const ABOUT: TableDefinition<&str, &str> = TableDefinition::new("about");
pub(super) const INSTANCES: TableDefinition<&str, &[u8]> = TableDefinition::new("instances");
pub(super) const LEASES: TableDefinition<&str, (u64, u64)> = TableDefinition::new("leases");
pub(super) const EMPTY_SERVICES: TableDefinition<&str, &[u8]> = TableDefinition::new("empty_services");
pub(super) const RESOURCES: TableDefinition<&str, &[u8]> = TableDefinition::new("resources");
pub(super) const COMMITS: TableDefinition<u64, &[u8]> = TableDefinition::new("commits");
pub(super) const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");

/// The format of the tables; another one is not understood.
pub(super) const FORMAT: &str = "1";
/// The bytes with which a file of redb begins.
const MAGIC: &[u8] = b"redb\x1a\n\xa9\r\n";
/// Nothing is read while the control plane runs, so that a small cache is enough.
const CACHE: usize = 16 * 1024 * 1024;

/// All that is kept.
pub(super) struct Kept {
    pub(super) history: Arc<str>,
    pub(super) contents: Contents,
    /// Whose, the epoch and the full length.
    pub(super) leases: Vec<(InstanceKey, u64, Duration)>,
    pub(super) log: VecDeque<Arc<Commit>>,
    /// Events that are older than the log.
    pub(super) past: VecDeque<Arc<PastEvent>>,
}

impl Kept {
    /// Nothing, under a new history.
    pub(super) fn new() -> Self {
        Self::of(Arc::from(uuid::Uuid::new_v4().to_string()), &Inner::default())
    }

    /// What the memory holds.
    pub(super) fn of(history: Arc<str>, inner: &Inner) -> Self {
        let leases = inner.leases.all().map(|(key, epoch, ttl)| (key.clone(), epoch, ttl)).collect();
        let (log, past) = (inner.log.clone(), inner.past.clone());
        Self { history, contents: inner.contents.clone(), leases, log, past }
    }

    /// Without what these limits do not let it keep.
    pub(super) fn within(mut self, limits: Limits) -> Self {
        trim(&mut self.log, &mut self.past, limits);
        self
    }
}

/// The data directory, which is ours alone.
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is missing, and takes it.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where another process has it, or it cannot be used.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let refused = |what: &Path, error: &dyn Display| {
            let advice = "--data-dir must be a directory that this user can write to";
            StoreError::Refused(format!("{}: {error}: {advice}", what.display()))
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| refused(path, &error))?;
        let lock_file = path.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_file);
        let lock = lock.map_err(|error| refused(&lock_file, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Refused(format!(
                "{} belongs to another control plane that runs: stop that one, or give this one a --data-dir of \
                 its own; control planes that share a registry need redis://, etcd://, consul:// or plugin://",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(refused(&lock_file, &error)),
        }
    }

    /// The file.
    pub(super) fn file(&self) -> PathBuf {
        self.path.join("registry.redb")
    }

    /// What the file holds; `None` if there is none yet.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] where it cannot be understood; it is left as it is.
    pub(super) fn read(&self, now: Now) -> Result<Option<Kept>, StoreError> {
        let path = self.file();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::Refused(format!("{}: {error}", path.display()))),
        };
        let damaged = |reason: String| {
            let advice = "put it right or move it away; nothing in it was changed";
            Err(StoreError::Malformed {
                entry: path.display().to_string(),
                reason: format!("{reason}: {advice}"),
            })
        };
        if !bytes.starts_with(MAGIC) {
            return damaged("it is no registry of Waypost".to_owned());
        }
        // redb may find a damage that it did not expect.
        match catch_unwind(AssertUnwindSafe(|| read(&bytes, now))) {
            Ok(Ok(kept)) => Ok(Some(kept)),
            Ok(Err(Unreadable(reason))) => damaged(reason),
            Err(_) => damaged("it is damaged".to_owned()),
        }
    }

    /// Replaces the file, or makes the first one, with this in it. It is on disk afterwards.
    ///
    /// # Errors
    /// Why it could not; the old file is still there then.
    pub(super) fn write_anew(&self, kept: &Kept, limits: Limits) -> Result<Ledger, String> {
        let (path, draft) = (self.file(), self.path.join("registry.redb.new"));
        let written = unharmed(|| {
            let options = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?;
            let database = Database::builder().set_cache_size(CACHE).create_file(options)?;
            let mut ledger = Ledger { database, path: path.clone(), limits };
            ledger.fill(kept)?;
            fs::rename(&draft, &path)?;
            File::open(&self.path)?.sync_all()?;
            Ok(ledger)
        });
        written.map_err(|reason| {
            // It would only take the space that is missing.
            let _ = fs::remove_file(&draft);
            format!("{} cannot be written: {reason}", path.display())
        })
    }
}

/// The open file.
pub(super) struct Ledger {
    database: Database,
    path: PathBuf,
    limits: Limits,
}

impl Ledger {
    /// Writes commits in one transaction, which is on disk afterwards.
    ///
    /// # Errors
    /// Why it is not, or not known to be. This ledger is of no more use then.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<(), String> {
        let written = unharmed(|| {
            let transaction = self.database.begin_write()?;
            let mut tables = Tables::open(&transaction)?;
            for entry in entries {
                tables.apply(entry)?;
            }
            forget(&mut tables.commits, self.limits.commits)?;
            forget(&mut tables.events, self.limits.events.unwrap_or_default())?;
            drop(tables);
            Ok(transaction.commit()?)
        });
        written.map_err(|reason| format!("{} cannot be written: {reason}", self.path.display()))
    }

    fn fill(&mut self, kept: &Kept) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        Tables::open(&transaction)?.fill(kept)?;
        Ok(transaction.commit()?)
    }
}

type Bytes = &'static [u8];

/// The tables, for one transaction.
struct Tables<'a> {
    about: Table<'a, &'static str, &'static str>,
    instances: Table<'a, &'static str, Bytes>,
    leases: Table<'a, &'static str, (u64, u64)>,
    empty_services: Table<'a, &'static str, Bytes>,
    resources: Table<'a, &'static str, Bytes>,
    commits: Table<'a, u64, Bytes>,
    events: Table<'a, u64, Bytes>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            about: transaction.open_table(ABOUT)?,
            instances: transaction.open_table(INSTANCES)?,
            leases: transaction.open_table(LEASES)?,
            empty_services: transaction.open_table(EMPTY_SERVICES)?,
            resources: transaction.open_table(RESOURCES)?,
            commits: transaction.open_table(COMMITS)?,
            events: transaction.open_table(EVENTS)?,
        })
    }

    fn apply(&mut self, Entry { commit, lease }: &Entry) -> Result<(), redb::Error> {
        match &commit.written {
            Written::Put(record) => {
                self.instance(record)?;
                self.empty_services.remove(record.key().service().to_string().as_str())?;
            }
            Written::Removed { key, emptied } => {
                self.instances.remove(key.to_string().as_str())?;
                if let Some(empty) = emptied {
                    self.empty_service(empty)?;
                }
            }
            Written::Forgotten(service) => {
                self.empty_services.remove(service.to_string().as_str())?;
            }
            Written::Completed => {
                self.about.insert("complete", "true")?;
            }
            Written::Declared(resources) => resources.iter().try_for_each(|kept| self.resource(kept))?,
        }
        match lease {
            Some(LeaseEffect::Grant { key, epoch, ttl }) => self.lease(key, *epoch, *ttl)?,
            Some(LeaseEffect::Revoke { key }) => {
                self.leases.remove(key.to_string().as_str())?;
            }
            Some(LeaseEffect::Hold { .. }) | None => {}
        }
        self.about.insert("revision", commit.revision.to_string().as_str())?;
        self.commit(commit)
    }

    fn fill(&mut self, kept: &Kept) -> Result<(), redb::Error> {
        self.about.insert("format", FORMAT)?;
        self.about.insert("history", &*kept.history)?;
        self.about.insert("revision", kept.contents.revision.to_string().as_str())?;
        self.about.insert("complete", if kept.contents.complete { "true" } else { "false" })?;
        for record in kept.contents.records.values() {
            self.instance(record)?;
        }
        for empty in kept.contents.empty_services.values() {
            self.empty_service(empty)?;
        }
        for resource in kept.contents.resources.values() {
            self.resource(resource)?;
        }
        for (key, epoch, ttl) in &kept.leases {
            self.lease(key, *epoch, *ttl)?;
        }
        for past in &kept.past {
            self.events.insert(past.revision, past.encode().as_slice())?;
        }
        kept.log.iter().try_for_each(|commit| self.commit(commit))
    }

    fn instance(&mut self, record: &Record) -> Result<(), redb::Error> {
        self.instances.insert(record.key().to_string().as_str(), record.encode().as_slice())?;
        Ok(())
    }

    fn empty_service(&mut self, empty: &EmptyService) -> Result<(), redb::Error> {
        self.empty_services.insert(empty.key.to_string().as_str(), empty.encode().as_slice())?;
        Ok(())
    }

    fn resource(&mut self, resource: &Resource) -> Result<(), redb::Error> {
        self.resources.insert(resource.key.to_string().as_str(), resource.encode().as_slice())?;
        Ok(())
    }

    fn lease(&mut self, key: &InstanceKey, epoch: u64, ttl: Duration) -> Result<(), redb::Error> {
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.leases.insert(key.to_string().as_str(), (epoch, millis))?;
        Ok(())
    }

    fn commit(&mut self, commit: &Arc<Commit>) -> Result<(), redb::Error> {
        let bytes = commit_to_stored(commit).encode_to_vec();
        self.commits.insert(commit.revision, bytes.as_slice())?;
        if let Some(past) = past_event(commit) {
            self.events.insert(past.revision, past.encode().as_slice())?;
        }
        Ok(())
    }
}

/// Removes the oldest entries of a table until it is within its limit.
fn forget(table: &mut Table<'_, u64, Bytes>, limit: usize) -> Result<(), redb::Error> {
    for _ in limit as u64..table.len()? {
        table.pop_first()?;
    }
    Ok(())
}

/// Does something with the disk; a panic of the database is a failure like any other.
fn unharmed<T>(write: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(write)) {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err("the database has failed".to_owned()),
    }
}
