//! The store in etcd: any number of control planes share it, and it outlives all of them.
//!
//! A revision is etcd's own: it grows with everything that is written there, by whomever, so that ours have
//! gaps. What lies where, `keys.rs` says; what this store promises and how to run it, `ETCD.md`.
//!
//! Deliberately absent: the clocks of control planes, which decide nothing here; they only date what people read.

mod commit;
mod connection;
mod examine;
mod follow;
mod keys;
mod lanes;
mod lease;
mod load;
mod mirror;
mod trim;
mod watch;

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use etcd_client::{Certificate, ConnectOptions, Identity, ResponseHeader, TlsOptions};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use waypost_proto::name::{InstanceKey, ServiceKey};

use self::{connection::Connection, keys::Keys, lanes::Lanes, mirror::Mirror};
use super::{
    Finding, Lapsed, LeaseStatus, Loaded, Location, Mutation, Now, Renewal, Store, StoreError, StoreOptions,
    Watch,
};

const DEFAULT_PREFIX: &str = "waypost";
/// A lease may lapse at any time by etcd's clock; asking costs a look into this process's memory.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A registry kept in etcd.
pub struct Etcd {
    url: String,
    shared: Arc<Shared>,
    mirroring: AbortHandle,
}

/// What the parts of the store share.
struct Shared {
    connection: Connection,
    keys: Keys,
    mirror: Mirror,
    lanes: Lanes,
    /// The name of the data that was loaded last. Commits and watches are about that and no other.
    history: Mutex<Option<Arc<str>>>,
    /// How many events are kept.
    events: usize,
    /// Counts this process's commits, from a random number on.
    commits: AtomicUsize,
}

impl Etcd {
    /// Opens the etcd at a location; it need not be reachable yet. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] says what is wrong with the location or the options.
    pub async fn open(location: &Location, options: &StoreOptions) -> Result<Self, StoreError> {
        location.nothing_else(&[])?;
        let unknown = |reason: String| StoreError::Unknown { url: location.to_string(), reason };
        let scheme = if location.tls { "https" } else { "http" };
        let url = |(host, port): &(String, u16)| {
            let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            format!("{scheme}://{bracketed}:{port}")
        };
        let urls = location.hosts.iter().map(url).collect();
        let mut connect = ConnectOptions::new().with_require_leader(true);
        if location.tls {
            connect = connect.with_tls(tls(options).await.map_err(unknown)?);
        } else if options.ca_file.is_some() || options.identity.is_some() {
            return Err(unknown("certificates are for etcds://; etcd:// has no TLS".to_owned()));
        }
        let password = Some(location.password.as_str()).filter(|password| !password.is_empty());
        match (location.user.as_str(), password.or(options.password.as_deref())) {
            ("", None) => {}
            ("", Some(_)) => {
                return Err(unknown("a password needs a user: etcd://USER@HOST:PORT".to_owned()));
            }
            (user, password) => connect = connect.with_user(user, password.unwrap_or_default()),
        }
        let prefix = if location.path.is_empty() { DEFAULT_PREFIX } else { &location.path };
        let shared = Arc::new(Shared {
            connection: Connection::new(urls, connect, options.timeout),
            keys: Keys::new(prefix),
            mirror: Mirror::default(),
            lanes: Lanes::default(),
            history: Mutex::default(),
            events: options.events,
            commits: AtomicUsize::new(fastrand::usize(..trim::EVERY)),
        });
        let mirroring = tokio::spawn(follow::keep_mirror(shared.clone())).abort_handle();
        Ok(Self { url: location.to_string(), shared, mirroring })
    }
}

impl Shared {
    /// Whether a name is that of the data that was loaded; before anything is loaded, any is.
    fn is_loaded(&self, history: Option<&[u8]>) -> bool {
        self.history.lock().as_ref().is_none_or(|loaded| history == Some(loaded.as_bytes()))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.mirroring.abort();
    }
}

#[tonic::async_trait]
impl Store for Etcd {
    fn url(&self) -> &str {
        &self.url
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        load::load(&self.shared).await
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        self.shared.connection.within_timeout(watch::watch(self.shared.clone(), after)).await
    }

    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        self.shared.connection.within_timeout(commit::commit(&self.shared, mutation, now)).await
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], _: Now) -> Result<Vec<Renewal>, StoreError> {
        self.shared.connection.within_timeout(lease::renew(&self.shared, leases)).await
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        let in_step = async {
            self.shared.mirror.in_step().await;
            Ok(())
        };
        self.shared.connection.within_timeout(in_step).await?;
        let (leases, others) = self.shared.mirror.lapsed();
        Ok(Lapsed { leases, next: others.then(|| now.monotonic + LOOK_AGAIN) })
    }

    async fn leases(&self, service: &ServiceKey, _: Now) -> Result<Vec<LeaseStatus>, StoreError> {
        self.shared.connection.within_timeout(lease::leases(&self.shared, service)).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        self.shared.connection.within_timeout(examine::examine(&self.shared)).await
    }
}

/// How to speak TLS; the machine's authorities where none are named.
async fn tls(options: &StoreOptions) -> Result<TlsOptions, String> {
    let named = |path: &Path, error: &io::Error| format!("{}: {error}", path.display());
    let read = async |path: &Path| tokio::fs::read(path).await.map_err(|error| named(path, &error));
    let tls = match &options.ca_file {
        Some(authorities) => {
            TlsOptions::new().ca_certificate(Certificate::from_pem(read(authorities).await?))
        }
        None => TlsOptions::new().with_native_roots(),
    };
    Ok(match &options.identity {
        Some((certificate, key)) => {
            tls.identity(Identity::from_pem(read(certificate).await?, read(key).await?))
        }
        None => tls,
    })
}

/// A revision as etcd writes numbers.
fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// etcd's revision when it answered.
fn revision_of(header: Option<&ResponseHeader>) -> u64 {
    header.and_then(|header| u64::try_from(header.revision()).ok()).unwrap_or_default()
}
