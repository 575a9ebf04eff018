//! What the subscribers of one scope are sent: the head, what recent revisions touched, and encoded frames.
//!
//! A scope is a set of namespaces. Its ring remembers what each of its recent revisions touched, not what it
//! said: the step from any of them to the head is read from the head itself, so a subscriber that is late
//! gets one merged delta and nothing is kept for it. Frames are encoded on first use, outside of any lock,
//! and shared by all who need the same step.
//!
//! Deliberately absent: who subscribes (see `core`), and time.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, OnceLock},
    time::{Instant, SystemTime},
};

use tokio::sync::watch;
use waypost_proto::{
    frame::Frame,
    name::ServiceKey,
    snapshot::{Change, Snapshot, SnapshotError, Touched, declared_namespace},
    v1::{SubscribeResponse, subscribe_response::Kind},
};

use crate::registry::Publication;

/// The namespaces of a scope; none named means all.
pub(super) type Namespaces = Arc<BTreeSet<String>>;

/// A merged delta of more entries than this is sent as a full snapshot instead: a delta is one message, and
/// gRPC clients refuse messages of several megabytes.
const LARGEST_DELTA: usize = 8_000;
/// A full snapshot that is already encoded is followed by a delta rather than encoded again, while the
/// delta touches at most this many entries.
const SMALL_DELTA: usize = 2_000;
/// The most keys that a ring remembers, so that a few huge revisions cannot hold much memory.
const MOST_KEYS: usize = 200_000;
/// The most steps to the head that are kept encoded at a time.
const MOST_DELTAS: usize = 32;

/// What a subscriber holds as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// The revision of the ring that has these contents.
    pub(super) at: u64,
    /// What the subscriber calls them: another replica may have sent them under a later revision that
    /// changed nothing for proxies.
    pub(super) named: u64,
    /// What it was told about `settled`; `None` where that is not known, as after a reconnect.
    pub(super) settled: Option<bool>,
}

/// What to send next.
#[derive(Debug)]
pub(super) enum Due {
    /// The subscriber holds the head.
    Nothing,
    /// One step to the head.
    Delta(Arc<DeltaFrame>),
    /// Everything.
    Full(Arc<FullFrames>),
}

/// A step to the head, encoded on first use.
#[derive(Debug)]
pub(super) struct DeltaFrame {
    from: u64,
    head: Snapshot,
    touched: Arc<Touched>,
    committed_at: SystemTime,
    frame: OnceLock<Frame>,
}

impl DeltaFrame {
    /// The revision that the step leads to. It never goes back, even where the subscriber calls the same
    /// contents by a later revision than we do.
    fn to(&self) -> u64 {
        self.from.max(self.head.revision())
    }

    /// What a subscriber holds that has taken it.
    pub(super) fn sent(&self) -> Sent {
        Sent { at: self.head.revision(), named: self.to(), settled: Some(self.head.settled()) }
    }

    /// The encoded step; `encoded` is called by the one caller that had to encode it.
    pub(super) fn frame(&self, encoded: impl FnOnce()) -> Frame {
        let encode = || {
            encoded();
            let mut delta = self.head.delta(self.from, &self.touched, self.committed_at);
            if let Some(position) = &mut delta.position {
                position.revision = self.to();
            }
            Frame::new(&SubscribeResponse { kind: Some(Kind::Delta(delta)) })
        };
        self.frame.get_or_init(encode).clone()
    }
}

/// A full snapshot in chunks, encoded on first use.
#[derive(Debug)]
pub(super) struct FullFrames {
    snapshot: Snapshot,
    chunk_entries: usize,
    frames: OnceLock<Vec<Frame>>,
}

impl FullFrames {
    /// The encoded chunks, if they are there already.
    pub(super) fn ready(&self) -> Option<&[Frame]> {
        self.frames.get().map(Vec::as_slice)
    }

    /// The encoded chunks. Takes a while for a large snapshot; `encoded` is called by the one caller that
    /// had to encode them.
    pub(super) fn encode(&self, encoded: impl FnOnce()) -> &[Frame] {
        self.frames.get_or_init(|| {
            encoded();
            let chunks = self.snapshot.chunks(self.chunk_entries);
            chunks.map(|chunk| Frame::new(&SubscribeResponse { kind: Some(Kind::Chunk(chunk)) })).collect()
        })
    }
}

/// What one revision did to the scope.
#[derive(Debug)]
struct Step {
    revision: u64,
    /// Nothing of it was there at this revision; what lies between was not seen one by one.
    after: u64,
    digest: u64,
    touched: Arc<Touched>,
    committed_at: Instant,
    committed_wall: SystemTime,
}

/// What is known of a revision and digest that a proxy names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The scope had exactly these contents, at this revision of the ring.
    Yes(u64),
    /// It is older than what the ring remembers, or between two revisions that it has seen.
    Forgotten,
    /// The scope never had these contents.
    No,
}

/// The feed of one scope.
#[derive(Debug)]
pub(super) struct ScopeFeed {
    namespaces: Namespaces,
    head: Snapshot,
    /// Revision and digest before the oldest step.
    base: (u64, u64),
    steps: VecDeque<Step>,
    keys: usize,
    capacity: usize,
    chunk_entries: usize,
    /// By what the subscriber holds, and what it calls that.
    deltas: HashMap<(u64, u64), Arc<DeltaFrame>>,
    full: Option<Arc<FullFrames>>,
    changed: watch::Sender<u64>,
}

impl ScopeFeed {
    /// The feed of the part of `all` that belongs to `namespaces`, without a past.
    pub(super) fn new(all: &Snapshot, namespaces: Namespaces, capacity: usize, chunk_entries: usize) -> Self {
        let head = all.scoped(&namespaces);
        Self {
            namespaces,
            base: (head.revision(), head.digest()),
            head,
            steps: VecDeque::new(),
            keys: 0,
            capacity,
            chunk_entries,
            deltas: HashMap::new(),
            full: None,
            changed: watch::Sender::new(0),
        }
    }

    /// The newest contents.
    pub(super) fn head(&self) -> &Snapshot {
        &self.head
    }

    /// Told each time there is something to send.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Starts over with other contents and no past, where steps to it are not known.
    pub(super) fn replace(&mut self, all: &Snapshot) {
        self.head = all.scoped(&self.namespaces);
        self.base = (self.head.revision(), self.head.digest());
        self.steps.clear();
        self.keys = 0;
        self.forget_frames();
        self.full = None;
        self.changed.send_modify(|count| *count += 1);
    }

    /// Takes a change; whether there is something to send because of it.
    ///
    /// # Errors
    /// The change does not fit the head; the feed stays as it was.
    pub(super) fn publish(&mut self, publication: &Publication) -> Result<bool, SnapshotError> {
        let change = self.inside(&publication.change);
        if change.is_empty() && publication.settled == self.head.settled() {
            return Ok(false);
        }
        let (next, touched) = self.head.change(change, publication.revision, publication.settled)?;
        if next.revision() != self.head.revision() {
            self.keys += count(&touched);
            self.steps.push_back(Step {
                revision: next.revision(),
                after: publication.after,
                digest: next.digest(),
                touched: Arc::new(touched),
                committed_at: publication.committed_at.0,
                committed_wall: publication.committed_at.1,
            });
        } else if !touched.is_empty() {
            // Contents may not change without a revision; whoever holds the old ones gets everything.
            self.base = (next.revision(), next.digest());
            self.steps.clear();
            self.keys = 0;
        }
        self.head = next;
        while self.steps.len() > self.capacity || (self.keys > MOST_KEYS && self.steps.len() > 1) {
            if let Some(oldest) = self.steps.pop_front() {
                self.keys -= count(&oldest.touched);
                self.base = (oldest.revision, oldest.digest);
            }
        }
        self.forget_frames();
        self.changed.send_modify(|count| *count += 1);
        Ok(true)
    }

    /// What is known of contents that a proxy says it holds. A revision between two of the ring's has the
    /// contents of the earlier one: another replica may name it, whose last change for proxies was another.
    /// A revision older than the ring is known by its digest alone.
    pub(super) fn knows(&self, revision: u64, digest: u64) -> Known {
        let (base, at_base) = self.base;
        if revision < base {
            return self.with_digest(digest).map_or(Known::Forgotten, Known::Yes);
        }
        let next = self.steps.partition_point(|step| step.revision <= revision);
        let last = next.checked_sub(1).and_then(|last| self.steps.get(last));
        let (at, held) = last.map_or((base, at_base), |step| (step.revision, step.digest));
        if held == digest {
            return Known::Yes(at);
        }
        let unseen = self.steps.get(next).is_some_and(|step| step.after < revision);
        if unseen { Known::Forgotten } else { Known::No }
    }

    /// The newest revision of the ring with these contents.
    fn with_digest(&self, digest: u64) -> Option<u64> {
        let step = self.steps.iter().rev().find(|step| step.digest == digest).map(|step| step.revision);
        step.or_else(|| (self.base.1 == digest).then_some(self.base.0))
    }

    /// The newest revision of the registry whose effect on this scope is included in `applied`, where
    /// `newest` is the registry's newest: revisions that do not touch the scope count as applied.
    pub(super) fn covers(&self, applied: u64, newest: u64) -> u64 {
        if applied >= self.head.revision() {
            return newest.max(applied);
        }
        let next = self.steps.partition_point(|step| step.revision <= applied);
        match self.steps.get(next) {
            Some(step) if applied >= self.base.0 => step.after.max(applied),
            _ => applied,
        }
    }

    /// When each revision after `after` and up to `until` was committed.
    pub(super) fn committed(&self, after: u64, until: u64) -> impl Iterator<Item = Instant> + '_ {
        let from = self.steps.partition_point(|step| step.revision <= after);
        self.steps.range(from..).take_while(move |step| step.revision <= until).map(|step| step.committed_at)
    }

    /// What a subscriber that holds `sent` is due.
    pub(super) fn due(&mut self, sent: Option<Sent>) -> Due {
        let Some(sent) = sent else { return Due::Full(self.everything()) };
        if sent.at == self.head.revision() && sent.settled == Some(self.head.settled()) {
            return Due::Nothing;
        }
        if let Some(frame) = self.deltas.get(&(sent.at, sent.named)) {
            return Due::Delta(frame.clone());
        }
        let Some(touched) = self.touched_since(sent.at, LARGEST_DELTA) else {
            return Due::Full(self.everything());
        };
        let frame = Arc::new(DeltaFrame {
            from: sent.named,
            head: self.head.clone(),
            touched,
            committed_at: self.steps.back().map_or(SystemTime::UNIX_EPOCH, |step| step.committed_wall),
            frame: OnceLock::new(),
        });
        if self.deltas.len() < MOST_DELTAS {
            self.deltas.insert((sent.at, sent.named), frame.clone());
        }
        Due::Delta(frame)
    }

    /// What the contents are that `due` hands out as a full snapshot.
    pub(super) fn sent_by(full: &FullFrames) -> Sent {
        let revision = full.snapshot.revision();
        Sent { at: revision, named: revision, settled: Some(full.snapshot.settled()) }
    }

    fn everything(&mut self) -> Arc<FullFrames> {
        if let Some(full) = &self.full
            && self.touched_since(full.snapshot.revision(), SMALL_DELTA).is_some()
        {
            return full.clone();
        }
        let full = Arc::new(FullFrames {
            snapshot: self.head.clone(),
            chunk_entries: self.chunk_entries,
            frames: OnceLock::new(),
        });
        self.full = Some(full.clone());
        full
    }

    /// All that was touched after `revision`; `None` if that is not known or more than `most`.
    fn touched_since(&self, revision: u64, most: usize) -> Option<Arc<Touched>> {
        let first = if revision == self.base.0 { 0 } else { self.at(revision)? + 1 };
        let mut steps = self.steps.range(first..);
        let Some(step) = steps.next() else { return Some(Arc::default()) };
        let mut merged = step.touched.clone();
        for step in steps {
            Arc::make_mut(&mut merged).extend(&step.touched);
            if count(&merged) > most {
                return None;
            }
        }
        (count(&merged) <= most).then_some(merged)
    }

    fn at(&self, revision: u64) -> Option<usize> {
        self.steps.binary_search_by_key(&revision, |step| step.revision).ok()
    }

    /// Frames lead to an older head now. A full snapshot stays while somebody is being sent it.
    fn forget_frames(&mut self) {
        self.deltas.clear();
        if self.full.as_ref().is_some_and(|full| Arc::strong_count(full) == 1) {
            self.full = None;
        }
    }

    /// The part of a change that belongs to the scope.
    fn inside(&self, change: &Change) -> Change {
        if self.namespaces.is_empty() {
            return change.clone();
        }
        let inside = |service: &&ServiceKey| self.namespaces.contains(service.namespace());
        let declared_inside = |id: &str| self.namespaces.contains(declared_namespace(id));
        let mut part = Change {
            services: change.services.iter().filter(inside).cloned().collect(),
            removed_services: change.removed_services.iter().filter(inside).cloned().collect(),
            ..Change::default()
        };
        let instances = change.instances.iter();
        part.instances = instances.filter(|instance| inside(&instance.key.service())).cloned().collect();
        let removed = change.removed_instances.iter();
        part.removed_instances = removed.filter(|key| inside(&key.service())).cloned().collect();
        let declared = change.declared.iter();
        part.declared = declared.filter(|entry| declared_inside(&entry.id)).cloned().collect();
        let removed = change.removed_declared.iter();
        part.removed_declared = removed.filter(|id| declared_inside(id)).cloned().collect();
        let gone = change.removed_routes.iter().filter(|id| self.head.route(id).is_some());
        part.removed_routes = gone.cloned().collect();
        for route in &change.routes {
            if inside(&&route.service) {
                part.routes.push(route.clone());
            } else if self.head.route(&route.id).is_some() {
                // The route went to a service of another namespace.
                part.removed_routes.push(route.id.clone());
            }
        }
        part
    }
}

fn count(touched: &Touched) -> usize {
    let Touched { services, instances, routes, declared } = touched;
    services.len() + instances.len() + routes.len() + declared.len()
}
