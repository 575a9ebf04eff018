//! A control plane with a store of one's own: the one that `--store` names, with every change noted in a file.
//!
//! ```text
//! cargo run -p waypost-control-plane --example custom_store -- --store memory://
//! ```
//!
//! [`Audited`] hands everything on to the store behind it. A store that keeps the registry itself implements the same
//! eight methods; `tests/stores/custom.rs` shows how the conformance suite checks it.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use waypost_control_plane::{
    program,
    store::{Finding, Lapsed, LeaseStatus, Loaded, Mutation, Now, Renewal, Store, StoreError, Watch},
};
use waypost_proto::name::{InstanceKey, ServiceKey};

#[tokio::main]
async fn main() -> ExitCode {
    program::main(async |args| {
        let store = program::open_store(args).await?;
        let audited: Arc<dyn Store> = Arc::new(Audited::new(store, Path::new("audit.log"))?);
        Ok(audited)
    })
    .await
}

/// A store that notes in a file what was committed through it, one line each.
pub struct Audited {
    inner: Arc<dyn Store>,
    file: Mutex<File>,
}

impl Audited {
    /// Appends to a file, which it makes if there is none.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn new(inner: Arc<dyn Store>, path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { inner, file: Mutex::new(file) })
    }
}

/// A mutation in words: what, to whom, and who caused it and why.
fn in_words(mutation: &Mutation) -> String {
    let (mut line, event) = match mutation {
        Mutation::Put { record, event, .. } => (format!("put {}", record.key()), event.as_ref()),
        Mutation::Remove { key, event, .. } => (format!("remove {key}"), Some(event)),
        Mutation::Forget { service, .. } => (format!("forget {service}"), None),
        Mutation::Complete => ("complete".to_owned(), None),
        Mutation::Declare(all) => {
            let resources =
                all.iter().map(|declare| format!("{} by {:?}", declare.resource.key, declare.resource.actor));
            (format!("declare {}", resources.collect::<Vec<_>>().join(", ")), None)
        }
    };
    if let Some(event) = event {
        write!(line, " by {:?}: {:?}", event.actor, event.reason).expect("a string takes everything");
    }
    line
}

#[tonic::async_trait]
impl Store for Audited {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        self.inner.load().await
    }

    async fn watch(&self, after: u64) -> Result<Watch, StoreError> {
        self.inner.watch(after).await
    }

    async fn commit(&self, mutation: Mutation, now: Now) -> Result<u64, StoreError> {
        let line = in_words(&mutation);
        let revision = self.inner.commit(mutation, now).await?;
        let mut file = self.file.lock().expect("nothing panics while it is held");
        // The change is made: that it could not be noted must not make it look as if it was not.
        if let Err(error) = writeln!(file, "{revision} {line}") {
            tracing::error!(%error, revision, line, "the audit has a gap");
        }
        Ok(revision)
    }

    async fn renew(&self, leases: &[(InstanceKey, u64)], now: Now) -> Result<Vec<Renewal>, StoreError> {
        self.inner.renew(leases, now).await
    }

    async fn lapsed(&self, now: Now) -> Result<Lapsed, StoreError> {
        self.inner.lapsed(now).await
    }

    async fn leases(&self, service: &ServiceKey, now: Now) -> Result<Vec<LeaseStatus>, StoreError> {
        self.inner.leases(service, now).await
    }

    async fn examine(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = self.inner.examine().await?;
        let written = self.file.lock().expect("nothing panics while it is held").sync_all();
        findings.push(Finding {
            subject: "audit".to_owned(),
            good: written.is_ok(),
            detail: written.as_ref().map_or_else(ToString::to_string, |()| "it is on disk".to_owned()),
            remedy: written.map_or_else(|_| "look at the disk of audit.log".to_owned(), |()| String::new()),
        });
        Ok(findings)
    }
}
