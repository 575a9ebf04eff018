//! Commits on their way to the disk: one thread writes, and all that wait for it share a transaction.
//!
//! ```text
//!   commit ──▶ queue ──▶ made on `ahead`, a copy ──▶ written and synced ──▶ shown to readers and watchers ──▶ answered
//!                              ▲                            │ fails: refused, `ahead` is forgotten,
//!                              └────────────────────────────┘ and the whole file is written anew
//! ```
//!
//! What a failed sync has left on the disk nobody knows, and syncing again would not tell (the kernel forgets pages
//! that it could not write). So after any failure the file is replaced by a new one of what was acknowledged.
//!
//! Deliberately absent: beats. After a restart every lease has its full length.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    super::{Commit, Mutation, Now, StoreError},
    Shared,
    contents::{Contents, LeaseEffect},
    file::{Directory, Kept, Ledger},
};

/// How many commits share a transaction at most, so that the first does not wait for too many.
const TOGETHER: usize = 1024;
/// How long to let a disk be that has just failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The way to the disk.
pub(super) struct Journal {
    /// `None` only while this is dropped.
    queue: Option<mpsc::Sender<Waiting>>,
    writer: Option<JoinHandle<()>>,
    timeout: Duration,
    path: PathBuf,
}

type Outcome = Result<u64, StoreError>;
type Answer = oneshot::Sender<Outcome>;

struct Waiting {
    mutation: Mutation,
    now: Now,
    answer: Answer,
}

/// A commit that is about to be written.
pub(super) struct Entry {
    pub(super) commit: Arc<Commit>,
    pub(super) lease: Option<LeaseEffect>,
}

struct Writer {
    shared: Arc<Shared>,
    /// What the contents will be once all that was made is on disk.
    ahead: Contents,
    directory: Directory,
    /// `None` after a failure.
    ledger: Option<Ledger>,
    failed_at: Option<Instant>,
}

impl Journal {
    /// Starts the thread that writes.
    pub(super) fn start(
        shared: Arc<Shared>,
        directory: Directory,
        ledger: Option<Ledger>,
        timeout: Duration,
    ) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel();
        let path = directory.file();
        let failed_at = ledger.is_none().then(Instant::now);
        let ahead = shared.inner.lock().contents.clone();
        let writer = Writer { shared, ahead, directory, ledger, failed_at };
        let writer = thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(&waiting))?;
        Ok(Self { queue: Some(queue), writer: Some(writer), timeout, path })
    }

    /// Commits a mutation.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where it is not on disk, or not known to be in time.
    pub(super) async fn commit(&self, mutation: Mutation, now: Now) -> Outcome {
        let unavailable =
            |reason: &str| StoreError::Unavailable(format!("{}: {reason}", self.path.display()));
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().expect("it is there until this is dropped");
        let gone = || unavailable("the thread that writes has ended; restart the control plane");
        queue.send(Waiting { mutation, now, answer }).map_err(|_| gone())?;
        // A commit that gives up while it waits for its turn is never made.
        match tokio::time::timeout(self.timeout, answered).await {
            Ok(answer) => answer.map_err(|_| gone())?,
            Err(_) => Err(unavailable(&format!("the disk has not answered in {:?}", self.timeout))),
        }
    }

    /// How long a commit may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes what waits, and gives the directory free.
impl Drop for Journal {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // It has told of its own panic.
            let _ = writer.join();
        }
    }
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Waiting>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            batch.extend(queue.try_iter().take(TOGETHER - 1));
            batch.retain(|waiting| !waiting.answer.is_closed());
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Waiting>) {
        let (entries, answers) = self.make(batch);
        let written = if entries.is_empty() { Ok(()) } else { self.write(&entries) };
        {
            let mut inner = self.shared.inner.lock();
            inner.staged.clear();
            match &written {
                Ok(()) => {
                    for Entry { commit, lease } in entries {
                        inner.contents.take(&commit);
                        inner.publish(commit, lease, self.shared.limits);
                    }
                }
                Err(_) => self.ahead = inner.contents.clone(),
            }
            inner.trouble = written.as_ref().err().cloned();
        }
        self.shared.unstaged.send_replace(());
        for (answer, outcome) in answers {
            // A conflict may be with a commit that was not written either.
            let outcome = written.clone().map_err(StoreError::Unavailable).and(outcome);
            // Whoever has given up in the meantime does not know the outcome, and looks again.
            let _ = answer.send(outcome);
        }
    }

    /// Makes what waits on the copy, in its order.
    fn make(&mut self, batch: Vec<Waiting>) -> (Vec<Entry>, Vec<(Answer, Outcome)>) {
        let mut inner = self.shared.inner.lock();
        let (mut entries, mut answers) = (Vec::new(), Vec::new());
        for Waiting { mutation, now, answer } in batch {
            let made = self.ahead.make(mutation, |key| inner.standing(key, now));
            let outcome = made.map(|made| {
                if let Some((key, standing)) = made.lease.as_ref().map(LeaseEffect::outcome) {
                    inner.staged.insert(key.clone(), standing);
                }
                let revision = self.ahead.revision;
                let commit = Commit { revision, at: now, written: made.written, event: made.event };
                entries.push(Entry { commit: Arc::new(commit), lease: made.lease });
                revision
            });
            answers.push((answer, outcome));
        }
        (entries, answers)
    }

    /// Writes entries, all or none.
    fn write(&mut self, entries: &[Entry]) -> Result<(), String> {
        if self.ledger.is_none() {
            self.begin_anew()?;
        }
        let ledger = self.ledger.as_mut().expect("it has just been begun");
        let written = ledger.append(entries);
        if let Err(reason) = &written {
            self.failed(reason);
        }
        written
    }

    /// Replaces the file by one of what was acknowledged.
    fn begin_anew(&mut self) -> Result<(), String> {
        let (kept, trouble) = {
            let inner = self.shared.inner.lock();
            (Kept::of(self.shared.history.clone(), &inner), inner.trouble.clone())
        };
        if let Some(reason) = trouble.filter(|_| self.failed_at.is_some_and(|at| at.elapsed() < TRY_AGAIN)) {
            return Err(reason);
        }
        match self.directory.write_anew(&kept, self.shared.limits) {
            Ok(ledger) => {
                tracing::info!(revision = kept.contents.revision, "what is committed is on disk again");
                self.ledger = Some(ledger);
                Ok(())
            }
            Err(reason) => {
                self.failed(&reason);
                Err(reason)
            }
        }
    }

    fn failed(&mut self, reason: &str) {
        tracing::error!(reason, "nothing can be committed");
        self.ledger = None;
        self.failed_at = Some(Instant::now());
    }
}
