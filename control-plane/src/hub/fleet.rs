//! What is known of each proxy: who it is, what it serves by, and what is in flight in it.
//!
//! A record outlives its stream for some minutes, so that operators see who left. A stream is a session;
//! what an older session of the same proxy says is not listened to.
//!
//! Deliberately absent: scopes and revisions' contents (see `core`), which judge what a proxy reports.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use waypost_proto::{
    name::{InstanceKey, ServiceKey},
    time, v1,
};

use super::{
    Greeting, Now,
    scope::{Namespaces, Sent},
};

/// One stream of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionId(u64);

/// How the core reaches a session's task.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// There may be something to send that is not a new head.
    pub(super) nudge: Arc<Notify>,
    /// The session is over.
    pub(super) closed: CancellationToken,
}

/// A proxy, connected or lately gone.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) greeting: Greeting,
    pub(super) session: SessionId,
    pub(super) line: Line,
    pub(super) connected: bool,
    since: SystemTime,
    /// When it came or went, for the grace of a drain.
    pub(super) turned_at: Instant,
    /// What it said that it serves by.
    pub(super) position: Option<v1::Position>,
    /// The revision of that, where it is one of ours with the digest that it should have.
    pub(super) applied: Option<u64>,
    pub(super) digest_ok: bool,
    /// Whether it has reported in this session, so that `in_flight` is fresh.
    pub(super) reported: bool,
    pub(super) in_flight: HashMap<(InstanceKey, u64), u64>,
    pub(super) sent: Option<Sent>,
    pub(super) sent_revision: u64,
    /// The same as the ring has it.
    pub(super) sent_at: u64,
    /// Nothing is sent before the head is newer than this, which the proxy has rejected.
    pub(super) hold: Option<u64>,
    pub(super) resynced_at: Option<Instant>,
    /// The newest revision whose time to this proxy is measured, or was not to be measured.
    pub(super) measured: u64,
    pub(super) resyncs: u64,
    pub(super) last_rejection: String,
    pub(super) full_snapshots: u64,
    pub(super) deltas: u64,
}

impl Record {
    /// How much is in flight to an instance, as last reported.
    pub(super) fn in_flight_to(&self, key: &InstanceKey, epoch: u64) -> u64 {
        // The clone shares its text.
        self.in_flight.get(&(key.clone(), epoch)).copied().unwrap_or(0)
    }

    /// Whether it is told of a service's instances.
    pub(super) fn knows(&self, service: &ServiceKey) -> bool {
        let namespaces = &self.greeting.namespaces;
        namespaces.is_empty() || namespaces.contains(service.namespace())
    }

    fn to_wire(&self) -> v1::Proxy {
        let greeting = &self.greeting;
        v1::Proxy {
            id: greeting.id.to_string(),
            version: greeting.version.clone(),
            listen_address: greeting.listen_address.clone(),
            admin_address: greeting.admin_address.clone(),
            zone: greeting.zone.clone(),
            connected: self.connected,
            since: Some(time::timestamp(self.since)),
            applied: self.position.clone(),
            sent_revision: self.sent_revision,
            digest_ok: self.digest_ok,
            resyncs: self.resyncs,
            last_rejection: self.last_rejection.clone(),
            full_snapshots: self.full_snapshots,
            deltas: self.deltas,
            namespaces: greeting.namespaces.iter().cloned().collect(),
            replica: String::new(),
            peer_address: greeting.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        }
    }
}

/// All proxies, by id.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    proxies: BTreeMap<Arc<str>, Record>,
    sessions: HashMap<SessionId, Arc<str>>,
    last_session: u64,
}

impl Fleet {
    /// Opens a session. An older one of the same proxy is closed.
    pub(super) fn connect(&mut self, greeting: Greeting, now: Now) -> &mut Record {
        self.last_session += 1;
        let session = SessionId(self.last_session);
        let id = greeting.id.clone();
        let old = self.proxies.remove(&id);
        if let Some(old) = &old {
            old.line.closed.cancel();
            self.sessions.remove(&old.session);
        }
        self.sessions.insert(session, id.clone());
        let record = Record {
            position: greeting.position.clone(),
            resyncs: greeting.resyncs,
            greeting,
            session,
            line: Line::default(),
            connected: true,
            since: now.wall,
            turned_at: now.monotonic,
            applied: None,
            digest_ok: false,
            reported: false,
            in_flight: HashMap::new(),
            sent: None,
            sent_revision: 0,
            sent_at: 0,
            hold: None,
            resynced_at: None,
            measured: 0,
            last_rejection: old.as_ref().map(|old| old.last_rejection.clone()).unwrap_or_default(),
            full_snapshots: old.as_ref().map_or(0, |old| old.full_snapshots),
            deltas: old.as_ref().map_or(0, |old| old.deltas),
        };
        self.proxies.entry(id).insert_entry(record).into_mut()
    }

    /// Ends a session; false if it had ended before.
    pub(super) fn disconnect(&mut self, session: SessionId, now: Now) -> bool {
        let Some(record) = self.session(session) else { return false };
        record.connected = false;
        record.since = now.wall;
        record.turned_at = now.monotonic;
        record.line.closed.cancel();
        self.sessions.remove(&session);
        true
    }

    /// The proxy of a session that has not ended.
    pub(super) fn session(&mut self, session: SessionId) -> Option<&mut Record> {
        let id = self.sessions.get(&session)?;
        self.proxies.get_mut(id)
    }

    /// What everyone holds is worth nothing any more: all are to be sent everything.
    pub(super) fn forget_applied(&mut self) {
        for record in self.proxies.values_mut() {
            record.sent = None;
            record.hold = None;
            record.applied = None;
            record.digest_ok = false;
            record.measured = 0;
        }
    }

    /// Forgets proxies that left `retention` ago.
    pub(super) fn prune(&mut self, now: Instant, retention: Duration) {
        self.proxies.retain(|_, record| record.connected || now < record.turned_at + retention);
    }

    /// Whether somebody uses a scope, or did lately.
    pub(super) fn uses(&self, namespaces: &Namespaces) -> bool {
        self.proxies.values().any(|record| record.greeting.namespaces == *namespaces)
    }

    /// A proxy, by id.
    pub(super) fn get(&self, id: &str) -> Option<&Record> {
        self.proxies.get(id)
    }

    /// All proxies, sorted by id.
    pub(super) fn all(&self) -> impl Iterator<Item = &Record> {
        self.proxies.values()
    }

    /// Those with an open stream, sorted by id.
    pub(super) fn live(&self) -> impl Iterator<Item = &Record> {
        self.all().filter(|record| record.connected)
    }

    /// The wire form, sorted by id.
    pub(super) fn to_wire(&self) -> Vec<v1::Proxy> {
        self.all().map(Record::to_wire).collect()
    }
}
