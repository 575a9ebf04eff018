//! How mutations get into Consul: one after the other, as many as there are in one transaction.
//!
//! ```text
//! jobs ─▶ plan upon the mirror ─▶ transaction that replaces the head ─▶ done: take it in, answer
//!              ▲                        │ stale: another process was first
//!              └──── read the head ◀────┤
//!                                       │ no answer: it may be done, now or in a moment
//! ```
//!
//! A transaction without an answer is made again. Both compare the same head, so that one of them at most is done,
//! and the log shows by the job's id whether one was.
//!
//! Deliberately absent: waiting for more jobs. Those that come while a transaction is on its way go into the next.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use waypost_proto::name::InstanceKey;

use super::{
    CaughtUp, Inner,
    api::{CallError, Operation, Outcome},
    contents::{Contents, Step},
    layout::{Head, LogEntry, Revival, Slot},
};
use crate::store::{LeaseChange, Mutation, Now, StoreError};

/// How many jobs share a transaction: with the head and the log they stay below the 64 operations that old
/// versions of Consul take.
const TOGETHER: usize = 20;
/// The most that one transaction writes before it takes no further job, bytes: Consul takes 512 KiB, in base64.
const WRITES: usize = 96 << 10;
/// The most that the head keeps of the log, bytes: it is written with every commit.
const TAIL: usize = 12 << 10;
/// The most that goes into one slot of the log, bytes.
const SLOT: usize = 32 << 10;
/// How many leases that came back the head names.
const REVIVED: usize = 128;
/// How long to wait before a transaction without an answer is made again.
const AGAIN: Duration = Duration::from_millis(50);

/// The longest pause between two transactions while jobs are waiting.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Something to write.
pub(super) struct Job {
    id: u64,
    work: Work,
    reply: oneshot::Sender<Result<u64, StoreError>>,
    deadline: Instant,
}

/// What to write.
enum Work {
    Mutate(Box<Mutation>, Now),
    /// That a lapsed lease has come back.
    Revive(InstanceKey, u64),
}

impl Job {
    /// Whether it has a transaction of its own: it may fill one.
    fn is_large(&self) -> bool {
        matches!(&self.work, Work::Mutate(mutation, _) if matches!(**mutation, Mutation::Declare(_)))
    }
}

/// A transaction that is not made yet.
struct Draft {
    operations: Vec<Operation>,
    steps: Vec<Step>,
    contents: Contents,
    head: Head,
    /// What to answer the first jobs of the queue when it is done.
    answers: Vec<Result<u64, StoreError>>,
}

/// A way to the task that writes.
#[derive(Clone)]
pub(super) struct Jobs(mpsc::Sender<Job>);

impl Jobs {
    /// A queue that holds some hundred jobs.
    pub(super) fn new() -> (Self, mpsc::Receiver<Job>) {
        let (sender, receiver) = mpsc::channel(1024);
        (Self(sender), receiver)
    }

    /// Commits a mutation; answers its revision.
    pub(super) async fn mutate(
        &self,
        mutation: Mutation,
        now: Now,
        timeout: Duration,
    ) -> Result<u64, StoreError> {
        self.run(Work::Mutate(Box::new(mutation), now), timeout).await
    }

    /// Tells all processes that a lapsed lease has come back.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where it was removed before.
    pub(super) async fn revive(
        &self,
        key: InstanceKey,
        epoch: u64,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        self.run(Work::Revive(key, epoch), timeout).await.map(drop)
    }

    async fn run(&self, work: Work, timeout: Duration) -> Result<u64, StoreError> {
        let late = || {
            StoreError::Unavailable(format!("Consul did not answer within {:.1} s", timeout.as_secs_f64()))
        };
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let (reply, answer) = oneshot::channel();
        let job = Job { id: fastrand::u64(1..), work, reply, deadline: Instant::now() + timeout };
        let run = async {
            self.0.send(job).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        };
        tokio::time::timeout(timeout, run).await.map_err(|_| late())?
    }
}

/// Writes until the store is closed.
pub(super) async fn run(inner: Arc<Inner>, mut jobs: mpsc::Receiver<Job>, closed: CancellationToken) {
    let mut batch = Vec::with_capacity(TOGETHER);
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let received = tokio::select! {
                received = jobs.recv_many(&mut batch, TOGETHER) => received,
                () = closed.cancelled() => return,
            };
            if received == 0 {
                return;
            }
        }
        waiting.extend(batch.drain(..));
        let begun = Instant::now();
        tokio::select! {
            () = write(&inner, &mut waiting) => {}
            () = closed.cancelled() => return,
        }
        if !waiting.is_empty() || !jobs.is_empty() {
            // Another process whose transaction was refused must read the head before it can try again: without a
            // pause it would be too late each time.
            tokio::time::sleep(begun.elapsed().min(LONGEST_PAUSE).mul_f64(fastrand::f64())).await;
        }
    }
}

/// Makes one transaction of as many of the waiting jobs as fit, from the first on, and answers them.
async fn write(inner: &Inner, waiting: &mut VecDeque<Job>) {
    let (mut must_read, mut is_current, mut in_doubt) = (false, false, false);
    let mut failure = None;
    loop {
        give_up(waiting, failure.as_ref());
        if waiting.is_empty() {
            return;
        }
        if must_read || !inner.is_open() {
            match inner.catch_up().await {
                Ok(CaughtUp::Seamless) => {}
                Ok(CaughtUp::Anew) if in_doubt => {
                    let reason = "whether it was committed is no longer remembered".to_owned();
                    return answer_all(waiting, &StoreError::Unavailable(reason));
                }
                Ok(CaughtUp::Anew) => {}
                Err(error) => {
                    failure = Some(error);
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
            (must_read, is_current) = (false, true);
            answer_committed(inner, waiting);
        }
        refuse_what_lives(inner, waiting).await;
        let Some(draft) = draft(inner, waiting) else { continue };
        if !is_current && draft.answers.iter().any(Result::is_err) {
            // Another process may have made what is missing here.
            must_read = true;
            continue;
        }
        if draft.operations.is_empty() {
            return answer(waiting, draft.answers);
        }
        match inner.api.transaction(draft.operations).await {
            Ok(Outcome::Done(index)) => {
                inner.install(&draft.steps, draft.contents, draft.head, index);
                return answer(waiting, draft.answers);
            }
            Ok(Outcome::Stale) => {}
            Err(CallError::Refused(reason)) => return answer_all(waiting, &StoreError::Refused(reason)),
            Err(error) => {
                in_doubt = true;
                failure = Some(error.into());
                tokio::time::sleep(AGAIN).await;
            }
        }
        (must_read, is_current) = (true, false);
    }
}

/// Drops the jobs that nobody waits for any more.
fn give_up(waiting: &mut VecDeque<Job>, failure: Option<&StoreError>) {
    let now = Instant::now();
    for job in std::mem::take(waiting) {
        if job.reply.is_closed() || job.deadline <= now {
            let late = StoreError::Unavailable("Consul did not answer in time".to_owned());
            let _ = job.reply.send(Err(failure.cloned().unwrap_or(late)));
        } else {
            waiting.push_back(job);
        }
    }
}

fn answer(waiting: &mut VecDeque<Job>, answers: Vec<Result<u64, StoreError>>) {
    for (job, answer) in waiting.drain(..answers.len()).zip(answers) {
        let _ = job.reply.send(answer);
    }
}

fn answer_all(waiting: &mut VecDeque<Job>, error: &StoreError) {
    for job in waiting.drain(..) {
        let _ = job.reply.send(Err(error.clone()));
    }
}

/// Answers the jobs that a transaction has done of which no answer came.
fn answer_committed(inner: &Inner, waiting: &mut VecDeque<Job>) {
    let state = inner.state.lock();
    let Some(mirror) = &state.mirror else { return };
    for job in std::mem::take(waiting) {
        match mirror.committed(job.id) {
            Some(revision) => drop(job.reply.send(Ok(revision))),
            None => waiting.push_back(job),
        }
    }
}

/// Answers the jobs that are only for lapsed leases whose lease is alive.
async fn refuse_what_lives(inner: &Inner, waiting: &mut VecDeque<Job>) {
    let lives = join_all(waiting.iter().take(TOGETHER).map(|job| async move {
        match &job.work {
            Work::Mutate(mutation, _) => match &**mutation {
                Mutation::Remove { key, lapsed: true, .. } => inner.must_have_lapsed(key).await.err(),
                Mutation::Put { record, lease: LeaseChange::Hold(_), .. } => {
                    inner.must_have_lapsed(record.key()).await.err()
                }
                _ => None,
            },
            Work::Revive(..) => None,
        }
    }))
    .await;
    let mut lives = lives.into_iter();
    for job in std::mem::take(waiting) {
        match lives.next().flatten() {
            Some(error) => drop(job.reply.send(Err(error))),
            None => waiting.push_back(job),
        }
    }
}

/// Plans a transaction of the first jobs; `None`: there is nothing to plan upon, or nothing to do.
fn draft(inner: &Inner, waiting: &VecDeque<Job>) -> Option<Draft> {
    let state = inner.state.lock();
    let mirror = state.mirror.as_ref()?;
    let mut draft = Draft {
        operations: Vec::new(),
        steps: Vec::new(),
        contents: mirror.contents.clone(),
        head: mirror.head.clone(),
        answers: Vec::new(),
    };
    let revivals = draft.head.revivals;
    let mut writes = 0;
    for job in waiting.iter().take(TOGETHER) {
        if writes > WRITES || (job.is_large() && !draft.answers.is_empty()) {
            break;
        }
        let answer = match &job.work {
            Work::Mutate(mutation, now) => {
                let mutation = Mutation::clone(mutation);
                draft.contents.commit(mutation, job.id, *now, &inner.layout).map(|(step, operations)| {
                    writes += operations.iter().map(Operation::size).sum::<usize>();
                    draft.operations.extend(operations);
                    draft.steps.push(step);
                    draft.contents.revision
                })
            }
            Work::Revive(key, epoch) => draft.revive(key, *epoch),
        };
        draft.answers.push(answer);
        if job.is_large() {
            break;
        }
    }
    if draft.steps.is_empty() && draft.head.revivals == revivals {
        draft.operations.clear();
        return (!draft.answers.is_empty()).then_some(draft);
    }
    draft.finish(inner, mirror.head_index);
    Some(draft)
}

impl Draft {
    fn revive(&mut self, key: &InstanceKey, epoch: u64) -> Result<u64, StoreError> {
        if self.contents.lease(key).is_none_or(|(held, _)| held != epoch) {
            return Err(self.contents.conflict(key));
        }
        self.head.revivals += 1;
        self.head.revived.push(Revival { key: Some(key.to_wire()), epoch });
        let excess = self.head.revived.len().saturating_sub(REVIVED);
        self.head.revived.drain(..excess);
        Ok(self.contents.revision)
    }

    /// Adds the log and the head.
    fn finish(&mut self, inner: &Inner, head_index: u64) {
        let head = &mut self.head;
        head.revision = self.contents.revision;
        head.complete = self.contents.complete;
        head.tail.extend(self.steps.iter().map(Step::to_entry));
        let mut size: usize = head.tail.iter().map(LogEntry::encoded_len).sum();
        while size > TAIL {
            let mut slot = Slot::default();
            let mut filled = 0;
            while filled < SLOT && size > TAIL / 2 && !head.tail.is_empty() {
                let oldest = head.tail.remove(0);
                filled += oldest.encoded_len();
                size -= oldest.encoded_len();
                slot.entries.push(oldest);
            }
            let key = inner.layout.slot(head.flushed, head.slots);
            self.operations.push(Operation::Set(key, slot.encode_to_vec()));
            head.flushed += 1;
        }
        let replace = Operation::Replace(inner.layout.head(), head.encode_to_vec(), head_index);
        self.operations.insert(0, replace);
    }
}
