//! How this process keeps up with Consul: it reads all once, and then the head, each time that it changes.
//!
//! Deliberately absent: what is made of what was read.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use prost::Message;
use tokio_util::sync::CancellationToken;
use waypost_proto::name::ServiceKey;

use super::{
    CaughtUp, Inner,
    api::{self, Operation, Outcome, Pair},
    contents::{Contents, Kept, Step},
    layout::{Head, LogEntry, Slot},
    mirror::{Followed, Mirror, Reading},
};
use crate::store::{
    EmptyService, Now, Resource, StoreError,
    codec::{Malformed, Stored},
};

/// How long to wait before Consul is asked again after a failure.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How many commits a slot of the log holds, at the least, on the average.
const COMMITS_PER_SLOT: usize = 16;

/// Follows the head until the store is closed.
pub(super) async fn run(inner: Arc<Inner>, closed: CancellationToken) {
    let mut index = 0;
    loop {
        let follow = async {
            let known = inner.head_index();
            let answer = inner.api.key(inner.layout.head(), api::Reading::After(index)).await?;
            inner.take_in(answer.value, known).await?;
            Ok::<_, StoreError>(answer.index)
        };
        let outcome = tokio::select! {
            outcome = follow => outcome,
            () = closed.cancelled() => return,
        };
        match outcome {
            // After a restart of Consul with other data the index can go back: begin again.
            Ok(newer) => index = if newer < index { 0 } else { newer.max(1) },
            Err(error) => {
                inner.end_watches(&error);
                index = 0;
                tokio::select! {
                    () = tokio::time::sleep(ASK_AGAIN) => {}
                    () = closed.cancelled() => return,
                }
            }
        }
    }
}

impl Inner {
    /// Whether this process knows what the store holds.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().mirror.is_some()
    }

    /// Comes to know what the store holds right now.
    ///
    /// # Errors
    /// Consul cannot be read, or holds another history than the one that this process has loaded.
    pub(super) async fn catch_up(&self) -> Result<CaughtUp, StoreError> {
        if !self.is_open() {
            self.load_all().await?;
            return Ok(CaughtUp::Anew);
        }
        let known = self.head_index();
        let head = self.api.key(self.layout.head(), api::Reading::Consistent).await?.value;
        self.take_in(head, known).await
    }

    /// The index of the head that this process knows; 0 if it knows none.
    fn head_index(&self) -> u64 {
        self.state.lock().mirror.as_ref().map_or(0, |mirror| mirror.head_index)
    }

    /// Takes in a head that was read when the one at the index `known` was known.
    async fn take_in(&self, head: Option<Pair>, known: u64) -> Result<CaughtUp, StoreError> {
        // An older one than that is from a snapshot that an operator has restored.
        let Some(pair) = head.filter(|pair| pair.index >= known) else { return self.other_history() };
        let head = Head::decode(&*pair.value).map_err(|error| Malformed::from(error).at(&pair.key))?;
        let followed = {
            let mut state = self.state.lock();
            let Some(mirror) = &mut state.mirror else { return Ok(CaughtUp::Seamless) };
            mirror.follow(&head, pair.index, Now::read()).map_err(|error| error.at(&pair.key))?
        };
        match followed {
            Followed::Yes => Ok(CaughtUp::Seamless),
            Followed::Other => self.other_history(),
            Followed::Gap => self.read_gap().await,
        }
    }

    /// Reads the commits that the head does not have any more.
    async fn read_gap(&self) -> Result<CaughtUp, StoreError> {
        let Ok(reading) = self.read_all().await? else { return self.other_history() };
        let mut state = self.state.lock();
        let Some(mirror) = &mut state.mirror else { return Ok(CaughtUp::Seamless) };
        let key = || self.layout.head();
        match mirror.follow_log(&reading, Now::read()).map_err(|error| error.at(key()))? {
            Followed::Yes => Ok(CaughtUp::Seamless),
            Followed::Gap => {
                state.replace(self.mirror_of(&reading));
                Ok(CaughtUp::Anew)
            }
            Followed::Other => {
                drop(state);
                self.other_history()
            }
        }
    }

    /// What this process has loaded is not what Consul holds any more.
    fn other_history(&self) -> Result<CaughtUp, StoreError> {
        let mut state = self.state.lock();
        if let Some(mirror) = &mut state.mirror {
            mirror.end_watches(&StoreError::Compacted { oldest: 0 });
            state.other = true;
        }
        Err(StoreError::Unavailable(
            "Consul has lost what it held and begins anew; it must be loaded again".to_owned(),
        ))
    }

    /// Reads all that Consul holds, and begins with it where this process knows nothing or something else.
    pub(super) async fn load_all(&self) -> Result<Reading, StoreError> {
        let reading = match self.read_all().await? {
            Ok(reading) => reading,
            Err(highest) => self.create(highest).await?,
        };
        let mut state = self.state.lock();
        let other = state.other;
        let followed = match &mut state.mirror {
            Some(mirror) if !other => {
                mirror.follow_log(&reading, Now::read()).map_err(|error| error.at(self.layout.head()))?
            }
            _ => Followed::Other,
        };
        if followed != Followed::Yes {
            if followed == Followed::Other {
                // Nothing that was known of another history is worth keeping.
                if let Some(mut before) = state.mirror.take() {
                    before.end_watches(&StoreError::Compacted { oldest: reading.head.revision });
                }
                state.other = false;
            }
            state.replace(self.mirror_of(&reading));
        }
        Ok(reading)
    }

    /// Ends all watches with an error.
    fn end_watches(&self, error: &StoreError) {
        if let Some(mirror) = &mut self.state.lock().mirror {
            mirror.end_watches(error);
        }
    }

    fn mirror_of(&self, reading: &Reading) -> Mirror {
        let changes = self.changes.clone();
        Mirror::new(reading, self.options.remembered, self.layout.clone(), changes, Now::read())
    }

    /// Takes in what this process has committed.
    pub(super) fn install(&self, steps: &[Step], contents: Contents, head: Head, index: u64) {
        let mut state = self.state.lock();
        if let Some(mirror) = state.mirror.as_mut().filter(|mirror| mirror.head.history == head.history) {
            mirror.install(steps, contents, head, index, Now::read());
        }
    }

    /// Begins a history. Where several processes do so at once, all get the one that was first.
    async fn create(&self, highest: u64) -> Result<Reading, StoreError> {
        let remembered = self.options.remembered.max(self.options.events);
        let head = Head {
            history: uuid::Uuid::new_v4().to_string(),
            revision: highest,
            slots: (remembered / COMMITS_PER_SLOT).clamp(1, 1024) as u64,
            ..Head::default()
        };
        let begin = Operation::Replace(self.layout.head(), head.encode_to_vec(), 0);
        if let Outcome::Done(_) = self.api.transaction(vec![begin]).await? {
            tracing::info!(history = head.history, store = self.url, "the store begins a new history");
        }
        self.read_all().await?.map_err(|_| StoreError::Unavailable("its head has vanished again".to_owned()))
    }

    /// All that Consul holds at this moment, or, where there is no head, the highest revision that something has.
    async fn read_all(&self) -> Result<Result<Reading, u64>, StoreError> {
        let pairs = self.api.keys_below(self.layout.folder()).await?;
        let mut head = None;
        let mut contents = Contents::default();
        let mut log: Vec<LogEntry> = Vec::new();
        for pair in &pairs {
            let bad = |error: Malformed| error.at(&pair.key);
            let bad_message = |error| bad(Malformed::from(error));
            let below = self.layout.below(&pair.key).unwrap_or_default();
            match below.split_once('/').unwrap_or((below, "")) {
                ("head", "") => head = Some((Head::decode(&*pair.value).map_err(bad_message)?, pair.index)),
                ("log", _) => log.extend(Slot::decode(&*pair.value).map_err(bad_message)?.entries),
                ("instances", _) => {
                    let kept = Kept::decode(&pair.value).map_err(bad)?;
                    contents.records.insert(kept.record.key().clone(), kept);
                }
                ("empty", _) => {
                    let empty = Arc::new(EmptyService::decode(&pair.value).map_err(bad)?);
                    let service: ServiceKey = empty.key.clone();
                    contents.empty.insert(service, empty);
                }
                ("resources", _) => {
                    let resource = Arc::new(Resource::decode(&pair.value).map_err(bad)?);
                    contents.resources.insert(resource.key.clone(), resource);
                }
                _ => {}
            }
        }
        let Some((head, index)) = head else {
            let records = contents.records.values().map(|kept| kept.record.revision);
            return Ok(Err(records
                .chain(contents.empty.values().map(|empty| empty.revision))
                .chain(contents.resources.values().map(|resource| resource.revision))
                .max()
                .unwrap_or(0)));
        };
        (contents.revision, contents.complete) = (head.revision, head.complete);
        log.extend(head.tail.iter().cloned());
        let log = newest_in_order(log, head.revision).map_err(|error| error.at(self.layout.folder()))?;
        Ok(Ok(Reading { head, index, contents, log }))
    }
}

/// The commits up to a revision, oldest first, without what lies before a gap.
fn newest_in_order(mut log: Vec<LogEntry>, mut revision: u64) -> Result<Vec<Step>, Malformed> {
    let revision_of = |entry: &LogEntry| entry.commit.as_ref().map_or(0, |commit| commit.revision);
    log.sort_by_key(revision_of);
    let (now, mut steps) = (Now::read(), VecDeque::new());
    while let Some(entry) = log.pop() {
        if revision_of(&entry) == revision && revision > 0 {
            steps.push_front(Step::from_entry(entry, now)?);
            revision -= 1;
        }
    }
    Ok(steps.into())
}
