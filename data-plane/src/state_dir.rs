//! The state directory: what is served by, kept so that a proxy can start with no control plane at all.
//!
//! ```text
//!  DIR/lock        held while a proxy uses the directory
//!  DIR/proxy-id    the proxy's name, the same after a restart
//!  DIR/snapshot    what it serves by, replaced as a whole
//!  DIR/snapshot.bad   the last one that could not be read, for whoever wants to know why
//! ```
//!
//! A file is written beside the old one, brought to the disk and then renamed over it, so that at every moment
//! one of them is whole; a checksum tells if one is not.
//!
//! Deliberately absent: when to store (see [`saver`]).

mod file;
pub mod saver;

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use waypost_proto::snapshot::Snapshot;

pub use self::file::Unusable;
use crate::table::Source;

const LOCK: &str = "lock";
const PROXY_ID: &str = "proxy-id";
const SNAPSHOT: &str = "snapshot";
const BAD: &str = "snapshot.bad";
/// Who may read what is stored: private keys are a part of it.
const OWNER_ONLY: u32 = 0o600;

/// What is stored.
#[derive(Clone, Debug)]
pub struct Saved {
    /// What the control plane said.
    pub current: Snapshot,
    /// What was kept until it is settled.
    pub carried: Option<Snapshot>,
}

impl Saved {
    /// What a table is compiled from. It shares everything.
    pub fn of(source: &Source<'_>) -> Self {
        Self { current: source.current.clone(), carried: source.carried.cloned() }
    }

    /// Whether a proxy that starts from it would know anything. A control plane that is not settled and names no
    /// service may not have heard of those that there are.
    fn says_anything(&self) -> bool {
        self.current.settled() || self.carried.is_some() || self.current.services().len() > 0
    }
}

/// What was found at the start.
#[derive(Debug)]
pub enum Loaded {
    /// Nothing was stored yet.
    Nothing,
    /// What was stored, and how long ago.
    Found(Box<Saved>, Duration),
    /// It cannot be used and was moved aside.
    Unusable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: Unusable,
        /// Where it is now; `None` if it could not be moved.
        moved_to: Option<PathBuf>,
    },
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process uses it.
    #[error("the state directory {} is in use by another proxy; give each proxy its own", .0.display())]
    InUse(PathBuf),
    /// It cannot be read or written.
    #[error("the state directory {} cannot be used; it must be writable", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A directory that this process alone uses.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Only what belongs to the same namespaces can be used.
    namespaces: Vec<String>,
    /// Locked until it is dropped.
    _lock: File,
}

impl StateDir {
    /// Takes a directory, which is made where it is missing. `namespaces` is what the proxy subscribes to.
    ///
    /// # Errors
    /// Another process uses it, or it cannot be written.
    pub fn open(path: &Path, namespaces: &[String]) -> Result<Self, StateDirError> {
        let refuse = |source| StateDirError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(refuse)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(refuse)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StateDirError::InUse(path.to_owned())),
            Err(fs::TryLockError::Error(source)) => return Err(refuse(source)),
        }
        Ok(Self { path: path.to_owned(), namespaces: namespaces.to_owned(), _lock: lock })
    }

    /// The proxy's id: the one that is kept here, else `fresh`, which is kept from now on.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn proxy_id(&self, fresh: impl FnOnce() -> String) -> Result<String, StateDirError> {
        let path = self.path.join(PROXY_ID);
        if let Ok(kept) = fs::read_to_string(&path)
            && !kept.trim().is_empty()
        {
            return Ok(kept.trim().to_owned());
        }
        let id = fresh();
        self.replace(PROXY_ID, format!("{id}\n").as_bytes())
            .map_err(|source| StateDirError::Io { path, source })?;
        Ok(id)
    }

    /// Reads what was stored, unless it is older than `max_age` (zero: any age will do).
    pub fn load(&self, max_age: Duration, now: SystemTime) -> Loaded {
        let file = self.path.join(SNAPSHOT);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::Nothing,
            Err(error) => return self.set_aside(Unusable::Unreadable(error)),
        };
        match file::decode(&bytes, &self.namespaces) {
            Ok((saved, stored_at)) => {
                let age = now.duration_since(stored_at).unwrap_or_default();
                if max_age.is_zero() || age <= max_age {
                    Loaded::Found(Box::new(saved), age)
                } else {
                    self.set_aside(Unusable::TooOld { age, max_age })
                }
            }
            Err(reason) => self.set_aside(reason),
        }
    }

    /// Stores what is served by.
    ///
    /// # Errors
    /// It cannot be written; what was stored before is still there.
    pub fn save(&self, saved: &Saved, now: SystemTime) -> io::Result<()> {
        self.replace(SNAPSHOT, &file::encode(saved, &self.namespaces, now))
    }

    fn set_aside(&self, reason: Unusable) -> Loaded {
        let (file, aside) = (self.path.join(SNAPSHOT), self.path.join(BAD));
        let moved_to = fs::rename(&file, &aside).is_ok().then_some(aside);
        Loaded::Unusable { file, reason, moved_to }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (target, temporary) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let mut file =
            File::options().create(true).truncate(true).write(true).mode(OWNER_ONLY).open(&temporary)?;
        // One that a crash has left behind may have been made by a version that let others read.
        file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &target)?;
        File::open(&self.path)?.sync_all()
    }
}

#[cfg(test)]
mod tests;
