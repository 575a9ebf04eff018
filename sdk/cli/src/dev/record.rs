//! What runs, written down for `waypost dev down`.
//!
//! A process number alone says nothing after its process has ended, so the time at which it started is written
//! with it, and compared before anything is sent to it. The files are in a folder that only the user can
//! write to.

use std::{
    collections::BTreeMap,
    env, fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use crate::output::Output;

/// A process that cannot be mistaken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Its number.
    pub(super) pid: u32,
    /// When it started, in the kernel's clock ticks since boot.
    pub(super) started: u64,
}

impl Identity {
    /// The process of that number, if there is one.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (state != "Z").then_some(Self { pid, started })
    }

    /// Whether that very process still runs.
    pub(super) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// The state and the start time of a `/proc/PID/stat`. The name before them may hold blanks and parentheses.
fn parse_stat(stat: &str) -> Option<(&str, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((*fields.first()?, fields.get(19)?.parse().ok()?))
}

/// The processes of one `waypost dev`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Processes {
    /// The supervisor.
    pub(super) supervisor: Identity,
    /// What it has started, by name.
    pub(super) children: BTreeMap<String, Identity>,
}

/// The record of this `waypost dev`. A clone is the same record; without a file it does nothing.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    file: Option<PathBuf>,
    processes: Arc<Mutex<Option<Processes>>>,
}

impl Record {
    /// Begins a record. Where that is impossible it is said, and everything else goes on.
    pub(super) fn create(output: &Output) -> Self {
        let own = Identity::of(std::process::id());
        let file = match folder() {
            Ok(folder) => own.map(|own| folder.join(format!("dev-{}.json", own.pid))),
            Err(error) => {
                output.note(format!("note: waypost dev down will not find this: {error}"));
                None
            }
        };
        let processes = own.map(|supervisor| Processes { supervisor, children: BTreeMap::new() });
        let record = Self { file, processes: Arc::new(Mutex::new(processes)) };
        record.change(|_| {});
        record
    }

    /// A program was started.
    pub(super) fn started(&self, name: &str, pid: u32) {
        if let Some(identity) = Identity::of(pid) {
            self.change(|processes| {
                processes.children.insert(name.to_owned(), identity);
            });
        }
    }

    /// A program has ended.
    pub(super) fn ended(&self, name: &str) {
        self.change(|processes| {
            processes.children.remove(name);
        });
    }

    /// Ends the record: nothing runs any more.
    pub(super) fn remove(&self) {
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Processes)) {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(processes), Some(file)) = (processes.as_mut(), &self.file) else { return };
        change(processes);
        if let Err(error) = write(file, processes) {
            tracing::warn!(file = %file.display(), %error, "what runs could not be written down");
        }
    }
}

fn write(file: &Path, processes: &Processes) -> io::Result<()> {
    let next = file.with_extension("next");
    fs::write(&next, serde_json::to_vec(processes)?)?;
    fs::rename(next, file)
}

/// All records of this user, with their files. What cannot be read is no record.
///
/// # Errors
/// The folder cannot be trusted or read.
pub(super) fn all() -> io::Result<Vec<(PathBuf, Processes)>> {
    let files = fs::read_dir(folder()?)?.flatten().map(|entry| entry.path());
    let records = files.filter(|file| file.extension().is_some_and(|end| end == "json"));
    Ok(records
        .filter_map(|file| {
            let processes = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
            Some((file, processes))
        })
        .collect())
}

/// The folder of the records, made if needed: ours, and writable by nobody else.
fn folder() -> io::Result<PathBuf> {
    let user = Uid::effective().as_raw();
    let folder = match env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("waypost"),
        None => env::temp_dir().join(format!("waypost-{user}")),
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let meta = fs::symlink_metadata(&folder)?;
    if !meta.is_dir() || meta.uid() != user || meta.mode() & 0o022 != 0 {
        let message =
            format!("{} is not a folder that only this user can write to; remove it", folder.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let stat =
            "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1000 1 18446744073709551615";
        assert_eq!(parse_stat(stat), Some(("S", 987_654)));
        assert_eq!(parse_stat("nonsense"), None);
        let own = Identity::of(std::process::id()).expect("this process runs");
        assert!(own.is_alive());
        assert!(!Identity { started: own.started + 1, ..own }.is_alive());
    }
}
