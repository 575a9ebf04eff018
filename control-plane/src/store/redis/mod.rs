//! Redis: a server, a master behind sentinels, or a cluster. `REDIS.md` beside this folder says how to run it.
//!
//! All keys share one hash tag. Scripts make every change in one step (record, lease, place in the order of revisions,
//! entry of the stream that watches read), by the server's clock. Leases are deadlines in a sorted set.
//!
//! A commit carries an id that the script remembers for a while. So it can be sent again when its answer was lost, and
//! still is made once.
//!
//! Deliberately absent: keyspace notifications, which come seconds late and not at all while nobody listens; and
//! expiring keys for leases, which nobody would be told about.

mod change;
mod dial;
mod examine;
mod fault;
mod link;
mod load;
mod scripts;
mod settings;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use waypost_proto::name::{InstanceKey, ServiceKey};

use self::{
    change::{milliseconds, service_name},
    dial::Dialer,
    link::Link,
    scripts::Request,
    settings::Settings,
};
use super::{
    Finding, Lapsed, LeaseStatus, Loaded, Location, Mutation, Now, Renewal, Store, StoreError, StoreOptions,
    Watch,
};

/// Leases that one script looks at, so that none takes the server for long.
const PAGE: usize = 500;

/// A registry kept in Redis.
pub(super) struct Redis {
    dialer: Arc<Dialer>,
    link: Link,
    /// Where commits wait for replicas: a connection of their own, so that nobody else waits with them.
    commits: Option<Link>,
    /// The history that was last loaded.
    history: Mutex<Option<Arc<str>>>,
}

impl Redis {
    /// Checks what the URL says; it connects when it is first used.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] says what is wrong with the URL or the options.
    pub(super) fn open(location: Location, options: &StoreOptions) -> Result<Self, StoreError> {
        let dialer = Dialer::new(Settings::read(location, options)?);
        let waits = dialer.settings.wait_replicas > 0;
        Ok(Self {
            link: Link::new(dialer.clone()),
            commits: waits.then(|| Link::new(dialer.clone())),
            history: Mutex::default(),
            dialer,
        })
    }

    async fn send(&self, request: &Request) -> Result<(u8, u64), StoreError> {
        let Some(link) = &self.commits else { return self.link.ask(request).await };
        let Settings { wait_replicas: wanted, timeout, .. } = self.dialer.settings;
        let mut wait = redis::cmd("WAIT");
        wait.arg(wanted).arg(milliseconds(timeout / 4));
        let ((made, revision), replicas) = link.ask_and_then(request, Some(&wait)).await?;
        let replicas = replicas.unwrap_or_default();
        if made == 1 && replicas < i64::from(wanted) {
            let reason =
                format!("revision {revision} is written, but only {replicas} of {wanted} replicas have it");
            return Err(StoreError::Unavailable(reason));
        }
        Ok((made, revision))
    }

    fn script(&self, source: &'static scripts::Source) -> Request {
        Request::script(source, &self.dialer.keys.all)
    }
}

#[tonic::async_trait]
impl Store for Redis {
    fn url(&self) -> &str {
        &self.dialer.settings.url
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        let loaded = load::load(&self.link, &self.dialer.keys).await?;
        self.dialer.saw(loaded.revision);
        *self.history.lock() = Some(loaded.history.clone());
        Ok(loaded)
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        let history = self.history.lock().clone();
        watch::watch(self.dialer.clone(), history, after).await
    }

    async fn commit(&self, mutation: Mutation, _now: Now) -> Result<u64, StoreError> {
        let id = uuid::Uuid::new_v4().to_string();
        let (request, entry) = change::request(&mutation, &self.dialer.settings, &self.dialer.keys, &id);
        let (made, revision) = self.send(&request).await?;
        self.dialer.saw(revision);
        if made == 1 { Ok(revision) } else { Err(StoreError::Conflict { entry, revision }) }
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], _now: Now) -> Result<Vec<Renewal>, StoreError> {
        let mut renewals = Vec::with_capacity(leases.len());
        for page in leases.chunks(PAGE) {
            let script = self.script(&scripts::RENEW);
            let request =
                page.iter().fold(script, |request, (key, epoch)| request.arg(change::name(key)).arg(*epoch));
            let outcomes: String = self.link.ask(&request).await?;
            renewals.extend(outcomes.chars().map(|outcome| match outcome {
                'r' => Renewal::Renewed,
                's' => Renewal::Stale,
                _ => Renewal::Unknown,
            }));
        }
        if renewals.len() == leases.len() {
            Ok(renewals)
        } else {
            Err(change::malformed("an answer", "it is shorter than the question"))
        }
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        let mut lapsed = Lapsed::default();
        let mut skipped = 0;
        loop {
            let request = self.script(&scripts::LAPSED).arg(skipped).arg(PAGE);
            let (looked_at, next, found): (usize, String, Vec<(String, String)>) =
                self.link.ask(&request).await?;
            for (name, lease) in found {
                lapsed.leases.push((change::key(&name)?, Lease::read(&name, &lease)?.epoch));
            }
            let next: Option<Instant> =
                next.parse().ok().map(|left| now.monotonic + Duration::from_millis(left));
            lapsed.next = [lapsed.next, next].into_iter().flatten().min();
            skipped += looked_at;
            if looked_at < PAGE {
                return Ok(lapsed);
            }
        }
    }

    async fn leases(&self, service: &ServiceKey, _now: Now) -> Result<Vec<LeaseStatus>, StoreError> {
        let service = service_name(service);
        let (mut from, to) = (format!("[{service}/"), format!("({service}0"));
        let mut leases = Vec::new();
        loop {
            let request = self.script(&scripts::LEASES).arg(&from).arg(&to).arg(PAGE);
            let (last, found): (String, Vec<(String, String, u64)>) = self.link.ask(&request).await?;
            for (name, lease, left) in found {
                let Lease { epoch, ttl } = Lease::read(&name, &lease)?;
                let key = change::key(&name)?;
                leases.push(LeaseStatus { key, epoch, ttl, remaining: Duration::from_millis(left) });
            }
            if last.is_empty() {
                return Ok(leases);
            }
            from = format!("({last}");
        }
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        examine::examine(&self.dialer).await
    }
}

/// What `leases` holds of a lease: its epoch and its length in milliseconds.
struct Lease {
    epoch: u64,
    ttl: Duration,
}

impl Lease {
    fn read(name: &str, text: &str) -> Result<Self, StoreError> {
        let parts =
            text.split_once(' ').and_then(|(epoch, ttl)| Some((epoch.parse().ok()?, ttl.parse().ok()?)));
        let (epoch, ttl) = parts.ok_or_else(|| change::malformed(name, "its lease is not EPOCH LENGTH"))?;
        Ok(Self { epoch, ttl: Duration::from_millis(ttl) })
    }
}
