//! Watches of etcd that cannot fall silent: they ask for a sign of life when nothing comes, and end with an
//! error when none comes back.
//!
//! Deliberately absent: beginning again; whoever follows knows from where.

use std::{convert::Infallible, sync::Arc, time::Duration};

use etcd_client::{Error, Event, WatchOptions, WatchStream};
use tokio::time::{sleep, timeout};
use tonic::Status;
use waypost_proto::name::InstanceKey;

use super::{
    Shared,
    connection::{Lent, Which, innermost},
    keys::{Alive, Granted, HELD, LeaseKey},
    load,
    mirror::Change,
    number,
};
use crate::store::StoreError;

/// A watch that has been away may get a thousand revisions at once.
pub(super) const LARGEST_MESSAGE: usize = 512 << 20;
const FOLLOW_AGAIN: Duration = Duration::from_millis(200);

/// What to watch.
#[derive(Clone, Debug)]
pub(super) enum Watched {
    /// One key.
    Key(String),
    /// All keys of a folder.
    Folder(String),
}

/// A watch.
pub(super) struct Follow {
    shared: Arc<Shared>,
    which: Which,
    stream: WatchStream,
}

/// Whole revisions, in order.
pub(super) struct Batch {
    /// The last of them.
    pub(super) revision: u64,
    /// What has changed in them.
    pub(super) events: Vec<Event>,
}

impl Follow {
    /// Watches from a revision on, that one included.
    ///
    /// # Errors
    /// etcd does not answer, or does not permit it.
    pub(super) async fn begin(
        shared: &Arc<Shared>,
        watched: &Watched,
        from: u64,
    ) -> Result<Self, StoreError> {
        let begin = async |lent: Lent| {
            // A watch cannot ask for a new token when its own has run out.
            lent.client.refresh_token().await?;
            let options = WatchOptions::new().with_start_revision(number(from));
            let (key, options) = match watched {
                Watched::Key(key) => (key, options),
                Watched::Folder(folder) => (folder, options.with_prefix()),
            };
            let mut watches = lent.client.watch_client().max_decoding_message_size(LARGEST_MESSAGE);
            let mut stream = watches.watch(key.as_str(), Some(options)).await?;
            let created = stream.message().await?;
            let created = created.ok_or_else(|| Error::WatchError("closed at once".to_owned()))?;
            if created.canceled() && created.compact_revision() == 0 {
                return Err(Error::GRpcStatus(Status::permission_denied(created.cancel_reason())));
            }
            Ok((lent.which, stream))
        };
        let (which, stream) = shared.connection.call_lent(begin).await?;
        Ok(Self { shared: shared.clone(), which, stream })
    }

    /// The next revisions in which something has changed.
    ///
    /// # Errors
    /// Some are forgotten, or etcd does not answer any more.
    pub(super) async fn next(&mut self) -> Result<Batch, StoreError> {
        let mut asked = false;
        loop {
            let message = match timeout(self.shared.connection.patience(), self.stream.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Err(self.lost("it has closed the watch".to_owned())),
                Ok(Err(error)) => return Err(self.lost(innermost(&error))),
                Err(_) if asked => return Err(self.lost("it does not answer the watch".to_owned())),
                Err(_) => {
                    let sent = self.stream.request_progress().await;
                    sent.map_err(|error| self.lost(innermost(&error)))?;
                    asked = true;
                    continue;
                }
            };
            asked = false;
            let message = message.0;
            if message.compact_revision > 0 {
                let oldest = u64::try_from(message.compact_revision - 1).unwrap_or_default();
                return Err(StoreError::Compacted { oldest });
            }
            if message.canceled {
                return Err(self.lost(format!("it has ended the watch: {}", message.cancel_reason)));
            }
            let events: Vec<Event> = message.events.into_iter().map(Event).collect();
            if let Some(revision) = events.last().and_then(Event::kv).map(|entry| entry.mod_revision()) {
                return Ok(Batch { revision: u64::try_from(revision).unwrap_or_default(), events });
            }
        }
    }

    fn lost(&self, why: String) -> StoreError {
        self.shared.connection.drop_connection(self.which);
        StoreError::Unavailable(why)
    }
}

/// Keeps the mirror in step with etcd, for ever.
pub(super) async fn keep_mirror(shared: Arc<Shared>) {
    loop {
        let Err(error) = mirror(&shared).await;
        tracing::debug!(%error, "the leases in etcd cannot be followed, trying again");
        shared.mirror.out_of_step(error);
        sleep(FOLLOW_AGAIN).await;
    }
}

async fn mirror(shared: &Arc<Shared>) -> Result<Infallible, StoreError> {
    let folder = shared.keys.leases();
    let written = shared.mirror.written();
    let (entries, revision) = load::range(shared, &folder, None).await?;
    shared.mirror.stands_at(revision, written);
    let all =
        entries.iter().filter_map(|entry| change(shared, entry.key(), Some((entry.value(), entry.lease()))));
    shared.mirror.replace(revision, all);
    let mut follow = Follow::begin(shared, &Watched::Folder(folder), revision + 1).await?;
    loop {
        let batch = follow.next().await?;
        let changes = batch.events.iter().filter_map(|event| {
            let entry = event.kv()?;
            let put = event.event_type() == etcd_client::EventType::Put;
            change(shared, entry.key(), put.then(|| (entry.value(), entry.lease())))
        });
        shared.mirror.apply(batch.revision, changes);
    }
}

/// What a key of the leases' folder says of whom, by its value and etcd lease; a key of others says nothing.
fn change(shared: &Shared, key: &[u8], entry: Option<(&[u8], i64)>) -> Option<(InstanceKey, Change)> {
    let (kind, key) = shared.keys.read_lease(key)?;
    let change = match kind {
        LeaseKey::Granted => Change::Granted(entry.and_then(|(value, _)| Granted::decode(value))),
        LeaseKey::Alive => {
            Change::Alive(entry.map(|(value, lease)| Alive { lease, held: value == HELD.as_bytes() }))
        }
    };
    Some((key, change))
}
